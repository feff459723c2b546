//! A circuit that is opened by hand for a time, and what a snapshot tells of an outage.

use std::time::Duration;

use buttress::{
    CarryRejection, Error,
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer, State},
    testing::{Flaky, task::SpawnedService},
};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};

use super::{Answer, DOWN, Inner, MS, SECOND, WELL};

/// Returns the settings of a breaker that opens at the first failure.
pub(super) fn breaker() -> CircuitBreakerBuilder {
    let builder = CircuitBreakerLayer::builder().without_failure_rate().consecutive_failures(1);
    builder.open_jitter(0.0).probes(1)
}

pub(super) fn well() -> Inner {
    Flaky::new([], || WELL)
}

pub(super) fn down() -> Inner {
    Flaky::new([], || DOWN)
}

/// Makes one call.
pub(super) async fn call(layer: &CircuitBreakerLayer, inner: Inner) -> Answer {
    layer.layer(inner).oneshot(()).await
}

fn retry_after(result: Answer) -> Option<Duration> {
    let error: Error<_> = result.unwrap_err();
    let rejection = error.rejection().unwrap();
    assert_eq!(rejection.kind(), "circuit_open");
    rejection.retry_after()
}

#[tokio::test(start_paused = true)]
async fn a_forced_circuit_ends_by_itself_and_its_probes_decide() {
    let layer = breaker().build().unwrap();
    let handle = layer.handle();
    for (inner, after) in [(well(), State::Closed), (down(), State::Open)] {
        handle.force_open_for(10 * SECOND);
        assert_eq!(retry_after(call(&layer, well()).await), Some(10 * SECOND));
        advance(10 * SECOND - MS).await;
        assert_eq!(retry_after(call(&layer, well()).await), Some(MS));
        assert_eq!(handle.snapshot().retry_after(), Some(MS));
        advance(MS).await;
        assert_eq!((handle.state(), handle.snapshot().retry_after()), (State::ForcedOpen, None));
        let _ = call(&layer, inner).await;
        assert_eq!(handle.state(), after);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_hand_decides_how_long_a_circuit_is_forced() {
    let layer = breaker().build().unwrap();
    let handle = layer.handle();
    handle.force_open_for(SECOND);
    handle.force_open_for(5 * SECOND);
    advance(SECOND).await;
    assert_eq!(retry_after(call(&layer, well()).await), Some(4 * SECOND));
    handle.force_open();
    advance(100 * SECOND).await;
    assert_eq!(retry_after(call(&layer, well()).await), None);
    handle.force_open_for(SECOND);
    handle.close();
    assert!(call(&layer, well()).await.is_ok());
    // A time that the clock cannot express is one without an end, but not one that never ends.
    handle.force_open_for(Duration::MAX);
    assert!(retry_after(call(&layer, well()).await).is_some());
    handle.force_open_for(Duration::ZERO);
    assert!(call(&layer, well()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_pends_is_woken_when_a_forced_circuit_ends() {
    let layer = breaker().pend().build().unwrap();
    layer.handle().force_open();
    let mut waits = SpawnedService::<_, ()>::new(layer.layer(well()));
    assert!(waits.poll_ready().is_pending());
    layer.handle().force_open_for(SECOND);
    assert!(waits.is_woken());
    assert!(waits.poll_ready().is_pending());
    advance(SECOND + MS).await;
    assert!(waits.is_woken());
    assert!(waits.poll_ready().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_forced_for_a_time_is_kept_until_then_and_not_for_ever() {
    let keyed = breaker().keyed_fn(|key: &u32| *key).max_keys(2).build().unwrap();
    let service = keyed.layer(service_fn(|_: u32| async { WELL }));
    let call = async |key| _ = service.clone().oneshot(key).await;
    call(0).await;
    keyed.handle(&0).unwrap().force_open_for(3_600 * SECOND);
    for key in 1..20 {
        call(key).await;
        advance(100 * SECOND).await;
    }
    assert_eq!(keyed.handle(&0).unwrap().state(), State::ForcedOpen);
    advance(3_600 * SECOND).await;
    for key in 1..20 {
        call(key).await;
        advance(100 * SECOND).await;
    }
    assert!(keyed.handle(&0).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_tells_of_the_rejections_of_the_outage() {
    let layer = breaker().build().unwrap();
    let seen = || {
        let snapshot = layer.handle().snapshot();
        (snapshot.rejected(), snapshot.time_in_state())
    };
    advance(SECOND).await;
    assert_eq!(seen(), (0, SECOND));
    let _ = call(&layer, down()).await;
    assert_eq!(seen(), (0, Duration::ZERO));
    for _ in 0..3 {
        let _ = call(&layer, well()).await;
    }
    advance(30 * SECOND).await;
    assert_eq!(seen(), (3, 30 * SECOND));
    let _ = call(&layer, down()).await;
    let _ = call(&layer, well()).await;
    assert_eq!(seen(), (4, Duration::ZERO));
    layer.handle().close();
    assert_eq!(seen(), (0, Duration::ZERO));
}
