//! A bulkhead as a registry reads and changes it.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::{future, queue::Slots};
use crate::telemetry::{
    Control, Drained, LayerState, Readings, Registry, Reporters,
    instrument::{
        BULKHEAD_ACTIVE, BULKHEAD_LIMIT, BULKHEAD_QUEUE_DURATION, BULKHEAD_QUEUE_LIMIT,
        BULKHEAD_QUEUED,
    },
};

impl Slots {
    /// Takes the names and the registry of a stack.
    pub(super) fn inherit(self: &Arc<Self>, stack: &Reporters) {
        self.reporter_cell().inherit(stack, || Some(self.state()));
    }

    /// Counts in a registry from now on.
    pub(super) fn register(self: &Arc<Self>, registry: &Registry) {
        self.reporter_cell().register(registry, Some(self.state()));
    }

    /// Measures a wait in the queue, if the bulkhead is registered.
    pub(super) fn measure_wait(&self, result: &'static str, joined_at: Option<Instant>) {
        if let (Some(meter), Some(joined_at)) = (self.reporter_cell().meter(), joined_at) {
            let waited = Instant::now().saturating_duration_since(joined_at);
            meter.measure(&BULKHEAD_QUEUE_DURATION, [result, ""], waited);
        }
    }

    fn state(self: &Arc<Self>) -> Weak<dyn LayerState> {
        let slots: Weak<Self> = Arc::downgrade(self);
        slots
    }
}

/// A full bulkhead is never unready. It is under load, and its dependency may be well.
impl LayerState for Slots {
    fn read(&self, readings: &mut Readings) {
        readings.set(&BULKHEAD_ACTIVE, self.in_flight().into());
        readings.set(&BULKHEAD_LIMIT, self.limit().into());
        readings.set(&BULKHEAD_QUEUED, self.queued().into());
        if let Some(capacity) = self.queue_limit() {
            readings.set(&BULKHEAD_QUEUE_LIMIT, capacity.into());
        }
    }

    fn control(&self, control: Control) -> bool {
        match control {
            Control::Resize(limit) if limit > 0 => {
                self.resize(limit);
                true
            }
            _ => false,
        }
    }

    fn drained(self: Arc<Self>) -> Option<Drained> {
        Some(Box::pin(future::Drained::new(self)))
    }
}
