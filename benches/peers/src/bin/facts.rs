//! Shows how buttress differs from tower's own layers and from tower-resilience, by running them.
//!
//! `cargo run --release -p peers --bin facts` prints a line for each fact in the README:
//!
//! > fact: what was done: each peer and its result, buttress and its result
//!
//! It ends with an error if buttress does not do what the README says. The results of the peers
//! are printed, but not checked. The clock is the real one, so the times are short. Peers have
//! the settings of their documentation, and the same values as buttress where they share a
//! setting.

#[path = "../alloc.rs"]
#[expect(dead_code, reason = "the benchmark counts bytes as well")]
mod alloc;
#[path = "../backend.rs"]
mod backend;
#[path = "../dependency.rs"]
mod dependency;
#[path = "../measure.rs"]
#[expect(dead_code, reason = "the benchmark measures more than this")]
mod measure;
#[path = "../ours.rs"]
#[expect(dead_code, reason = "the benchmark has more cases")]
mod ours;
#[path = "../peers/mod.rs"]
#[expect(dead_code, reason = "the benchmark has more cases")]
mod peers;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use ::failsafe::futures::CircuitBreaker as _;
use buttress::bulkhead::BulkheadLayer;
use buttress::cache::CacheLayer;
use buttress::circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer};
use buttress::retry::{Backoff, Jitter};
use buttress::retry::{ReplayClones, RetryLayer};
use buttress::timeout::TimeoutLayer;
use tokio::runtime::Builder;
use tokio::time::sleep;
use tower::limit::ConcurrencyLimitLayer;
use tower::retry::backoff::{
    Backoff as _, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff,
};
use tower::retry::{Policy, Retry};
use tower::timeout::Timeout;
use tower::util::rng::HasherRng;
use tower::{Layer, ServiceExt};
use tower_resilience::{bulkhead, circuitbreaker, retry, timelimiter};

use backend::{Request, Unavailable};
use dependency::{Dependency, Side};
use measure::Expect::{Rejected, Served};
use measure::{Harness, interleave};

type Carried = buttress::Error<Unavailable>;
type PeerBreakerBuilder =
    circuitbreaker::CircuitBreakerConfigBuilder<circuitbreaker::DefaultClassifier>;

const VALID: &str = "valid settings";

fn main() -> ExitCode {
    let mut facts = Facts::default();
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        window_of_calls(&mut facts).await;
        window_of_time(&mut facts).await;
        half_open(&mut facts).await;
        hanging_probe(&mut facts).await;
        one_limit(&mut facts).await;
        jitter(&mut facts).await;
        whole_seconds(&mut facts).await;
        open_below_a_retry(&mut facts).await;
        retry_past_the_deadline(&mut facts).await;
        one_call_for_all(&mut facts).await;
    });
    allocations(&mut facts);
    for broken in &facts.broken {
        eprintln!("does not hold: {broken}");
    }
    if facts.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Facts {
    broken: Vec<String>,
}

impl Facts {
    /// Prints a fact. `holds` says if buttress does what the README says.
    fn state(
        &mut self,
        done: &str,
        peers: &[(&str, &dyn Display)],
        ours: &dyn Display,
        holds: bool,
    ) {
        let peers: String =
            peers.iter().map(|(peer, measured)| format!("{peer} {measured}, ")).collect();
        println!("fact: {done}: {peers}buttress {ours}");
        if !holds {
            self.broken.push(format!("{done}: buttress {ours}"));
        }
    }
}

// Facts about the breakers.

/// Returns a breaker that opens at half of ten calls, for a short time.
fn our_breaker() -> CircuitBreakerBuilder {
    our_breaker_without_window().count_window(10)
}

/// Returns the same breaker for a window of another kind. A breaker has only one.
fn our_breaker_without_window() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder()
        .minimum_calls(10)
        .failure_rate(0.5)
        .open_for(SHORT)
        .open_jitter(0.0)
}

fn peer_breaker() -> PeerBreakerBuilder {
    circuitbreaker::CircuitBreakerLayer::builder()
        .sliding_window_size(10)
        .minimum_number_of_calls(10)
        .failure_rate_threshold(0.5)
        .wait_duration_in_open(SHORT)
}

const SHORT: Duration = Duration::from_millis(20);

fn our_side(breaker: CircuitBreakerBuilder) -> Side {
    let dependency = Dependency::new();
    let breaker = breaker.build().expect(VALID);
    Side::of(&dependency, breaker.layer(dependency.seen_as::<Carried>()))
}

fn peer_side(breaker: PeerBreakerBuilder) -> Side {
    let dependency = Dependency::new();
    Side::of(&dependency, breaker.build().expect(VALID).layer(dependency.clone()))
}

/// Makes calls fail until the breaker opens, and waits until it is half-open.
async fn wait_half_open(side: &Side) {
    side.dependency.fails(true);
    for id in 0..20 {
        let _ = side.call(id).await;
    }
    let reached = side.dependency.calls();
    let _ = side.call(0).await;
    assert_eq!(side.dependency.calls(), reached, "twenty failures did not open this breaker");
    side.dependency.fails(false);
    sleep(2 * SHORT).await;
}

/// Makes a call every ten milliseconds for half a second, and returns the number of successes.
async fn answered(side: &Side) -> u64 {
    let mut answered = 0;
    for id in 0..CALLS {
        answered += u64::from(side.call(id).await.is_ok());
        sleep(Duration::from_millis(10)).await;
    }
    answered
}

const CALLS: u64 = 50;

async fn window_of_calls(facts: &mut Facts) {
    async fn failures_until_open(side: &Side) -> usize {
        for id in 0..10_000 {
            side.call(id).await.expect("it is well");
        }
        side.dependency.fails(true);
        let before = side.dependency.calls();
        for failures in 1..=20_000 {
            let _ = side.call(0).await;
            if side.dependency.calls() - before < failures {
                return failures - 1;
            }
        }
        20_000
    }
    let theirs = failures_until_open(&peer_side(peer_breaker())).await;
    let ours = failures_until_open(&our_side(our_breaker())).await;
    facts.state(
        "failures until a breaker over the last 10 calls opens, after 10,000 successes",
        &[("tower-resilience", &theirs)],
        &ours,
        ours <= 10,
    );
}

async fn window_of_time(facts: &mut Facts) {
    async fn answered_after_rare_probes(side: &Side) -> u64 {
        wait_half_open(side).await;
        for id in 0..2 {
            let _ = side.call(id).await;
            sleep(4 * SHORT).await;
        }
        answered(side).await
    }
    let window = Duration::from_millis(50);
    let theirs = peer_breaker()
        .sliding_window_type(circuitbreaker::SlidingWindowType::TimeBased)
        .sliding_window_duration(window)
        .permitted_calls_in_half_open(2);
    let theirs = answered_after_rare_probes(&peer_side(theirs)).await;
    let breaker =
        our_breaker_without_window().time_window(window).probes(2).probe_success_ratio(1.0);
    let ours = answered_after_rare_probes(&our_side(breaker)).await;
    facts.state(
        "of 50 calls answered by a dependency that is well again, after two probes that succeeded \
         80 ms apart under a window of 50 ms",
        &[("tower-resilience", &theirs)],
        &ours,
        ours == CALLS,
    );
}

async fn half_open(facts: &mut Facts) {
    async fn let_through(side: &Side) -> usize {
        wait_half_open(side).await;
        // Longer than it takes to start all calls.
        side.dependency.answers_after(5 * SHORT);
        let before = side.dependency.calls();
        let calls: Vec<_> = (0..500).map(|id| tokio::spawn(side.call(id))).collect();
        for call in calls {
            let _ = call.await.expect("no panic");
        }
        side.dependency.calls() - before
    }

    let dependency = Dependency::new();
    let policy =
        failsafe::failure_policy::consecutive_failures(3, failsafe::backoff::constant(SHORT));
    let breaker = failsafe::Config::new().failure_policy(policy).build();
    let below = dependency.clone();
    let failsafe = Side::from_fn(&dependency, move |request| breaker.call(below.answer(request)));

    let dependency = Dependency::new();
    let breaker = recloser::Recloser::custom()
        .error_rate(0.5)
        .closed_len(10)
        .half_open_len(1)
        .open_wait(SHORT)
        .build();
    let breaker = recloser::AsyncRecloser::from(breaker);
    let below = dependency.clone();
    let recloser = Side::from_fn(&dependency, move |request| {
        let call = breaker.call(below.answer(request));
        // The error of recloser does not implement `Display`.
        async { call.await.map_err(|error| format!("{error:?}")) }
    });

    let failsafe = let_through(&failsafe).await;
    let recloser = let_through(&recloser).await;
    let theirs = let_through(&peer_side(peer_breaker().permitted_calls_in_half_open(1))).await;
    let ours = let_through(&our_side(our_breaker().probes(1))).await;
    facts.state(
        "of 500 concurrent calls let through by a half-open breaker with one probe (failsafe has \
         no such setting)",
        &[("failsafe", &failsafe), ("recloser", &recloser), ("tower-resilience", &theirs)],
        &ours,
        ours == 1,
    );
}

async fn hanging_probe(facts: &mut Facts) {
    async fn answered_beside_one(side: &Side) -> u64 {
        wait_half_open(side).await;
        side.dependency.hangs();
        let probe = tokio::spawn(side.call(0));
        sleep(SHORT).await;
        side.dependency.answers_after(Duration::ZERO);
        let answered = answered(side).await;
        probe.abort();
        answered
    }
    let theirs =
        answered_beside_one(&peer_side(peer_breaker().permitted_calls_in_half_open(1))).await;
    let breaker = our_breaker().probes(1).probe_lease(Duration::from_millis(100));
    let ours = answered_beside_one(&our_side(breaker)).await;
    facts.state(
        "of 50 calls in half a second answered by a dependency that is well again, while the one \
         probe hangs (its lease with us is 100 ms)",
        &[("tower-resilience", &theirs)],
        &ours,
        ours > 0,
    );
}

// Facts about the bulkhead.

async fn one_limit(facts: &mut Facts) {
    async fn at_once(dependency: &Dependency, services: [Side; 2]) -> u64 {
        dependency.answers_after(SHORT);
        let calls = services.map(|service| tokio::spawn(service.call(0)));
        for call in calls {
            let _ = call.await.expect("no panic");
        }
        dependency.most_at_once()
    }

    let dependency = Dependency::new();
    let layer = ConcurrencyLimitLayer::new(1);
    let services = [(); 2].map(|()| Side::of(&dependency, layer.layer(dependency.clone())));
    let tower = at_once(&dependency, services).await;

    let dependency = Dependency::new();
    let layer = bulkhead::BulkheadLayer::builder().max_concurrent_calls(1).build().expect(VALID);
    let services = [(); 2].map(|()| Side::of(&dependency, layer.layer(dependency.clone())));
    let theirs = at_once(&dependency, services).await;

    let dependency = Dependency::new();
    let layer = BulkheadLayer::builder().max_concurrent(1).build().expect(VALID);
    let services =
        [(); 2].map(|()| Side::of(&dependency, layer.layer(dependency.seen_as::<Carried>())));
    let ours = at_once(&dependency, services).await;

    facts.state(
        "calls that run at once through two services that one layer with a limit of 1 made",
        &[("tower's ConcurrencyLimitLayer", &tower), ("tower-resilience's bulkhead", &theirs)],
        &ours,
        ours == 1,
    );
}

// Facts about the retry.

/// Tower's backoff in the smallest policy that uses it: one retry of every failure.
#[derive(Clone)]
struct OneRetry {
    backoff: ExponentialBackoff,
    retried: bool,
}

impl OneRetry {
    fn new(base: Duration, cap: Duration, jitter: f64) -> Self {
        let maker = ExponentialBackoffMaker::new(base, cap, jitter, HasherRng::default());
        Self { backoff: maker.expect(VALID).make_backoff(), retried: false }
    }
}

impl Policy<Request, u64, Unavailable> for OneRetry {
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        _: &mut Request,
        result: &mut Result<u64, Unavailable>,
    ) -> Option<Self::Future> {
        if result.is_ok() || std::mem::replace(&mut self.retried, true) {
            return None;
        }
        Some(self.backoff.next_backoff())
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(*request)
    }
}

fn one_retry(backoff: Backoff) -> RetryLayer<ReplayClones> {
    RetryLayer::builder(ReplayClones)
        .retries(1)
        .backoff(backoff)
        .without_budget()
        .build()
        .expect(VALID)
}

/// The number of calls that fail at the same moment.
const TOGETHER: u64 = 200;

/// Returns the delays until the calls are retried. Call `id` goes to `side(id)`.
async fn first_delays<'a>(
    dependency: &Dependency,
    side: impl Fn(u64) -> &'a Side,
) -> Vec<Duration> {
    dependency.fails(true);
    let calls: Vec<_> = (0..TOGETHER).map(|id| tokio::spawn(side(id).call(id))).collect();
    for call in calls {
        let _ = call.await.expect("no panic");
    }
    let delays = dependency.first_delays();
    assert_eq!(delays.len() as u64, TOGETHER, "every call is retried once");
    delays
}

const STEP: Duration = Duration::from_millis(10);

/// Returns the largest number of delays within one step of each other.
fn busiest(delays: &[Duration]) -> usize {
    let within = |from: &Duration| {
        delays.iter().filter(|delay| *delay >= from && **delay - *from < STEP).count()
    };
    delays.iter().map(within).max().unwrap_or(0)
}

async fn jitter(facts: &mut Facts) {
    let (base, cap) = (Duration::from_millis(300), Duration::from_millis(600));

    let dependency = Dependency::new();
    let side =
        Side::of(&dependency, Retry::new(OneRetry::new(base, cap, 0.99), dependency.clone()));
    let tower = first_delays(&dependency, |_| &side).await;

    let dependency = Dependency::new();
    let backoff = Backoff::exponential(cap).jitter(Jitter::Equal).build().expect(VALID);
    let layer = one_retry(backoff);
    let side = Side::of(&dependency, layer.layer(dependency.seen_as::<Carried>()));
    let ours = first_delays(&dependency, |_| &side).await;

    let spread = |delays: &[Duration]| {
        let steps: BTreeSet<u128> =
            delays.iter().map(|delay| delay.as_millis() / STEP.as_millis()).collect();
        format!("{} in {} of them", busiest(delays), steps.len())
    };
    facts.state(
        "200 calls of one client fail at the same moment and are retried after 300 to 600 ms, \
         jittered; most that come back within the same 10 ms, and how many such steps are used",
        &[("tower's ExponentialBackoff", &spread(&tower))],
        &spread(&ours),
        busiest(&ours) < 40,
    );
}

async fn whole_seconds(facts: &mut Facts) {
    let base = Duration::from_secs(1);
    let near_a_second =
        |delays: &[Duration]| delays.iter().filter(|delay| delay.abs_diff(base) < STEP).count();

    let dependency = Dependency::new();
    let sides: Vec<_> = (0..TOGETHER)
        .map(|_| OneRetry::new(base, 2 * base, 0.5))
        .map(|policy| Side::of(&dependency, Retry::new(policy, dependency.clone())))
        .collect();
    let tower = first_delays(&dependency, |id| &sides[id as usize]).await;

    let dependency = Dependency::new();
    let sides: Vec<_> = (0..TOGETHER)
        .map(|_| one_retry(Backoff::exponential(base).build().expect(VALID)))
        .map(|layer| Side::of(&dependency, layer.layer(dependency.seen_as::<Carried>())))
        .collect();
    let ours = first_delays(&dependency, |id| &sides[id as usize]).await;

    let (tower, ours) = (near_a_second(&tower), near_a_second(&ours));
    facts.state(
        "200 clients, each with its own random numbers, fail at the same moment and are retried \
         with a base of 1 s, jittered; those that come back after 1.00 s",
        &[("tower's ExponentialBackoff", &tower)],
        &ours,
        ours < 20,
    );
}

async fn open_below_a_retry(facts: &mut Facts) {
    async fn one_call(side: &Side, attempts: &AtomicU64) -> (u64, u128) {
        let (before, start) = (attempts.load(SeqCst), Instant::now());
        let answer = side.call(0).await;
        assert!(answer.is_err(), "an open breaker lets nothing through");
        (attempts.load(SeqCst) - before, start.elapsed().as_millis())
    }
    let said = |(attempts, millis): (u64, u128)| format!("{attempts} in {millis} ms");
    let open_for = Duration::from_secs(60);

    let dependency = Dependency::new();
    let attempts = Arc::new(AtomicU64::new(0));
    let breaker = peer_breaker().wait_duration_in_open(open_for).build().expect(VALID);
    let breaker = breaker.layer(dependency.clone());
    opened(&Side::of(&dependency, breaker.clone())).await;
    type PeerRetry =
        retry::RetryLayer<Request, u64, circuitbreaker::CircuitBreakerError<Unavailable>>;
    let layer: PeerRetry = retry::RetryLayer::builder().build();
    let side = Side::of(&dependency, layer.layer(breaker.map_request(count(&attempts))));
    let theirs = one_call(&side, &attempts).await;

    let dependency = Dependency::new();
    let attempts = Arc::new(AtomicU64::new(0));
    let breaker = our_breaker().open_for(open_for).build().expect(VALID);
    let breaker = breaker.layer(dependency.seen_as::<Carried>());
    opened(&Side::of(&dependency, breaker.clone())).await;
    let layer = RetryLayer::new(ReplayClones);
    let side = Side::of(&dependency, layer.layer(breaker.map_request(count(&attempts))));
    let ours = one_call(&side, &attempts).await;

    facts.state(
        "attempts that the default retry makes at an open breaker below it, for one call",
        &[("tower-resilience", &said(theirs))],
        &said(ours),
        ours.0 == 1,
    );
}

fn count(attempts: &Arc<AtomicU64>) -> impl Fn(Request) -> Request + Clone + Send + Sync + 'static {
    let attempts = Arc::clone(attempts);
    move |request| {
        attempts.fetch_add(1, SeqCst);
        request
    }
}

/// Makes calls fail until the breaker opens.
async fn opened(side: &Side) {
    side.dependency.fails(true);
    for id in 0..20 {
        let _ = side.call(id).await;
    }
}

async fn retry_past_the_deadline(facts: &mut Facts) {
    async fn one_call(side: Side) -> (u128, String) {
        side.dependency.fails(true);
        let start = Instant::now();
        let error = side.call(0).await.expect_err("it fails");
        (start.elapsed().as_millis(), error)
    }
    let said = |(millis, error): &(u128, String)| format!("`{error}` after {millis} ms");
    let (limit, pause) = (Duration::from_millis(200), Duration::from_secs(1));

    let dependency = Dependency::new();
    let retried = Retry::new(OneRetry::new(pause, pause, 0.0), dependency.clone());
    let tower = one_call(Side::of(&dependency, Timeout::new(retried, limit))).await;

    let dependency = Dependency::new();
    let layer: retry::RetryLayer<Request, u64, Unavailable> =
        retry::RetryLayer::builder().max_attempts(2).fixed_backoff(pause).build();
    let total = timelimiter::TimeLimiterLayer::builder().timeout_duration(limit).build();
    let theirs = total.layer(layer.layer(dependency.clone()));
    let theirs = one_call(Side::of(&dependency, theirs)).await;

    let dependency = Dependency::new();
    let backoff = Backoff::constant(pause).jitter(Jitter::None).build().expect(VALID);
    let retried = one_retry(backoff).layer(dependency.seen_as::<Carried>());
    let ours = one_call(Side::of(&dependency, TimeoutLayer::new(limit).layer(retried))).await;

    facts.state(
        "a call fails at once with `the backend is unavailable`, 200 ms are left for it and the \
         retry would come in 1 s; what the caller gets",
        &[("tower", &said(&tower)), ("tower-resilience", &said(&theirs))],
        &said(&ours),
        ours.0 < 100 && ours.1 == Unavailable.to_string(),
    );
}

// Facts about the cache.

async fn one_call_for_all(facts: &mut Facts) {
    async fn calls(side: &Side) -> usize {
        side.dependency.answers_after(SHORT);
        let callers: Vec<_> = (0..100).map(|_| tokio::spawn(side.call(0))).collect();
        for caller in callers {
            let _ = caller.await.expect("no panic");
        }
        side.dependency.calls()
    }

    let dependency = Dependency::new();
    let layer = tower_resilience::cache::CacheLayer::builder()
        .ttl(peers::KEPT_FOR)
        .key_extractor(peers::key)
        .build()
        .expect(VALID);
    let cache = calls(&Side::of(&dependency, layer.layer(dependency.clone()))).await;

    let dependency = Dependency::new();
    let layer = peers::tower_resilience::coalesced(dependency.clone());
    let coalesced = calls(&Side::of(&dependency, layer)).await;

    let dependency = Dependency::new();
    let layer = CacheLayer::by_fn(|request: &Request| Some(peers::key(request))).build();
    let layer = layer.expect(VALID).layer(dependency.seen_as::<Carried>());
    let ours = calls(&Side::of(&dependency, layer)).await;

    facts.state(
        "calls that reach the dependency, of 100 concurrent calls for the same key",
        &[("tower-resilience's cache", &cache), ("its coalesce", &coalesced)],
        &ours,
        ours == 1,
    );
}

// Facts about whole stacks.

/// Counts the allocations of the benchmark's stacks.
fn allocations(facts: &mut Facts) {
    let h = Harness::new();
    let measured = interleave(&mut [
        h.looped(Served, peers::tower_resilience::stack4),
        h.looped(Served, ours::stack4),
        h.looped(Rejected, || peers::tower_resilience::stack4_rejected(&h)),
        h.looped(Rejected, || ours::stack4_rejected(&h)),
    ]);
    let [theirs_served, ours_served, theirs_refused, ours_refused] =
        [0, 1, 2, 3].map(|side: usize| measured[side].allocations);
    for (call, theirs, ours) in [
        ("a call that goes well", theirs_served, ours_served),
        ("a call that an open breaker rejects", theirs_refused, ours_refused),
    ] {
        facts.state(
            &format!("heap allocations of {call}, through timeout, retry, bulkhead and breaker"),
            &[("tower-resilience", &format_args!("{theirs:.1}"))],
            &format_args!("{ours:.1}"),
            ours < 0.001,
        );
    }
}
