//! Layers are changed by hand through the registry, and a forced circuit ends by itself.

use std::time::Duration;

use buttress::{
    CarryRejection,
    circuit_breaker::State,
    telemetry::{Control, Registry},
    testing::task::SpawnedService,
};
use tokio::time::advance;
use tower::Layer;

use super::{Failure, MS, SECOND, Text, breaker, bulkhead, call, counted, down, orders, well};

fn retry_after(result: Result<Text, Failure>) -> Option<Duration> {
    let error = result.unwrap_err();
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
    let service = keyed.layer(tower::service_fn(|_: u32| async { super::WELL }));
    let call = async |key| _ = tower::ServiceExt::oneshot(service.clone(), key).await;
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
async fn a_registry_changes_the_layers_of_a_name() {
    let registry = Registry::new();
    let (bulkhead, breaker) = (bulkhead(), breaker().build().unwrap());
    let (slots, circuit) = (bulkhead.handle(), breaker.handle());
    let stack = orders(&registry).bulkhead(bulkhead).circuit_breaker(breaker);
    let _ = call(&stack, well()).await;
    let control = |control| registry.control(Some("orders"), "orders", control, "somebody");

    assert_eq!(control(Control::ForceOpen(None)), 1);
    assert_eq!((circuit.state(), circuit.snapshot().retry_after()), (State::ForcedOpen, None));
    assert_eq!(control(Control::ForceOpen(Some(SECOND))), 1);
    assert_eq!(circuit.snapshot().retry_after(), Some(SECOND));
    assert_eq!(control(Control::Disable), 1);
    assert_eq!(circuit.state(), State::Disabled);
    assert_eq!(control(Control::Close), 1);
    assert_eq!(circuit.state(), State::Closed);
    let _ = call(&stack, down()).await;
    assert_eq!(control(Control::Reset), 1);
    assert_eq!((circuit.state(), circuit.snapshot().failures()), (State::Closed, 0));

    assert_eq!(control(Control::Resize(7)), 1);
    assert_eq!(slots.limit(), 7);
    assert_eq!(control(Control::Resize(0)), 0);
    assert_eq!(slots.limit(), 7);
    assert_eq!(control(Control::Resize(u32::MAX)), 1);
    assert_eq!(slots.limit(), u32::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_not_for_a_layer_changes_nothing() {
    let registry = Registry::new();
    let keyed = breaker().keyed_fn(|key: &u32| *key).build().unwrap().register(&registry);
    let service = keyed.layer(tower::service_fn(|_: u32| async { super::WELL }));
    let _ = tower::ServiceExt::oneshot(service, 1).await;
    for control in [
        Control::ForceOpen(None),
        Control::ForceOpen(Some(SECOND)),
        Control::Close,
        Control::Reset,
        Control::Disable,
        Control::Resize(1),
    ] {
        // A breaker by key has a handle for each key.
        assert_eq!(registry.control(None, "circuit_breaker", control, "somebody"), 0);
        assert_eq!(registry.control(None, "unknown", control, "somebody"), 0);
    }
    assert_eq!(keyed.handle(&1).unwrap().state(), State::Closed);
    assert!(counted(&registry).is_empty());
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
