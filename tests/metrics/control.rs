//! Layers are changed by hand through the registry.

use buttress::{
    circuit_breaker::State,
    telemetry::{Control, Registry},
};
use tower::{Layer, ServiceExt, service_fn};

use super::{SECOND, WELL, breaker, bulkhead, call, counted, down, orders, well};

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
    let service = keyed.layer(service_fn(|_: u32| async { WELL }));
    let _ = service.oneshot(1).await;
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
