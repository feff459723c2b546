//! Every builder: an invalid value is an error whose knob is the name of the setter, and each end of
//! a range that is valid can be built.
//!
//! A table has a row for each setter. The setters are read from the source, so that a new one without
//! a row fails. So does a knob that is neither a setter nor a parameter of a constructor.

use std::{collections::BTreeSet, time::Duration};

use buttress::{
    ConfigError, Outcome,
    bulkhead::{BulkheadLayer, QueuedBulkheadLayer},
    circuit_breaker::CircuitBreakerLayer,
    retry::{Backoff, Budget, Jitter, ReplayClones, RetryLayer},
    timeout::TimeoutLayer,
};

const NS: Duration = Duration::from_nanos(1);
const MAX: Duration = Duration::MAX;
const ZERO: Duration = Duration::ZERO;

/// The errors of one setter, or of one parameter of a constructor.
struct Row {
    knob: &'static str,
    rejected: Vec<Option<ConfigError>>,
    accepted: Vec<Option<ConfigError>>,
}

/// What `build` said to invalid values of a knob, and to valid ones.
fn row(
    knob: &'static str,
    rejected: impl Into<Vec<Option<ConfigError>>>,
    accepted: impl Into<Vec<Option<ConfigError>>>,
) -> Row {
    Row { knob, rejected: rejected.into(), accepted: accepted.into() }
}

/// A setter that takes every value.
fn any(setter: &'static str, built: Option<ConfigError>) -> Row {
    row(setter, [], [built])
}

/// Checks the rows of a builder, which stands in `source`, and that no setter is without one.
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

/// The methods of a builder that take it, but not `build`.
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
    // Without effect there.
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
                    // Without effect there.
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
                [f64::NAN, f64::INFINITY, 0.999, -2.0].map(growth),
                [1.0, f64::MAX].map(growth),
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
        ],
    );
}
