//! Calls and attempts are counted at their end, with their exact duration.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use buttress::{
    Classify, Error, Fault, Outcome, RetryHint, Stack,
    telemetry::{CallOutcome, Event, Interest, Observer, Registry, Source, Value, field},
    testing::{Step, task::Spawned},
};
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tracing::Level;

use super::{
    DOWN, Failure, MS, OPEN_FOR, SECOND, Text, WELL, breaker, bulkhead, call,
    capture::{Capture, Seen},
    flaky, hangs, numbers, orders, queued, retry, well,
};

/// The number of durations and their sum, for each outcome.
type Durations = BTreeMap<String, (u64, Duration)>;

/// Returns the durations of calls or attempts that ended, of the stack or layer with this name.
fn durations_of(registry: &Registry, instrument: &str, name: &str) -> Durations {
    let families = registry.gather();
    let family = families.iter().find(|it| it.instrument.name == instrument).unwrap();
    let mut durations = Durations::new();
    for series in &family.series {
        let Value::Histogram(histogram) = &series.value else { panic!("it is no histogram") };
        if series.attribute(field::STACK) == Some(name) && histogram.count() > 0 {
            let outcome = series.attribute(field::OUTCOME).unwrap().to_owned();
            durations.insert(outcome, (histogram.count(), histogram.sum()));
        }
    }
    durations
}

const CALLS: &str = "buttress.call.duration";
const ATTEMPTS: &str = "buttress.attempt.duration";

#[track_caller]
fn ended(registry: &Registry, instrument: &str, expected: &[(&str, u64, Duration)]) {
    ended_in(registry, "orders", instrument, expected);
}

#[track_caller]
fn ended_in(
    registry: &Registry,
    stack: &str,
    instrument: &str,
    expected: &[(&str, u64, Duration)],
) {
    let expected = expected.iter().map(|(outcome, count, sum)| ((*outcome).into(), (*count, *sum)));
    assert_eq!(durations_of(registry, instrument, stack), expected.collect::<Durations>());
}

/// Returns the counts of calls and of their causes that are not zero.
fn calls(registry: &Registry) -> BTreeMap<String, f64> {
    let mut calls = numbers(registry, |_, name| {
        ["call.duration", "call.errors", "attempt.duration", "retry.calls"].contains(&name)
    });
    calls.retain(|_, count| *count != 0.0);
    calls
}

// ===== outcomes =====

/// A classifier that ignores each result, or those with a text.
#[derive(Clone, Copy)]
struct Ignores(Option<Text>);

impl Classify<Text, Failure> for Ignores {
    fn classify(&self, result: Result<&Text, &Failure>) -> Outcome {
        match (result, self.0) {
            (Ok(text) | Err(Error::Service(text)), Some(ignored)) if *text == ignored => {
                Outcome::Ignored
            }
            (_, None) => Outcome::Ignored,
            (Ok(_), _) => Outcome::Success,
            (Err(_), _) => Outcome::Failure(Fault::Transient),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_ignored_response_is_a_success_and_an_ignored_error_a_failure_for_all_numbers() {
    let missing: Result<Text, Failure> = Err(Error::Service("missing"));
    for (ignored, steps, counts) in [
        (
            Some("well"),
            vec![WELL],
            &["call.duration success", "attempt.duration success", "retry.calls false success"][..],
        ),
        (
            Some("well"),
            vec![DOWN, WELL],
            &[
                "call.duration success",
                "attempt.duration failure",
                "attempt.duration success",
                "retry.calls true success",
            ],
        ),
        (
            Some("missing"),
            vec![missing.clone()],
            &[
                "call.duration failure",
                "call.errors ignored",
                "attempt.duration failure",
                "retry.calls false failure",
            ],
        ),
        (
            Some("missing"),
            vec![DOWN, missing],
            &[
                "call.duration failure",
                "call.errors ignored",
                "attempt.duration failure: 2",
                "retry.calls true failure",
            ],
        ),
    ] {
        let registry = Registry::new();
        let stack = orders(&registry).retry(retry().build().unwrap()).classify(Ignores(ignored));
        let _ = call(&stack, flaky(steps.into_iter().map(Step::Respond))).await;
        assert_eq!(calls(&registry), super::expected(counts));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_the_classifier_ignores_is_still_rejected() {
    let registry = Registry::new();
    let stack = orders(&registry).retry(retry().build().unwrap()).bulkhead(bulkhead());
    let stack = stack.classify(Ignores(None));
    let mut holder = Spawned::new(call(&stack, hangs()));
    assert!(holder.poll().is_pending());
    let _ = call(&stack, well()).await;
    assert_eq!(
        calls(&registry),
        super::expected(&[
            "call.duration rejected",
            "call.errors bulkhead_full",
            "attempt.duration rejected",
            "retry.calls false failure",
        ])
    );
}

// ===== durations =====

#[tokio::test(start_paused = true)]
async fn a_call_lasts_as_long_as_its_attempts_and_pauses() {
    let registry = Registry::new();
    let pause = buttress::retry::Backoff::constant(SECOND);
    let pause = pause.jitter(buttress::retry::Jitter::None).build().unwrap();
    let stack = orders(&registry).retry(retry().backoff(pause).build().unwrap());
    let _ =
        call(&stack, flaky([Step::RespondAfter(SECOND, DOWN), Step::RespondAfter(SECOND, WELL)]))
            .await;
    ended(&registry, CALLS, &[("success", 1, 3 * SECOND)]);
    ended(&registry, ATTEMPTS, &[("failure", 1, SECOND), ("success", 1, SECOND)]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_turn_lasts_from_its_beginning() {
    let registry = Registry::new();
    let stack = orders(&registry)
        .total_timeout(10 * SECOND)
        .retry(retry().build().unwrap())
        .bulkhead(queued())
        .circuit_breaker(breaker().build().unwrap());
    let mut holder = Spawned::new(call(&stack, flaky([Step::RespondAfter(700 * MS, WELL)])));
    let mut waits = Spawned::new(call(&stack, flaky([Step::RespondAfter(200 * MS, WELL)])));
    assert!(holder.poll().is_pending());
    advance(100 * MS).await;
    assert!(waits.poll().is_pending());
    advance(600 * MS).await;
    assert!(holder.poll().is_ready() && waits.poll().is_pending());
    advance(200 * MS).await;
    assert!(waits.poll().is_ready());
    for instrument in [CALLS, ATTEMPTS] {
        ended(&registry, instrument, &[("success", 2, 1_500 * MS)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_after_the_end_of_another_lasts_until_then() {
    let registry = Registry::new();
    let stack = orders(&registry)
        .retry(retry().build().unwrap())
        .circuit_breaker(breaker().build().unwrap());
    let mut hung = Spawned::new(call(&stack, hangs()));
    assert!(hung.poll().is_pending());
    advance(SECOND).await;
    // Both calls begin at one instant, and one of them ends at once.
    let mut twin = Spawned::new(call(&stack, hangs()));
    assert!(twin.poll().is_pending());
    call(&stack, well()).await.unwrap();
    advance(SECOND).await;
    drop(hung);
    drop(twin);
    for instrument in [CALLS, ATTEMPTS] {
        ended(
            &registry,
            instrument,
            &[("success", 1, Duration::ZERO), ("cancelled", 2, 3 * SECOND)],
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_in_a_pause_lasts_longer_than_its_attempt() {
    let registry = Registry::new();
    let stack = orders(&registry).retry(retry().build().unwrap());
    let by_hand = retry().build().unwrap().register(&registry);
    let mut running = Spawned::new(call(&stack, flaky([Step::RespondAfter(SECOND, DOWN)])));
    let mut hung = Spawned::new(call(&by_hand, hangs()));
    assert!(running.poll().is_pending() && hung.poll().is_pending());
    advance(SECOND).await;
    assert!(running.poll().is_pending());
    advance(SECOND).await;
    drop((hung, running));
    ended(&registry, ATTEMPTS, &[("failure", 1, SECOND)]);
    ended(&registry, CALLS, &[("cancelled", 1, 2 * SECOND)]);
    let families = registry.gather();
    let attempts = families.iter().find(|it| it.instrument.name == ATTEMPTS).unwrap();
    let of_hung = |it: &&buttress::telemetry::Series| {
        it.attribute(field::LAYER) == Some("retry")
            && it.attribute(field::OUTCOME) == Some("cancelled")
    };
    let Value::Histogram(hung) = &attempts.series.iter().find(of_hung).unwrap().value else {
        panic!("it is no histogram")
    };
    assert_eq!((hung.count(), hung.sum()), (1, 2 * SECOND));
}

/// A classifier by which each failure is retried at once.
#[derive(Clone, Copy)]
struct AtOnce;

impl Classify<Text, Failure> for AtOnce {
    fn classify(&self, result: Result<&Text, &Failure>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Failure(Fault::Transient),
        }
    }

    fn hint(&self, _: Result<&Text, &Failure>) -> RetryHint {
        RetryHint::After(Duration::ZERO)
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_that_end_in_one_poll_have_their_own_durations() {
    let registry = Registry::new();
    let retry = retry().retries(3).classify(AtOnce).build().unwrap();
    let stack = orders(&registry).retry(retry);
    let steps = [
        Step::RespondAfter(2 * SECOND, DOWN),
        Step::Respond(DOWN),
        Step::RespondAfter(SECOND, DOWN),
        Step::Respond(WELL),
    ];
    let mut running = Spawned::new(call(&stack, flaky(steps)));
    assert!(running.poll().is_pending());
    for time in [2 * SECOND, SECOND] {
        advance(time).await;
        let _ = running.poll();
    }
    ended(&registry, ATTEMPTS, &[("failure", 3, 3 * SECOND), ("success", 1, Duration::ZERO)]);
    ended(&registry, CALLS, &[("success", 1, 3 * SECOND)]);
}

/// A future that lets time pass within its poll, as code does that keeps the thread busy.
struct Busy {
    time: Duration,
    yields: u32,
}

fn busy(time: Duration) -> Busy {
    Busy { time, yields: 0 }
}

/// Lets time pass on the paused clock, within a poll.
fn pass(time: Duration) {
    assert!(Spawned::new(advance(time)).poll().is_pending());
}

impl Future for Busy {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        pass(self.time);
        if self.yields == 0 {
            return Poll::Ready(());
        }
        self.yields -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn time_in_long_polls_is_counted() {
    let registry = Registry::new();
    let stack = orders(&registry)
        .total_timeout(100 * SECOND)
        .retry(retry().build().unwrap())
        .circuit_breaker(breaker().build().unwrap());
    let service = stack.layer(service_fn(|yields: u32| async move {
        Busy { time: SECOND, yields }.await;
        Ok::<_, Failure>(())
    }));
    service.clone().oneshot(0).await.unwrap();
    service.clone().oneshot(2).await.unwrap();
    for instrument in [CALLS, ATTEMPTS] {
        ended(&registry, instrument, &[("success", 2, 4 * SECOND)]);
    }
}

/// Returns a standard stack with this name, which shares a reading of the clock in many places.
fn named(
    name: &'static str,
    registry: &Registry,
) -> buttress::stack::StandardStack<buttress::retry::ReplayClones> {
    Stack::standard(buttress::retry::ReplayClones).name(name).register(registry)
}

#[tokio::test(start_paused = true)]
async fn a_stack_around_a_stack_counts_the_time_between_their_ends() {
    for registered in [true, false] {
        let (registry, other) = (Registry::new(), Registry::new());
        let inner = named("inner", if registered { &registry } else { &other });
        let inner = inner.layer(service_fn(|()| async {
            sleep(SECOND).await;
            Ok::<_, Failure>(())
        }));
        // It works on the response of the inner stack, in the same poll.
        let outer = orders(&registry).retry(retry().build().unwrap());
        let outer = outer.layer(service_fn(move |()| {
            let inner = inner.clone();
            async move {
                let result = inner.oneshot(()).await;
                busy(2 * SECOND).await;
                result
            }
        }));
        outer.clone().oneshot(()).await.unwrap();
        for instrument in [CALLS, ATTEMPTS] {
            ended(&registry, instrument, &[("success", 1, 3 * SECOND)]);
            if registered {
                ended_in(&registry, "inner", instrument, &[("success", 1, SECOND)]);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_is_not_registered_leaves_no_time_to_one_around_it() {
    let registry = Registry::new();
    let inner = Stack::standard(buttress::retry::ReplayClones);
    let inner = inner.layer(service_fn(|()| async { Ok::<_, Failure>(()) }));
    let outer = orders(&registry).layer(service_fn(move |()| {
        let inner = inner.clone();
        async move {
            inner.clone().oneshot(()).await?;
            busy(2 * SECOND).await;
            Ok::<_, Failure>(())
        }
    }));
    outer.clone().oneshot(()).await.unwrap();
    ended(&registry, CALLS, &[("success", 1, 2 * SECOND)]);
}

#[tokio::test(start_paused = true)]
async fn layers_by_hand_leave_no_time_to_the_call_around_them() {
    let registry = Registry::new();
    let breaker = buttress::circuit_breaker::CircuitBreakerLayer::new().register(&registry);
    let retry = retry().build().unwrap().register(&registry);
    let outer = orders(&registry).layer(service_fn(move |()| {
        let inner = retry.layer(breaker.layer(well()));
        async move {
            let result = inner.oneshot(()).await;
            busy(2 * SECOND).await;
            result
        }
    }));
    outer.clone().oneshot(()).await.unwrap();
    ended(&registry, CALLS, &[("success", 1, 2 * SECOND)]);
}

#[tokio::test(start_paused = true)]
async fn calls_within_a_call_and_on_other_threads_leave_it_no_time() {
    let registry = Registry::new();
    let other = named("inner", &registry);
    let service = other.layer(service_fn(|()| async { Ok::<_, Failure>(()) }));
    let outer = orders(&registry).layer(service_fn(move |()| {
        let service = service.clone();
        async move {
            pass(SECOND);
            let here = service.clone().oneshot(());
            assert!(Spawned::new(here).poll().is_ready());
            let dropped = Spawned::new(service.clone().oneshot(()));
            drop(dropped);
            pass(SECOND);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(service.clone().oneshot(())).unwrap();
                });
            });
            pass(SECOND);
            Ok::<_, Failure>(())
        }
    }));
    outer.clone().oneshot(()).await.unwrap();
    ended(&registry, CALLS, &[("success", 1, 3 * SECOND)]);
}

// ===== observers =====

/// The calls and attempts that an observer was told of.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<BTreeMap<Text, Durations>>>);

impl Observer for Ends {
    fn on_event(&self, source: Source<'_>, event: &Event<'_>) {
        assert_eq!(source.stack(), Some("orders"));
        let (kind, outcome, error_type, took) = match *event {
            Event::CallEnded { outcome, error_type, took, .. } => {
                ("call", outcome, error_type, took)
            }
            Event::AttemptEnded { outcome, error_type, took, .. } => {
                ("attempt", outcome, error_type, took)
            }
            _ => return,
        };
        let is_error = matches!(outcome, CallOutcome::Failure | CallOutcome::Rejected);
        assert_eq!(error_type.is_some(), is_error, "{event:?}");
        let mut ends = self.0.lock().unwrap();
        let mut add = |kind, key: &str| {
            let of_kind: &mut Durations = ends.entry(kind).or_default();
            let (count, sum) = of_kind.entry(key.to_owned()).or_default();
            *count += 1;
            *sum += took;
        };
        add(kind, outcome.as_str());
        if let (Some(error_type), "call") = (error_type, kind) {
            add("error", error_type);
        }
    }

    fn interest(&self) -> Interest {
        Interest::All
    }
}

/// An outage of 10 s, with calls that end in each way.
async fn outage(registry: &Registry) -> impl Sized + use<> {
    let stack = orders(registry)
        .total_timeout(2 * SECOND)
        .retry(retry().build().unwrap())
        .bulkhead(queued())
        .circuit_breaker(breaker().consecutive_failures(6).build().unwrap())
        .attempt_timeout(SECOND);
    let mut panics = Spawned::new(call(&stack, flaky([Step::PanicInPoll])));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| panics.poll()));
    assert!(caught.is_err());
    drop(panics);
    for steps in [
        vec![],
        vec![Step::RespondAfter(300 * MS, WELL)],
        vec![Step::Respond(DOWN)],
        vec![Step::Hang, Step::RespondAfter(900 * MS, WELL)],
        vec![Step::Hang, Step::Hang],
        vec![Step::Respond(DOWN), Step::Respond(DOWN)],
    ] {
        let _ = call(&stack, flaky(steps)).await;
    }
    // Both its attempts have time, but not the pause between them.
    let mut holder = Spawned::new(call(&stack, hangs()));
    let mut waits = Spawned::new(call(&stack, well()));
    assert!(holder.poll().is_pending() && waits.poll().is_pending());
    advance(500 * MS).await;
    drop((holder, waits));
    stack.circuit_breaker_handle().unwrap().force_open_for(OPEN_FOR);
    for _ in 0..3 {
        assert!(call(&stack, well()).await.is_err());
    }
    // Their series end with the last service.
    (stack.layer(well()), stack)
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_the_same_ends_as_the_registry_counts() {
    let registry = Registry::new();
    let ends = Ends::default();
    registry.observe(ends.clone());
    let _kept = outage(&registry).await;
    let ends = ends.0.lock().unwrap();
    let told = |kind| ends[kind].clone();
    assert_eq!(told("call"), durations_of(&registry, CALLS, "orders"));
    assert_eq!(told("attempt"), durations_of(&registry, ATTEMPTS, "orders"));
    assert_eq!(told("call").len(), 4, "each outcome was met");
    let errors = told("error").into_iter().map(|(cause, (count, _))| (cause, count as f64));
    let counted = numbers(&registry, |_, name| name == "call.errors").into_iter();
    let counted = counted.map(|(name, count)| (name.replace("call.errors ", ""), count));
    assert_eq!(errors.collect::<BTreeMap<_, _>>(), counted.collect());
}

// ===== correlation =====

/// Counts how often each value occurs.
fn tally<T: Ord>(values: impl IntoIterator<Item = T>) -> BTreeMap<T, u64> {
    let mut tally = BTreeMap::new();
    for value in values {
        *tally.entry(value).or_default() += 1;
    }
    tally
}

/// Returns the counts of an instrument by the values of these attributes.
fn by(registry: &Registry, instrument: &str, keys: &[&str]) -> BTreeMap<Vec<String>, u64> {
    let families = registry.gather();
    let family = families.iter().find(|it| it.instrument.name == instrument).unwrap();
    let mut counts = BTreeMap::new();
    for series in &family.series {
        let values = keys.iter().map(|key| series.attribute(key).unwrap_or_default().to_owned());
        let count = series.value.as_number() as u64;
        if count > 0 {
            *counts.entry(values.collect()).or_default() += count;
        }
    }
    counts
}

fn values(seen: &Seen, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| seen.get(key).unwrap_or_default().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn metrics_lines_and_spans_of_an_outage_have_the_same_names_and_causes() {
    let (capture, _guard) = Capture::start();
    let registry = Registry::new();
    let _kept = outage(&registry).await;

    let spans = |name| {
        let spans = capture.spans().into_iter();
        spans.filter(move |span| span.name == name).collect::<Vec<_>>()
    };
    let causes = [field::STACK, field::ERROR_TYPE];
    let failed = |spans: &[Seen]| -> Vec<Seen> {
        spans.iter().filter(|span| span.get(field::ERROR_TYPE).is_some()).cloned().collect()
    };
    let failed_calls = failed(&spans("call"));
    let of_calls = tally(failed_calls.iter().map(|span| values(span, &causes)));
    assert_eq!(of_calls, by(&registry, "buttress.call.errors", &causes));

    let lines = capture.events().into_iter();
    let lines = lines.filter(|it| ["call rejected", "call timed out"].contains(&it.name.as_str()));
    let lines: Vec<_> = lines.collect();
    let full = [field::STACK, field::LAYER, field::KIND, field::ERROR_TYPE];
    let of_lines = tally(lines.iter().map(|line| values(line, &full)));
    assert_eq!(of_lines, by(&registry, "buttress.rejections", &full));

    // Each rejection but those that the retry saved is the cause of its attempt or its call.
    let layers = [field::LAYER];
    let of_attempts = tally(spans("attempt").iter().map(|span| values(span, &layers)));
    assert_eq!(of_attempts, by(&registry, "buttress.attempt.duration", &layers));
    let mut rejected: Vec<_> = failed(&spans("attempt"))
        .iter()
        .filter(|span| span.get(field::OUTCOME) != Some("cut"))
        .filter_map(|span| span.get(field::ERROR_TYPE).map(str::to_owned))
        .filter(|cause| !["transient", "panic"].contains(&cause.as_str()))
        .collect();
    rejected.extend(["timed_out".to_owned()]);
    let reasons = tally(lines.iter().map(|it| it.get(field::ERROR_TYPE).unwrap().to_owned()));
    assert_eq!(tally(rejected), reasons, "one is that of the total timeout");
}

// ===== the log =====

#[tokio::test(start_paused = true)]
async fn ten_thousand_rejections_are_three_lines_whose_counts_add_up() {
    const CALLS: u64 = 10_000;
    let (capture, _guard) = Capture::start();
    let registry = Registry::new();
    let stack = orders(&registry)
        .retry(retry().build().unwrap())
        .circuit_breaker(breaker().build().unwrap())
        .attempt_timeout(SECOND);
    let handle = stack.circuit_breaker_handle().unwrap();
    handle.force_open();
    for number in 0..CALLS {
        let _ = call(&stack, well()).await;
        if number == CALLS / 2 {
            advance(10 * SECOND).await;
        }
    }
    handle.close();
    let lines: Vec<_> = capture.events().into_iter().filter(|it| it.level <= Level::WARN).collect();
    let lines: Vec<_> = lines.iter().filter(|it| it.name == "call rejected").collect();
    let events = capture.events();
    let closed = events.iter().filter(|it| it.name == "circuit closed");
    let all = lines.iter().copied().chain(closed);
    let suppressed: u64 =
        all.filter_map(|it| it.get(field::SUPPRESSED)).map(|it| it.parse::<u64>().unwrap()).sum();
    assert!(lines.len() <= 2, "{lines:?}");
    assert_eq!(lines.len() as u64 + suppressed, CALLS);
    let counted = by(&registry, "buttress.rejections", &[field::STACK, field::LAYER]);
    assert_eq!(counted.into_values().collect::<Vec<_>>(), [CALLS]);
    ended(&registry, super::calls::CALLS, &[("rejected", CALLS, Duration::ZERO)]);
}
