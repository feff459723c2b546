//! A dependency of which nobody is answered is seen, and callers in a hurry move nothing.
//!
//! Each scene is a dependency and its callers, on a paused clock. The letters are those of the
//! scenes in the issue that asks for the rule.

use std::{
    f64::consts::TAU,
    future::{Future, pending},
    io,
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use buttress::{
    Deadline, Fault, Outcome, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerHandle, CircuitBreakerLayer, State},
    retry::{Budget, ReplayClones, RetryLayer},
    timeout::TimeoutLayer,
};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const WINDOW: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::MAX;
const DEFAULT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));
/// The attempt timeout and the total timeout in front of a slow dependency.
const PATIENT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

/// The way in which a caller leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaves {
    /// It has a deadline, at which the call ends.
    AtDeadline,
    /// It drops the call.
    ByDropping,
}
use Leaves::{AtDeadline, ByDropping};

/// Callers of one kind, one after another at a fixed rate.
#[derive(Clone, Copy)]
struct Callers {
    per_second: u32,
    patience: Duration,
    leaves: Leaves,
    /// The route that they call, for dependencies that have more than one.
    route: usize,
    from: Duration,
    to: Duration,
}

fn callers(per_second: u32, patience: Duration) -> Callers {
    let (from, to) = (Duration::ZERO, NEVER);
    Callers { per_second, patience, leaves: AtDeadline, route: 0, from, to }
}

impl Callers {
    fn dropping(self) -> Self {
        Self { leaves: ByDropping, ..self }
    }

    fn of_route(self, route: usize) -> Self {
        Self { route, ..self }
    }

    fn from(self, from: Duration) -> Self {
        Self { from, ..self }
    }

    fn until(self, to: Duration) -> Self {
        Self { to, ..self }
    }
}

/// Those who wait for as long as it takes.
fn honest(per_second: u32) -> Callers {
    callers(per_second, PATIENT.1 - SECOND)
}

type Client = BoxCloneSyncService<usize, (), buttress::Error<io::Error>>;

/// A dependency under a stack with a breaker.
struct Scene {
    client: Client,
    breaker: CircuitBreakerHandle,
    began: Instant,
}

impl Scene {
    /// `takes` returns how long a call of a route takes that begins at this time.
    fn new(
        (attempt, total): (Duration, Duration),
        breaker: CircuitBreakerBuilder,
        takes: impl Fn(usize, Duration) -> Duration + Clone + Send + Sync + 'static,
    ) -> Self {
        let began = Instant::now();
        let breaker = breaker.build().unwrap();
        let handle = breaker.handle();
        let dependency = service_fn(move |route| {
            let takes = takes(route, began.elapsed());
            async move {
                if takes == NEVER {
                    pending::<()>().await;
                }
                sleep(takes).await;
                Ok::<_, io::Error>(())
            }
        });
        let stack = Stack::standard(ReplayClones).circuit_breaker(breaker);
        let stack = stack.attempt_timeout(attempt).total_timeout(total);
        let client = BoxCloneSyncService::new(stack.service(dependency));
        Self { client, breaker: handle, began }
    }

    /// Lets the callers call. Returns when the breaker opened, if it did before `end`.
    async fn opens(&self, all: &[Callers], end: Duration) -> Option<Duration> {
        let mut tasks = Vec::new();
        for (number, &callers) in all.iter().enumerate() {
            let client = self.client.clone();
            tasks.push(tokio::spawn(async move {
                // Those of two kinds do not call at the same instant.
                sleep(callers.from + MS * number as u32).await;
                let began = Instant::now();
                while began.elapsed() < callers.to.saturating_sub(callers.from) {
                    tokio::spawn(call(client.clone(), callers));
                    sleep(SECOND / callers.per_second).await;
                }
            }));
        }
        let mut watch = self.breaker.watch();
        let left = end.saturating_sub(self.began.elapsed());
        let opened = timeout(left, watch.changed()).await.is_ok().then(|| self.began.elapsed());
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        opened
    }
}

async fn call(client: Client, callers: Callers) {
    let call = client.oneshot(callers.route);
    let within = callers.patience;
    match callers.leaves {
        AtDeadline => drop(Deadline::scope(Deadline::after(within), call).await),
        ByDropping => drop(timeout(within, call).await),
    }
}

/// A dependency with the breaker's defaults that takes so long until it hangs.
fn hangs_at(limits: (Duration, Duration), takes: Duration, hangs: Duration) -> Scene {
    hangs_with(limits, CircuitBreakerLayer::builder(), takes, hangs)
}

fn hangs_with(
    limits: (Duration, Duration),
    breaker: CircuitBreakerBuilder,
    takes: Duration,
    hangs: Duration,
) -> Scene {
    Scene::new(limits, breaker, move |_, at| if at < hangs { takes } else { NEVER })
}

const HANGS: Duration = Duration::from_secs(30);

async fn assert_opens(scene: Scene, hangs: Duration, all: &[Callers], what: &str) {
    let opened = scene.opens(all, hangs + MINUTE * 2).await;
    let opened = opened.unwrap_or_else(|| panic!("{what}: it never opens"));
    assert!(opened > hangs && opened <= hangs + 2 * WINDOW, "{what}: it opens at {opened:?}");
}

async fn assert_stays_closed(scene: Scene, all: &[Callers], end: Duration, what: &str) {
    assert_eq!(scene.opens(all, end).await, None, "{what}");
    assert_eq!(scene.breaker.state(), State::Closed, "{what}");
    assert_eq!(scene.breaker.snapshot().failures(), 0, "{what}");
}

/// Breakers over windows of both kinds, and with the conditions that open the soonest.
fn sensitive() -> [(&'static str, CircuitBreakerBuilder); 4] {
    let any = CircuitBreakerLayer::builder;
    [
        ("the default", any()),
        ("20 calls", any().count_window(20)),
        ("a row of five", any().consecutive_failures(5)),
        ("slow calls", any().slow_calls(4 * SECOND, 0.5)),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_a_dependency_that_hangs_is_seen_whoever_its_callers_are() {
    for (name, breaker) in sensitive() {
        for per_second in [3, 50] {
            let all = [300 * MS, SECOND, 1_500 * MS, 5 * SECOND].map(|p| callers(per_second, p));
            let leaving = [300 * MS, SECOND].map(|p| callers(per_second, p).dropping());
            for one in all.into_iter().chain(leaving) {
                let scene = hangs_with(DEFAULT, breaker.clone(), 20 * MS, HANGS);
                let Callers { patience, leaves, .. } = one;
                let what = format!("{name}, {per_second}/s, {patience:?}, {leaves:?}");
                assert_opens(scene, HANGS, &[one], &what).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b_callers_in_a_hurry_move_nothing_however_long_a_healthy_dependency_takes() {
    for takes in [20 * MS, 200 * MS, 3 * SECOND] {
        for (name, breaker) in sensitive() {
            let hurried = [
                callers(20, MS),
                callers(20, 5 * MS),
                callers(20, 50 * MS),
                callers(20, 5 * MS).dropping(),
            ];
            let hurried = hurried.map(|callers| callers.from(5 * SECOND));
            // Alone, beside honest ones, and after those have gone.
            for others in [None, Some(honest(5)), Some(honest(5).until(10 * SECOND))] {
                let all: Vec<_> = hurried.into_iter().chain(others).collect();
                let what = format!("{takes:?}, {name}, others: {}", others.is_some());
                let scene = hangs_with(PATIENT, breaker.clone(), takes, NEVER);
                assert_stays_closed(scene, &all, 70 * SECOND, &what).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c_callers_who_leave_a_slow_route_beside_one_honest_call_a_second_move_nothing() {
    for leaves in [AtDeadline, ByDropping] {
        for (name, breaker) in sensitive() {
            let scene = hangs_with(PATIENT, breaker, 3 * SECOND, NEVER);
            let hurried = Callers { leaves, ..callers(20, 2_200 * MS) };
            let all = [honest(1), hurried.from(5 * SECOND)];
            assert_stays_closed(scene, &all, MINUTE, name).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn d_a_dependency_that_never_answered_is_seen_by_callers_with_five_seconds() {
    for (name, breaker) in sensitive() {
        for per_second in [3, 20] {
            let scene = hangs_with(DEFAULT, breaker.clone(), NEVER, Duration::ZERO);
            assert_opens(scene, Duration::ZERO, &[callers(per_second, 5 * SECOND)], name).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn e_a_hang_is_seen_through_callers_who_are_in_a_greater_hurry() {
    for (name, breaker) in sensitive() {
        for [some, hurried] in [[20, 50], [3, 3], [3, 50]] {
            let scene = hangs_with(DEFAULT, breaker.clone(), 20 * MS, HANGS);
            let all = [(some, 300 * MS), (hurried, 5 * MS), (hurried, 50 * MS)];
            assert_opens(scene, HANGS, &all.map(|(n, p)| callers(n, p)), name).await;
        }
    }
}

/// A dependency with a fast route and a slow one.
fn two_routes(breaker: CircuitBreakerBuilder) -> Scene {
    Scene::new(PATIENT, breaker, |route, _| [20 * MS, 3 * SECOND][route])
}

#[tokio::test(start_paused = true)]
async fn f_callers_in_a_hurry_on_a_slow_route_beside_honest_ones_on_a_fast_one_move_nothing() {
    for (name, breaker) in sensitive() {
        let all = [honest(10), callers(100, 100 * MS).of_route(1).from(5 * SECOND)];
        assert_stays_closed(two_routes(breaker), &all, MINUTE, name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn g_nor_do_they_in_ten_minutes_beside_two_calls_a_second() {
    let scene = two_routes(CircuitBreakerLayer::builder());
    let all = [honest(2), callers(100, 100 * MS).of_route(1).from(5 * SECOND)];
    assert_stays_closed(scene, &all, 10 * MINUTE, "ten minutes").await;
}

/// Durations with a log-normal distribution: this median, and a sigma of one.
fn log_normal(median: Duration, seed: u64) -> impl Fn() -> Duration {
    let state = AtomicU64::new(seed);
    let uniform = move || {
        let step = |state: u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let state = state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap();
        ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    move || {
        let normal = (-2.0 * uniform().ln()).sqrt() * (TAU * uniform()).cos();
        median.mul_f64(normal.exp())
    }
}

#[tokio::test(start_paused = true)]
async fn h_a_hang_is_seen_after_responses_of_very_different_durations() {
    for per_second in [3, 10, 50] {
        for seed in [1, 2, 3, 5, 8] {
            let takes = Arc::new(log_normal(20 * MS, seed));
            let scene = Scene::new(DEFAULT, CircuitBreakerLayer::builder(), move |_, at| {
                if at < HANGS { takes() } else { NEVER }
            });
            let what = format!("{per_second}/s, seed {seed}");
            assert_opens(scene, HANGS, &[callers(per_second, 300 * MS)], &what).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn i_a_half_open_breaker_over_a_slow_dependency_is_not_opened_by_callers_in_a_hurry() {
    for patience in [5 * MS, 100 * MS, 1_900 * MS] {
        for leaves in [AtDeadline, ByDropping] {
            let is_down = Arc::new(AtomicBool::new(true));
            let down = Arc::clone(&is_down);
            let breaker = CircuitBreakerLayer::new();
            let handle = breaker.handle();
            let dependency = service_fn(move |_: usize| {
                let is_down = down.load(Ordering::Relaxed);
                async move {
                    if is_down {
                        return Err(io::Error::other("down"));
                    }
                    sleep(3 * SECOND).await;
                    Ok(())
                }
            });
            let stack = Stack::new().circuit_breaker(breaker).attempt_timeout(PATIENT.0);
            let client = BoxCloneSyncService::new(stack.service(dependency));
            while handle.state() == State::Closed {
                let _ = client.clone().oneshot(0).await;
            }
            is_down.store(false, Ordering::Relaxed);
            sleep(handle.snapshot().retry_after().unwrap()).await;
            let end = Instant::now() + 5 * MINUTE;
            while Instant::now() < end {
                let hurried = Callers { leaves, ..callers(1, patience) };
                call(client.clone(), hurried).await;
                assert_eq!((handle.state(), handle.snapshot().probes()), (State::HalfOpen, 0));
                sleep(20 * MS).await;
            }
            assert_eq!(handle.snapshot().opened(), 1);
            // Callers who wait close it.
            for _ in 0..2 {
                client.clone().oneshot(0).await.unwrap();
            }
            assert_eq!(handle.state(), State::Closed);
        }
    }
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn j_readers_who_leave_an_event_stream_count_for_nothing() {
    use bytes::Bytes;
    use futures::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};

    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let events = service_fn(|_: http::Request<()>| async {
        let first = async { Ok::<_, io::Error>(Frame::data(Bytes::from("an event"))) };
        let events = Box::pin(stream::once(first).chain(stream::pending()));
        Ok::<_, io::Error>(http::Response::new(StreamBody::new(events)))
    });
    let client = Stack::new().circuit_breaker(breaker).attempt_timeout(2 * SECOND).http();
    let client = client.service(events);
    for _ in 0..25 {
        let response = client.clone().oneshot(http::Request::new(())).await.unwrap();
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        assert!(timeout(2_100 * MS, body.frame()).await.is_err());
    }
    let seen = handle.snapshot();
    assert_eq!((seen.state(), seen.calls(), seen.failures()), (State::Closed, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn k_a_pause_of_eight_seconds_is_no_hang() {
    for (name, breaker) in sensitive() {
        for per_second in [3, 50] {
            let paused = HANGS..HANGS + 8 * SECOND;
            let scene = Scene::new(DEFAULT, breaker.clone(), move |_, at| {
                let rest = if paused.contains(&at) { paused.end - at } else { Duration::ZERO };
                rest + 20 * MS
            });
            let all = [callers(per_second, 300 * MS)];
            assert_stays_closed(scene, &all, HANGS + MINUTE, name).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn l_a_total_timeout_below_the_attempt_timeout_does_not_blind_the_breaker() {
    for (attempt, total) in [(2 * SECOND, SECOND), (2 * SECOND, 2 * SECOND), (SECOND, 5 * SECOND)] {
        for (name, breaker) in sensitive() {
            for per_second in [3, 20] {
                let scene = hangs_with((attempt, total), breaker.clone(), NEVER, Duration::ZERO);
                let what = format!("{attempt:?} within {total:?}, {name}, {per_second}/s");
                assert_opens(scene, Duration::ZERO, &[honest(per_second)], &what).await;
            }
        }
    }
}

/// A service that takes this time to become ready.
struct ReadyAfter<S> {
    inner: S,
    wait: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    is_ready: bool,
}

impl<S> ReadyAfter<S> {
    fn new(inner: S, wait: Duration) -> Self {
        Self { inner, wait, timer: None, is_ready: false }
    }
}

impl<S: Clone> Clone for ReadyAfter<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.wait)
    }
}

impl<S: Service<Req>, Req> Service<Req> for ReadyAfter<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if !self.is_ready {
            let wait = self.wait;
            ready!(self.timer.get_or_insert_with(|| Box::pin(sleep(wait))).as_mut().poll(cx));
            self.is_ready = true;
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> S::Future {
        (self.timer, self.is_ready) = (None, false);
        self.inner.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn l_nor_does_it_if_a_part_of_it_passes_before_the_attempt() {
    for (wait, queue) in [(1, None), (5, None), (400, None), (0, Some(200)), (5, Some(200))] {
        for per_second in [3, 20] {
            for (name, breaker) in sensitive() {
                let began = Instant::now();
                let breaker = breaker.build().unwrap();
                let handle = breaker.handle();
                let hangs = service_fn(|_: usize| pending::<Result<(), io::Error>>());
                let stack = Stack::standard(ReplayClones).circuit_breaker(breaker);
                let stack = stack.total_timeout(SECOND);
                let bulkhead = match queue {
                    Some(most) => BulkheadLayer::builder().max_concurrent(2).queue(50, MS * most),
                    None => BulkheadLayer::builder().max_concurrent(100).queue(50, SECOND),
                };
                let stack = stack.bulkhead(bulkhead.build().unwrap());
                let client =
                    BoxCloneSyncService::new(stack.service(ReadyAfter::new(hangs, MS * wait)));
                let scene = Scene { client, breaker: handle, began };
                let what =
                    format!("ready after {wait} ms, queue {queue:?}, {per_second}/s, {name}");
                assert_opens(scene, Duration::ZERO, &[honest(per_second)], &what).await;
            }
        }
    }
}

/// A call that has only the rest of the total timeout says nothing, and neither does the total
/// timeout of another stack.
#[tokio::test(start_paused = true)]
async fn l_a_total_timeout_counts_only_in_its_own_stack_and_for_calls_that_ran_for_half_of_it() {
    for (wait, outer, opens) in [
        (Duration::ZERO, None, true),
        (600 * MS, None, false),
        (Duration::ZERO, Some(900 * MS), false),
    ] {
        let began = Instant::now();
        let breaker = touchy().build().unwrap();
        let handle = breaker.handle();
        let hangs = service_fn(|_: usize| pending::<Result<(), io::Error>>());
        let stack = Stack::new().circuit_breaker(breaker).total_timeout(SECOND);
        let inner = stack.service(ReadyAfter::new(hangs, wait));
        let client = match outer {
            Some(limit) => BoxCloneSyncService::new(TimeoutLayer::new(limit).layer(inner)),
            None => BoxCloneSyncService::new(inner),
        };
        let scene = Scene { client, breaker: handle, began };
        let opened = scene.opens(&[honest(3)], 5 * SECOND).await.is_some();
        assert_eq!(opened, opens, "ready after {wait:?}, within {outer:?}");
    }
}

/// The rest of the total timeout is too short for a response, but more than half of it.
#[tokio::test(start_paused = true)]
async fn l_a_call_that_waited_for_its_turn_does_not_blame_a_healthy_dependency() {
    let breaker = touchy().build().unwrap();
    let client = |wait| {
        let slow = service_fn(|_: usize| async {
            sleep(700 * MS).await;
            Ok::<_, io::Error>(())
        });
        let stack = Stack::standard(ReplayClones).circuit_breaker(breaker.clone());
        stack.total_timeout(SECOND).service(ReadyAfter::new(slow, wait))
    };
    let (at_once, later) = (client(Duration::ZERO), client(350 * MS));
    for _ in 0..50 {
        at_once.clone().oneshot(0).await.unwrap();
        later.clone().oneshot(0).await.unwrap_err();
    }
    assert_eq!(breaker.handle().state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn l_a_limit_of_the_same_length_that_began_earlier_says_nothing() {
    let breaker = touchy().build().unwrap();
    let handle = breaker.handle();
    let hangs = service_fn(|_: usize| pending::<Result<(), io::Error>>());
    let inner = Stack::new().circuit_breaker(breaker).total_timeout(SECOND).service(hangs);
    let later = service_fn(move |call: usize| {
        let inner = inner.clone();
        async move {
            sleep(300 * MS).await;
            inner.oneshot(call).await
        }
    });
    let outer = TimeoutLayer::new(SECOND).layer(later);
    outer.oneshot(0).await.unwrap_err();
    assert_eq!(handle.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn l_half_open_a_probe_that_the_total_timeout_ends_has_failed() {
    for wait in [0, 5, 400] {
        let breaker = CircuitBreakerLayer::new();
        let handle = breaker.handle();
        let stack = Stack::standard(ReplayClones).circuit_breaker(breaker.clone());
        let hangs = service_fn(|_: usize| pending::<Result<(), io::Error>>());
        let client = stack.total_timeout(SECOND).service(ReadyAfter::new(hangs, MS * wait));
        let down = service_fn(|_: usize| async { Err::<(), _>(io::Error::other("down")) });
        let down = Stack::new().circuit_breaker(breaker).service(down);
        while handle.state() == State::Closed {
            let _ = down.clone().oneshot(0).await;
        }
        sleep(handle.snapshot().retry_after().unwrap()).await;
        for _ in 0..2 {
            let _ = client.clone().oneshot(0).await;
        }
        assert_eq!(handle.state(), State::Open, "ready after {wait} ms");
    }
}

// Siblings.

#[tokio::test(start_paused = true)]
async fn an_idle_time_is_no_silence() {
    let scene = hangs_at(PATIENT, 3 * SECOND, NEVER);
    // The honest callers have gone for an hour. Then a crowd leaves too soon, and one does not.
    let (hour, rush) = (60 * MINUTE, 61 * MINUTE);
    let all = [
        honest(5).until(20 * SECOND),
        callers(100, 3_900 * MS).from(hour).until(hour + 4 * SECOND),
        callers(100, 100 * MS).from(rush).until(rush + 8 * SECOND),
    ];
    assert_stays_closed(scene, &all, rush + MINUTE, "idle").await;
}

/// A breaker that a single failure opens.
fn touchy() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder().consecutive_failures(1)
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_cut_with_idle_time_between_them_are_no_silence() {
    // Fast responses came before. Then only callers in a hurry call a slow route, one or many at a
    // time, and with pauses of a window or more.
    for pause in [10 * SECOND, 11 * SECOND, 60 * MINUTE] {
        for crowd in [1, 50] {
            for leaves in [AtDeadline, ByDropping] {
                let scene = two_routes(touchy());
                for _ in 0..3 {
                    call(scene.client.clone(), honest(1)).await;
                }
                for _ in 0..20 {
                    let hurried = Callers { leaves, ..callers(1, 100 * MS).of_route(1) };
                    let calls = (0..crowd).map(|_| call(scene.client.clone(), hurried));
                    futures::future::join_all(calls).await;
                    sleep(pause).await;
                }
                let what = format!("{crowd} calls every {pause:?}, {leaves:?}");
                assert_eq!(scene.breaker.state(), State::Closed, "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_were_too_short_for_a_response_are_no_silence() {
    // Nobody waits for the fast route, for a minute. Then some leave the slow one.
    let scene = two_routes(touchy());
    let (minute, then) = (5 * SECOND + MINUTE, 6 * SECOND + MINUTE);
    let all = [
        honest(10).until(5 * SECOND),
        callers(50, 5 * MS).from(5 * SECOND).until(then),
        callers(50, 100 * MS).of_route(1).from(minute).until(then),
    ];
    assert_stays_closed(scene, &all, 2 * MINUTE, "too short").await;
}

#[tokio::test(start_paused = true)]
async fn one_caller_a_second_sees_a_hang_and_moves_nothing_while_there_are_responses() {
    for leaves in [AtDeadline, ByDropping] {
        let one = Callers { leaves, ..callers(1, 300 * MS) };
        let row = CircuitBreakerLayer::builder().consecutive_failures(5);
        let scene = hangs_with(DEFAULT, row.clone(), 20 * MS, HANGS);
        assert_opens(scene, HANGS, &[one], "one caller a second").await;
        let all = [one.of_route(1).from(3 * SECOND), honest(1)];
        assert_stays_closed(two_routes(touchy()), &all, 10 * MINUTE, "beside one").await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_caller_who_waits_longer_than_the_window_sees_a_hang() {
    // The next call begins when the last one is cut, so that there is no idle time.
    let row = CircuitBreakerLayer::builder().consecutive_failures(5);
    let limits = (90 * SECOND, 90 * SECOND);
    let scene = hangs_with(limits, row, 20 * MS, HANGS);
    for _ in 0..3 {
        call(scene.client.clone(), honest(1)).await;
    }
    sleep(HANGS).await;
    for _ in 0..6 {
        assert_eq!(scene.breaker.state(), State::Closed);
        call(scene.client.clone(), callers(1, MINUTE)).await;
    }
    assert_eq!(scene.breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_window_of_minutes_does_not_lengthen_the_silence() {
    let window = CircuitBreakerLayer::builder().time_window(10 * MINUTE).consecutive_failures(5);
    let scene = hangs_with(DEFAULT, window, 20 * MS, HANGS);
    assert_opens(scene, HANGS, &[callers(20, 300 * MS)], "ten minutes").await;
}

#[tokio::test(start_paused = true)]
async fn a_window_of_milliseconds_does_not_shorten_the_silence_below_a_second() {
    let window = touchy().time_window(100 * MS);
    let all = [honest(2), callers(100, 100 * MS).of_route(1).from(3 * SECOND)];
    assert_stays_closed(two_routes(window), &all, MINUTE, "100 ms").await;
}

#[tokio::test(start_paused = true)]
async fn a_breaker_of_one_key_sees_its_hang_and_the_others_stay_closed() {
    let began = Instant::now();
    let dependency = service_fn(move |route: usize| async move {
        if route == 1 && began.elapsed() >= HANGS {
            pending::<()>().await;
        }
        sleep(20 * MS).await;
        Ok::<_, io::Error>(())
    });
    let breakers = CircuitBreakerLayer::builder().keyed_fn(|route: &usize| *route).build().unwrap();
    let stack = Stack::standard(ReplayClones).circuit_breaker(breakers.clone());
    let client = BoxCloneSyncService::new(stack.service(dependency));
    for number in 0..150 {
        for route in [0, 1] {
            for _ in 0..5 {
                tokio::spawn(call(client.clone(), callers(1, 300 * MS).of_route(route)));
            }
        }
        sleep(SECOND / 3).await;
        let state = |route| breakers.handle(&route).unwrap().state();
        assert_eq!(state(0), State::Closed);
        let hung = began.elapsed().saturating_sub(HANGS);
        assert!(hung < 2 * WINDOW || state(1) != State::Closed, "{number}");
        assert!(hung > WINDOW || state(1) == State::Closed, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_says_nothing_ends_the_silence_too() {
    let breaker = touchy().build().unwrap();
    let handle = breaker.handle();
    let dependency = service_fn(|route: usize| async move {
        sleep([20 * MS, 3 * SECOND][route]).await;
        Ok::<_, io::Error>(())
    });
    let began = Instant::now();
    // The fast responses count only at the start, so that something is known of their time.
    let stack = Stack::new().circuit_breaker(breaker).attempt_timeout(PATIENT.0).classify_fn(
        move |result: Result<&(), &buttress::Error<io::Error>>| match result {
            Ok(()) if began.elapsed() < SECOND => Outcome::Success,
            Ok(()) => Outcome::Ignored,
            Err(_) => Outcome::Failure(Fault::Transient),
        },
    );
    let client = BoxCloneSyncService::new(stack.service(dependency));
    let scene = Scene { client, breaker: handle, began };
    let all = [honest(1), callers(20, 100 * MS).of_route(1).from(2 * SECOND)];
    assert_stays_closed(scene, &all, MINUTE, "ignored").await;
}

/// A limit of another crate beneath the breaker is like a caller who leaves.
#[tokio::test(start_paused = true)]
async fn a_call_that_a_timeout_of_tower_ends_is_cut() {
    for (hangs, opens) in [(HANGS, true), (NEVER, false)] {
        let began = Instant::now();
        let breaker = CircuitBreakerLayer::new();
        let handle = breaker.handle();
        let dependency = service_fn(move |route: usize| async move {
            let takes = if began.elapsed() < hangs { [20 * MS, 3 * SECOND][route] } else { NEVER };
            sleep(takes).await;
            Ok::<_, io::Error>(())
        });
        let dependency = tower::timeout::Timeout::new(dependency, 300 * MS);
        let stack = Stack::standard(ReplayClones).circuit_breaker(breaker);
        let client = stack
            .boxed(dependency)
            .map_err(|error| buttress::Error::Service(io::Error::other(error.to_string())));
        let scene = Scene { client: BoxCloneSyncService::new(client), breaker: handle, began };
        let all = [honest(3), honest(20).of_route(1).from(3 * SECOND)];
        if opens {
            assert_opens(scene, HANGS, &all, "tower").await;
        } else {
            assert_stays_closed(scene, &all, 3 * MINUTE, "tower").await;
        }
    }
}

/// A dependency that knows the deadline of its callers, and reports the timeout itself.
#[tokio::test(start_paused = true)]
async fn a_dependency_that_gives_up_just_before_the_deadline_of_each_caller_is_seen_too() {
    for patience in [300 * MS, SECOND] {
        let began = Instant::now();
        let breaker = CircuitBreakerLayer::new();
        let handle = breaker.handle();
        let dependency = service_fn(move |_: usize| async move {
            if began.elapsed() < HANGS {
                sleep(20 * MS).await;
                return Ok(());
            }
            let left = Deadline::current().unwrap().remaining();
            sleep(left.mul_f64(0.95)).await;
            Err(io::Error::from(io::ErrorKind::TimedOut))
        });
        let stack = Stack::standard(ReplayClones).circuit_breaker(breaker).classify_fn(
            |result: Result<&(), &buttress::Error<io::Error>>| match result {
                Ok(()) => Outcome::Success,
                Err(_) => Outcome::Failure(Fault::TimedOut),
            },
        );
        let client = BoxCloneSyncService::new(stack.service(dependency));
        let scene = Scene { client, breaker: handle, began };
        assert_opens(scene, HANGS, &[callers(20, patience)], "it gives up").await;
    }
}

/// A service that hangs from some time on, and reports a timeout a little before each deadline.
#[tokio::test(start_paused = true)]
async fn a_throttle_follows_the_same_rule() {
    const NONE: Range<Duration> = Duration::ZERO..Duration::ZERO;
    const AT_FIRST: Range<Duration> = Duration::ZERO..SECOND;
    const ALWAYS: Range<Duration> = Duration::ZERO..NEVER;
    // In silence, among responses, sooner than is long, in silence after responses, and for the
    // stack's own limit.
    for (patience, total, answered, expected) in [
        (3 * SECOND, None, NONE, 0.0),
        (3 * SECOND, None, ALWAYS, 10.0),
        (SECOND, None, NONE, 10.0),
        (SECOND, None, AT_FIRST, 0.0),
        (5 * SECOND, Some(SECOND), ALWAYS, 0.0),
    ] {
        let began = Instant::now();
        let budget = Budget::throttle().max_tokens(10).token_ratio(0.001).build().unwrap();
        let retry = RetryLayer::builder(ReplayClones).budget(budget.clone()).retries(1);
        let retry =
            retry.classify_fn(|result: Result<&(), &buttress::Error<io::Error>>| match result {
                Ok(()) => Outcome::Success,
                Err(_) => Outcome::Failure(Fault::TimedOut),
            });
        let dependency = service_fn(move |route: usize| async move {
            if route == 0 {
                sleep(20 * MS).await;
                return Ok(());
            }
            sleep(Deadline::current().unwrap().remaining().mul_f64(0.95)).await;
            Err(io::Error::from(io::ErrorKind::TimedOut))
        });
        let stack = Stack::new().total_timeout(total).retry(retry.build().unwrap());
        let client = BoxCloneSyncService::new(stack.service(dependency));
        while began.elapsed() < MINUTE {
            call(client.clone(), callers(1, patience).of_route(1)).await;
            if answered.contains(&began.elapsed()) {
                call(client.clone(), callers(1, patience)).await;
            }
        }
        let what = format!("{patience:?} within {total:?}, answered: {answered:?}");
        assert!((budget.balance() - expected).abs() < 0.5, "{what}: {}", budget.balance());
    }
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn the_limit_of_a_server_is_its_own() {
    use std::convert::Infallible;

    use buttress::http::HttpServerLayer;
    use bytes::Bytes;
    use http_body_util::Empty;

    for (limit, wait, left, opens) in [
        (SECOND, 0, None, true),
        (SECOND, 2, None, true),
        (SECOND, 2, Some("900"), false),
        (5 * SECOND, 0, Some("1000"), false),
    ] {
        let breaker = CircuitBreakerLayer::new();
        let handle = breaker.handle();
        let server = HttpServerLayer::builder(Stack::new().circuit_breaker(breaker)).limit(limit);
        let handler = service_fn(|_: http::Request<Empty<Bytes>>| {
            pending::<Result<http::Response<Empty<Bytes>>, Infallible>>()
        });
        let server = server.build().unwrap().layer(ReadyAfter::new(handler, MS * wait));
        let began = Instant::now();
        while handle.state() == State::Closed && began.elapsed() < MINUTE {
            for _ in 0..3 {
                let mut request = http::Request::new(Empty::new());
                if let Some(left) = left {
                    let left = http::HeaderValue::from_static(left);
                    request.headers_mut().insert("x-envoy-expected-rq-timeout-ms", left);
                }
                tokio::spawn(server.clone().oneshot(request));
            }
            sleep(SECOND).await;
        }
        assert_eq!(handle.state() == State::Open, opens, "{limit:?}, {wait} ms, {left:?}");
    }
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_server_without_a_limit_sees_a_hang_even_if_its_limit_is_set_to_the_maximum() {
    use std::convert::Infallible;

    use buttress::http::HttpServerLayer;
    use bytes::Bytes;
    use http_body_util::Empty;

    for limit in [None, Some(Duration::MAX)] {
        let breaker = CircuitBreakerLayer::new();
        let handle = breaker.handle();
        let server = HttpServerLayer::builder(Stack::new().circuit_breaker(breaker));
        let server = limit.into_iter().fold(server, |server, limit| server.limit(limit));
        let server = server.build().unwrap().layer(service_fn(|_: http::Request<Empty<Bytes>>| {
            pending::<Result<http::Response<Empty<Bytes>>, Infallible>>()
        }));
        let began = Instant::now();
        while handle.state() == State::Closed && began.elapsed() < MINUTE {
            for _ in 0..5 {
                let call = server.clone().oneshot(http::Request::new(Empty::new()));
                tokio::spawn(timeout(5 * SECOND, call));
            }
            sleep(SECOND).await;
        }
        assert_eq!(handle.state(), State::Open, "{limit:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_response_within_microseconds_does_not_fix_the_estimate() {
    for micros in [0, 1, 2, 3, 10] {
        let began = Instant::now();
        let breaker = CircuitBreakerLayer::new();
        let handle = breaker.handle();
        let dependency = service_fn(|route: usize| async move {
            match route {
                0 => sleep(3 * SECOND).await,
                // The paused clock has no timer for less than a millisecond.
                _ => tokio::task::yield_now().await,
            }
            Ok::<_, io::Error>(())
        });
        let stack = Stack::standard(ReplayClones).circuit_breaker(breaker);
        let stack = stack.attempt_timeout(PATIENT.0).total_timeout(PATIENT.1);
        let client = BoxCloneSyncService::new(stack.service(dependency));
        let mut first = Box::pin(client.clone().oneshot(1));
        assert!(futures::poll!(&mut first).is_pending());
        tokio::time::advance(Duration::from_micros(micros)).await;
        first.await.unwrap();
        let scene = Scene { client, breaker: handle, began };
        let all = [honest(5).until(20 * SECOND), callers(20, 100 * MS).from(30 * SECOND)];
        assert_stays_closed(scene, &all, 2 * MINUTE, &format!("{micros} us")).await;
    }
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn readers_who_leave_do_not_raise_the_share_of_failures() {
    use bytes::Bytes;
    use futures::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};

    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let number = Arc::new(AtomicU64::new(0));
    let events = service_fn(move |_: http::Request<()>| {
        let fails = number.fetch_add(1, Ordering::Relaxed) % 50 == 0;
        async move {
            let first = async { Ok::<_, io::Error>(Frame::data(Bytes::from("an event"))) };
            let events = Box::pin(stream::once(first).chain(stream::pending()));
            let mut response = http::Response::new(StreamBody::new(events));
            if fails {
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            }
            Ok::<_, io::Error>(response)
        }
    });
    let client = Stack::new().circuit_breaker(breaker).http().service(events);
    for _ in 0..2_000 {
        let response = client.clone().oneshot(http::Request::new(())).await.unwrap();
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        let _ = timeout(MS, body.frame()).await;
    }
    let seen = handle.snapshot();
    assert_eq!((seen.state(), seen.calls(), seen.failures()), (State::Closed, 2_000, 40));
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_throttle_over_http_learns_how_long_responses_take() {
    use buttress::http::{HttpClientLayer, ReplaySafe};
    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full};

    // With the second patience they leave sooner than responses take.
    for (patience, expected) in [(300 * MS, 0.0), (20 * MS, 10.0)] {
        let began = Instant::now();
        let dependency = service_fn(move |_: Request<Full<Bytes>>| async move {
            let mut response = Response::new(Full::new(Bytes::from("well")));
            if began.elapsed() < HANGS {
                sleep(20 * MS).await;
            } else {
                sleep(Deadline::current().unwrap().remaining().mul_f64(0.95)).await;
                *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
            }
            Ok::<_, io::Error>(response)
        });
        let budget = Budget::throttle().max_tokens(10).token_ratio(0.001).build().unwrap();
        let retry = RetryLayer::builder(ReplaySafe::new()).budget(budget.clone()).build().unwrap();
        let stack = Stack::new().total_timeout(5 * SECOND).retry(retry);
        let client = stack.http_client(HttpClientLayer::new()).service(dependency);
        while began.elapsed() < HANGS + 3 * WINDOW {
            let patience = if began.elapsed() < HANGS { SECOND } else { patience };
            let call = async {
                let request = Request::new(Full::default());
                client.clone().oneshot(request).await.unwrap().collect().await.unwrap()
            };
            let _ = Deadline::scope(Deadline::after(patience), call).await;
            sleep(100 * MS).await;
        }
        let left = budget.balance();
        assert!((left - expected).abs() < 0.5, "{patience:?}: {left}");
    }
}
