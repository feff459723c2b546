//! Snapshots of the spans of a call and its attempts, for each way in which a call can end.

mod capture;
mod layers;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use buttress::{
    Classify, Deadline, Fault, Outcome, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer},
    retry::{Backoff, Jitter, ReplayClones, RetryLayer},
    telemetry::CallSpanLayer,
    testing::{Flaky, Step, task::Spawned},
};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt};

use self::{
    capture::Capture,
    layers::{Failure, Text},
};

const SECOND: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);
const BROKEN: Failure = Failure::Service("broken");

fn flaky(steps: impl IntoIterator<Item = Step<Text, Failure>>) -> Flaky<Text, Failure> {
    Flaky::new(steps, || Ok("answer"))
}

fn fails() -> Flaky<Text, Failure> {
    Flaky::new([], || Err(BROKEN))
}

fn retry() -> RetryLayer<ReplayClones> {
    let backoff = Backoff::constant(PAUSE).jitter(Jitter::None).build().unwrap();
    RetryLayer::builder(ReplayClones).retries(2).backoff(backoff).build().unwrap()
}

/// Returns a breaker that opens at the first failure.
fn breaker() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder().without_failure_rate().consecutive_failures(1)
}

/// Makes one call and returns the snapshot.
async fn call<S>(service: S) -> Vec<String>
where
    S: Service<(), Response = Text, Error = Failure>,
{
    let (capture, _guard) = Capture::start();
    let _ = service.oneshot(()).await;
    capture.snapshot()
}

#[tokio::test(start_paused = true)]
async fn a_success_at_once() {
    let stack = Stack::standard(ReplayClones).name("orders");
    assert_eq!(
        call(stack.layer(flaky([]))).await,
        [
            "call buttress.stack=orders buttress.outcome=success",
            "call > attempt attempt=1 buttress.outcome=success",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_success_on_the_third_attempt() {
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::Hang]);
    let stack = Stack::new().name("orders").retry(retry()).attempt_timeout(SECOND);
    assert_eq!(
        call(stack.layer(inner)).await,
        [
            "call buttress.stack=orders buttress.outcome=success buttress.attempts=3",
            "call > attempt attempt=1 buttress.outcome=transient error.type=transient \
             otel.status_code=ERROR",
            "call > attempt attempt=2 buttress.outcome=timed_out error.type=timed_out \
             otel.status_code=ERROR",
            "call > attempt attempt=3 buttress.outcome=success",
            "WARN: call > retrying call",
            "WARN: attempt > call timed out",
            "WARN: call > retrying call",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_every_attempt() {
    let stack = Stack::new().retry(retry());
    assert_eq!(
        call(stack.layer(fails())).await,
        [
            "call buttress.outcome=failure error.type=transient otel.status_code=ERROR \
             buttress.attempts=3",
            "call > attempt attempt=1 buttress.outcome=transient error.type=transient \
             otel.status_code=ERROR",
            "call > attempt attempt=2 buttress.outcome=transient error.type=transient \
             otel.status_code=ERROR",
            "call > attempt attempt=3 buttress.outcome=transient error.type=transient \
             otel.status_code=ERROR",
            "WARN: call > retrying call",
            "WARN: call > retries exhausted",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker() {
    let breaker = breaker().build().unwrap();
    breaker.handle().force_open();
    let stack = Stack::new().retry(retry()).circuit_breaker(breaker);
    assert_eq!(
        call(stack.layer(flaky([]))).await,
        [
            "call buttress.outcome=rejected error.type=circuit_open otel.status_code=ERROR",
            "call > attempt attempt=1 buttress.outcome=rejected error.type=circuit_open \
             otel.status_code=ERROR",
            "WARN: attempt > call rejected",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_timeout_in_the_queue_of_a_bulkhead() {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).queue(1, PAUSE).build().unwrap();
    let mut holder = Spawned::new(bulkhead.layer(flaky([Step::Hang])).oneshot(()));
    assert!(holder.poll().is_pending());
    let stack = Stack::new().retry(retry()).bulkhead(bulkhead);
    assert_eq!(
        call(stack.layer(flaky([]))).await,
        [
            "call buttress.outcome=rejected error.type=queue_timed_out otel.status_code=ERROR",
            "call > attempt attempt=1 buttress.outcome=rejected error.type=queue_timed_out \
             otel.status_code=ERROR",
            "WARN: attempt > call rejected",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_total_timeout_before_the_end_of_the_backoff() {
    // The retry does not begin a pause that ends after the deadline.
    let stack = Stack::new().total_timeout(PAUSE).retry(retry());
    assert_eq!(
        call(stack.layer(fails())).await,
        [
            "call buttress.outcome=failure error.type=transient otel.status_code=ERROR",
            "call > attempt attempt=1 buttress.outcome=transient error.type=transient \
             otel.status_code=ERROR",
            "WARN: call > retries exhausted",
        ]
    );
    // The service is not ready again after the pause.
    let stack = Stack::new().total_timeout(PAUSE * 2).retry(retry());
    let unready = flaky([Step::Respond(Err(BROKEN)), Step::Unready]);
    let (capture, _guard) = Capture::start();
    let mut call = Spawned::new(stack.layer(unready).oneshot(()));
    assert!(call.poll().is_pending());
    advance(PAUSE).await;
    assert!(call.poll().is_pending());
    advance(PAUSE).await;
    assert!(call.poll().is_ready());
    assert_eq!(
        capture.snapshot(),
        [
            "call buttress.outcome=rejected error.type=timed_out otel.status_code=ERROR",
            "call > attempt attempt=1 buttress.outcome=transient error.type=transient \
             otel.status_code=ERROR",
            "WARN: call > retrying call",
            "WARN: call > call timed out",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_total_timeout_in_an_attempt() {
    let stack = Stack::new().total_timeout(SECOND).retry(retry());
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::Hang]);
    assert_eq!(
        call(stack.layer(inner)).await,
        [
            "call buttress.outcome=rejected error.type=timed_out otel.status_code=ERROR \
             buttress.attempts=2",
            "call > attempt attempt=1 buttress.outcome=transient error.type=transient \
             otel.status_code=ERROR",
            "call > attempt attempt=2 buttress.outcome=cut error.type=timed_out \
             otel.status_code=ERROR",
            "WARN: call > retrying call",
            "WARN: call > call timed out",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_its_caller_drops() {
    let (capture, _guard) = Capture::start();
    let stack = Stack::standard(ReplayClones);
    for polls in [0, 1] {
        let mut call = Spawned::new(stack.layer(flaky([Step::Hang])).oneshot(()));
        for _ in 0..polls {
            assert!(call.poll().is_pending());
        }
    }
    // The caller drops it during the pause.
    let mut pausing = Spawned::new(Stack::new().retry(retry()).layer(fails()).oneshot(()));
    assert!(pausing.poll().is_pending());
    drop(pausing);
    assert_eq!(
        capture.snapshot(),
        [
            "call buttress.outcome=cancelled",
            "call > attempt attempt=1 buttress.outcome=cancelled",
            "call buttress.outcome=cancelled",
            "call > attempt attempt=1 buttress.outcome=transient error.type=transient \
             otel.status_code=ERROR",
            "WARN: call > retrying call",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_caller_has_a_deadline() {
    let (capture, _guard) = Capture::start();
    let stack = Stack::new().retry(retry());
    let call = stack.layer(flaky([Step::Hang])).oneshot(());
    assert!(Deadline::scope(Deadline::after(SECOND), call).await.is_err());
    assert_eq!(
        capture.snapshot(),
        [
            "call buttress.outcome=cut error.type=timed_out otel.status_code=ERROR",
            "call > attempt attempt=1 buttress.outcome=cut error.type=timed_out \
             otel.status_code=ERROR",
        ]
    );
}

const PANICKED: [&str; 2] = [
    "call buttress.outcome=panicked error.type=panic otel.status_code=ERROR",
    "call > attempt attempt=1 buttress.outcome=panicked error.type=panic otel.status_code=ERROR",
];

#[tokio::test(start_paused = true)]
async fn a_service_that_panics() {
    for step in [Step::PanicInCall, Step::PanicInPoll] {
        let (capture, _guard) = Capture::start();
        let stack = Stack::new().retry(retry());
        let mut call = Spawned::new(stack.layer(flaky([step])).oneshot(()));
        assert!(catch_unwind(AssertUnwindSafe(|| call.poll())).is_err());
        // Before the call is dropped, which may never happen.
        assert_eq!(capture.snapshot(), PANICKED);
        drop(call);
        assert_eq!(capture.snapshot(), PANICKED);
    }
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics() {
    /// A classifier that panics in one of its methods.
    struct Panics(bool);
    impl<T, E> Classify<T, E> for Panics {
        fn classify(&self, _: Result<&T, &E>) -> Outcome {
            assert!(self.0, "it panics");
            Outcome::Failure(Fault::Permanent)
        }
        fn error_type(&self, _: Result<&T, &E>) -> Option<&'static str> {
            panic!("it panics")
        }
    }
    for classifies in [true, false] {
        let (capture, _guard) = Capture::start();
        let stack = Stack::new().retry(retry()).classify(Panics(classifies));
        let mut call = Spawned::new(stack.layer(flaky([])).oneshot(()));
        assert!(catch_unwind(AssertUnwindSafe(|| call.poll())).is_err());
        drop(call);
        assert_eq!(capture.snapshot(), PANICKED);
    }
    // Without a retry, only the span asks for the cause.
    let (capture, _guard) = Capture::start();
    let mut call = Spawned::new(Stack::new().classify(Panics(true)).layer(fails()).oneshot(()));
    assert!(catch_unwind(AssertUnwindSafe(|| call.poll())).is_err());
    assert_eq!(capture.snapshot(), PANICKED[..1]);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_the_classifier_ignores_is_one_for_the_caller() {
    let ignored =
        || Stack::new().retry(retry()).classify_fn(|_: Result<&Text, &Failure>| Outcome::Ignored);
    assert_eq!(
        call(ignored().layer(fails())).await,
        [
            "call buttress.outcome=failure error.type=ignored otel.status_code=ERROR",
            "call > attempt attempt=1 buttress.outcome=ignored error.type=ignored \
             otel.status_code=ERROR",
        ]
    );
    assert_eq!(
        call(ignored().layer(flaky([]))).await,
        ["call buttress.outcome=success", "call > attempt attempt=1 buttress.outcome=ignored",]
    );
}

#[tokio::test(start_paused = true)]
async fn the_classifier_of_the_stack_says_what_a_failure_is() {
    /// A classifier that takes one answer for a failure, and the error for none.
    struct Picky;
    impl Classify<Text, Failure> for Picky {
        fn classify(&self, result: Result<&Text, &Failure>) -> Outcome {
            match result {
                Ok(_) => Outcome::Failure(Fault::Permanent),
                Err(_) => Outcome::Success,
            }
        }
        fn error_type(&self, result: Result<&Text, &Failure>) -> Option<&'static str> {
            assert!(result.is_ok(), "only failures have a cause");
            Some("picky")
        }
    }
    let expected = [
        "call buttress.outcome=failure error.type=picky otel.status_code=ERROR",
        "call > attempt attempt=1 buttress.outcome=permanent error.type=picky \
         otel.status_code=ERROR",
    ];
    let stack = || Stack::new().retry(retry()).classify(Picky);
    assert_eq!(call(stack().layer(flaky([]))).await, expected);
    assert_eq!(
        call(stack().layer(fails())).await,
        ["call buttress.outcome=success", "call > attempt attempt=1 buttress.outcome=success"]
    );
    // A layer with a closure of its own takes the cause from the stack, as it does the hint.
    let own = RetryLayer::builder(ReplayClones)
        .classify_fn(|_: Result<&Text, &Failure>| Outcome::Failure(Fault::Permanent))
        .build()
        .unwrap();
    assert_eq!(call(stack().retry(own).layer(flaky([]))).await, expected);
    // By hand, the span has its own.
    let by_hand = CallSpanLayer::new().classify(Picky).layer(flaky([]));
    assert_eq!(call(by_hand).await, expected[..1]);
    let by_hand = CallSpanLayer::new()
        .classify_fn(|_: Result<&Text, &Failure>| Outcome::Failure(Fault::Transient))
        .layer(flaky([]));
    let transient = "call buttress.outcome=failure error.type=transient otel.status_code=ERROR";
    assert_eq!(call(by_hand).await, [transient]);
    assert_eq!(call(CallSpanLayer::new().layer(fails())).await, [transient]);
}

#[tokio::test(start_paused = true)]
async fn a_transition_of_a_breaker_is_in_no_span() {
    let breaker = breaker().open_for(SECOND).open_jitter(0.0).probes(1).build().unwrap();
    let stack = Stack::new().name("orders").circuit_breaker(breaker);
    let service = stack.layer(flaky([Step::Respond(Err(BROKEN))]));
    let (capture, _guard) = Capture::start();
    service.clone().oneshot(()).await.unwrap_err();
    advance(SECOND).await;
    service.oneshot(()).await.unwrap();
    assert_eq!(
        capture.snapshot(),
        [
            "call buttress.stack=orders buttress.outcome=failure error.type=transient \
             otel.status_code=ERROR",
            "call buttress.stack=orders buttress.outcome=success",
            "ERROR: circuit opened",
            "WARN: circuit half-open",
            "INFO: circuit closed",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_success_that_opens_the_breaker_is_no_failure() {
    let slow =
        CircuitBreakerLayer::builder().count_window(1).minimum_calls(1).slow_calls(PAUSE, 1.0);
    let stack = Stack::new().circuit_breaker(slow.build().unwrap());
    let inner = flaky([Step::RespondAfter(SECOND, Ok("answer"))]);
    assert_eq!(
        call(stack.layer(inner)).await,
        ["call buttress.outcome=success", "ERROR: circuit opened"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stack_around_a_stack() {
    let inner = Stack::new().name("inner").retry(retry());
    let outer = Stack::new().name("outer").retry(retry());
    let service = outer.layer(inner.layer(flaky([Step::Respond(Err(BROKEN))])));
    assert_eq!(
        call(service).await,
        [
            "call buttress.stack=outer buttress.outcome=success",
            "call > attempt attempt=1 buttress.outcome=success",
            "attempt > call buttress.stack=inner buttress.outcome=success buttress.attempts=2",
            "call > attempt attempt=1 buttress.outcome=transient error.type=transient \
             otel.status_code=ERROR",
            "call > attempt attempt=2 buttress.outcome=success",
            "WARN: call > retrying call",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stack_for_each_key() {
    let template = Stack::new().name("orders").retry(retry());
    let stack = Stack::by_key(|(): &()| 7, move |_| template.fresh()).build().unwrap();
    assert_eq!(
        call(stack.layer(flaky([Step::Respond(Err(BROKEN))]))).await,
        [
            "call buttress.stack=orders buttress.outcome=success buttress.attempts=2",
            "call > attempt attempt=1 buttress.outcome=transient error.type=transient \
             otel.status_code=ERROR",
            "call > attempt attempt=2 buttress.outcome=success",
            "WARN: call > retrying call",
        ]
    );
}
