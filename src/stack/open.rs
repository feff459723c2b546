//! The open slots, which take any tower layer.

use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::slot::{Slot, Within};
use crate::{
    describe::{Describe, Facts, fact},
    sealed::Sealed,
};

pub(super) const AROUND_CALL: &str = "around_call";
pub(super) const AROUND_ATTEMPT: &str = "around_attempt";

/// A layer of your own in one of the open slots.
#[derive(Clone, Copy)]
pub struct Open<L> {
    layer: L,
    slot: &'static str,
}

impl<L> Open<L> {
    pub(super) fn new(layer: L, slot: &'static str) -> Self {
        Self { layer, slot }
    }
}

impl<L: fmt::Debug> fmt::Debug for Open<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.layer.fmt(f)
    }
}

impl<L> Sealed for Open<L> {}

/// Describes only the slot, because nothing is known about the layer.
impl<L> Describe for Open<L> {
    fn describe(&self, facts: &mut Facts) {
        facts.line(self.slot, "a layer of your own; its time and its calls are not known");
        if self.slot == AROUND_CALL {
            facts.note(fact::OUTSIDE_THE_TOTAL);
        }
    }
}

impl<S, C, M, L: Layer<S>> Slot<S, C, M> for Open<L> {
    type Service = L::Service;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.layer.layer(inner)
    }

    fn wrap_in_stack(&self, inner: S, classifier: &Arc<C>, within: &Within<'_>) -> Self::Service {
        if self.slot == AROUND_CALL {
            within.is_around_call.set(true);
        }
        Slot::<S, C, M>::wrap(self, inner, classifier)
    }
}
