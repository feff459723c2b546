//! A fallback as a registry reads and changes it.

use std::sync::{Arc, Weak};

use super::state::State;
use crate::telemetry::{
    Control, LayerState, Readings, Registry, Reporters, instrument::FALLBACK_SWITCHED_OFF,
};

impl State {
    /// Takes the names and the registry of a stack.
    pub(super) fn inherit(self: &Arc<Self>, stack: &Reporters) {
        self.config.reporter.inherit(stack, || Some(self.layer_state()));
    }

    /// Counts in a registry from now on.
    pub(super) fn register(self: &Arc<Self>, registry: &Registry) {
        self.config.reporter.register(registry, Some(self.layer_state()));
    }

    fn layer_state(self: &Arc<Self>) -> Weak<dyn LayerState> {
        let state: Weak<Self> = Arc::downgrade(self);
        state
    }
}

/// A fallback that is switched off is never unready, because it still responds.
impl LayerState for State {
    fn read(&self, readings: &mut Readings) {
        readings.set(&FALLBACK_SWITCHED_OFF, f64::from(u8::from(self.is_off())));
    }

    fn control(&self, control: Control) -> bool {
        match control {
            Control::SwitchOff => self.switch(true),
            Control::SwitchOn => self.switch(false),
            _ => return false,
        }
        true
    }
}
