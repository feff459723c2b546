//! Tests of the fallback through its public API.

mod capture;

use std::{
    future::{Future, pending, ready},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use buttress::{
    CarryRejection, Classify, Deadline, Error, Fault, Outcome, Rejection, RetryHint, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    endpoints::Endpoints,
    error::{BulkheadFull, CircuitOpen, IdempotencyReason, IdempotencyRejected, TimedOut},
    fallback::{self, FallbackLayer, Reason},
    retry::{Backoff, Replay, ReplayClones, RetryLayer},
    telemetry::{Control, Registry, Value, field},
    testing::{
        Flaky, Reserving, Step,
        task::{Spawned, SpawnedService},
    },
};
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimitLayer, service_fn};
use tracing::Level;

use self::capture::Capture;

type Text = &'static str;
type Failure = Error<Text>;
type Inner = Flaky<Text, Failure>;

const SECOND: Duration = Duration::from_secs(1);
const BROKEN: Failure = Error::Service("broken");

fn flaky(steps: impl IntoIterator<Item = Step<Text, Failure>>) -> Inner {
    Flaky::new(steps, || Ok("response"))
}

fn down() -> Inner {
    Flaky::new([], || Err(BROKEN))
}

/// Classifies an error of the service by its text.
#[derive(Clone, Copy)]
struct ByText;

impl Classify<Text, Failure> for ByText {
    fn classify(&self, result: Result<&Text, &Failure>) -> Outcome {
        let text = match result {
            Ok(text) => text,
            Err(Error::Service(text)) => text,
            Err(_) => unreachable!("rejections are not shown to a classifier"),
        };
        match *text {
            "permanent" => Outcome::Failure(Fault::Permanent),
            "ignored" | "unsent" => Outcome::Ignored,
            "in progress" => Outcome::Failure(Fault::InProgress { retry_after: None }),
            "overloaded" => Outcome::Failure(Fault::Overloaded { retry_after: None }),
            "late" => Outcome::Failure(Fault::TimedOut),
            "broken" | "connect" => Outcome::Failure(Fault::Transient),
            _ => Outcome::Success,
        }
    }

    fn hint(&self, result: Result<&Text, &Failure>) -> RetryHint {
        match result {
            Err(Error::Service("unsent" | "connect")) => RetryHint::Unsent,
            _ => RetryHint::Unstated,
        }
    }
}

/// Copies requests that must not be repeated only if they are unsent.
#[derive(Clone, Copy)]
struct OnlyUnsent;

impl Replay<Text> for OnlyUnsent {
    fn replay(&self, request: &Text) -> Option<Text> {
        (*request == "GET").then_some(*request)
    }

    fn replay_unsent(&self, request: &Text) -> Option<Text> {
        Some(*request)
    }
}

/// Every rejection that a fallback is for, and those that it must not hide.
fn rejections() -> (Vec<Rejection>, Vec<Rejection>) {
    use IdempotencyReason::*;
    let of = |reason| Rejection::from(IdempotencyRejected::new("a", reason, None));
    let unavailable = vec![
        TimedOut::new("a", SECOND).into(),
        CircuitOpen::new("a", None).into(),
        BulkheadFull::new("a", 1).into(),
        of(StoreUnavailable),
        of(Full),
    ];
    let other = [KeyMissing, Mismatch, InFlight, NotReplayable, Unknown].map(of);
    (unavailable, other.into())
}

#[tokio::test(start_paused = true)]
async fn it_falls_back_when_the_service_is_out_of_reach() {
    let (unavailable, _) = rejections();
    let failures = ["broken", "overloaded", "late"].map(Error::Service);
    for failure in failures.into_iter().chain(unavailable.into_iter().map(Error::Rejected)) {
        let layer = FallbackLayer::builder(fallback::value("none")).classify(ByText);
        let layer = layer.build().unwrap();
        let service = layer.layer(flaky([Step::Respond(Err(failure))]));
        assert_eq!(service.oneshot("request").await, Ok("none"));
        assert_eq!((layer.handle().used(), layer.handle().failed()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn ignored_and_permanent_are_not_hidden() {
    let (_, other) = rejections();
    let failures = ["permanent", "ignored", "in progress", "unsent"].map(Error::Service);
    for failure in failures.into_iter().chain(other.into_iter().map(Error::Rejected)) {
        let layer = FallbackLayer::builder(fallback::value("none")).classify(ByText);
        let layer = layer.build().unwrap();
        let text = failure.to_string();
        let service = layer.layer(flaky([Step::Respond(Err(failure))]));
        let error = service.oneshot("request").await.unwrap_err();
        assert_eq!(error.to_string(), text);
        assert_eq!((layer.handle().used(), layer.handle().declined()), (0, 0));
    }
    let ok = FallbackLayer::value("none").layer(flaky([]));
    assert_eq!(ok.oneshot("request").await, Ok("response"));
}

#[tokio::test(start_paused = true)]
async fn permanent_failures_fall_back_if_asked_for_and_ignored_ones_never() {
    let builder = || FallbackLayer::builder(fallback::value("none")).classify(ByText);
    for (text, falls_back) in [("permanent", true), ("in progress", false), ("ignored", false)] {
        let layer = builder().also_permanent().build().unwrap();
        let service = layer.layer(flaky([Step::Respond(Err(Error::Service(text)))]));
        assert_eq!(service.oneshot("request").await.is_ok(), falls_back, "{text}");
    }
    let layer = builder().when_fn(|reason| matches!(reason, Reason::Failed(Fault::Permanent)));
    let layer = layer.build().unwrap();
    for (text, falls_back) in [("permanent", true), ("broken", false), ("ignored", false)] {
        let service = layer.layer(flaky([Step::Respond(Err(Error::Service(text)))]));
        assert_eq!(service.oneshot("request").await.is_ok(), falls_back, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_falls_back_when_the_circuit_is_open() {
    let breaker = CircuitBreakerLayer::new();
    breaker.handle().force_open();
    let inner = flaky([]);
    let calls = inner.handle();
    let stack = Stack::standard(ReplayClones).circuit_breaker(breaker);
    let stack = stack.fallback(FallbackLayer::value("none"));
    let fallback = stack.fallback_handle().unwrap();
    assert_eq!(stack.layer(inner).oneshot("request").await, Ok("none"));
    assert_eq!((fallback.used(), calls.calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_closure_gets_what_was_kept_of_the_request_and_the_reason() {
    let layer = FallbackLayer::from_fn(
        |request: &Text| request.len(),
        |length, reason| async move { (length > 3).then_some(reason.as_str()) },
    );
    let service = layer.layer(down());
    assert_eq!(service.clone().oneshot("long request").await, Ok("transient"));
    // Without a response, the result of the call stands.
    assert_eq!(service.oneshot("GET").await, Err(BROKEN));
    assert_eq!((layer.handle().used(), layer.handle().declined()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_hangs_does_not_hide_the_reason() {
    let layer = FallbackLayer::from_fn(|_| (), |(), _| pending::<Option<Text>>());
    let service = layer.layer(down());
    let began = Instant::now();
    assert_eq!(service.oneshot("request").await, Err(BROKEN));
    assert_eq!((began.elapsed(), layer.handle().failed()), (SECOND, 1));
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_hangs_near_the_deadline_does_not_hide_the_reason() {
    // With 200 ms left when the service fails, and when the reserve is reached with 100 ms.
    let fails = Step::RespondAfter(SECOND * 8 / 10, Err(BROKEN));
    for (step, reason, end) in [(fails, "transient", 980), (Step::Hang, "timed_out", 990)] {
        let layer = FallbackLayer::from_fn(|_| (), |(), _| pending::<Option<Text>>());
        let call = layer.layer(flaky([step])).oneshot("request");
        let began = Instant::now();
        let result = Deadline::scope(Deadline::after(SECOND), call).await;
        let error = result.expect("the caller learns the reason").unwrap_err();
        assert_eq!(error.rejection().map_or("transient", Rejection::kind), reason);
        assert_eq!(began.elapsed(), Duration::from_millis(end), "{reason}");
        assert_eq!(layer.handle().failed(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_as_the_other_service_are_settled_with_their_own_results() {
    let open = || Error::<Text>::Rejected(CircuitOpen::new("a", None).into());
    for (response, expected) in [(Err("error"), 1), (Ok("broken"), 1), (Ok("response"), 0)] {
        let endpoints = Endpoints::new(["b"], move |_| Flaky::new([], move || response));
        let handle = endpoints.handle();
        let layer = FallbackLayer::service(ReplayClones, endpoints);
        // The result of the call says nothing about the endpoint.
        let inner = flaky([Step::Respond(Err(open()))]);
        let service = Stack::new().classify(ByText).fallback(layer).layer(inner);
        let result = service.oneshot("request").await;
        assert_eq!(result, if expected == 0 { Ok("response") } else { Err(open()) });
        assert_eq!(handle.states()[0].failures, expected, "{response:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_service_that_fails_does_not_hide_the_reason() {
    let hangs = || flaky([Step::Hang]);
    let unready = || flaky([Step::Unready]);
    for (other, name) in [
        (flaky([Step::Respond(Err(Error::Service("other")))]), "error"),
        (flaky([Step::Respond(Ok("broken"))]), "response"),
        (flaky([Step::FailReadiness(Error::Service("other"))]), "readiness"),
        (hangs(), "hangs"),
        (unready(), "unready"),
    ] {
        let source = fallback::service(ReplayClones, other.clone());
        let layer = FallbackLayer::builder(source).classify(ByText).build().unwrap();
        let service = layer.layer(down());
        assert_eq!(service.oneshot("request").await, Err(BROKEN), "{name}");
        assert_eq!((layer.handle().used(), layer.handle().failed()), (0, 1), "{name}");
        assert_eq!((other.handle().in_flight(), other.handle().violations()), (0, vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_must_not_be_repeated_goes_elsewhere_only_if_nothing_began() {
    let open = || Error::Rejected(CircuitOpen::new("a", None).into());
    let late = || Error::Rejected(TimedOut::new("a", SECOND).into());
    for (request, failure, goes) in [
        ("GET", BROKEN, true),
        ("GET", late(), true),
        ("POST", BROKEN, false),
        ("POST", late(), false),
        ("POST", open(), true),
        ("POST", Error::Service("connect"), true),
    ] {
        let other = flaky([]);
        let source = fallback::service(OnlyUnsent, other.clone());
        let layer = FallbackLayer::builder(source).classify(ByText).build().unwrap();
        let text = format!("{request}: {failure}");
        let service = layer.layer(flaky([Step::Respond(Err(failure))]));
        assert_eq!(service.oneshot(request).await.is_ok(), goes, "{text}");
        assert_eq!(other.handle().calls(), usize::from(goes), "{text}");
        assert_eq!(layer.handle().declined(), u64::from(!goes), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_retry_has_sent_before_does_not_go_elsewhere() {
    let backoff = Backoff::constant(Duration::from_millis(10)).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).backoff(backoff).build().unwrap();
    let open = || Step::Respond(Err(Error::Rejected(CircuitOpen::new("a", None).into())));
    // The first attempt may have begun. Its response is dropped before the pause, so the rejection
    // of the second one is the result.
    let sent_before = || vec![Step::Respond(Ok("broken")), open()];
    for (steps, goes) in [(sent_before(), false), (vec![open()], true)] {
        let other = flaky([]);
        let stack = Stack::new().retry(retry.clone()).classify(ByText);
        let fallback = FallbackLayer::service(OnlyUnsent, other.clone());
        let result = fallback.layer(stack.layer(flaky(steps))).oneshot("POST").await;
        let rejected = result.is_err_and(|error| error.rejection().is_some());
        assert_eq!((rejected, other.handle().calls()), (!goes, usize::from(goes)));
    }
}

#[tokio::test(start_paused = true)]
async fn off_reserves_nothing() {
    let layer = FallbackLayer::value("none");
    let limited = ConcurrencyLimitLayer::new(1).layer(flaky([]));
    let mut service = layer.layer(limited.clone());
    layer.handle().switch_off();
    assert!(layer.handle().is_off());
    let readied = ServiceExt::<Text>::ready(&mut service).await.unwrap();
    // The only permit is free.
    assert_eq!(limited.clone().oneshot("request").await, Ok("response"));
    assert_eq!(readied.call("request").await, Ok("none"));
    assert_eq!((layer.handle().used(), layer.handle().used_while_off()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn switching_off_frees_the_callers_that_wait_until_the_service_is_ready() {
    let layer = FallbackLayer::value("none");
    let limited = ConcurrencyLimitLayer::new(1).layer(flaky([Step::Hang]));
    let mut holder = Spawned::new(layer.layer(limited.clone()).oneshot("request"));
    assert!(holder.poll().is_pending());
    let service = || Spawned::new(layer.layer(limited.clone()).oneshot("request"));
    let (mut one, mut gone, mut other) = (service(), service(), service());
    for call in [&mut one, &mut gone, &mut other] {
        assert!(call.poll().is_pending() && !call.is_woken());
    }
    drop(gone);
    layer.handle().switch_off();
    for call in [&mut one, &mut other] {
        assert!(call.is_woken());
        assert_eq!(call.poll(), Poll::Ready(Ok("none")));
    }
    drop((one, other));
    // A caller that waits again, after the switch was on, waits for the service.
    layer.handle().switch_on();
    let mut again = service();
    assert!(again.poll().is_pending());
    drop(holder);
    assert_eq!(again.poll(), Poll::Ready(Ok("response")));
    assert_eq!(layer.handle().used_while_off(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_was_ready_before_the_switch_is_ready_for_its_next_call() {
    let layer = FallbackLayer::value("none");
    let reserving = Reserving::new(flaky([]), 1);
    let slots = reserving.handle();
    let mut service = SpawnedService::new(layer.layer(reserving));
    let call = |service: &mut SpawnedService<_, _>| {
        assert!(service.poll_ready().is_ready());
        service.call("request").poll()
    };
    assert!(service.poll_ready().is_ready());
    layer.handle().switch_off();
    for _ in 0..2 {
        assert_eq!(call(&mut service), Poll::Ready(Ok("none")));
        assert_eq!(slots.reserved(), 1);
    }
    layer.handle().switch_on();
    assert_eq!(call(&mut service), Poll::Ready(Ok("response")));
    assert!(service.poll_ready().is_ready());
    layer.handle().switch_off();
    drop(service);
    assert_eq!((slots.reserved(), slots.taken()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn while_off_the_service_is_neither_polled_nor_called() {
    let inner = flaky([Step::Unready]);
    let calls = inner.handle();
    let layer = FallbackLayer::value("none");
    layer.handle().switch_off();
    assert_eq!(layer.layer(inner).oneshot("request").await, Ok("none"));
    assert_eq!((calls.calls(), calls.readiness_polls()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn switching_is_seen_by_the_next_call() {
    let inner = flaky([]);
    let calls = inner.handle();
    let layer = FallbackLayer::value("none");
    let mut service = SpawnedService::new(layer.layer(inner));
    for (is_off, expected) in [(false, "response"), (true, "none"), (false, "response")] {
        if is_off {
            // After readiness and before the call.
            assert!(service.poll_ready().is_ready());
            layer.handle().switch_off();
        } else {
            layer.handle().switch_on();
            assert!(service.poll_ready().is_ready());
        }
        assert_eq!(service.call("request").poll(), Poll::Ready(Ok(expected)));
    }
    assert_eq!(calls.violations(), []);
    // A decision that is off stands until its call.
    layer.handle().switch_off();
    assert!(service.poll_ready().is_ready());
    layer.handle().switch_on();
    assert_eq!(service.call("request").poll(), Poll::Ready(Ok("none")));
}

#[tokio::test(start_paused = true)]
async fn off_without_a_response_is_a_rejection() {
    for hangs in [true, false] {
        let layer = FallbackLayer::from_fn(
            |_| (),
            move |(), reason| async move {
                assert_eq!(reason, Reason::Off);
                if hangs { pending().await } else { None }
            },
        );
        layer.handle().switch_off();
        let error = layer.layer(flaky([])).oneshot("request").await.unwrap_err();
        let rejection = error.rejection().unwrap();
        assert_eq!((rejection.kind(), rejection.name()), ("switched_off", "fallback"));
        assert!(rejection.nothing_began() && rejection.is_unavailable());
    }
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_is_counted_and_leaks_nothing() {
    fn panics(at: Text) -> impl Future<Output = Option<Text>> {
        assert_ne!(at, "call");
        async move { panic!("{at}") }
    }
    for at in ["call", "poll"] {
        let layer = FallbackLayer::from_fn(|_| (), move |(), _| panics(at));
        let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
        let inner = flaky([Step::Respond(Err(BROKEN))]);
        let calls = inner.handle();
        let mut call = Spawned::new(layer.layer(bulkhead.layer(inner)).oneshot("request"));
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call.poll()));
        assert!(polled.is_err(), "{at}");
        drop(call);
        assert_eq!((layer.handle().failed(), layer.handle().used()), (1, 0), "{at}");
        assert_eq!((bulkhead.handle().in_flight(), calls.in_flight()), (0, 0), "{at}");
        // The layer goes on.
        assert_eq!(layer.layer(flaky([])).oneshot("request").await, Ok("response"));
    }
}

/// A task that catches panics may poll the call again.
#[tokio::test(start_paused = true)]
async fn a_call_is_over_after_a_classifier_has_panicked_at_either_response() {
    for panics_at in ["broken", "other"] {
        let classify = move |result: Result<&Text, &Failure>| {
            let text = result.copied().unwrap_or("broken");
            assert_ne!(text, panics_at);
            if text == "broken" { Outcome::Failure(Fault::Transient) } else { Outcome::Success }
        };
        let other = Flaky::new([], || Ok::<_, Failure>("other"));
        let layer = FallbackLayer::builder(fallback::service(ReplayClones, other));
        let layer = layer.classify_fn(classify).build().unwrap();
        let mut call = Spawned::new(layer.layer(down()).oneshot("request"));
        for poll in ["first", "second"] {
            let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call.poll()));
            assert!(polled.is_err(), "{panics_at}, {poll}: {polled:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_keep_closure_that_panics_makes_no_call() {
    let layer = FallbackLayer::from_fn(
        |request: &Text| assert_ne!(*request, "bad"),
        |(), _| ready(Some("none")),
    );
    let reserving = Reserving::new(flaky([]), 1);
    let slots = reserving.handle();
    let mut service = SpawnedService::new(layer.layer(reserving));
    assert!(service.poll_ready().is_ready());
    let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| service.call("bad")));
    assert!(called.is_err());
    // The instance is still ready, and its slot is used by the next call.
    assert!(service.poll_ready().is_ready());
    assert_eq!(service.call("good").poll(), Poll::Ready(Ok("response")));
    assert_eq!(slots.reserved(), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_drops_whichever_runs() {
    let other = flaky([Step::Hang]);
    let layer = FallbackLayer::service(ReplayClones, other.clone());
    let inner = flaky([Step::Hang]);
    let mut call = Spawned::new(layer.layer(inner.clone()).oneshot("request"));
    assert!(call.poll().is_pending());
    assert_eq!((inner.handle().in_flight(), other.handle().in_flight()), (1, 0));
    drop(call);
    assert_eq!((inner.handle().in_flight(), other.handle().in_flight()), (0, 0));

    let mut call = Spawned::new(layer.layer(down()).oneshot("request"));
    assert!(call.poll().is_pending());
    assert_eq!(other.handle().in_flight(), 1);
    drop(call);
    assert_eq!(other.handle().in_flight(), 0);
}

/// Makes 100 calls of a service that hangs, by callers with this much time.
///
/// Returns the number of degraded responses in time, and the latest of them.
async fn degraded_in_time(with_total: bool, time: Duration) -> (usize, Duration) {
    let hangs = service_fn(|_: u32| pending::<Result<Text, std::io::Error>>());
    let stack = Stack::standard(ReplayClones).fallback(FallbackLayer::value("none"));
    let stack = stack.total_timeout(with_total.then_some(5 * SECOND));
    let service = stack.service(hangs);
    let began = Instant::now();
    let calls = (0..100).map(|number| {
        let call = service.clone().oneshot(number);
        tokio::spawn(Deadline::scope(Deadline::after(time), call))
    });
    let calls: Vec<_> = calls.collect();
    let mut in_time = 0;
    for call in calls {
        in_time += usize::from(matches!(call.await.unwrap(), Ok(Ok("none"))));
    }
    (in_time, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn callers_with_less_time_than_the_total_get_the_fallback() {
    for with_total in [true, false] {
        for time in [SECOND, 3 * SECOND, 5 * SECOND] {
            let (in_time, latest) = degraded_in_time(with_total, time).await;
            assert_eq!(in_time, 100, "{time:?}, {with_total}");
            assert!(latest < time, "{latest:?} of {time:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_reserve_a_caller_with_little_time_gets_nothing() {
    let layer = FallbackLayer::builder(fallback::value("none")).reserve(0.0).build().unwrap();
    let call = layer.layer(flaky([Step::Hang])).oneshot("request");
    assert!(Deadline::scope(Deadline::after(SECOND), call).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_reserve_ends_has_timed_out_if_there_is_no_fallback() {
    let layer = FallbackLayer::from_fn(|_| (), |(), _| ready(None::<Text>));
    let call = layer.layer(flaky([Step::Hang])).oneshot("request");
    let error = Deadline::scope(Deadline::after(SECOND), call).await.unwrap().unwrap_err();
    let Some(Rejection::TimedOut(timed_out)) = error.rejection() else { panic!("{error}") };
    assert_eq!(timed_out.limit(), SECOND * 9 / 10);
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_time_is_over_is_not_given_a_fallback() {
    let layer = FallbackLayer::value("none");
    let call = layer.layer(flaky([Step::RespondWhenReleased(Err(BROKEN))]));
    let inner = call.get_ref().handle();
    let mut call = Spawned::new(Deadline::scope(Deadline::after(SECOND), call.oneshot("request")));
    assert!(call.poll().is_pending());
    advance(2 * SECOND).await;
    inner.release();
    assert_eq!(call.poll(), Poll::Ready(Ok(Err(BROKEN))));
    assert_eq!(layer.handle().used(), 0);
}

#[tokio::test(start_paused = true)]
async fn another_service_sees_the_limit_as_its_deadline() {
    let other = service_fn(|_: Text| async {
        let left = Deadline::current().unwrap().remaining();
        Ok::<_, Failure>(if left == SECOND { "a second" } else { "another time" })
    });
    let layer = FallbackLayer::service(ReplayClones, other);
    assert_eq!(layer.layer(down()).oneshot("request").await, Ok("a second"));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_fallbacks_log_few_lines() {
    let (capture, _guard) = Capture::start();
    let layer = FallbackLayer::builder(fallback::value("none")).name("shelf").build().unwrap();
    let service = layer.layer(down());
    for _ in 0..10_000 {
        service.clone().oneshot("request").await.unwrap();
    }
    sleep(11 * SECOND).await;
    service.oneshot("request").await.unwrap();
    let events = capture.events();
    let lines: Vec<_> = events.iter().filter(|event| event.level <= Level::WARN).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0].name, "fallback used");
    assert_eq!(lines[0].get(field::LAYER), Some("shelf"));
    assert_eq!(lines[0].get(field::REASON), Some("transient"));
    assert_eq!(lines[1].get(field::SUPPRESSED), Some("9999"));
}

/// Returns the cause of the last fallback that failed.
fn cause(capture: &Capture) -> Option<String> {
    let events = capture.events();
    let failed = events.iter().rfind(|event| event.name == "fallback failed")?;
    failed.get(field::ERROR_TYPE).map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_the_same_breaker_or_bulkhead_rejects_is_told_of() {
    let (capture, _guard) = Capture::start();
    let open = || {
        let breaker = CircuitBreakerLayer::builder().name("shop").build().unwrap();
        breaker.handle().force_open();
        breaker
    };
    let (one, other) = (open(), open());
    for (behind, expected) in [(&one, "same_layer"), (&other, "error")] {
        let fallback = FallbackLayer::service(ReplayClones, behind.layer(flaky([])));
        let error = fallback.layer(one.layer(flaky([]))).oneshot("request").await.unwrap_err();
        assert_eq!(error.rejection().unwrap().kind(), "circuit_open");
        assert_eq!(cause(&capture).as_deref(), Some(expected));
    }
    // The breaker was the last one to reject a call, but not this one.
    let fallback = FallbackLayer::service(ReplayClones, other.layer(flaky([])));
    assert_eq!(fallback.layer(down()).oneshot("request").await, Err(BROKEN));
    assert_eq!(cause(&capture).as_deref(), Some("error"));

    let bulkhead = || BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let (one, other) = (bulkhead(), bulkhead());
    let hangs = [&one, &other].map(|full| full.layer(flaky([Step::Hang])).oneshot("request"));
    let mut held = hangs.map(Spawned::new);
    assert!(held.iter_mut().all(|call| call.poll().is_pending()));
    for (behind, expected) in [(&one, "same_layer"), (&other, "error")] {
        let fallback = FallbackLayer::service(ReplayClones, behind.layer(flaky([])));
        let error = fallback.layer(one.layer(flaky([]))).oneshot("request").await.unwrap_err();
        assert_eq!(error.rejection().unwrap().kind(), "bulkhead_full");
        assert_eq!(cause(&capture).as_deref(), Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_calls_through_the_same_breaker_has_failed_unless_it_responds() {
    let breaker = CircuitBreakerLayer::new();
    breaker.handle().force_open();
    let service = breaker.layer(flaky([]));
    for (otherwise, used, failed) in [(None, 0, 1), (Some("none"), 1, 0)] {
        let again = service.clone();
        let layer = FallbackLayer::from_fn(
            |request: &Text| *request,
            move |request, _| {
                let again = again.clone();
                async move { again.oneshot(request).await.ok().or(otherwise) }
            },
        );
        let handle = layer.handle();
        assert_eq!(layer.layer(service.clone()).oneshot("request").await.ok(), otherwise);
        assert_eq!((handle.used(), handle.failed(), handle.declined()), (used, failed, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_call_says_that_it_was_degraded_and_by_what() {
    for (is_off, source) in [(false, "fallback"), (true, "off")] {
        let (capture, _guard) = Capture::start();
        let stack = Stack::new().fallback(FallbackLayer::value("none"));
        if is_off {
            stack.fallback_handle().unwrap().switch_off();
        }
        stack.layer(down()).oneshot("request").await.unwrap();
        let spans = capture.spans();
        assert_eq!(spans[0].get(field::OUTCOME), Some("degraded"));
        assert_eq!(spans[0].get(field::SOURCE), Some(source));
        assert_eq!((spans[0].get(field::ERROR_TYPE), spans[0].get(field::STATUS)), (None, None));
    }
}

/// Returns the value of a counter or a gauge, for one value of its last attribute.
fn number(registry: &Registry, name: &str, last: Option<&str>) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.instrument.name == name).unwrap();
    let series = family.series.iter().find(|series| {
        last.is_none_or(|last| series.attributes.last().is_some_and(|(_, value)| value == last))
    });
    match &series.unwrap().value {
        Value::Number(number) => *number,
        Value::Histogram(snapshot) => snapshot.count() as f64,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_counted_by_result_and_the_switch_is_a_control() {
    let registry = Registry::new();
    let layer = FallbackLayer::from_fn(
        |request: &Text| *request,
        |request, _| async move {
            match request {
                "declined" => None,
                "failed" => pending().await,
                _ => Some("none"),
            }
        },
    );
    let stack = Stack::new().name("shelf").register(&registry).fallback(layer);
    let service = stack.layer(down());
    for request in ["used", "used", "declined", "failed"] {
        _ = service.clone().oneshot(request).await;
    }
    let off = "buttress.fallback.switched_off";
    assert_eq!(number(&registry, off, None), 0.0);
    assert_eq!(registry.control(Some("shelf"), "shelf", Control::SwitchOff, "test"), 1);
    assert_eq!(number(&registry, off, None), 1.0);
    assert_eq!(service.clone().oneshot("off").await, Ok("none"));
    // A feature that is switched off is no reason to take the instance out.
    assert!(registry.ready().is_ready());
    assert_eq!(registry.control(Some("shelf"), "shelf", Control::SwitchOn, "test"), 1);
    for (result, count) in [("used", 2.0), ("declined", 1.0), ("failed", 1.0), ("off", 1.0)] {
        assert_eq!(number(&registry, "buttress.fallback.calls", Some(result)), count, "{result}");
    }
    for (outcome, count) in [("degraded", 3.0), ("failure", 2.0), ("success", 0.0)] {
        let calls = number(&registry, "buttress.call.duration", Some(outcome));
        assert_eq!(calls, count, "{outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn layers_of_a_stack_that_is_fresh_have_a_switch_of_their_own() {
    let stack = Stack::new().fallback(FallbackLayer::value("none"));
    let fresh = stack.fresh();
    stack.fallback_handle().unwrap().switch_off();
    assert!(!fresh.fallback_handle().unwrap().is_off());
    assert_eq!(stack.layer(flaky([])).oneshot("request").await, Ok("none"));
    assert_eq!(fresh.layer(flaky([])).oneshot("request").await, Ok("response"));
    assert!(Stack::new().fallback_handle().is_none());
    let absent = Stack::new().fallback(None::<FallbackLayer<fallback::FallbackValue<Text>>>);
    assert_eq!(absent.layer(flaky([])).oneshot("request").await, Ok("response"));
}

#[tokio::test(start_paused = true)]
async fn a_client_with_closures_infers_and_spawns() {
    let calls = Arc::new(AtomicU32::new(0));
    let client = {
        let calls = Arc::clone(&calls);
        service_fn(move |_path: String| {
            calls.fetch_add(1, Ordering::Relaxed);
            async { Err::<usize, _>(std::io::Error::from(std::io::ErrorKind::BrokenPipe)) }
        })
    };
    let stack = Stack::standard(ReplayClones).retry(None::<RetryLayer<ReplayClones>>).fallback(
        FallbackLayer::from_fn(
            |path: &String| path.len(),
            |length, reason| async move {
                match reason {
                    Reason::Rejected(_) => None,
                    _ => Some(length),
                }
            },
        ),
    );
    let ignoring =
        stack.clone().fallback(FallbackLayer::from_fn(|_| (), |(), _| async { Some(0) }));
    let (service, ignoring) = (stack.service(client.clone()), ignoring.service(client));
    let spawned = tokio::spawn(async move {
        let path = String::from("/shelf");
        (service.oneshot(path.clone()).await.unwrap(), ignoring.oneshot(path).await.unwrap())
    });
    assert_eq!(spawned.await.unwrap(), (6, 0));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn the_explanation_has_a_line_and_warns_of_a_fallback_that_comes_too_late() {
    let value = || FallbackLayer::value("none");
    let explained = Stack::standard(ReplayClones).fallback(value()).explain();
    assert!(explained.warnings().is_empty(), "{explained}");
    assert!(explained.to_string().contains("fallback         a value\n"), "{explained}");
    assert_eq!(explained.worst_time(), Some(5 * SECOND));

    let rules = |explained: &buttress::stack::Explanation| {
        explained.warnings().iter().map(|warning| warning.rule()).collect::<Vec<_>>()
    };
    let explained = Stack::standard(ReplayClones).total_timeout(None::<Duration>);
    let explained = explained.fallback(value()).explain();
    assert_eq!(rules(&explained), ["fallback_without_total"]);

    let closure = fallback::from_fn(|_: &u32| (), |(), _| ready(Some(0)));
    let slow = FallbackLayer::builder(closure).limit(5 * SECOND).build().unwrap();
    let explained = Stack::standard(ReplayClones).fallback(slow).explain();
    assert_eq!(rules(&explained), ["fallback_longer_than_total"]);
    assert_eq!(explained.worst_time(), Some(10 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_call_is_not_degraded_because_a_detached_call_of_its_service_was() {
    let registry = Registry::new();
    let flags = FallbackLayer::value("off").layer(down());
    let service = service_fn(move |_: Text| {
        let flags = flags.clone();
        async move {
            assert_eq!(Deadline::detached(flags.oneshot("flag")).await.unwrap(), "off");
            Ok::<_, Failure>("a response of the service")
        }
    });
    let stack = Stack::new().name("shop").register(&registry).layer(service);
    stack.clone().oneshot("request").await.unwrap();
    let families = registry.gather();
    let calls = families.iter().find(|it| it.instrument.name == "buttress.call.duration").unwrap();
    let ended = |outcome| {
        let series = calls.series.iter().filter(|it| it.attribute(field::OUTCOME) == Some(outcome));
        let counts = series.map(|it| match &it.value {
            Value::Histogram(snapshot) => snapshot.count(),
            other => panic!("{other:?}"),
        });
        counts.sum::<u64>()
    };
    assert_eq!((ended("success"), ended("degraded")), (1, 0));
}
