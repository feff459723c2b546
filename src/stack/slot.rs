use std::sync::Arc;

use tower_layer::Layer;

use crate::{
    bulkhead::{Bulkhead, BulkheadLayer, QueuedBulkhead, QueuedBulkheadLayer},
    call::completion::AtHead,
    circuit_breaker::{
        CircuitBreaker, CircuitBreakerLayer, KeyedCircuitBreaker, KeyedCircuitBreakerLayer,
    },
    outcome::{DefaultClassifier, choice::Choice},
    retry::{Retry, RetryLayer},
    timeout::{Timeout, TimeoutLayer, TotalTimeout, TotalTimeoutLayer},
};

/// A slot of a stack that may be filled: what it makes of the service beneath it, given the stack's
/// classifier `C`, and `M`, which says [when a call has ended](crate::completion).
pub trait Slot<S, C, M = AtHead> {
    /// The service with the layer around it; `S` itself where the slot is empty.
    type Service;

    /// Puts the layer around a service.
    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service;
}

/// What stands next to the service, and what that means for the layers above it.
pub trait Edge {
    /// When a call has ended.
    type Completion;
    /// Who judges the results, unless the stack is told otherwise.
    type Classifier;

    /// The classifier, shared by the layers.
    fn classifier(&self) -> Arc<Self::Classifier>;
}

impl Edge for Empty {
    type Completion = AtHead;
    type Classifier = DefaultClassifier;

    fn classifier(&self) -> Arc<DefaultClassifier> {
        Arc::new(DefaultClassifier)
    }
}

/// Around a handler of a server: nothing stands next to it, but a call ends with its response.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerEdge;

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
    note = "`CircuitBreakerLayer` and `KeyedCircuitBreakerLayer` are; a builder becomes one by \
           `.build()?`"
)]
pub trait CircuitBreakerSlot {}

impl<C> CircuitBreakerSlot for CircuitBreakerLayer<C> {}
impl<K, F, C> CircuitBreakerSlot for KeyedCircuitBreakerLayer<K, F, C> {}

/// A slot that is not filled. It leaves no trace in the service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Empty;

impl<S, C, M> Slot<S, C, M> for Empty {
    type Service = S;

    fn wrap(&self, inner: S, _: &Arc<C>) -> S {
        inner
    }
}

impl<S, C, M, L: Clone> Slot<S, C, M> for TotalTimeoutLayer<L> {
    type Service = TotalTimeout<S, L>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.layer(inner)
    }
}

impl<S, C, M, L: Clone> Slot<S, C, M> for TimeoutLayer<L> {
    type Service = Timeout<S, L>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.layer(inner)
    }
}

impl<S: Clone, C, M, P, D: Choice<C>> Slot<S, C, M> for RetryLayer<P, D> {
    type Service = Retry<S, P, D::Chosen, M>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        self.in_stack(classifier).completing(inner)
    }
}

impl<S, C, M> Slot<S, C, M> for BulkheadLayer {
    type Service = Bulkhead<S, M>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.completing(inner)
    }
}

impl<S, C, M> Slot<S, C, M> for QueuedBulkheadLayer {
    type Service = QueuedBulkhead<S, M>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.completing(inner)
    }
}

impl<S, C, M, D: Choice<C>> Slot<S, C, M> for CircuitBreakerLayer<D> {
    type Service = CircuitBreaker<S, D::Chosen, M>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        self.in_stack(classifier).completing(inner)
    }
}

impl<S, C, M, K, F, D: Choice<C>> Slot<S, C, M> for KeyedCircuitBreakerLayer<K, F, D> {
    type Service = KeyedCircuitBreaker<S, K, F, D::Chosen, M>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        self.in_stack(classifier).completing(inner)
    }
}
