use std::cell::Cell;

use tower_layer::Layer;

use super::{
    builder::Stack,
    slot::{Slot, Within},
    table::{SlotAt, Wrap, position},
    transport::{Transport, WithTransport},
};
use crate::{
    outcome::choice::ChooseClassifier,
    sealed::Sealed,
    telemetry::{CallSpan, CallSpanLayer},
};

/// The layer next to the service.
type TransportOf<Slots> = <Slots as SlotAt<position::TransportPosition>>::Layer;

/// The type that decides when a call of the stack is complete.
type Completion<Slots> = <TransportOf<Slots> as Transport>::Completion;

/// The classifier that the layers of a stack inherit.
type Chosen<Slots, C> =
    <C as ChooseClassifier<<TransportOf<Slots> as Transport>::Classifier>>::Chosen;

/// The service within the span of the call.
type Wrapped<S, Slots, C> = <Slots as Wrap<S, Chosen<Slots, C>, Completion<Slots>>>::Service;

impl<Slots, C> Sealed for Stack<Slots, C> {}

impl<S, Slots, C> WithTransport<S> for Stack<Slots, C>
where
    Slots: SlotAt<position::TransportPosition>,
    TransportOf<Slots>: Transport + Slot<S, Chosen<Slots, C>, Completion<Slots>>,
    C: ChooseClassifier<<TransportOf<Slots> as Transport>::Classifier>,
{
    type Transport = TransportOf<Slots>;
    type Service = <TransportOf<Slots> as Slot<S, Chosen<Slots, C>, Completion<Slots>>>::Service;
}

impl<S, Slots, C> Layer<S> for Stack<Slots, C>
where
    Slots: SlotAt<position::TransportPosition> + Wrap<S, Chosen<Slots, C>, Completion<Slots>>,
    TransportOf<Slots>: Transport,
    C: ChooseClassifier<<TransportOf<Slots> as Transport>::Classifier>,
{
    type Service = CallSpan<Wrapped<S, Slots, C>, Chosen<Slots, C>, Completion<Slots>>;

    fn layer(&self, service: S) -> Self::Service {
        let classifier = C::choose(&self.classifier, &self.slots.at().classifier());
        let (is_around_call, retries) = (Cell::new(false), Cell::new(false));
        let reporters = &self.reporters;
        let (own_limit, total) = self.slots.limits();
        let within = Within {
            own_limit,
            total,
            reporters,
            is_around_call: &is_around_call,
            retries: &retries,
        };
        let service = self.slots.wrap(service, &classifier, within);
        let settles = !retries.get() && !self.slots.at().is_server();
        let reads_end = is_around_call.get();
        CallSpanLayer::of(reporters, classifier, reads_end, settles, own_limit).completing(service)
    }
}
