use std::convert::Infallible;

use tokio::task::yield_now;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    Error,
    call::degraded::DegradedBy,
    telemetry::{CallOutcome, Registry, Value, metrics::CALL_DURATION},
};

/// A future that reports a source in one of its polls, and ends in a later one.
async fn degraded(pauses: u32) -> Result<(), Error<Infallible>> {
    ResponseSource::Degraded(DegradedBy::Fallback).report();
    for _ in 0..pauses {
        yield_now().await;
    }
    Ok(())
}

fn layer(registry: &Registry, name: &'static str) -> CallSpanLayer {
    let stack = Reporters::new(Some(name.into()), Some(registry.clone()));
    CallSpanLayer::of(&stack, Arc::default(), false, false, None)
}

/// Returns the number of calls of a stack that ended in this way.
fn ended(registry: &Registry, stack: &str, outcome: CallOutcome) -> u64 {
    let families = registry.gather();
    let calls = families.iter().find(|it| it.instrument.name == CALL_DURATION.name).unwrap();
    let series = calls.series.iter().find(|it| {
        it.attribute(field::STACK) == Some(stack)
            && it.attribute(field::OUTCOME) == Some(outcome.as_str())
    });
    match &series.unwrap().value {
        Value::Histogram(snapshot) => snapshot.count(),
        Value::Number(_) => panic!("durations are a histogram"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_reported_source_counts_even_if_the_call_ends_in_a_later_poll() {
    for pauses in [0, 1, 3] {
        let registry = Registry::new();
        let service = layer(&registry, "shop").layer(service_fn(|()| degraded(pauses)));
        service.clone().oneshot(()).await.unwrap();
        assert_eq!(ended(&registry, "shop", CallOutcome::Degraded), 1);
        assert_eq!(ended(&registry, "shop", CallOutcome::Success), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_within_a_call_keeps_its_source_for_itself() {
    for counted in [true, false] {
        let registry = Registry::new();
        let inner = if counted { layer(&registry, "inner") } else { CallSpanLayer::new() };
        let inner = inner.layer(service_fn(|()| degraded(1)));
        let outer = layer(&registry, "outer").layer(inner);
        outer.clone().oneshot(()).await.unwrap();
        assert_eq!(ended(&registry, "outer", CallOutcome::Success), 1);
        assert_eq!(ended(&registry, "outer", CallOutcome::Degraded), 0);
        if counted {
            assert_eq!(ended(&registry, "inner", CallOutcome::Degraded), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_degraded_response_that_is_a_failure_is_a_failure() {
    let registry = Registry::new();
    let layer = layer(&registry, "shop");
    let failing = layer.clone().classify_fn(|_: Result<&(), &Error<Infallible>>| {
        Outcome::Failure(crate::Fault::Transient)
    });
    failing.layer(service_fn(|()| degraded(0))).oneshot(()).await.unwrap();
    assert_eq!(ended(&registry, "shop", CallOutcome::Failure), 1);
    assert_eq!(ended(&registry, "shop", CallOutcome::Degraded), 0);
}
