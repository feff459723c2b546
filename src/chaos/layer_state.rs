//! A chaos layer as a registry reads and disarms it.

use std::sync::{Arc, Weak};

use super::switch::Switch;
use crate::telemetry::{
    Control, LayerState, Readings, Registry,
    instrument::{CHAOS_ARMED, CHAOS_HUNG},
};

impl Switch {
    /// Counts in a registry from now on.
    pub(crate) fn register(self: &Arc<Self>, registry: &Registry) {
        let state: Weak<Self> = Arc::downgrade(self);
        self.reporter_cell().register(registry, Some(state));
    }
}

impl LayerState for Switch {
    fn read(&self, readings: &mut Readings) {
        readings.set(&CHAOS_ARMED, self.is_armed().into());
        readings.set(&CHAOS_HUNG, self.hung().into());
    }

    /// Disarms the layer. Only its handle arms it.
    fn control(&self, control: Control) -> bool {
        let is_disarm = control == Control::Disarm;
        if is_disarm {
            self.disarm();
        }
        is_disarm
    }
}
