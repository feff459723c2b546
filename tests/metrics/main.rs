//! Tests of the numbers that registered layers count, property by property, on a paused clock.

#[cfg(feature = "http")]
#[path = "../support/bodies.rs"]
mod bodies;
mod calls;
#[path = "../capture/mod.rs"]
mod capture;
mod control;
mod corners;
mod gauges;
mod observers;
mod registration;
mod retry;
mod series;

use std::{collections::BTreeMap, time::Duration};

use buttress::{
    Error, Stack,
    bulkhead::{BulkheadLayer, QueuedBulkheadLayer},
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer},
    retry::{Backoff, Jitter, ReplayClones, RetryBuilder, RetryLayer},
    telemetry::{InstrumentKind, Registry},
    testing::{Flaky, Step},
};
use tower::{Layer, Service, ServiceExt};

type Text = &'static str;
type Failure = Error<Text>;
type Inner = Flaky<Text, Failure>;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const OPEN_FOR: Duration = Duration::from_secs(30);
const WELL: Result<Text, Failure> = Ok("well");
const DOWN: Result<Text, Failure> = Err(Error::Service("down"));

fn flaky(steps: impl IntoIterator<Item = Step<Text, Failure>>) -> Inner {
    Flaky::new(steps, || WELL)
}

fn well() -> Inner {
    flaky([])
}

fn down() -> Inner {
    Flaky::new([], || DOWN)
}

fn hangs() -> Inner {
    flaky([Step::Hang])
}

/// Makes one call.
async fn call<L>(layer: &L, inner: Inner) -> Result<Text, Failure>
where
    L: Layer<Inner, Service: Service<(), Response = Text, Error = Failure>>,
{
    layer.layer(inner).oneshot(()).await
}

/// Returns the settings of a breaker that opens at the first failure.
fn breaker() -> CircuitBreakerBuilder {
    let builder = CircuitBreakerLayer::builder().without_failure_rate().consecutive_failures(1);
    builder.open_jitter(0.0).probes(1)
}

/// Returns the settings of a retry without a budget and with short pauses.
fn retry() -> RetryBuilder<ReplayClones> {
    let backoff = Backoff::constant(MS).jitter(Jitter::None).build().unwrap();
    RetryLayer::builder(ReplayClones).retries(1).without_budget().backoff(backoff)
}

fn bulkhead() -> BulkheadLayer {
    BulkheadLayer::builder().max_concurrent(1).build().unwrap()
}

fn queued() -> QueuedBulkheadLayer {
    BulkheadLayer::builder().max_concurrent(1).queue(2, SECOND).build().unwrap()
}

fn orders(registry: &Registry) -> Stack {
    Stack::new().name("orders").register(registry)
}

/// Returns each counter and the number of durations in each histogram.
///
/// A name is that of the instrument, and the values of the attributes other than the names of the
/// stack and the layer. Those of calls and attempts are left out.
fn counts(registry: &Registry) -> BTreeMap<String, f64> {
    let counts = |kind| matches!(kind, InstrumentKind::Counter | InstrumentKind::Histogram);
    let others =
        ["call.duration", "call.errors", "attempt.duration", "attempt.errors", "observer.panics"];
    numbers(registry, |kind, name| counts(kind) && !others.contains(&name))
}

/// Returns the counts that are not zero.
fn counted(registry: &Registry) -> BTreeMap<String, f64> {
    let mut counts = counts(registry);
    counts.retain(|_, count| *count != 0.0);
    counts
}

/// Returns each gauge.
fn gauges(registry: &Registry) -> BTreeMap<String, f64> {
    numbers(registry, |kind, _| {
        !matches!(kind, InstrumentKind::Counter | InstrumentKind::Histogram)
    })
}

fn numbers(
    registry: &Registry,
    wanted: impl Fn(InstrumentKind, &str) -> bool,
) -> BTreeMap<String, f64> {
    let mut numbers = BTreeMap::new();
    for family in registry.gather() {
        let name = family.instrument.name.strip_prefix("buttress.").unwrap();
        if !wanted(family.instrument.kind, name) {
            continue;
        }
        for series in family.series {
            let mut key = name.to_owned();
            for (attribute, value) in &series.attributes {
                if !["buttress.stack", "buttress.layer"].contains(attribute) {
                    key.extend([" ", value]);
                }
            }
            let earlier = numbers.insert(key.clone(), series.value.as_number());
            assert_eq!(earlier, None, "two series {key}");
        }
    }
    numbers
}

/// Creates the map of counts that are each `1`, or have their number after a colon.
fn expected(counts: &[&str]) -> BTreeMap<String, f64> {
    let parse = |text: &&str| match text.split_once(": ") {
        Some((name, count)) => (name.to_owned(), count.parse().unwrap()),
        None => ((*text).to_owned(), 1.0),
    };
    counts.iter().map(parse).collect()
}

#[track_caller]
fn assert_gauges(registry: &Registry, expected: &[(&str, f64)]) {
    let gauges = gauges(registry);
    for (name, value) in expected {
        assert_eq!(gauges.get(*name), Some(value), "{name} in {gauges:#?}");
    }
}
