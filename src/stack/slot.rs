use std::sync::Arc;

use tower_layer::Layer;

use crate::{
    bulkhead::{Bulkhead, BulkheadLayer, QueuedBulkhead, QueuedBulkheadLayer},
    circuit_breaker::{
        CircuitBreaker, CircuitBreakerLayer, KeyedCircuitBreaker, KeyedCircuitBreakerLayer,
    },
    outcome::choice::Choice,
    retry::{Retry, RetryLayer},
    timeout::{Timeout, TimeoutLayer, TotalTimeout, TotalTimeoutLayer},
};

/// A slot of a stack that may be filled: what it makes of the service beneath it, given the stack's
/// classifier `C`.
pub trait Slot<S, C> {
    /// The service with the layer around it; `S` itself where the slot is empty.
    type Service;

    /// Puts the layer around a service.
    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service;
}

/// What can fill the bulkhead's slot.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a bulkhead",
    note = "`BulkheadLayer` and `QueuedBulkheadLayer` are; a builder becomes one by `.build()?`"
)]
pub trait BulkheadSlot {}

impl BulkheadSlot for BulkheadLayer {}
impl BulkheadSlot for QueuedBulkheadLayer {}

/// What can fill the circuit breaker's slot.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a circuit breaker",
    note = "`CircuitBreakerLayer` and `KeyedCircuitBreakerLayer` are; a builder becomes one by `.build()?`"
)]
pub trait CircuitBreakerSlot {}

impl<C> CircuitBreakerSlot for CircuitBreakerLayer<C> {}
impl<K, F, C> CircuitBreakerSlot for KeyedCircuitBreakerLayer<K, F, C> {}

/// A slot that is not filled. It leaves no trace in the service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Empty;

impl<S, C> Slot<S, C> for Empty {
    type Service = S;

    fn wrap(&self, inner: S, _: &Arc<C>) -> S {
        inner
    }
}

impl<S, C, L: Clone> Slot<S, C> for TotalTimeoutLayer<L> {
    type Service = TotalTimeout<S, L>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.layer(inner)
    }
}

impl<S, C, L: Clone> Slot<S, C> for TimeoutLayer<L> {
    type Service = Timeout<S, L>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.layer(inner)
    }
}

impl<S: Clone, C, P, D: Choice<C>> Slot<S, C> for RetryLayer<P, D> {
    type Service = Retry<S, P, D::Chosen>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        self.in_stack(classifier).layer(inner)
    }
}

impl<S, C> Slot<S, C> for BulkheadLayer {
    type Service = Bulkhead<S>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.layer(inner)
    }
}

impl<S, C> Slot<S, C> for QueuedBulkheadLayer {
    type Service = QueuedBulkhead<S>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.layer(inner)
    }
}

impl<S, C, D: Choice<C>> Slot<S, C> for CircuitBreakerLayer<D> {
    type Service = CircuitBreaker<S, D::Chosen>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        self.in_stack(classifier).layer(inner)
    }
}

impl<S, C, K, F, D: Choice<C>> Slot<S, C> for KeyedCircuitBreakerLayer<K, F, D> {
    type Service = KeyedCircuitBreaker<S, K, F, D::Chosen>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        self.in_stack(classifier).layer(inner)
    }
}
