//! Tests of the retry layer through its public API.

#[path = "support/gives_back.rs"]
mod gives_back;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use buttress::{
    CarryRejection, Classify, Deadline, Error, Fault, Outcome, Rejection, RetryHint,
    circuit_breaker::CircuitBreakerLayer,
    classify_fn,
    context::{Attempt, Hop},
    error::{
        BulkheadFull, CircuitOpen, DeadlineExceeded, NotReady, QueueTimedOut, RateLimited, TimedOut,
    },
    retry::{Backoff, Budget, Jitter, Replay, ReplayClones, RetryBuilder, RetryLayer, replay_fn},
    testing::{
        Flaky, PanicPoint, Step,
        cancel::{CancelHarness, PanicHarness},
        task::{Spawned, SpawnedService},
    },
    timeout::TimeoutLayer,
};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};

use self::gives_back::GivesBack;

type Failure = Error<&'static str>;
type Inner = Flaky<&'static str, Failure>;

const PAUSE: Duration = Duration::from_millis(100);
const BROKEN: Failure = Error::Service("broken");

fn flaky(steps: impl IntoIterator<Item = Step<&'static str, Failure>>) -> Inner {
    Flaky::new(steps, || Ok("answer"))
}

fn failing() -> Inner {
    Flaky::new([], || Err(BROKEN))
}

/// Returns a retry with pauses of exactly [`PAUSE`], and without a budget.
fn plain<P>(replay: P) -> RetryBuilder<P> {
    let backoff = Backoff::constant(PAUSE).jitter(Jitter::None).build().unwrap();
    RetryLayer::builder(replay).backoff(backoff).without_budget()
}

fn layer() -> RetryLayer<ReplayClones> {
    plain(ReplayClones).build().unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T, Failure>) -> &'static str {
    result.unwrap_err().rejection().map_or("no rejection", Rejection::kind)
}

/// A classifier that classifies like the default, and always gives the same hint.
#[derive(Clone, Copy)]
struct Hints(RetryHint);

impl<Res, E> Classify<Res, E> for Hints {
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        if result.is_ok() { Outcome::Success } else { Outcome::Failure(Fault::Transient) }
    }

    fn hint(&self, _: Result<&Res, &E>) -> RetryHint {
        self.0
    }
}

/// Returns a classifier by which every result is a failure.
fn nothing_is_right<Res, E>() -> impl Fn(Result<&Res, &E>) -> Outcome + Clone {
    |_| Outcome::Failure(Fault::Transient)
}

/// A request that counts its clones, and knows whether it is one.
#[derive(Debug)]
struct Counted {
    clones: Arc<AtomicU32>,
    original: bool,
}

impl Counted {
    fn new() -> (Self, Arc<AtomicU32>) {
        let clones = Arc::new(AtomicU32::new(0));
        (Self { clones: Arc::clone(&clones), original: true }, clones)
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::Relaxed);
        Self { clones: Arc::clone(&self.clones), original: false }
    }
}

// The calls that are retried.

#[tokio::test(start_paused = true)]
async fn a_failure_that_passes_is_retried_until_it_has() {
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::Respond(Err(BROKEN))]);
    let handle = inner.handle();
    let began = Instant::now();
    assert_eq!(layer().layer(inner).oneshot(()).await, Ok("answer"));
    assert_eq!((handle.calls(), began.elapsed()), (3, PAUSE * 2));
    assert_eq!(handle.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn the_first_try_is_not_counted_among_the_retries() {
    for retries in [0, 1, 5] {
        let inner = failing();
        let handle = inner.handle();
        let layer = plain(ReplayClones).retries(retries).build().unwrap();
        assert_eq!(layer.layer(inner).oneshot(()).await, Err(BROKEN));
        assert_eq!(handle.calls(), retries as usize + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn retry_skips_own_rejections() {
    let rejections: [Rejection; 6] = [
        CircuitOpen::new("x", None).into(),
        BulkheadFull::new("x", 1).into(),
        QueueTimedOut::new("x", PAUSE).into(),
        DeadlineExceeded::new("x").into(),
        NotReady::new("x", PAUSE).into(),
        RateLimited::new("x", Some(PAUSE)).into(),
    ];
    for rejection in rejections {
        let inner = flaky([Step::Respond(Err(Error::rejected(rejection.clone())))]);
        let handle = inner.handle();
        // This holds however naive the classifier is.
        let layer =
            plain(ReplayClones).classify_fn(nothing_is_right::<&str, Failure>()).build().unwrap();
        assert_eq!(layer.layer(inner).oneshot(()).await, Err(Error::Rejected(rejection)));
        assert_eq!(handle.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_an_attempt_is_retried() {
    let rejection = Error::rejected(TimedOut::new("attempt", PAUSE));
    let inner = flaky([Step::Respond(Err(rejection))]);
    let handle = inner.handle();
    // This holds whatever a classifier returns.
    let layer = plain(ReplayClones).classify_fn(|_: Result<&&str, &Failure>| Outcome::Ignored);
    assert_eq!(layer.build().unwrap().layer(inner).oneshot(()).await, Ok("answer"));
    assert_eq!(handle.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn only_failures_that_may_pass_are_retried() {
    let cases = [
        (Outcome::Success, 1),
        (Outcome::Ignored, 1),
        (Outcome::Failure(Fault::Permanent), 1),
        (Outcome::Failure(Fault::Transient), 4),
        (Outcome::Failure(Fault::TimedOut), 4),
        (Outcome::Failure(Fault::Overloaded { retry_after: None }), 4),
    ];
    for (outcome, calls) in cases {
        let inner = failing();
        let handle = inner.handle();
        let layer = plain(ReplayClones).classify_fn(move |_: Result<&&str, &Failure>| outcome);
        assert_eq!(layer.build().unwrap().layer(inner).oneshot(()).await, Err(BROKEN));
        assert_eq!(handle.calls(), calls, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_replayed_is_sent_once_and_its_answer_returned() {
    let inner = failing();
    let handle = inner.handle();
    let layer = plain(replay_fn(|_: &String| None)).build().unwrap();
    let began = Instant::now();
    let (result, hop) = Hop::observe(layer.layer(inner).oneshot("POST".to_owned())).await;
    assert_eq!((result, handle.calls(), began.elapsed()), (Err(BROKEN), 1, Duration::ZERO));
    assert_eq!(hop, Hop::default());
}

#[tokio::test(start_paused = true)]
async fn what_is_replayed_only_if_unsent_is_retried_only_then() {
    for (hint, calls) in
        [(RetryHint::Unsent, 4), (RetryHint::Unstated, 1), (RetryHint::After(PAUSE), 1)]
    {
        let inner = failing();
        let handle = inner.handle();
        let layer = plain(IfUnprocessed).classify(Hints(hint)).build().unwrap();
        assert_eq!(layer.layer(inner).oneshot("POST").await, Err(BROKEN));
        assert_eq!(handle.calls(), calls, "{hint:?}");
    }
}

/// A policy that replays only what was not processed.
#[derive(Clone, Copy)]
struct IfUnprocessed;

impl<Req: Clone> Replay<Req> for IfUnprocessed {
    fn replay(&self, _: &Req) -> Option<Req> {
        None
    }

    fn replay_unsent(&self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_given_back_is_sent_again_at_once_and_free_the_first_time() {
    /// The errors of the first attempts, the pauses, the retries that a budget pays for, and the
    /// result.
    type Row = (&'static [&'static str], Duration, u32, Result<&'static str, Failure>);
    const ANSWERED: Result<&str, Failure> = Ok("answer");
    const UNSENT: Result<&str, Failure> = Err(Error::Service("unsent"));
    let rows: [Row; 9] = [
        (&["unsent"], Duration::ZERO, 0, ANSWERED),
        (&["refused"], Duration::ZERO, 0, ANSWERED),
        // One proof does not use up the resend of the other.
        (&["refused", "unsent"], Duration::ZERO, 0, ANSWERED),
        (&["unsent", "refused"], Duration::ZERO, 0, ANSWERED),
        // Then the ordinary rules apply.
        (&["unsent", "unsent"], PAUSE, 1, ANSWERED),
        (&["unsent", "refused", "unsent"], PAUSE, 1, ANSWERED),
        (&["unsent", "unsent", "refused", "unsent"], PAUSE.saturating_mul(2), 2, ANSWERED),
        (&["unsent"; 9], PAUSE.saturating_mul(2), 2, UNSENT),
        // The service may have processed it.
        (&["unsent", "broken"], Duration::ZERO, 0, Err(BROKEN)),
    ];
    for (errors, pauses, retries, expected) in rows {
        let inner = flaky(errors.iter().map(|error| Step::Respond(Err(Error::Service(*error)))));
        let budget = Budget::builder().ratio(0.0).floor(10).build().unwrap();
        let layer = plain(IfUnprocessed).retries(2).budget(budget.clone()).classify(GivesBack);
        let began = Instant::now();
        let result = layer.build().unwrap().layer(inner).oneshot("POST").await;
        // The timer of a pause of zero may round up.
        let paused = began.elapsed().saturating_sub(Duration::from_millis(5));
        let paid = 10.0 - budget.balance();
        assert_eq!((result, paid), (expected, f64::from(retries)), "{errors:?}");
        assert!(paused <= pauses && began.elapsed() >= pauses, "{errors:?}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_given_back_is_sent_again_after_the_last_attempt_too() {
    for (retries, errors, calls) in
        [(1, &["broken", "unsent"][..], 3), (1, &["broken", "refused"], 3), (0, &["unsent"], 1)]
    {
        let inner = flaky(errors.iter().map(|error| Step::Respond(Err(Error::Service(*error)))));
        let handle = inner.handle();
        // Any request may be replayed, and before the last attempt only what was not processed.
        struct All;
        impl Replay<&'static str> for All {
            fn replay(&self, request: &&'static str) -> Option<&'static str> {
                Some(request)
            }
            fn replay_unsent(&self, request: &&'static str) -> Option<&'static str> {
                Some(request)
            }
        }
        let layer = plain(All).retries(retries).classify(GivesBack).build().unwrap();
        let result = layer.layer(inner).oneshot("GET").await;
        // With no retries at all, no copy is kept.
        assert_eq!((result.is_ok(), handle.calls()), (retries > 0, calls), "{errors:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_given_back_is_no_failure_for_a_breaker() {
    let inner = flaky([Step::Respond(Err(Error::Service("unsent")))]);
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).classify(GivesBack);
    let breaker = breaker.build().unwrap();
    let handle = breaker.handle();
    let layer = plain(IfUnprocessed).classify(GivesBack).build().unwrap();
    assert_eq!(layer.layer(breaker.layer(inner)).oneshot("POST").await, Ok("answer"));
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.calls(), snapshot.failures()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_moves_the_original() {
    for retries in [0, 1, 3] {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&sent);
        let inner = service_fn(move |request: Counted| {
            log.lock().unwrap().push(request.original);
            async move { Err::<(), _>(BROKEN) }
        });
        let (request, clones) = Counted::new();
        let layer = plain(ReplayClones).retries(retries).build().unwrap();
        assert!(layer.layer(inner).oneshot(request).await.is_err());
        assert_eq!(clones.load(Ordering::Relaxed), retries);
        let sent = sent.lock().unwrap();
        assert_eq!(sent.iter().position(|original| *original), Some(retries as usize));
    }
}

#[tokio::test(start_paused = true)]
async fn the_policy_is_asked_before_each_attempt_but_the_last() {
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let policy = replay_fn(move |request: &u32| {
        count.fetch_add(1, Ordering::Relaxed);
        Some(*request)
    });
    let service = plain(policy).retries(3).build().unwrap().layer(failing());
    assert_eq!(service.oneshot(7_u32).await, Err(BROKEN));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn the_policy_may_change_its_mind() {
    let asked = AtomicU32::new(0);
    let policy = replay_fn(move |request: &u32| {
        (asked.fetch_add(1, Ordering::Relaxed) == 0).then_some(*request)
    });
    let inner = failing();
    let handle = inner.handle();
    let service = plain(policy).build().unwrap().layer(inner);
    assert_eq!(service.oneshot(7_u32).await, Err(BROKEN));
    assert_eq!(handle.calls(), 2);
}

// Pauses.

/// Returns the pauses of clients that all fail at one instant, by retry.
async fn pauses(layer: RetryLayer<ReplayClones>, clients: usize) -> Vec<Vec<Duration>> {
    let seen = Arc::new(Mutex::new(vec![Vec::new(); clients]));
    let log = Arc::clone(&seen);
    let inner = service_fn(move |client: usize| {
        log.lock().unwrap()[client].push(Instant::now());
        async move { Err::<(), _>(BROKEN) }
    });
    let service = layer.layer(inner);
    let calls = (0..clients).map(|client| service.clone().oneshot(client));
    for result in futures::future::join_all(calls).await {
        assert_eq!(result, Err(BROKEN));
    }
    let seen = seen.lock().unwrap();
    let attempts = seen[0].len();
    (1..attempts).map(|n| seen.iter().map(|at| at[n] - at[n - 1]).collect()).collect()
}

fn distinct(pauses: &[Duration]) -> usize {
    pauses.iter().collect::<std::collections::BTreeSet<_>>().len()
}

/// The pauses are long enough for two hundred to differ in tokio's timers.
///
/// These have a resolution of a millisecond. The unit tests of the backoff check nanoseconds.
#[tokio::test(start_paused = true)]
async fn clients_that_fail_at_one_instant_do_not_come_back_at_one_instant() {
    for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
        let backoff = Backoff::exponential(Duration::from_secs(2))
            .cap(Duration::from_secs(8))
            .jitter(jitter)
            .build()
            .unwrap();
        let layer = RetryLayer::builder(ReplayClones).retries(6).backoff(backoff).without_budget();
        let pauses = pauses(layer.build().unwrap(), 200).await;
        assert_eq!(pauses.len(), 6);
        for (retry, pauses) in pauses.iter().enumerate() {
            // The last pauses are at the cap.
            assert!(distinct(pauses) >= 150, "{jitter:?} {retry}: {}", distinct(pauses));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn default_backoff_is_jittered_capped_and_deadline_bounded() {
    let layer = RetryLayer::builder(ReplayClones).retries(10).without_budget().build().unwrap();
    let pauses = pauses(layer.clone(), 200).await;
    for (retry, pauses) in pauses.iter().enumerate() {
        let longest = Duration::from_millis(50 << retry).min(Duration::from_secs(1));
        let tick = Duration::from_millis(1);
        assert!(pauses.iter().all(|pause| *pause <= longest + tick), "{retry}: {pauses:?}");
        assert!(distinct(pauses) >= 25, "{retry}");
        let mean = pauses.iter().sum::<Duration>().as_secs_f64() / pauses.len() as f64;
        let share = mean / longest.as_secs_f64();
        assert!((0.4..0.62).contains(&share), "{retry}: a mean of {share} of the ceiling");
    }

    let total = Duration::from_millis(500);
    let service = TimeoutLayer::new(total).layer(layer.layer(failing()));
    for _ in 0..50 {
        let began = Instant::now();
        assert_eq!(service.clone().oneshot(()).await, Err(BROKEN));
        // It may end at the deadline, to which tokio's timer rounds a pause up. It never ends by
        // a timeout.
        assert!(began.elapsed() <= total);
    }
}

#[tokio::test(start_paused = true)]
async fn retry_honours_retry_after() {
    let asked = Duration::from_secs(1);
    let by_fault = classify_fn(move |result: Result<&(), &Failure>| match result {
        Ok(()) => Outcome::Success,
        Err(_) => Outcome::Failure(Fault::Overloaded { retry_after: Some(asked) }),
    });
    let seen = Arc::new(Mutex::new(Vec::new()));
    for by_hint in [false, true] {
        let attempts = service_fn(|()| async {
            match Attempt::current().unwrap().number() {
                1 => Err(BROKEN),
                _ => Ok(()),
            }
        });
        let calls = (0..100).map(|_| {
            let seen = Arc::clone(&seen);
            async move {
                let began = Instant::now();
                let builder = plain(ReplayClones).backoff(Backoff::default());
                if by_hint {
                    let layer = builder.classify(Hints(RetryHint::After(asked))).build().unwrap();
                    layer.layer(attempts).oneshot(()).await.unwrap();
                } else {
                    let layer = builder.classify(by_fault).build().unwrap();
                    layer.layer(attempts).oneshot(()).await.unwrap();
                }
                seen.lock().unwrap().push(began.elapsed());
            }
        });
        futures::future::join_all(calls).await;
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        // Jitter only adds to the pause. It adds up to a fifth, or the first pause of the backoff
        // if that is longer.
        let spread = (asked / 5).max(Backoff::default().cap().min(Duration::from_millis(50)));
        let most = asked + spread + Duration::from_millis(1);
        assert!(seen.iter().all(|pause| (asked..=most).contains(pause)), "{seen:?}");
        assert!(distinct(&seen) >= 50, "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_beyond_the_cap_ends_the_retrying() {
    for (asked, calls) in [(2_000, 4), (2_001, 1)] {
        let inner = failing();
        let handle = inner.handle();
        let hint = RetryHint::After(Duration::from_millis(asked));
        let service = plain(ReplayClones).classify(Hints(hint)).build().unwrap().layer(inner);
        let began = Instant::now();
        let (result, hop) = Hop::observe(service.oneshot(())).await;
        assert_eq!((result, handle.calls()), (Err(BROKEN), calls));
        assert!(hop.retries_exhausted());
        assert_eq!(began.elapsed().is_zero(), calls == 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_beyond_the_deadline_ends_the_retrying() {
    let inner = failing();
    let handle = inner.handle();
    let hint = Hints(RetryHint::After(Duration::from_secs(1)));
    let service = plain(ReplayClones).classify(hint).build().unwrap().layer(inner);
    let service = TimeoutLayer::new(Duration::from_millis(900)).layer(service);
    let began = Instant::now();
    assert_eq!(service.oneshot(()).await, Err(BROKEN));
    assert_eq!((handle.calls(), began.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn hints_of_a_server_do_not_bring_clients_into_step() {
    let overloaded = Fault::Overloaded { retry_after: Some(Duration::ZERO) };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let inner = service_fn(move |()| {
        log.lock().unwrap().push(Instant::now());
        async { Err::<(), _>(BROKEN) }
    });
    let layer = RetryLayer::builder(ReplayClones)
        .retries(1)
        .without_budget()
        .classify_fn(move |_: Result<&(), &Failure>| Outcome::Failure(overloaded));
    let service = layer.build().unwrap().layer(inner);
    futures::future::join_all((0..200).map(|_| service.clone().oneshot(()))).await;
    // A hint to retry now must not make all clients retry at one instant.
    let retried: Vec<_> = seen.lock().unwrap()[200..].iter().map(|at| at.elapsed()).collect();
    assert!(distinct(&retried) >= 25, "{} instants for 200 clients", distinct(&retried));
}

// The ends of retrying.

#[tokio::test(start_paused = true)]
async fn a_hint_to_stop_ends_the_retrying() {
    let inner = failing();
    let handle = inner.handle();
    let service =
        plain(ReplayClones).classify(Hints(RetryHint::Stop)).build().unwrap().layer(inner);
    let (result, hop) = Hop::observe(service.oneshot(())).await;
    assert_eq!((result, handle.calls()), (Err(BROKEN), 1));
    assert_eq!((hop.told_to_stop(), hop.retries_exhausted()), (true, false));
}

#[tokio::test(start_paused = true)]
async fn the_hop_learns_what_was_spent() {
    let exhausted = async |layer: RetryLayer<ReplayClones>, limit: Duration| {
        let service = TimeoutLayer::new(limit).layer(layer.layer(failing()));
        let (result, hop) = Hop::observe(service.oneshot(())).await;
        assert_eq!(result, Err(BROKEN));
        (hop.retries_exhausted(), hop.told_to_stop())
    };
    let hour = Duration::from_secs(3_600);
    assert_eq!(exhausted(layer(), hour).await, (true, false));
    assert_eq!(exhausted(layer(), PAUSE * 2).await, (true, false));
    // The caller may give the request more time.
    assert_eq!(exhausted(layer(), PAUSE).await, (false, false));
    let broke = plain(ReplayClones)
        .budget(Budget::builder().ratio(0.0).floor(0).build().unwrap())
        .build()
        .unwrap();
    assert_eq!(exhausted(broke, hour).await, (true, false));
    // A layer without retries has not exhausted them.
    let never = plain(ReplayClones).retries(0).build().unwrap();
    assert_eq!(exhausted(never, hour).await, (false, false));

    let service = layer().layer(flaky([Step::Respond(Err(BROKEN))]));
    let (result, hop) = Hop::observe(service.oneshot(())).await;
    assert_eq!(result, Ok("answer"));
    assert_eq!((hop.retries_exhausted(), hop.told_to_stop()), (false, false));
}

#[tokio::test(start_paused = true)]
async fn the_hop_learns_of_a_deadline_only_after_a_retry() {
    /// The errors of the first attempts. The next one hangs.
    type Row = (&'static [&'static str], bool);
    let rows: [Row; 4] = [
        (&[], false),
        (&["broken"], true),
        // A resend of what was not processed repeats no work.
        (&["refused"], false),
        (&["refused", "broken"], true),
    ];
    for (errors, expected) in rows {
        let fail = |error: &&'static str| Step::Respond(Err(Error::Service(*error)));
        let inner = flaky(errors.iter().map(fail).chain([Step::Hang]));
        let handle = inner.handle();
        let layer = plain(ReplayClones).classify(GivesBack).build().unwrap();
        let service = TimeoutLayer::new(PAUSE * 5).layer(layer.layer(inner));
        let (result, hop) = Hop::observe(service.oneshot("GET")).await;
        assert_eq!((kind(result), handle.calls()), ("timed_out", errors.len() + 1));
        assert_eq!(hop.retries_exhausted(), expected, "{errors:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_the_retrying_before_the_pause() {
    // A pause that ends at the deadline is as useless as a longer one.
    for (limit, calls) in [(PAUSE, 1), (PAUSE * 2, 2), (PAUSE * 2 + Duration::from_millis(1), 3)] {
        let inner = failing();
        let handle = inner.handle();
        let service = TimeoutLayer::new(limit).layer(layer().layer(inner));
        let began = Instant::now();
        assert_eq!(service.oneshot(()).await, Err(BROKEN));
        assert_eq!((handle.calls(), began.elapsed()), (calls, PAUSE * (calls as u32 - 1)));
    }
}

#[tokio::test(start_paused = true)]
async fn budget_ratio_bounds_amplification() {
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let inner = service_fn(move |()| {
        count.fetch_add(1, Ordering::Relaxed);
        let first = Attempt::current().unwrap().number() == 1;
        async move { if first { Err(BROKEN) } else { Ok(()) } }
    });
    // The default budget has a ratio of one in ten, and a floor of ten.
    let service = RetryLayer::new(ReplayClones).layer(inner);
    let mut ok = 0;
    for _ in 0..1_000 {
        ok += u32::from(service.clone().oneshot(()).await.is_ok());
    }
    let calls = calls.load(Ordering::Relaxed);
    assert_eq!(calls, 1_000 + ok);
    assert!((1_090..=1_110).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_answers_at_once_with_the_failure() {
    let budget = Budget::builder().ratio(0.0).floor(1).build().unwrap();
    let service = plain(ReplayClones).budget(budget).build().unwrap().layer(failing());
    let began = Instant::now();
    assert_eq!(service.clone().oneshot(()).await, Err(BROKEN));
    assert_eq!(began.elapsed(), PAUSE);
    assert_eq!(service.oneshot(()).await, Err(BROKEN));
    assert_eq!(began.elapsed(), PAUSE);
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_shared_by_clones_and_by_whoever_is_given_it() {
    let budget = Budget::builder().ratio(0.0).floor(4).build().unwrap();
    let layer = plain(ReplayClones).retries(1).budget(budget.clone()).build().unwrap();
    let other =
        plain(ReplayClones).retries(1).budget(layer.budget().unwrap().clone()).build().unwrap();
    let _ = layer.layer(failing()).oneshot(()).await;
    let _ = layer.clone().layer(failing()).oneshot(()).await;
    let service = layer.layer(failing());
    let _ = service.clone().oneshot(()).await;
    assert!((budget.balance() - 1.0).abs() < 1e-9, "{budget:?}");
    let _ = other.layer(failing()).oneshot(()).await;
    let inner = failing();
    let handle = inner.handle();
    let _ = layer.layer(inner).oneshot(()).await;
    assert_eq!(handle.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_never_sent_is_paid_back() {
    let budget = Budget::builder().ratio(0.0).floor(5).build().unwrap();
    let layer = plain(ReplayClones).budget(budget.clone()).build().unwrap();
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::Hang]);
    let mut call = Spawned::new(layer.layer(inner).oneshot(()));
    assert!(call.poll().is_pending());
    assert!((budget.balance() - 4.0).abs() < 1e-9);
    // The call is dropped in the pause.
    assert_eq!(call.cancel().holders(), 0);
    assert!((budget.balance() - 5.0).abs() < 1e-9);

    // The call is dropped while it waits for readiness.
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::Unready]);
    let mut call = Spawned::new(layer.layer(inner).oneshot(()));
    assert!(call.poll().is_pending());
    advance(PAUSE).await;
    assert!(call.poll().is_pending());
    assert!((budget.balance() - 4.0).abs() < 1e-9);
    drop(call);
    assert!((budget.balance() - 5.0).abs() < 1e-9);

    // A token is spent once the retry is sent.
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::Hang]);
    let mut call = Spawned::new(layer.layer(inner).oneshot(()));
    assert!(call.poll().is_pending());
    advance(PAUSE).await;
    assert!(call.poll().is_pending());
    drop(call);
    assert!((budget.balance() - 4.0).abs() < 1e-9);
}

// The returned results.

/// A response that shows whether it is still held.
type Held = Arc<()>;

#[tokio::test(start_paused = true)]
async fn a_response_is_dropped_over_the_pause() {
    let held: Held = Arc::new(());
    let given = Arc::clone(&held);
    let inner: Flaky<Held, Failure> = Flaky::new([], move || Ok(Arc::clone(&given)));
    let layer =
        plain(ReplayClones).classify_fn(nothing_is_right::<Held, Failure>()).build().unwrap();
    let mut call = Spawned::new(layer.layer(inner).oneshot(()));
    for _ in 0..3 {
        assert!(call.poll().is_pending());
        assert_eq!(Arc::strong_count(&held), 2, "the response is held over the pause");
        advance(PAUSE).await;
        assert!(call.is_woken());
    }
    // The response of the last attempt is returned unchanged.
    assert!(matches!(call.poll(), Poll::Ready(Ok(_))));
}

#[tokio::test(start_paused = true)]
async fn an_error_is_kept_when_a_later_attempt_is_rejected() {
    for rejection in
        [Rejection::from(CircuitOpen::new("x", None)), BulkheadFull::new("x", 1).into()]
    {
        let inner =
            flaky([Step::Respond(Err(BROKEN)), Step::Respond(Err(Error::Rejected(rejection)))]);
        let handle = inner.handle();
        assert_eq!(layer().layer(inner).oneshot(()).await, Err(BROKEN));
        assert_eq!(handle.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_returned_where_a_response_was_dropped() {
    let full = Error::rejected(BulkheadFull::new("x", 1));
    let inner = flaky([Step::Respond(Ok("503")), Step::Respond(Err(full.clone()))]);
    let layer =
        plain(ReplayClones).classify_fn(nothing_is_right::<&str, Failure>()).build().unwrap();
    assert_eq!(layer.layer(inner).oneshot(()).await, Err(full));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_again_ends_the_retrying() {
    let wait = Duration::from_millis(700);
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::Unready]);
    let handle = inner.handle();
    let layer = plain(ReplayClones).readiness_wait(wait).build().unwrap();
    let began = Instant::now();
    assert_eq!(layer.layer(inner).oneshot(()).await, Err(BROKEN));
    assert_eq!((handle.calls(), began.elapsed()), (1, PAUSE + wait));
    assert!(handle.readiness_polls() <= 3);

    let inner = flaky([Step::Respond(Ok("503")), Step::Unready]);
    let layer = plain(ReplayClones).classify_fn(nothing_is_right::<&str, Failure>()).name("orders");
    let error = layer.build().unwrap().layer(inner).oneshot(()).await.unwrap_err();
    let Some(Rejection::NotReady(not_ready)) = error.rejection() else { panic!("{error:?}") };
    assert_eq!((not_ready.name(), not_ready.waited()), ("orders", Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_readiness_ends_no_later_than_the_deadline() {
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::Unready]);
    let limit = Duration::from_millis(300);
    let service = TimeoutLayer::new(limit).layer(layer().layer(inner));
    let began = Instant::now();
    assert_eq!(kind(service.oneshot(()).await), "timed_out");
    assert_eq!(began.elapsed(), limit);
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_on_as_soon_as_the_service_is_ready() {
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::Unready]);
    let handle = inner.handle();
    let mut call = Spawned::new(layer().layer(inner).oneshot(()));
    assert!(call.poll().is_pending());
    advance(PAUSE).await;
    assert!(call.poll().is_pending());
    advance(PAUSE).await;
    assert!(!call.is_woken());
    handle.set_ready();
    assert!(call.is_woken());
    assert_eq!(call.poll(), Poll::Ready(Ok("answer")));
    assert_eq!((call.polls(), handle.violations()), (3, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_does_not_replace_the_failure() {
    let dead = Error::Service("dead");
    let inner = flaky([Step::Respond(Err(BROKEN)), Step::FailReadiness(dead)]);
    assert_eq!(layer().layer(inner).oneshot(()).await, Err(BROKEN));
}

#[tokio::test(start_paused = true)]
async fn the_first_attempt_calls_the_instance_that_is_ready() {
    let inner = flaky([Step::Respond(Err(BROKEN))]);
    let handle = inner.handle();
    let mut service = SpawnedService::new(layer().layer(inner));
    assert!(service.poll_ready().is_ready());
    let call = service.call(());
    assert_eq!(handle.calls(), 1);
    assert_eq!(call.into_inner().await, Ok("answer"));
    assert_eq!((handle.calls(), handle.readiness_polls(), handle.violations()), (2, 2, vec![]));
}

#[tokio::test(start_paused = true)]
async fn the_attempt_is_known_in_call_and_in_poll() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let inner = service_fn(move |()| {
        let in_call = Attempt::current();
        let log = Arc::clone(&log);
        async move {
            tokio::task::yield_now().await;
            assert_eq!(Attempt::current(), in_call);
            let attempt = in_call.unwrap();
            log.lock().unwrap().push((attempt.number(), attempt.previous()));
            Err::<(), _>(BROKEN)
        }
    });
    assert_eq!(layer().layer(inner).oneshot(()).await, Err(BROKEN));
    let failed = Some(Outcome::Failure(Fault::Transient));
    assert_eq!(*seen.lock().unwrap(), [(1, None), (2, failed), (3, failed), (4, failed)]);
    assert_eq!(Attempt::current(), None);
}

#[tokio::test(start_paused = true)]
async fn every_attempt_sees_the_deadline() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let inner = service_fn(move |()| {
        let in_call = Deadline::current();
        let log = Arc::clone(&log);
        async move {
            assert_eq!(Deadline::current(), in_call);
            log.lock().unwrap().push(in_call.unwrap().remaining());
            Err::<(), _>(BROKEN)
        }
    });
    for including_readiness in [false, true] {
        let timeout = TimeoutLayer::new(PAUSE * 4);
        let service = layer().layer(inner.clone());
        let result = if including_readiness {
            timeout.including_readiness().layer(service).oneshot(()).await
        } else {
            timeout.layer(service).oneshot(()).await
        };
        assert_eq!(result, Err(BROKEN));
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(seen, [PAUSE * 4, PAUSE * 3, PAUSE * 2, PAUSE]);
    }
}

// The costs, and what is left behind.

#[test]
fn an_answer_that_is_there_needs_no_runtime() {
    let mut call = Spawned::new(RetryLayer::new(ReplayClones).layer(flaky([])).oneshot(()));
    assert_eq!(call.poll(), Poll::Ready(Ok("answer")));
}

#[tokio::test(start_paused = true)]
async fn a_pause_costs_one_wake_up_and_one_poll() {
    let mut call = Spawned::new(layer().layer(failing()).oneshot(()));
    for retry in 1..=3 {
        assert!(call.poll().is_pending());
        assert!(!call.is_woken());
        advance(PAUSE).await;
        assert_eq!(call.wakes(), retry);
    }
    assert_eq!(call.poll(), Poll::Ready(Err(BROKEN)));
    assert_eq!(call.polls(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_anywhere_leaves_nothing_behind() {
    let budget = Budget::builder().ratio(0.0).floor(1_000).build().unwrap();
    let layer = plain(ReplayClones).budget(budget.clone()).build().unwrap();
    let inner = Flaky::new([], || Err(BROKEN));
    let handle = inner.handle();
    let service = layer.layer(inner);
    let before = std::cell::Cell::new((budget.balance(), 0));
    let polls = CancelHarness::new(|| {
        handle.push(Step::RespondAfterPolls(2, Err::<(), _>(BROKEN)));
        before.set((budget.balance(), handle.calls()));
        service.clone().oneshot(())
    })
    .run_with(
        || advance(PAUSE / 2),
        |_| {
            let (balance, calls) = before.get();
            let sent = handle.calls().saturating_sub(calls + 1);
            assert!((balance - budget.balance() - sent as f64).abs() < 1e-6);
            assert_eq!(handle.in_flight(), 0);
        },
    )
    .await;
    assert!(polls > 6, "{polls}");
    assert_eq!(handle.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_panic_anywhere_leaves_the_counts_right() {
    #[derive(Clone, Copy, Debug)]
    enum At {
        Classifier,
        Replay,
        SecondReplay,
        Inner(PanicPoint),
        SecondInner(PanicPoint),
    }
    let points = [At::Classifier, At::Replay, At::SecondReplay]
        .into_iter()
        .chain(PanicPoint::ALL.map(At::Inner))
        .chain(PanicPoint::ALL.map(At::SecondInner));
    for at in points {
        let budget = Budget::builder().ratio(0.0).floor(5).build().unwrap();
        let asked = AtomicU32::new(0);
        let policy = replay_fn(move |(): &()| match (at, asked.fetch_add(1, Ordering::Relaxed)) {
            (At::Replay, 0) | (At::SecondReplay, 1) => panic!("in the policy"),
            _ => Some(()),
        });
        let layer = plain(policy)
            .budget(budget.clone())
            .classify_fn(move |result: Result<&&str, &Failure>| match (at, result) {
                (At::Classifier, _) => panic!("in the classifier"),
                (_, Ok(_)) => Outcome::Success,
                (_, Err(_)) => Outcome::Failure(Fault::Transient),
            })
            .build()
            .unwrap();
        let inner = flaky(match at {
            At::Inner(point) => vec![point.step()],
            At::SecondInner(point) => vec![Step::Respond(Err(BROKEN)), point.step()],
            _ => vec![Step::Respond(Err(BROKEN))],
        });
        let handle = inner.handle();
        let service = layer.layer(inner);
        PanicHarness::new([at], |_| service.clone().oneshot(()))
            .run_with(|| advance(PAUSE), |_| assert_eq!(handle.in_flight(), 0, "{at:?}"))
            .await;
        // Only a sent retry is paid for.
        let sent = matches!(at, At::SecondInner(PanicPoint::Call | PanicPoint::Poll));
        let left = if sent { 4.0 } else { 5.0 };
        assert!((budget.balance() - left).abs() < 1e-9, "{at:?}: {budget:?}");
        assert_eq!(Attempt::current(), None);
        assert_eq!(Deadline::current(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_survives_a_panic_in_its_clone() {
    struct PanicsOnce(Arc<AtomicU32>);
    impl Clone for PanicsOnce {
        fn clone(&self) -> Self {
            // The layer clones once when it wraps the service. `oneshot` below never clones.
            assert_ne!(self.0.fetch_add(1, Ordering::Relaxed), 1, "in the clone");
            Self(Arc::clone(&self.0))
        }
    }
    impl Service<()> for PanicsOnce {
        type Response = ();
        type Error = Failure;
        type Future = std::future::Ready<Result<(), Failure>>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Failure>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, (): ()) -> Self::Future {
            std::future::ready(Err(BROKEN))
        }
    }
    let mut service = SpawnedService::new(layer().layer(PanicsOnce(Arc::default())));
    assert!(service.poll_ready().is_ready());
    let mut call = service.call(());
    assert!(call.poll().is_pending());
    advance(PAUSE).await;
    assert!(catch_unwind(AssertUnwindSafe(|| call.poll())).is_err());
    drop(call);
    assert!(service.poll_ready().is_ready());
    assert_eq!(service.call(()).into_inner().await, Err(BROKEN));
}

// The bound of the budget.

#[tokio::test(start_paused = true)]
async fn retries_never_exceed_the_ratio_and_the_floor() {
    for ratio in [0.01, 0.1, 0.3, 0.4, 0.6, 0.7, 0.9, 1.0, 1.5, 2.0] {
        for floor in [0, 1, 10] {
            let inner = failing();
            let handle = inner.handle();
            let budget = Budget::builder().ratio(ratio).floor(floor).build().unwrap();
            let layer = plain(ReplayClones).retries(5).budget(budget).build().unwrap();
            let service = layer.layer(inner);
            let mut calls = 0;
            for _ in 0..300 {
                let _ = service.clone().oneshot(()).await;
                calls += 1;
                let retries = handle.calls() - calls;
                let most = ratio * calls as f64 + f64::from(floor);
                assert!(retries as f64 <= most + 1e-6, "{ratio} {floor}: {retries} of {calls}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_pays_for_the_share_that_it_names() {
    for ratio in [0.01, 0.1, 0.3, 0.4, 0.6, 0.7, 0.9, 1.0, 1.5, 2.0] {
        for floor in [0, 1, 10] {
            let inner = failing();
            let handle = inner.handle();
            let budget = Budget::builder().ratio(ratio).floor(floor).build().unwrap();
            let layer = plain(ReplayClones).retries(5).budget(budget).build().unwrap();
            let service = layer.layer(inner);
            for _ in 0..300 {
                let _ = service.clone().oneshot(()).await;
            }
            let retries = (handle.calls() - 300) as f64;
            let share = ratio * 300.0 + f64::from(floor);
            assert!(retries >= share - 2.0 - ratio, "{ratio} {floor}: {retries} of {share}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_comes_back_for_a_rare_caller() {
    let inner = failing();
    let handle = inner.handle();
    let service = RetryLayer::new(ReplayClones).layer(inner);
    // One call an hour, which may be retried three times. One call in ten pays for one retry.
    for hour in 0..48 {
        let before = handle.calls();
        assert_eq!(service.clone().oneshot(()).await, Err(BROKEN));
        assert!(handle.calls() > before + 1, "no retry in hour {hour}");
        advance(Duration::from_secs(3_600)).await;
    }
    let before = handle.calls();
    assert!(before >= 48 * 3, "{before} attempts");
    // In a burst there are still no more than the floor.
    for _ in 0..100 {
        let _ = service.clone().oneshot(()).await;
    }
    let burst = handle.calls() - before - 100;
    assert!((10..=20).contains(&burst), "{burst} retries");
}

#[tokio::test(start_paused = true)]
async fn idle_time_saves_nothing_up() {
    let inner = failing();
    let handle = inner.handle();
    let layer = plain(ReplayClones)
        .retries(1)
        .budget(Budget::builder().ratio(0.1).floor(2).build().unwrap())
        .build()
        .unwrap();
    let service = layer.layer(inner);
    advance(Duration::from_secs(86_400 * 365)).await;
    for _ in 0..10 {
        let _ = service.clone().oneshot(()).await;
    }
    assert_eq!(handle.calls(), 10 + 2);
}

#[tokio::test(start_paused = true)]
async fn the_hop_above_is_told_when_a_rejection_ended_the_retrying() {
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
    let service = layer().layer(breaker.layer(failing()));
    let (result, hop) = Hop::observe(service.oneshot("request")).await;
    assert!(result.is_err());
    assert_eq!((hop.retries_exhausted(), hop.told_to_stop()), (true, false));
}
