//! Numbers are right in rare compositions of stacks and layers.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{Arc, Mutex, OnceLock},
    task::{Context, Poll, Waker},
    time::Duration,
};

use buttress::{
    Classify, Error, Outcome, RetryHint, Stack,
    telemetry::{Control, Event, Family, Interest, Observer, Registry, Source, Value},
    testing::task::Spawned,
};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};

use super::{
    DOWN, Failure, SECOND, WELL, assert_gauges, breaker, bulkhead, call, counted, down, expected,
    flaky, hangs, numbers, orders, retry, well,
};

/// Lets time pass within a poll, as a computation does.
fn compute() {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(pin!(advance(SECOND)).poll(&mut cx).is_pending());
}

/// Returns the sum of the durations of all calls of a stack.
fn call_time(registry: &Registry, stack: &str) -> Duration {
    let families = registry.gather();
    let family = families.iter().find(|it| it.instrument.name == "buttress.call.duration");
    let series = family.unwrap().series.iter();
    let series = series.filter(|series| series.attribute("buttress.stack") == Some(stack));
    let sums = series.map(|series| match &series.value {
        Value::Histogram(histogram) => histogram.sum(),
        _ => Duration::ZERO,
    });
    sums.sum()
}

#[tokio::test(start_paused = true)]
async fn a_call_includes_what_its_service_computes_while_a_call_of_another_stack_waits() {
    let registry = Registry::new();
    let outer = orders(&registry);
    let inner = Stack::new().name("inner").register(&registry).retry(retry().build().unwrap());
    let waiting = Arc::new(Mutex::new(Vec::new()));
    let outer = outer.layer(service_fn(|()| {
        let (mut call, waiting) = (Box::pin(call(&inner, down())), Arc::clone(&waiting));
        async move {
            // Its first attempt has ended, and the call waits for the second one.
            poll_fn(|cx| {
                assert!(call.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            compute();
            // It goes on elsewhere.
            waiting.lock().unwrap().push(call);
            WELL
        }
    }));
    assert_eq!(outer.oneshot(()).await, WELL);
    assert_eq!(call_time(&registry, "orders"), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_call_includes_what_a_layer_around_it_computes() {
    let registry = Registry::new();
    let map = tower::util::MapResultLayer::new(|result: Result<&'static str, Failure>| {
        compute();
        result
    });
    let stack = orders(&registry)
        .retry(retry().build().unwrap())
        .circuit_breaker(breaker().build().unwrap())
        .around_call(map);
    assert_eq!(call(&stack, well()).await, WELL);
    assert_eq!(call_time(&registry, "orders"), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_layer_of_a_stack_that_is_registered_later_counts() {
    let registry = Registry::new();
    let (slots, circuit) = (bulkhead(), breaker().build().unwrap());
    let retry = retry().retries(0).build().unwrap();
    let stack = Stack::new().name("orders").bulkhead(slots).circuit_breaker(circuit).retry(retry);
    assert_eq!(call(&stack, well()).await, WELL);
    let stack = stack.register(&registry);
    assert_eq!(call(&stack, down()).await, DOWN);
    assert_gauges(&registry, &[("bulkhead.limit", 1.0), ("circuit_breaker.state open", 1.0)]);
    assert_eq!(
        counted(&registry),
        expected(&[
            "circuit_breaker.transitions open consecutive_failures",
            "retry.calls false failure",
            "retry.ended retries_disabled",
        ])
    );
}

/// An observer that gathers at each event, and keeps a counter of each time.
#[derive(Clone, Default)]
struct Gathers(Arc<Within>);

#[derive(Default)]
struct Within {
    registry: OnceLock<Registry>,
    seen: Mutex<Vec<f64>>,
}

const NOT_RETRIED: &str = "retry.calls false success";

impl Observer for Gathers {
    fn on_event(&self, _: Source<'_>, _: &Event<'_>) {
        let Some(registry) = self.0.registry.get() else { return };
        let number = numbers(registry, |_, name| name == "retry.calls")[NOT_RETRIED];
        self.0.seen.lock().unwrap().push(number);
    }

    fn interest(&self) -> Interest {
        Interest::All
    }
}

#[tokio::test(start_paused = true)]
async fn no_counter_goes_back_between_two_readings_during_a_call() {
    let registry = Registry::new();
    let gathers = Gathers::default();
    registry.observe(gathers.clone());
    let stack = orders(&registry).retry(retry().build().unwrap());
    _ = gathers.0.registry.set(registry.clone());
    let saved = flaky([buttress::testing::Step::Respond(DOWN)]);
    assert_eq!(call(&stack, saved).await, WELL);
    let seen = gathers.0.seen.lock().unwrap().clone();
    assert!(seen.is_sorted(), "{seen:?}");
    let calls = numbers(&registry, |_, name| name == "retry.calls");
    assert_eq!((calls["retry.calls true success"], calls[NOT_RETRIED]), (1.0, 0.0));
}

/// Gives the request back once.
#[derive(Clone)]
struct GivenBack;

impl Classify<u32, Error<io::Error>> for GivenBack {
    fn classify(&self, result: Result<&u32, &Error<io::Error>>) -> Outcome {
        match result {
            Ok(421) => Outcome::Ignored,
            _ => Outcome::Success,
        }
    }

    fn hint(&self, result: Result<&u32, &Error<io::Error>>) -> RetryHint {
        match result {
            Ok(421) => RetryHint::Unprocessed,
            _ => RetryHint::Unstated,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_gave_its_request_back_is_no_call_that_was_not_retried() {
    let registry = Registry::new();
    let retry = retry().build().unwrap();
    let stack = orders(&registry).retry(retry).classify(GivenBack);
    let sent = Arc::new(Mutex::new(0));
    let client = service_fn(move |_: u32| {
        let mut sent = sent.lock().unwrap();
        *sent += 1;
        let status = if *sent == 1 { 421 } else { 200 };
        async move { Ok::<u32, io::Error>(status) }
    });
    let kept = stack.clone();
    assert_eq!(stack.service(client).oneshot(1).await.unwrap(), 200);
    let calls = numbers(&registry, |_, name| name == "retry.calls");
    assert_eq!((calls["retry.calls true success"], calls[NOT_RETRIED]), (1.0, 0.0));
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn one_of_many_keys_that_is_open_does_not_make_the_stack_unready() {
    let registry = Registry::new();
    let template = orders(&registry).circuit_breaker(breaker().build().unwrap());
    let hosts = Stack::by_key(|key: &u32| *key, move |_| template.fresh()).build().unwrap();
    let client = hosts.service(service_fn(|key: u32| async move {
        if key == 1 { Err(io::Error::other("down")) } else { Ok(key) }
    }));
    for key in [1, 2] {
        let _ = client.clone().oneshot(key).await;
    }
    assert_gauges(&registry, &[("circuit_breaker.state open", 1.0)]);
    assert!(registry.ready().is_ready());
    hosts.get(&2).unwrap().circuit_breaker_handle().unwrap().force_open();
    assert_eq!(registry.ready().unready.len(), 1);
}

struct Panics;

impl Observer for Panics {
    fn on_event(&self, _: Source<'_>, _: &Event<'_>) {
        panic!("an observer");
    }

    fn interest(&self) -> Interest {
        Interest::All
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_while_a_call_panics_harms_nothing() {
    let registry = Registry::new();
    registry.observe(Panics);
    let stack = orders(&registry).retry(retry().build().unwrap());
    let kept = stack.clone();
    let service = stack.service(service_fn(|_: u32| async {
        if true {
            panic!("a service");
        }
        Ok::<u32, io::Error>(1)
    }));
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let panicked = tokio::spawn(service.oneshot(1)).await.unwrap_err().is_panic();
    std::panic::set_hook(hook);
    assert!(panicked);
    assert_gauges(&registry, &[("call.active", 0.0)]);
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn a_stack_with_an_empty_name_counts_as_one_without() {
    let registry = Registry::new();
    let stacks = [
        Stack::new().register(&registry).bulkhead(bulkhead()),
        Stack::new().name("").register(&registry).bulkhead(bulkhead()),
    ];
    for stack in &stacks {
        assert_eq!(call(stack, well()).await, WELL);
    }
    let all = numbers(&registry, |_, name| name == "call.duration" || name == "bulkhead.limit");
    assert_eq!((all["call.duration success"], all["bulkhead.limit"]), (2.0, 2.0));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_stack_by_key_is_for_the_keys_of_the_moment() {
    let registry = Registry::new();
    let template = orders(&registry).circuit_breaker(breaker().build().unwrap());
    let hosts = Stack::by_key(|key: &u32| *key, move |_| template.fresh()).build().unwrap();
    let client = hosts.service(service_fn(|key: u32| async move { Ok::<_, io::Error>(key) }));
    let control = |control| registry.control(Some("orders"), "orders", control, "somebody");
    assert_eq!(control(Control::ForceOpen(None)), 0);
    for key in [1, 2] {
        assert!(client.clone().oneshot(key).await.is_ok());
    }
    assert_eq!(control(Control::ForceOpen(None)), 2);
    assert!(client.clone().oneshot(1).await.is_err());
    assert!(client.clone().oneshot(3).await.is_ok());
    assert_eq!(control(Control::Reset), 3);
    assert!(client.clone().oneshot(1).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_one_layer_keeps_no_other_layer_alive() {
    let registry = Registry::new();
    let (first, second) = (orders(&registry), Stack::new().name("second").register(&registry));
    let second = second.bulkhead(bulkhead());
    assert_eq!(call(&second, well()).await, WELL);
    let mut hanging = Spawned::new(call(&first, hangs()));
    assert!(hanging.poll().is_pending());
    let mut drained = Spawned::new(registry.drained());
    assert!(drained.poll().is_pending());
    drop(second);
    let names = |family: &Family| {
        let series = family.series.iter();
        series.filter(|series| series.attribute("buttress.stack") == Some("second")).count()
    };
    assert_eq!(registry.gather().iter().map(names).sum::<usize>(), 0);
    drop(hanging);
    assert!(drained.is_woken() && drained.poll().is_ready());
}
