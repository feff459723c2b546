//! Tests of the names of layers, and of the lines that repeated events write into the log.

mod capture;
#[macro_use]
mod layers;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use buttress::{
    CarryRejection, Deadline, Rejection, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::{CircuitBreakerLayer, State},
    error::TimedOut,
    retry::{Backoff, ReplayClones, RetryLayer},
    stack::StandardStack,
    telemetry::field,
    testing::{
        Flaky, Step,
        task::{Spawned, SpawnedService},
    },
    timeout::TimeoutLayer,
};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{Layer as SubscriberLayer, layer::Context};

use self::{
    capture::{Capture, subscribe},
    layers::{Failure, Text},
};

const SECOND: Duration = Duration::from_secs(1);
const BROKEN: Failure = Failure::Service("broken");

type Inner = Flaky<Text, Failure>;

fn flaky(steps: impl IntoIterator<Item = Step<Text, Failure>>) -> Inner {
    Flaky::new(steps, || Ok("answer"))
}

fn fails() -> Inner {
    Flaky::new([], || Err(BROKEN))
}

/// Returns the message of the rejection by a stack around a service.
async fn rejection<L>(stack: &L, inner: Inner) -> String
where
    L: Layer<Inner, Service: Service<(), Response = Text, Error = Failure>>,
{
    let error = stack.layer(inner).oneshot(()).await.unwrap_err();
    error.rejection().expect("a rejection").to_string()
}

/// Returns a breaker that opens at the first failure.
fn breaker() -> CircuitBreakerLayer {
    let builder = CircuitBreakerLayer::builder().without_failure_rate().consecutive_failures(1);
    builder.open_jitter(0.0).probes(1).build().unwrap()
}

fn full() -> (BulkheadLayer, impl Sized) {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let mut holder = Spawned::new(bulkhead.layer(flaky([Step::Hang])).oneshot(()));
    assert!(holder.poll().is_pending());
    (bulkhead, holder)
}

#[tokio::test(start_paused = true)]
async fn each_layer_of_a_stack_has_its_name() {
    let hangs = || flaky([Step::Hang]);
    let orders = || Stack::new().name("orders");
    let total = orders().total_timeout(SECOND);
    assert_eq!(rejection(&total, hangs()).await, "orders (total): timed out after 1s");
    let attempt = orders().attempt_timeout(SECOND);
    assert_eq!(rejection(&attempt, hangs()).await, "orders (attempt): timed out after 1s");

    let stack = orders().circuit_breaker(breaker());
    let _ = stack.layer(fails()).oneshot(()).await;
    let open = rejection(&stack, hangs()).await;
    assert_eq!(open, "orders: the circuit is open, retry in 30 s");

    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let stack = orders().bulkhead(bulkhead);
    let mut holder = Spawned::new(stack.layer(hangs()).oneshot(()));
    assert!(holder.poll().is_pending());
    assert_eq!(rejection(&stack, hangs()).await, "orders: at the limit of 1 concurrent calls");
}

#[tokio::test(start_paused = true)]
async fn a_layer_of_a_stack_without_a_name_has_its_kind() {
    let hangs = || flaky([Step::Hang]);
    let total = Stack::new().total_timeout(SECOND);
    assert_eq!(rejection(&total, hangs()).await, "total_timeout: timed out after 1s");
    let attempt = Stack::new().attempt_timeout(SECOND);
    assert_eq!(rejection(&attempt, hangs()).await, "attempt_timeout: timed out after 1s");
    let (bulkhead, _holder) = full();
    let stack = Stack::new().bulkhead(bulkhead);
    assert_eq!(rejection(&stack, hangs()).await, "bulkhead: at the limit of 1 concurrent calls");
}

#[tokio::test(start_paused = true)]
async fn a_name_of_its_own_comes_before_that_of_the_stack() {
    let own = TimeoutLayer::builder(SECOND).name("own").build().unwrap();
    let stack = Stack::new().total_timeout(own).name("orders");
    assert_eq!(rejection(&stack, flaky([Step::Hang])).await, "own: timed out after 1s");
    let named = CircuitBreakerLayer::builder().name("own").consecutive_failures(1);
    let stack = Stack::new().name("orders").circuit_breaker(named.build().unwrap());
    let _ = stack.layer(fails()).oneshot(()).await;
    let open = rejection(&stack, flaky([])).await;
    assert!(open.starts_with("own: the circuit is open"), "{open}");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_with_a_name_of_its_own_has_the_kind_of_its_slot() {
    let (capture, _guard) = Capture::start();
    let own = || TimeoutLayer::builder(SECOND).name("own").build().unwrap();
    let _ = rejection(&Stack::new().total_timeout(own()), flaky([Step::Hang])).await;
    let _ = rejection(&Stack::new().attempt_timeout(Some(own())), flaky([Step::Hang])).await;
    let kinds = capture.events();
    let kinds = kinds.iter().map(|event| (event.get(field::LAYER), event.get(field::KIND)));
    let expected = ["total_timeout", "attempt_timeout"].map(|kind| (Some("own"), Some(kind)));
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_says_at_which_timeout() {
    let orders = || Stack::new().name("orders");
    let over = || Deadline::after(Duration::ZERO);
    let total = orders().total_timeout(SECOND);
    let total = Deadline::scope(over(), rejection(&total, flaky([]))).await.unwrap();
    assert_eq!(total, "orders (total): the deadline had passed before the call began");
    let attempt = orders().attempt_timeout(SECOND);
    let attempt = Deadline::scope(over(), rejection(&attempt, flaky([]))).await.unwrap();
    assert_eq!(attempt, "orders (attempt): the deadline had passed before the call began");
}

#[tokio::test(start_paused = true)]
async fn errors_that_differ_in_their_names_print_differently() {
    let stack = Stack::new().name("orders").attempt_timeout(SECOND);
    let late = stack.layer(flaky([Step::Hang])).oneshot(()).await.unwrap_err();
    let late = late.rejection().unwrap();
    let by_hand = Rejection::from(TimedOut::new("orders", SECOND));
    assert_ne!(late, &by_hand);
    assert_ne!(format!("{late:?}"), format!("{by_hand:?}"));
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_was_printed_or_used_before_takes_the_name_of_its_stack() {
    let (bulkhead, _holder) = full();
    let _ = format!("{bulkhead:?}");
    bulkhead.handle().resize(1).unwrap();
    assert!(rejection(&bulkhead, flaky([])).await.starts_with("bulkhead: "));
    let unnamed = Stack::new().bulkhead(bulkhead.clone());
    assert!(rejection(&unnamed, flaky([])).await.starts_with("bulkhead: "));
    let orders = Stack::new().name("orders").bulkhead(bulkhead);
    assert!(rejection(&orders, flaky([])).await.starts_with("orders: "));
}

#[tokio::test(start_paused = true)]
async fn the_order_of_the_setters_does_not_change_a_name() {
    let before = Stack::new().name("orders").attempt_timeout(SECOND);
    let after = Stack::new().attempt_timeout(SECOND).name("orders");
    for stack in [before, after] {
        let late = rejection(&stack, flaky([Step::Hang])).await;
        assert_eq!(late, "orders (attempt): timed out after 1s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_of_two_stacks_has_the_name_of_the_first() {
    let (breaker, inner) = (breaker(), fails());
    let orders = Stack::new().name("orders").circuit_breaker(breaker.clone());
    let payments = Stack::new().name("payments").circuit_breaker(breaker);
    let _ = orders.layer(inner).oneshot(()).await;
    let open = rejection(&payments, flaky([])).await;
    assert!(open.starts_with("orders: "), "{open}");
    // A copy without shared state is a layer of its own stack.
    let payments = payments.fresh();
    let _ = payments.layer(fails()).oneshot(()).await;
    let open = rejection(&payments, flaky([])).await;
    assert!(open.starts_with("payments: "), "{open}");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_by_key_has_the_name_of_its_stack_and_the_key() {
    let (capture, _guard) = Capture::start();
    let builder = CircuitBreakerLayer::builder().without_failure_rate().consecutive_failures(1);
    let keyed = builder.keyed_fn(|(): &()| 7).describe_fn(|key| format!("host {key}"));
    let stack = Stack::new().name("orders").circuit_breaker(keyed.build().unwrap());
    let _ = stack.layer(fails()).oneshot(()).await;
    let open = rejection(&stack, flaky([])).await;
    assert!(open.starts_with("orders (host 7): the circuit is open"), "{open}");
    for event in capture.events() {
        let names = (event.get(field::LAYER), event.get(field::BREAKER_KEY));
        assert_eq!(names, (Some("orders"), Some("host 7")), "{}", event.name);
    }
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_server_has_the_name_of_its_stack() {
    use http::{Request, Response};

    let (capture, _guard) = Capture::start();
    let server = buttress::http::HttpServerLayer::builder(Stack::new().name("orders"));
    // A layer outside of the stack does not change the name.
    let server = server.outside(tower::layer::util::Identity::new()).limit(SECOND).build().unwrap();
    let hangs = tower::service_fn(|_: Request<String>| {
        std::future::pending::<Result<Response<String>, std::convert::Infallible>>()
    });
    let response = server.layer(hangs).oneshot(Request::new(String::new())).await.unwrap();
    assert_eq!(response.status(), 504);
    let [event] = &capture.events()[..] else { panic!("one event") };
    assert_eq!((event.name.as_str(), event.target.as_str()), ("call timed out", "buttress::http"));
    let names = (event.get(field::LAYER), event.get(field::KIND));
    assert_eq!(names, (Some("orders"), Some("server")));
}

#[tokio::test(start_paused = true)]
async fn spans_and_events_have_the_names_and_the_target_of_their_layer() {
    let (capture, _guard) = Capture::start();
    let stack: StandardStack<_> = Stack::standard(ReplayClones).name("orders");
    let _ = stack.layer(flaky([Step::Hang])).oneshot(()).await;
    let spans = capture.spans();
    assert_eq!((spans[0].name.as_str(), spans[0].get(field::STACK)), ("call", Some("orders")));
    assert_eq!((spans[1].name.as_str(), spans[1].get(field::LAYER)), ("attempt", Some("orders")));
    let targets = spans.iter().map(|span| span.target.as_str());
    assert_eq!(
        targets.collect::<Vec<_>>(),
        ["buttress::call", "buttress::retry", "buttress::retry"]
    );
    let events = capture.events();
    assert_eq!(events[0].name, "call timed out");
    assert_eq!(events[0].target, "buttress::timeout");
    assert_eq!(events[0].get(field::LAYER), Some("orders"));
    assert_eq!(events[0].get(field::KIND), Some("attempt_timeout"));
    assert_eq!(
        (events[1].name.as_str(), events[1].target.as_str()),
        ("retrying call", "buttress::retry")
    );
    assert_eq!(events[1].get(field::LAYER), Some("orders"));
}

#[tokio::test(start_paused = true)]
async fn each_event_of_a_stack_names_the_stack_and_the_layer() {
    let (capture, _guard) = Capture::start();
    let stack = Stack::new()
        .name("orders")
        .retry(RetryLayer::builder(ReplayClones).name("own").retries(1).build().unwrap())
        .bulkhead(BulkheadLayer::builder().name("own").max_concurrent(1).build().unwrap())
        .circuit_breaker(breaker())
        .attempt_timeout(TimeoutLayer::builder(SECOND).name("own").build().unwrap());
    let circuit = stack.circuit_breaker_handle().unwrap();
    let mut holder = Spawned::new(stack.layer(flaky([Step::Hang])).oneshot(()));
    assert!(holder.poll().is_pending());
    stack.bulkhead_handle().unwrap().resize(1).unwrap();
    assert!(stack.layer(flaky([])).oneshot(()).await.is_err());
    drop(holder);
    for inner in [fails(), flaky([Step::Hang])] {
        let _ = stack.layer(inner).oneshot(()).await;
        circuit.close();
    }
    circuit.disable();
    let events = capture.events();
    let names = events.iter().map(|event| event.name.as_str()).collect::<BTreeSet<_>>();
    let expected = [
        "bulkhead resized",
        "call rejected",
        "call timed out",
        "circuit closed",
        "circuit disabled",
        "circuit opened",
        "retries exhausted",
        "retrying call",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    for event in events {
        let of_breaker = event.target == "buttress::circuit_breaker";
        let layer = if of_breaker { "orders" } else { "own" };
        let names = (event.get(field::STACK), event.get(field::LAYER));
        assert_eq!(names, (Some("orders"), Some(layer)), "{}", event.name);
    }
}

/// Returns the number of lines with this text at WARN, and the number of events that they stand
/// for.
fn lines(capture: &Capture, text: &str) -> (usize, u64) {
    let events = capture.events();
    let lines = events.iter().filter(|event| event.level == Level::WARN && event.name == text);
    let suppressed = |event: &capture::Seen| event.get(field::SUPPRESSED).map(str::parse::<u64>);
    lines.fold((0, 0), |(count, sum), event| {
        (count + 1, sum + 1 + suppressed(event).transpose().unwrap().unwrap_or(0))
    })
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_rejections_are_three_lines_that_account_for_all() {
    let (capture, _guard) = Capture::start();
    let stack = Stack::new().name("orders").circuit_breaker(breaker());
    let service = stack.layer(fails());
    let _ = service.clone().oneshot(()).await;
    for number in 0..9_999 {
        if number == 5_000 {
            advance(10 * SECOND).await;
        }
        assert!(service.clone().oneshot(()).await.unwrap_err().rejection().is_some());
    }
    advance(10 * SECOND).await;
    let _ = service.clone().oneshot(()).await;
    assert_eq!(lines(&capture, "call rejected"), (3, 10_000));
    let all = capture.events().iter().filter(|event| event.name == "call rejected").count();
    assert_eq!(all, 10_000, "the others are at DEBUG");
}

#[tokio::test(start_paused = true)]
async fn each_reason_has_a_line_of_its_own_and_so_has_each_layer() {
    let (capture, _guard) = Capture::start();
    let queued = BulkheadLayer::builder().max_concurrent(1).queue(1, SECOND).build().unwrap();
    let stack = Stack::new().name("orders").bulkhead(queued);
    let mut holder = Spawned::new(stack.layer(flaky([Step::Hang])).oneshot(()));
    let mut queues = Spawned::new(stack.layer(flaky([])).oneshot(()));
    assert!(holder.poll().is_pending() && queues.poll().is_pending());
    assert!(stack.layer(flaky([])).oneshot(()).await.is_err(), "full");
    advance(SECOND).await;
    assert!(queues.poll().is_ready(), "timed out in the queue");
    assert_eq!(lines(&capture, "call rejected"), (2, 2));

    for name in ["orders", "payments"] {
        let stack = Stack::new().name(name).attempt_timeout(SECOND);
        let _ = stack.layer(flaky([Step::Hang])).oneshot(()).await;
    }
    assert_eq!(lines(&capture, "call timed out"), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_fresh_stack_has_lines_of_its_own() {
    let (capture, _guard) = Capture::start();
    let named = TimeoutLayer::builder(SECOND).name("own").build().unwrap();
    let stack = Stack::new().total_timeout(named);
    for stack in [stack.fresh(), stack] {
        let _ = stack.layer(flaky([Step::Hang])).oneshot(()).await;
    }
    assert_eq!(lines(&capture, "call timed out"), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn retries_are_one_line_in_ten_seconds_for_each_outcome() {
    let (capture, _guard) = Capture::start();
    let backoff = Backoff::constant(Duration::from_millis(1)).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).without_budget().backoff(backoff);
    let stack = Stack::new().name("orders").retry(retry.build().unwrap());
    for _ in 0..100 {
        let _ = stack.layer(fails()).oneshot(()).await;
    }
    assert_eq!(lines(&capture, "retrying call").0, 1);
    assert_eq!(lines(&capture, "retries exhausted").0, 1);
    advance(10 * SECOND).await;
    let _ = stack.layer(fails()).oneshot(()).await;
    assert_eq!(lines(&capture, "retrying call"), (2, 301), "two of the last three are suppressed");
    assert_eq!(lines(&capture, "retries exhausted"), (2, 101));
}

#[tokio::test(start_paused = true)]
async fn a_breaker_tells_of_every_change() {
    let (capture, _guard) = Capture::start();
    let stack = Stack::new().name("orders").circuit_breaker(breaker());
    for _ in 0..5 {
        let _ = stack.layer(fails()).oneshot(()).await;
        advance(3_000 * SECOND).await;
    }
    let opened = capture.events().iter().filter(|event| event.name == "circuit opened").count();
    assert_eq!(opened, 5);
}

/// A subscriber that runs a closure in each event.
struct InEvent<F>(F);

impl<S: Subscriber, F: Fn() + Send + Sync + 'static> SubscriberLayer<S> for InEvent<F> {
    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        (self.0)();
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_keeps_no_caller_waiting() {
    let builder = CircuitBreakerLayer::builder().without_failure_rate().consecutive_failures(1);
    let breaker = builder.pend().build().unwrap();
    let _ = breaker.layer(fails()).oneshot(()).await;
    let mut waits = SpawnedService::<_, ()>::new(breaker.layer(flaky([])));
    assert!(waits.poll_ready().is_pending());

    let _guard = subscribe(InEvent(|| panic!("in an event")));
    let closing = catch_unwind(AssertUnwindSafe(|| breaker.handle().close()));
    assert!(closing.is_err(), "the subscriber was asked");
    assert!(waits.is_woken());
    assert!(waits.poll_ready().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_may_call_the_layer_in_an_event() {
    let stack = Stack::new().name("orders").circuit_breaker(breaker());
    let breaker = stack.circuit_breaker_handle().unwrap();
    let in_event = move || {
        breaker.force_open();
        assert_eq!(breaker.state(), State::ForcedOpen);
    };
    let _guard = subscribe(InEvent(in_event));
    let _ = stack.layer(fails()).oneshot(()).await;
    assert!(rejection(&stack, flaky([])).await.starts_with("orders: the circuit is open"));
}

#[test]
fn a_handle_of_a_stack_reports_with_the_names_of_the_stack() {
    let (capture, _guard) = Capture::start();
    let stack = Stack::standard(ReplayClones).name("orders");
    stack.circuit_breaker_handle().unwrap().force_open();
    stack.bulkhead_handle().unwrap().resize(7).unwrap();
    let names: Vec<_> =
        capture.events().iter().map(|event| event.get(field::LAYER).unwrap().to_owned()).collect();
    assert_eq!(names, ["orders", "orders"]);
}
