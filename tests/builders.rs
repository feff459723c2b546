//! Tests of every builder.
//!
//! An invalid value is an error whose knob is the name of the setter. Each end of a valid range
//! can be built.
//!
//! A table has a row for each setter. The setters are read from the source. A new setter without
//! a row fails, and so does a knob that is neither a setter nor a parameter of a constructor.

use std::{
    collections::BTreeSet,
    fs,
    future::ready,
    path::{Path, PathBuf},
    time::Duration,
};

use buttress::{
    ConfigError, Outcome, Stack,
    bulkhead::{BulkheadLayer, QueuedBulkheadLayer},
    cache::{CacheBuilder, CacheLayer},
    chaos::ChaosLayer,
    circuit_breaker::CircuitBreakerLayer,
    endpoints::{CheckFn, Endpoints, EndpointsBuilder, check_fn},
    fallback::{self, FallbackLayer},
    idempotency::{
        Digests, IdempotencyLayer, InvalidKey, Quarantine, RequestKey, Run, Settled, SingleTenant,
        store::MemoryStore,
    },
    keep::KeepClones,
    retry::{Backoff, Budget, Jitter, ReplayClones, RetryLayer},
    timeout::TimeoutLayer,
};

const NS: Duration = Duration::from_nanos(1);
const MAX: Duration = Duration::MAX;
const ZERO: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_secs(3600);

/// The results of `build` for one setter, or for one parameter of a constructor.
struct Row {
    knob: &'static str,
    rejected: Vec<Option<ConfigError>>,
    accepted: Vec<Option<ConfigError>>,
}

/// Creates a row from what `build` returned for invalid values of a knob, and for valid ones.
fn row(
    knob: &'static str,
    rejected: impl Into<Vec<Option<ConfigError>>>,
    accepted: impl Into<Vec<Option<ConfigError>>>,
) -> Row {
    Row { knob, rejected: rejected.into(), accepted: accepted.into() }
}

/// Creates the row of a setter that accepts every value.
fn any(setter: &'static str, built: Option<ConfigError>) -> Row {
    row(setter, [], [built])
}

/// Checks the rows of a builder in `source`, and that every setter has a row.
#[track_caller]
fn check(source: &str, builder: &str, parameters: &[&str], rows: &[Row]) {
    for Row { knob, rejected, accepted } in rows {
        for (number, error) in rejected.iter().enumerate() {
            let error =
                error.as_ref().unwrap_or_else(|| panic!("{builder}, {knob}: {number} was taken"));
            assert_eq!(error.knob(), *knob, "{builder}: {error}");
            assert!(!error.rule().is_empty() && !error.value().is_empty(), "{builder}: {error}");
        }
        for (number, error) in accepted.iter().enumerate() {
            assert_eq!(*error, None, "{builder}, {knob}: {number} was rejected");
        }
    }
    let mut named: BTreeSet<&str> = setters(source, builder).collect();
    assert!(!named.is_empty(), "{builder} has no setters, or they were not found");
    named.extend(parameters);
    assert_eq!(rows.iter().map(|row| row.knob).collect::<BTreeSet<_>>(), named, "{builder}");
}

/// Returns the names of the methods that take a builder by value, without `build`.
fn setters<'a>(source: &'a str, builder: &'a str) -> impl Iterator<Item = &'a str> {
    let blocks = source.split("\nimpl").skip(1).filter(move |block| {
        let head = block.lines().next().unwrap_or_default();
        !head.contains(" for ") && head.contains(&format!(" {builder}"))
    });
    let bodies = blocks.map(|block| block.split("\n}").next().unwrap_or_default());
    bodies
        .flat_map(|body| body.split("    pub fn ").skip(1))
        .filter(|method| {
            let head = &method[..method.find(')').unwrap_or(method.len())];
            head.contains("(self") || head.contains("(mut self") || head.contains(" self,")
        })
        .map(|method| &method[..method.find(['(', '<']).unwrap_or_default()])
        .filter(|setter| *setter != "build")
}

#[test]
fn a_timeout_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let builder = TimeoutLayer::builder;
    check(
        include_str!("../src/timeout/layer.rs"),
        "TimeoutBuilder",
        &["limit"],
        &[
            row(
                "limit",
                [builder(ZERO).build().err()],
                [NS, MAX].map(|v| builder(v).build().err()),
            ),
            any("name", builder(NS).name("orders").build().err()),
        ],
    );
    let per_request = TimeoutLayer::builder_fn(|_: &()| ZERO).name("orders");
    assert!(per_request.build().is_ok());
}

#[test]
fn a_fallback_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let builder = || FallbackLayer::builder(fallback::value(()));
    let result = |_: Result<&(), &()>| Outcome::Success;
    check(
        include_str!("../src/fallback/layer.rs"),
        "FallbackBuilder",
        &[],
        &[
            any("name", builder().name("orders").build().err()),
            row(
                "limit",
                [builder().limit(ZERO).build().err()],
                [NS, MAX].map(|v| builder().limit(v).build().err()),
            ),
            row(
                "also_permanent",
                [builder().also_permanent().when_fn(|_| true).build().err()],
                [builder().also_permanent().build().err()],
            ),
            any("when_fn", builder().when_fn(|_| true).build().err()),
            row(
                "reserve",
                [-0.1, 1.0, f64::NAN, f64::INFINITY].map(|v| builder().reserve(v).build().err()),
                [0.0, 0.999].map(|v| builder().reserve(v).build().err()),
            ),
            any("classify", builder().classify(buttress::classify_fn(result)).build().err()),
            any("classify_fn", builder().classify_fn(result).build().err()),
        ],
    );
}

#[test]
fn a_retry_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let builder = || RetryLayer::builder(ReplayClones);
    let result = |_: Result<&(), &()>| Outcome::Success;
    check(
        include_str!("../src/retry/layer.rs"),
        "RetryBuilder",
        &[],
        &[
            any("name", builder().name("orders").build().err()),
            row("retries", [], [0, 1, u32::MAX].map(|v| builder().retries(v).build().err())),
            any("backoff", builder().backoff(Backoff::default()).build().err()),
            any("budget", builder().without_budget().budget(Budget::new()).build().err()),
            any("without_budget", builder().budget(Budget::new()).without_budget().build().err()),
            row("hint_cap", [], [ZERO, MAX].map(|v| builder().hint_cap(v).build().err())),
            row(
                "readiness_wait",
                [builder().readiness_wait(ZERO).build().err()],
                [NS, MAX].map(|v| builder().readiness_wait(v).build().err()),
            ),
            any("classify", builder().classify(buttress::classify_fn(result)).build().err()),
            any("classify_fn", builder().classify_fn(result).build().err()),
        ],
    );
}

#[test]
fn a_backoff_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let (constant, linear, exponential) =
        (Backoff::constant, Backoff::linear, Backoff::exponential);
    let decorrelated = || exponential(NS).jitter(Jitter::Decorrelated);
    let not_factors = [0.0, 0.99, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let mut factors: Vec<_> = not_factors.map(|v| exponential(NS).factor(v).build().err()).into();
    // The setter has no effect there.
    factors.extend([
        constant(NS).factor(2.0).build().err(),
        linear(NS).factor(2.0).build().err(),
        linear(NS).factor(f64::NAN).build().err(),
        decorrelated().factor(2.0).build().err(),
    ]);
    check(
        include_str!("../src/backoff/mod.rs"),
        "BackoffBuilder",
        &["delay", "step", "base"],
        &[
            row(
                "delay",
                [constant(ZERO).build().err()],
                [NS, MAX].map(|v| constant(v).build().err()),
            ),
            row("step", [linear(ZERO).build().err()], [NS, MAX].map(|v| linear(v).build().err())),
            row(
                "base",
                [exponential(ZERO).build().err()],
                [NS, MAX].map(|v| exponential(v).build().err()),
            ),
            row(
                "factor",
                factors,
                [1.0, f64::MAX].map(|v| exponential(NS).factor(v).build().err()),
            ),
            row(
                "cap",
                [
                    exponential(2 * NS).cap(NS).build().err(),
                    linear(2 * NS).cap(ZERO).build().err(),
                    constant(2 * NS).cap(NS).build().err(),
                    // The setter has no effect there.
                    constant(NS).cap(2 * NS).build().err(),
                ],
                [
                    exponential(NS).cap(NS).build().err(),
                    exponential(NS).cap(MAX).build().err(),
                    constant(NS).cap(NS).build().err(),
                    constant(NS).cap(2 * NS).jitter(Jitter::Decorrelated).build().err(),
                ],
            ),
            row(
                "jitter",
                [
                    constant(NS).jitter(Jitter::Decorrelated).build().err(),
                    decorrelated().cap(NS).build().err(),
                ],
                [Jitter::None, Jitter::Full, Jitter::Equal, Jitter::Decorrelated]
                    .map(|v| exponential(NS).jitter(v).build().err()),
            ),
        ],
    );
}

#[test]
fn a_budget_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let not_shares = [-0.1, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, 0.000_000_9];
    let with = |ratio| Budget::builder().ratio(ratio).build().err();
    check(
        include_str!("../src/budget/mod.rs"),
        "BudgetBuilder",
        &[],
        &[
            row(
                "ratio",
                not_shares.into_iter().chain([10.1]).map(with).collect::<Vec<_>>(),
                [0.0, 0.000_001, 10.0].map(with),
            ),
            row("floor", [], [0, u32::MAX].map(|v| Budget::builder().floor(v).build().err())),
        ],
    );
    let with = |ratio| Budget::throttle().token_ratio(ratio).build().err();
    let tokens = |tokens| Budget::throttle().max_tokens(tokens).build().err();
    check(
        include_str!("../src/budget/mod.rs"),
        "ThrottleBuilder",
        &[],
        &[
            row("max_tokens", [0, 1_001, u32::MAX].map(tokens), [1, 1_000].map(tokens)),
            row(
                "token_ratio",
                not_shares.into_iter().chain([0.0, 1_000.1]).map(with).collect::<Vec<_>>(),
                [0.000_001, 1_000.0].map(with),
            ),
        ],
    );
}

/// The results of `build` for ratios that are invalid, alone and together with others.
const NO_RATIOS: [f64; 5] = [-0.1, 1.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
const RATIOS: [f64; 3] = [0.0, 0.5, 1.0];

#[test]
fn chaos_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let builder = ChaosLayer::builder;
    let (error, response) = (|| (), |_: &()| ());
    let setter = |knob, set: &dyn Fn(f64) -> Option<ConfigError>| {
        row(knob, NO_RATIOS.map(set), RATIOS.map(set))
    };
    let rows = [
        any("name", builder().name("orders").build().err()),
        any("seed", builder().seed(u64::MAX).build().err()),
        row(
            "delays",
            [
                builder().delays(-0.1, NS).build().err(),
                builder().delays(1.1, NS).build().err(),
                builder().delays(0.0, ZERO).build().err(),
                builder().hangs(0.5).delays(0.6, NS).build().err(),
            ],
            [NS, MAX].map(|delay| builder().hangs(0.5).delays(0.5, delay).build().err()),
        ),
        setter("errors_fn", &|ratio| builder().errors_fn(ratio, error).build().err()),
        setter("responses_fn", &|ratio| builder().responses_fn(ratio, response).build().err()),
        setter("hangs", &|ratio| builder().hangs(ratio).build().err()),
        row(
            "late_responses",
            [
                builder().late_responses(f64::NAN, NS).build().err(),
                builder().late_responses(0.5, ZERO).build().err(),
            ],
            [NS, MAX].map(|delay| builder().late_responses(1.0, delay).build().err()),
        ),
        setter("lost_responses", &|ratio| builder().lost_responses(ratio).build().err()),
        any("partition_fn", builder().hangs(1.0).partition_fn(|_: &()| true).build().err()),
        row(
            "windows",
            [
                vec![],
                vec![NS..NS],
                vec![2 * NS..NS],
                vec![NS..3 * NS, 2 * NS..4 * NS],
                vec![2 * NS..3 * NS, ZERO..NS],
                vec![ZERO..HOUR + NS],
            ]
            .map(|windows| builder().windows(windows).build().err()),
            [vec![ZERO..NS, NS..2 * NS], vec![ZERO..HOUR]]
                .map(|windows| builder().windows(windows).build().err()),
        ),
        row(
            "max_hung",
            [builder().max_hung(0).build().err()],
            [1, u32::MAX].map(|calls| builder().max_hung(calls).build().err()),
        ),
    ];
    check(include_str!("../src/chaos/layer.rs"), "ChaosBuilder", &[], &rows);
    let twice = builder().hangs(0.7).hangs(0.8).lost_responses(0.2);
    assert!(twice.build().is_ok(), "a setter replaces its own ratio");
}

#[test]
fn a_cache_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let builder = || CacheLayer::by_fn(|key: &u64| Some(*key));
    let result = |_: Result<&(), &buttress::BoxError>| Outcome::Success;
    let any = |setter, built: Result<CacheLayer<u64, (), _>, _>| any(setter, built.err());
    let err = |built: CacheBuilder<u64, (), _>| built.build().err();
    check(
        include_str!("../src/cache/layer.rs"),
        "CacheBuilder",
        &[],
        &[
            any("name", builder().name("rates").build()),
            row("ttl", [], [ZERO, NS, MAX].map(|v| err(builder().ttl(v)))),
            row("while_revalidate", [], [ZERO, MAX].map(|v| err(builder().while_revalidate(v)))),
            row("if_error", [], [ZERO, MAX].map(|v| err(builder().if_error(v)))),
            row("last_good", [], [ZERO, MAX].map(|v| err(builder().last_good(v)))),
            row("hold_off", [], [ZERO, MAX].map(|v| err(builder().hold_off(v)))),
            row(
                "patience",
                [err(builder().if_error(NS).patience(ZERO)), err(builder().patience(NS))],
                [NS, MAX].map(|v| err(builder().if_error(NS).patience(v))),
            ),
            row(
                "reserve",
                [-0.1, 1.0, f64::NAN].map(|v| err(builder().reserve(v))),
                [0.0, 0.9].map(|v| err(builder().reserve(v))),
            ),
            row(
                "max_bytes",
                [0, 16 * (65_536 + 256) - 1].map(|v| err(builder().max_bytes(v))),
                [16 * (65_536 + 256), 1 << 40].map(|v| err(builder().max_bytes(v))),
            ),
            row(
                "max_entry_bytes",
                [0, (1 << 20) + 1, usize::MAX].map(|v| err(builder().max_entry_bytes(v))),
                [1, 1 << 20].map(|v| err(builder().max_entry_bytes(v))),
            ),
            row(
                "max_shared_calls",
                [err(builder().max_shared_calls(0))],
                [1, u32::MAX].map(|v| err(builder().max_shared_calls(v))),
            ),
            any("finish_abandoned", builder().finish_abandoned().build()),
            self::any("classify", builder().classify(buttress::classify_fn(result)).build().err()),
            self::any("classify_fn", builder().classify_fn(result).build().err()),
            any("keep", builder().keep(KeepClones).build()),
            any("ttl_fn", builder().ttl_fn(|()| None).build()),
            any("size_fn", builder().size_fn(|()| 0).build()),
        ],
    );
}

#[test]
fn a_stack_by_key_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let builder = || Stack::by_key(|key: &u64| *key, |_| Stack::new());
    check(
        include_str!("../src/stack/by_key/layer.rs"),
        "KeyedStackBuilder",
        &[],
        &[
            row(
                "max_keys",
                [0, 1].map(|v| builder().max_keys(v).build().err()),
                [2, usize::MAX].map(|v| builder().max_keys(v).build().err()),
            ),
            row(
                "idle",
                [builder().idle(ZERO).build().err()],
                [NS, MAX].map(|v| builder().idle(v).build().err()),
            ),
            any("describe_fn", builder().describe_fn(|_| String::new()).build().err()),
        ],
    );
}

#[test]
fn a_bulkhead_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let builder = BulkheadLayer::builder;
    let queued = || QueuedBulkheadLayer::builder(1, NS);
    check(
        include_str!("../src/bulkhead/layer.rs"),
        "BulkheadBuilder",
        &[],
        &[
            any("name", builder().name("orders").build().err()),
            row(
                "max_concurrent",
                [
                    builder().max_concurrent(0).build().err(),
                    builder().max_concurrent(0).queue(1, NS).build().err(),
                ],
                [1, u32::MAX].map(|v| builder().max_concurrent(v).build().err()),
            ),
            row(
                "backpressure",
                [builder().backpressure().queue(1, NS).build().err()],
                [builder().backpressure().build().err()],
            ),
            row(
                "queue",
                [(0, NS), (1, ZERO)]
                    .map(|(calls, wait)| builder().queue(calls, wait).build().err()),
                [(1, NS), (u32::MAX, MAX)]
                    .map(|(calls, wait)| builder().queue(calls, wait).build().err()),
            ),
        ],
    );
    check(
        include_str!("../src/bulkhead/layer.rs"),
        "QueuedBulkheadBuilder",
        &[],
        &[
            any("name", queued().name("orders").build().err()),
            row(
                "max_concurrent",
                [queued().max_concurrent(0).build().err()],
                [1, u32::MAX].map(|v| queued().max_concurrent(v).build().err()),
            ),
        ],
    );
    let handle = BulkheadLayer::new().handle();
    assert_eq!(handle.resize(0).unwrap_err().knob(), "resize");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let builder = CircuitBreakerLayer::builder;
    let by_streak = || builder().without_failure_rate().consecutive_failures(1);
    let result = |_: Result<&(), &()>| Outcome::Success;
    let key = |key: &u32| *key;
    let ms = Duration::from_millis(1);
    let not_rates = [f64::NAN, f64::INFINITY, -0.1, -0.0, 0.0, 1.000_001];
    let rates = [f64::MIN_POSITIVE, 1.0];
    let growth = |factor| builder().open_growth(factor).build().err();
    let jitter = |share| builder().open_jitter(share).build().err();
    let slow = |(time, rate)| builder().slow_calls(time, rate).build().err();
    check(
        include_str!("../src/circuit_breaker/layer.rs"),
        "CircuitBreakerBuilder",
        &[],
        &[
            any("name", builder().name("orders").build().err()),
            row(
                "time_window",
                [ZERO, 9 * ms].map(|v| builder().time_window(v).build().err()),
                [10 * ms, MAX].map(|v| builder().time_window(v).build().err()),
            ),
            row(
                "count_window",
                [
                    builder().count_window(0).build().err(),
                    builder().count_window(1 << 23).build().err(),
                    builder().count_window(50).time_window(MAX).build().err(),
                    builder().time_window(MAX).count_window(50).build().err(),
                ],
                [1, (1 << 23) - 1].map(|v| builder().count_window(v).build().err()),
            ),
            row(
                "minimum_calls",
                [
                    builder().minimum_calls(0).build().err(),
                    builder().minimum_calls(0).count_window(1).build().err(),
                    builder().minimum_calls(11).count_window(10).build().err(),
                    by_streak().minimum_calls(1).build().err(),
                ],
                [
                    builder().minimum_calls(1).build().err(),
                    builder().minimum_calls(u32::MAX).build().err(),
                    builder().minimum_calls(10).count_window(10).build().err(),
                    by_streak().slow_calls(NS, 1.0).minimum_calls(1).build().err(),
                ],
            ),
            row(
                "failure_rate",
                not_rates.map(|v| builder().failure_rate(v).build().err()),
                rates.map(|v| builder().failure_rate(v).build().err()),
            ),
            row(
                "without_failure_rate",
                [builder().without_failure_rate().build().err()],
                [
                    by_streak().build().err(),
                    builder().without_failure_rate().failure_rate(1.0).build().err(),
                ],
            ),
            row(
                "slow_calls",
                not_rates
                    .map(|rate| (NS, rate))
                    .into_iter()
                    .chain([(ZERO, 0.5)])
                    .map(slow)
                    .collect::<Vec<_>>(),
                [(NS, 1.0), (MAX, f64::MIN_POSITIVE)].map(slow),
            ),
            row(
                "consecutive_failures",
                [builder().consecutive_failures(0).build().err()],
                [1, u32::MAX].map(|v| builder().consecutive_failures(v).build().err()),
            ),
            row(
                "open_for",
                [builder().open_for(ZERO).build().err()],
                [NS, MAX].map(|v| builder().open_for(v).build().err()),
            ),
            row(
                "max_open_for",
                [
                    builder().max_open_for(ZERO).build().err(),
                    builder().open_for(2 * NS).max_open_for(NS).build().err(),
                ],
                [NS, MAX].map(|v| builder().open_for(NS).max_open_for(v).build().err()),
            ),
            row(
                "open_growth",
                [
                    growth(f64::NAN),
                    growth(f64::INFINITY),
                    growth(0.999),
                    growth(-2.0),
                    builder().max_open_for(30_000 * ms).open_growth(1.1).build().err(),
                ],
                [
                    growth(1.0),
                    growth(f64::MAX),
                    builder().max_open_for(30_000 * ms).open_growth(1.0).build().err(),
                    // The default cap is not longer than this open time, but no setter was called
                    // for it.
                    builder().open_for(300_000 * ms).open_growth(2.0).build().err(),
                ],
            ),
            row("open_jitter", [f64::NAN, -0.1, 1.1].map(jitter), [0.0, 1.0].map(jitter)),
            row(
                "probes",
                [builder().probes(0).build().err()],
                [1, u32::MAX].map(|v| builder().probes(v).build().err()),
            ),
            row(
                "probe_success_ratio",
                not_rates.map(|v| builder().probe_success_ratio(v).build().err()),
                rates.map(|v| builder().probe_success_ratio(v).build().err()),
            ),
            row(
                "probe_lease",
                [builder().probe_lease(ZERO).build().err()],
                [NS, MAX].map(|v| builder().probe_lease(v).build().err()),
            ),
            row(
                "abandoned_after",
                [],
                [ZERO, MAX].map(|v| builder().abandoned_after(v).build().err()),
            ),
            row(
                "pend",
                [builder().pend().keyed_fn(key).build().err()],
                [builder().pend().build().err()],
            ),
            any("classify", builder().classify(buttress::classify_fn(result)).build().err()),
            any("classify_fn", builder().classify_fn(result).build().err()),
            any("keyed_fn", builder().keyed_fn(key).build().err()),
        ],
    );
    let keyed = || builder().keyed_fn(key);
    check(
        include_str!("../src/circuit_breaker/keyed.rs"),
        "KeyedCircuitBreakerBuilder",
        &[],
        &[
            row(
                "max_keys",
                [0, 1].map(|v| keyed().max_keys(v).build().err()),
                [2, usize::MAX].map(|v| keyed().max_keys(v).build().err()),
            ),
            row(
                "idle",
                [
                    keyed().idle(ZERO).build().err(),
                    builder().max_open_for(MAX).keyed_fn(key).build().err(),
                    builder().max_open_for(MAX).keyed_fn(key).idle(MAX - NS).build().err(),
                ],
                [
                    keyed().idle(MAX).build().err(),
                    builder().open_for(NS).max_open_for(NS).keyed_fn(key).idle(NS).build().err(),
                ],
            ),
            any("describe_fn", keyed().describe_fn(|_| String::new()).build().err()),
        ],
    );
}

#[test]
fn an_idempotency_layer_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let find_key = |_: &u32| Ok::<RequestKey, InvalidKey>(RequestKey::Unguarded);
    let read = |_: &u32, _: &mut Digests| {};
    let unscoped = || IdempotencyLayer::builder_fn(MemoryStore::<u32>::new(), find_key, read);
    let builder = || unscoped().single_tenant();
    let reconcile = |_: Run| async { Settled::Completed(1_u32) };
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let (ms, century) = (Duration::from_millis(1), 100 * year);
    check(
        include_str!("../src/idempotency/layer.rs"),
        "IdempotencyBuilder",
        &[],
        &[
            any("scope_fn", unscoped().scope_fn(|_: &u32| Some([0; 16])).build().err()),
            any("single_tenant", unscoped().ttl(ms).single_tenant().build().err()),
            any("scope", unscoped().rerun().scope(SingleTenant).build().err()),
            any("name", builder().name("orders").build().err()),
            row(
                "reserve_first",
                [
                    builder().reserve_first().transactional().build().err(),
                    builder().transactional().reserve_first().build().err(),
                ],
                [builder().reserve_first().build().err()],
            ),
            any("transactional", builder().transactional().build().err()),
            row(
                "lease",
                [ZERO, ms - NS].map(|v| builder().lease(v).build().err()),
                [
                    builder().lease(ms).store_timeout(NS).build().err(),
                    builder().lease(600 * 1_000 * ms).build().err(),
                ],
            ),
            row(
                "lease_limit",
                [
                    builder().lease_limit(30_000 * ms - NS).build().err(),
                    builder().lease_limit(year + NS).build().err(),
                    builder().run_limit(601_000 * ms).build().err(),
                    builder().lease(601_000 * ms).build().err(),
                ],
                [30_000 * ms, year].map(|v| builder().lease_limit(v).build().err()),
            ),
            row(
                "run_limit",
                [builder().run_limit(ZERO).build().err()],
                [NS, 600_000 * ms].map(|v| builder().run_limit(v).build().err()),
            ),
            row(
                "store_timeout",
                [ZERO, 30_000 * ms, MAX].map(|v| builder().store_timeout(v).build().err()),
                [NS, 30_000 * ms - NS].map(|v| builder().store_timeout(v).build().err()),
            ),
            row(
                "ttl",
                [
                    builder().ttl(ZERO).build().err(),
                    builder().ttl(ms - NS).build().err(),
                    builder().ttl(century + NS).unknown_retention(MAX).build().err(),
                    builder().clients_retry_for(43_200_000 * ms + NS).build().err(),
                ],
                [
                    builder().ttl(ms).build().err(),
                    builder().ttl(century).unknown_retention(century).build().err(),
                ],
            ),
            row(
                "clients_retry_for",
                [builder().clients_retry_for(ZERO).build().err()],
                [NS, 43_200_000 * ms].map(|v| builder().clients_retry_for(v).build().err()),
            ),
            row(
                "unknown_retention",
                [ZERO, 86_400_000 * ms - NS, century + NS]
                    .map(|v| builder().unknown_retention(v).build().err()),
                [86_400_000 * ms, century].map(|v| builder().unknown_retention(v).build().err()),
            ),
            row(
                "retry_after",
                [ZERO, year + NS].map(|v| builder().retry_after(v).build().err()),
                [NS, year].map(|v| builder().retry_after(v).build().err()),
            ),
            row(
                "wait_for_duplicates",
                [ZERO, year + NS].map(|v| builder().wait_for_duplicates(v).build().err()),
                [NS, year].map(|v| builder().wait_for_duplicates(v).build().err()),
            ),
            row(
                "max_runs",
                [builder().max_runs(0).build().err()],
                [1, u32::MAX].map(|v| builder().max_runs(v).build().err()),
            ),
            row(
                "fingerprint_secret",
                [builder().fingerprint_secret("new").fingerprint_secret("").build().err()],
                [builder().fingerprint_secret("s").build().err()],
            ),
            any("rerun", builder().rerun().build().err()),
            any("resume", builder().resume().build().err()),
            any("reconcile_fn", builder().reconcile_fn(reconcile).build().err()),
            any("on_unknown", builder().on_unknown(Quarantine).build().err()),
        ],
    );
}

#[test]
fn a_store_in_memory_rejects_what_cannot_work_by_the_name_of_the_setter() {
    let builder = MemoryStore::builder;
    let share = |share| builder().max_share(share).build::<()>().err();
    check(
        include_str!("../src/idempotency/store/memory/mod.rs"),
        "MemoryStoreBuilder",
        &[],
        &[
            row(
                "max_records",
                [builder().max_records(0).build::<()>().err()],
                [1, u32::MAX].map(|v| builder().max_records(v).build::<()>().err()),
            ),
            row(
                "max_bytes",
                [builder().max_bytes(0).build::<()>().err()],
                [1, u64::MAX].map(|v| builder().max_bytes(v).build::<()>().err()),
            ),
            row(
                "max_share",
                [0.0, -0.0, -0.1, 1.1, f64::NAN].map(share),
                [f64::MIN_POSITIVE, 1.0].map(share),
            ),
        ],
    );
}

#[test]
fn endpoints_reject_what_cannot_work_by_the_name_of_the_setter() {
    type Builder = EndpointsBuilder<&'static str, ()>;
    type Change = fn(Builder) -> Builder;
    let builder = || Endpoints::builder(["a"], |_: &&str| ());
    let built = |change: Change| change(builder()).build().err();
    let checked = |change: Change| {
        let check: CheckFn<fn(()) -> std::future::Ready<bool>> = check_fn(|()| ready(true));
        change(builder().check(check)).build().err()
    };
    let share = |set: fn(Builder, f64) -> Builder, value| set(builder(), value).build().err();
    let shares = |knob, set| {
        let invalid = [-0.1, 1.1, f64::NAN, f64::INFINITY];
        row(knob, invalid.map(|it| share(set, it)), [0.0, 1.0].map(|it| share(set, it)))
    };
    check(
        include_str!("../src/endpoints/builder.rs"),
        "EndpointsBuilder",
        &[],
        &[
            any("name", built(|it| it.name("shop"))),
            row("group", [built(|it| it.group(1, ["b", "a"]))], [built(|it| it.group(255, ["b"]))]),
            row(
                "max_concurrent",
                [built(|it| it.max_concurrent(0))],
                [built(|it| it.max_concurrent(1)), built(|it| it.max_concurrent(u32::MAX))],
            ),
            row(
                "consecutive_failures",
                [built(|it| it.consecutive_failures(0))],
                [built(|it| it.consecutive_failures(1))],
            ),
            row(
                "eject_for",
                [built(|it| it.eject_for(ZERO))],
                [built(|it| it.eject_for(NS)), built(|it| it.eject_for(MAX).max_eject_for(MAX))],
            ),
            row(
                "max_eject_for",
                [built(|it| it.max_eject_for(NS)), built(|it| it.eject_for(MAX))],
                [built(|it| it.eject_for(NS).max_eject_for(NS))],
            ),
            shares("max_ejected", EndpointsBuilder::max_ejected),
            shares("panic_below", EndpointsBuilder::panic_below),
            any("check", checked(|it| it)),
            row(
                "check_interval",
                [built(|it| it.check_interval(MAX)), checked(|it| it.check_interval(ZERO))],
                [checked(|it| it.check_interval(MAX))],
            ),
            row(
                "check_timeout",
                [
                    built(|it| it.check_timeout(NS)),
                    checked(|it| it.check_timeout(ZERO)),
                    checked(|it| it.check_timeout(MAX)),
                    checked(|it| it.check_interval(NS)),
                ],
                [
                    checked(|it| it.check_timeout(NS)),
                    checked(|it| it.check_timeout(Duration::from_secs(10))),
                ],
            ),
            row(
                "out_after",
                [built(|it| it.out_after(1)), checked(|it| it.out_after(0))],
                [checked(|it| it.out_after(1))],
            ),
            row(
                "back_after",
                [built(|it| it.back_after(1)), checked(|it| it.back_after(0))],
                [checked(|it| it.back_after(1))],
            ),
            any("classify", builder().classify(()).build().err()),
            any(
                "classify_fn",
                builder().classify_fn(|_: Result<&(), &()>| Outcome::Ignored).build().err(),
            ),
        ],
    );
}

/// Returns the knobs named in the source of a room, each with its file.
fn knobs_in(room: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![room.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let calls = source.split("ConfigError::").skip(1).filter_map(|call| {
            let (function, arguments) = call.split_once('(')?;
            let is_check = function == "new" || function.starts_with("unless_");
            let knob = arguments.trim_start().strip_prefix('"')?.split('"').next()?;
            is_check.then(|| (path.clone(), knob.to_owned()))
        });
        found.extend(calls);
    }
    found
}

/// The rooms whose builders have a table here.
const ROOMS: [&str; 8] = [
    "timeout",
    "retry",
    "backoff",
    "budget",
    "bulkhead",
    "circuit_breaker",
    "endpoints",
    "idempotency",
];

#[test]
fn every_builder_has_a_table() {
    let tables = include_str!("builders.rs");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // The builders of the databases are left out, because they connect before they check.
    let text: String = ROOMS
        .iter()
        .map(|room| source.join(room))
        .filter(|room| !room.ends_with("idempotency"))
        .chain(["idempotency/layer.rs", "idempotency/store/memory"].map(|path| source.join(path)))
        .map(|path| text_of(&path))
        .collect();
    let builders: Vec<&str> = text
        .split("pub struct ")
        .skip(1)
        .filter_map(|found| found.split(|c: char| !c.is_alphanumeric()).next())
        .filter(|name| name.ends_with("Builder"))
        .collect();
    assert!(builders.len() >= 10, "{builders:?}: others were not found");
    for builder in builders {
        assert!(tables.contains(&format!("\"{builder}\",")), "{builder} has no table");
    }
}

#[test]
fn every_knob_is_a_method_or_a_parameter_of_its_room() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut knobs = 0;
    for room in ROOMS {
        let text = text_of(&source.join(room));
        for (path, knob) in knobs_in(&source.join(room)) {
            knobs += 1;
            let is_method = text.contains(&format!("pub fn {knob}("))
                || text.contains(&format!("pub fn {knob}<"));
            let is_parameter = text.contains(&format!("fn builder({knob}: "));
            assert!(is_method || is_parameter, "{}: `{knob}` is no setter", path.display());
        }
    }
    assert!(knobs > 20, "{knobs} knobs: they were not found");
}

fn text_of(path: &Path) -> String {
    if path.is_file() {
        return fs::read_to_string(path).unwrap();
    }
    path.read_dir().unwrap().map(|entry| text_of(&entry.unwrap().path())).collect()
}
