//! Layers are registered by hand, by a stack or by a stack of each key.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use buttress::{
    Stack, bulkhead::BulkheadLayer, retry::ReplayClones, telemetry::Registry,
    testing::task::Spawned, timeout::TimeoutLayer,
};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{
    DOWN, Failure, SECOND, assert_gauges, breaker, bulkhead, call, counted, counts, down, expected,
    gauges, hangs, orders, queued, retry, well,
};

/// Returns a stack with each layer, so that its numbers outlive those of others with its name.
pub(crate) fn kept(registry: &Registry) -> impl Sized + use<> {
    let stack = orders(registry)
        .retry(retry().build().unwrap())
        .bulkhead(queued())
        .circuit_breaker(breaker().build().unwrap())
        .attempt_timeout(SECOND);
    (stack.layer(down()), stack)
}

#[tokio::test(start_paused = true)]
async fn series_exist_at_zero_before_the_first_event_and_end_with_their_layers() {
    let registry = Registry::new();
    let nothing = counts(&registry);
    let kept = kept(&registry);
    let counts_of_all = counts(&registry);
    for name in [
        "rejections total_timeout timed_out",
        "retry.ended budget",
        "bulkhead.queue.duration left",
        "circuit_breaker.transitions open failure_rate",
    ] {
        assert_eq!(counts_of_all.get(name), Some(&0.0), "{name}");
    }
    drop(kept);
    assert_eq!(counts(&registry), nothing);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_not_registered_counts_nowhere() {
    let registry = Registry::new();
    let stack = Stack::standard(ReplayClones).name("orders");
    let _ = call(&stack, down()).await;
    let before = gauges(&registry);
    let _ = call(&bulkhead(), well()).await;
    assert_eq!((counted(&registry), gauges(&registry)), (expected(&[]), before));
}

#[tokio::test(start_paused = true)]
async fn a_layer_counts_from_the_moment_that_it_is_registered() {
    let registry = Registry::new();
    let layer = breaker().build().unwrap();
    let service = layer.layer(down());
    let _ = service.clone().oneshot(()).await;
    let _ = service.clone().oneshot(()).await;
    let layer = layer.register(&registry);
    assert!(counted(&registry).is_empty());
    assert_gauges(&registry, &[("circuit_breaker.state open", 1.0)]);
    let _ = service.clone().oneshot(()).await;
    assert_eq!(counted(&registry), expected(&["rejections circuit_breaker circuit_open"]));
    // Registered again, it counts once.
    let _layer = layer.register(&registry).register(&Registry::new());
    let _ = service.oneshot(()).await;
    assert_eq!(counted(&registry), expected(&["rejections circuit_breaker circuit_open: 2"]));
}

#[tokio::test(start_paused = true)]
async fn equal_names_add_up_and_no_count_goes_back_while_one_is_left() {
    let registry = Registry::new();
    let layers = [(); 2].map(|()| bulkhead().register(&registry));
    for layer in &layers {
        let mut holder = Spawned::new(call(layer, hangs()));
        assert!(holder.poll().is_pending());
        let _ = call(layer, well()).await;
    }
    let two = expected(&["rejections bulkhead bulkhead_full: 2"]);
    assert_eq!(counted(&registry), two);
    assert_gauges(&registry, &[("bulkhead.limit", 2.0)]);
    let [first, _last] = layers;
    drop(first);
    assert_eq!(counted(&registry), two);
    assert_gauges(&registry, &[("bulkhead.limit", 1.0)]);
}

#[tokio::test(start_paused = true)]
async fn a_layer_in_two_stacks_counts_once_and_for_the_first() {
    let (registry, others) = (Registry::new(), Registry::new());
    let breaker = breaker().build().unwrap();
    let first = orders(&registry).circuit_breaker(breaker.clone());
    let other = Stack::new().name("payments").register(&others).circuit_breaker(breaker);
    let _ = call(&first, down()).await;
    let _ = call(&other, down()).await;
    let _ = call(&first, down()).await;
    assert!(gauges(&others).keys().all(|name| !name.starts_with("circuit_breaker")));
    assert_eq!(
        counted(&registry),
        expected(&[
            "circuit_breaker.transitions open consecutive_failures",
            "rejections circuit_breaker circuit_open: 2",
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_was_registered_by_hand_keeps_its_numbers_in_a_stack() {
    let (own, of_stack) = (Registry::new(), Registry::new());
    let breaker = breaker().build().unwrap().register(&own);
    let stack = orders(&of_stack).circuit_breaker(breaker);
    let _ = call(&stack, down()).await;
    let opened = "circuit_breaker.transitions open consecutive_failures";
    assert_eq!(counted(&own), expected(&[opened]));
    assert!(counted(&of_stack).is_empty());
    assert_eq!(own.ready().unready.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_without_a_name_can_be_registered_and_its_errors_stay_as_they_are() {
    let registry = Registry::new();
    let layer = || TimeoutLayer::new(SECOND);
    for (text, layer) in [("by hand", layer()), ("registered", layer().register(&registry))] {
        let late = call(&layer, hangs()).await.unwrap_err().to_string();
        assert!(late.contains("timeout: timed out after 1s"), "{text}: {late}");
        let over = buttress::Deadline::after(std::time::Duration::ZERO);
        let over = buttress::Deadline::scope(over, call(&layer, well())).await.unwrap();
        let over = over.unwrap_err().to_string();
        assert!(over.contains("deadline: the deadline had passed"), "{text}: {over}");
    }
    let numbers = ["rejections timeout deadline_exceeded", "rejections timeout timed_out"];
    let _kept = layer().register(&registry);
    let total = layer().including_readiness();
    let _ = call(&total, hangs()).await;
    let both = counts(&registry);
    assert_eq!(numbers.map(|number| both[number]), [0.0, 0.0], "they end with their layer");

    let stack = orders(&registry).attempt_timeout(layer().register(&registry));
    let late = call(&stack, hangs()).await.unwrap_err().to_string();
    assert!(late.contains("orders (attempt): timed out"), "{late}");
    assert_eq!(counted(&registry), expected(&["rejections attempt_timeout timed_out"]));
}

/// Polls a call of a service, which must be ready at once.
fn at_once<S: Service<u64>>(service: &mut S) -> Result<S::Response, S::Error> {
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else { panic!("it is not ready") };
    match pin!(service.call(7)).poll(&mut cx) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it had to wait"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_registered_stack_allocates_nothing() {
    let registry = Registry::new();
    let echo = || service_fn(|n: u64| std::future::ready(Ok::<_, io::Error>(n)));
    let stack = Stack::standard(ReplayClones).name("orders").register(&registry);
    let handle = stack.circuit_breaker_handle().unwrap();
    let mut service = stack.service(echo());
    _ = at_once(&mut service);
    assert_eq!(measure(|| _ = at_once(&mut service)).count_total, 0);
    handle.force_open();
    _ = at_once(&mut service);
    assert_eq!(measure(|| _ = at_once(&mut service)).count_total, 0);
    handle.close();
    assert_eq!(
        counted(&registry),
        expected(&[
            "circuit_breaker.transitions closed forced",
            "circuit_breaker.transitions forced_open forced",
            "rejections circuit_breaker circuit_open: 2",
            "retry.calls false failure: 2",
            "retry.calls false success: 2",
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn a_thousand_keys_have_one_set_of_series_whose_sums_outlive_the_keys() {
    let registry = Registry::new();
    let template = orders(&registry)
        .retry(retry().retries(0).build().unwrap())
        .bulkhead(BulkheadLayer::builder().max_concurrent(4).build().unwrap())
        .circuit_breaker(breaker().build().unwrap())
        .attempt_timeout(SECOND);
    let hosts = Stack::by_key(|key: &u64| *key, move |_| template.fresh());
    let hosts = hosts.max_keys(1_000).build().unwrap();
    let fails = Arc::new(AtomicU64::new(0));
    let failing = Arc::clone(&fails);
    let client = service_fn(move |key: u64| {
        let fails = key < failing.load(Ordering::Relaxed);
        async move { if fails { Err(io::Error::other("down")) } else { Ok(key) } }
    });
    let client = hosts.service(client);
    let call_all = async |keys: std::ops::Range<u64>| {
        for key in keys {
            let _ = client.clone().oneshot(key).await;
        }
    };
    call_all(0..1).await;
    let series = counts(&registry).len() + gauges(&registry).len();
    call_all(0..1_000).await;
    assert_eq!(counts(&registry).len() + gauges(&registry).len(), series);
    assert_gauges(
        &registry,
        &[
            ("bulkhead.limit", 4_000.0),
            ("circuit_breaker.window.calls", 1_001.0),
            ("circuit_breaker.state closed", 1.0),
        ],
    );
    fails.store(300, Ordering::Relaxed);
    call_all(0..1_000).await;
    call_all(0..1_000).await;
    let mut sums = expected(&[
        "circuit_breaker.transitions open consecutive_failures: 300",
        "rejections circuit_breaker circuit_open: 300",
        "retry.calls false failure: 600",
        "retry.calls false success: 2401",
        "retry.ended retries_disabled: 300",
    ]);
    assert_eq!(counted(&registry), sums);
    assert_gauges(&registry, &[("circuit_breaker.state open", 1.0)]);
    // All of them are evicted by others, and then by time.
    fails.store(0, Ordering::Relaxed);
    advance(100 * SECOND).await;
    call_all(1_000..3_000).await;
    *sums.get_mut("retry.calls false success").unwrap() += 2_000.0;
    assert_eq!(counted(&registry), sums);
    assert_gauges(&registry, &[("bulkhead.active", 0.0)]);
    advance(10_000 * SECOND).await;
    assert_eq!(hosts.keys(), 0);
    drop(client);
    assert_eq!(counted(&registry), sums, "a count never goes back");
    drop(hosts);
    assert!(counted(&registry).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_fresh_stack_is_registered_as_its_template() {
    let registry = Registry::new();
    let template = orders(&registry).bulkhead(bulkhead());
    for stack in [template.fresh(), template.fresh().name("payments"), template] {
        let mut holder = Spawned::new(call(&stack, hangs()));
        assert!(holder.poll().is_pending());
        assert_ne!(call(&stack, well()).await, DOWN);
    }
    let registered = |name: &str| {
        let families = registry.gather();
        let series = families.iter().flat_map(|family| &family.series);
        series.filter(|series| series.attribute("buttress.stack") == Some(name)).count()
    };
    assert_eq!((registered("orders"), registered("payments")), (0, 0), "all are dropped");
}

#[tokio::test(start_paused = true)]
async fn names_can_have_any_characters() {
    for name in [" ", "\"<img src=x>\"", "a\nb", "ü{}", "timeout"] {
        let registry = Registry::new();
        let layer = BulkheadLayer::builder().name(name).max_concurrent(1).build().unwrap();
        let layer = layer.register(&registry);
        let _: Result<_, Failure> = call(&layer, well()).await;
        let families = registry.gather();
        let limit = families.iter().find(|it| it.instrument.name == "buttress.bulkhead.limit");
        assert_eq!(limit.unwrap().series[0].attribute("buttress.layer"), Some(name));
    }
}
