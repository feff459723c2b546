use tower_layer::Layer;

use super::{
    builder::Stack,
    slot::{Edge, Slot},
};
use crate::{
    outcome::choice::Choice,
    telemetry::{CallSpan, CallSpanLayer},
};

/// The classifier that the layers of a stack inherit.
type Chosen<C, H> = <C as Choice<<H as Edge>::Classifier>>::Chosen;

impl<S, T, R, B, K, A, H, C> Layer<S> for Stack<T, R, B, K, A, H, C>
where
    H: Edge + Slot<S, Chosen<C, H>, H::Completion>,
    C: Choice<H::Classifier>,
    A: Slot<H::Service, Chosen<C, H>, H::Completion>,
    K: Slot<A::Service, Chosen<C, H>, H::Completion>,
    B: Slot<K::Service, Chosen<C, H>, H::Completion>,
    R: Slot<B::Service, Chosen<C, H>, H::Completion>,
    T: Slot<R::Service, Chosen<C, H>, H::Completion>,
{
    type Service = CallSpan<T::Service, H::Completion>;

    fn layer(&self, service: S) -> Self::Service {
        let classifier = C::choose(&self.classifier, &self.edge.classifier());
        let service = self.edge.wrap(service, &classifier);
        let service = self.attempt_timeout.wrap(service, &classifier);
        let service = self.circuit_breaker.wrap(service, &classifier);
        let service = self.bulkhead.wrap(service, &classifier);
        let service = self.retry.wrap(service, &classifier);
        let service = self.total_timeout.wrap(service, &classifier);
        CallSpanLayer::new().completing(service)
    }
}
