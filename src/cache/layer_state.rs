//! A cache as a registry reads and changes it.

use std::sync::{Arc, Weak};

use super::shared::Shared;
use crate::telemetry::{
    Control, Drained, LayerState, Readings, Registry, Reporters,
    instrument::{CACHE_BYTES, CACHE_ENTRIES, CACHE_SHARED_CALLS},
};

impl<K, V> Shared<K, V>
where
    K: Eq + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Takes the names and the registry of a stack.
    pub(super) fn inherit(self: &Arc<Self>, stack: &Reporters) {
        self.config.reporter.inherit(stack, || Some(self.state()));
    }

    /// Counts in a registry from now on.
    pub(super) fn register(self: &Arc<Self>, registry: &Registry) {
        self.config.reporter.register(registry, Some(self.state()));
    }

    fn state(self: &Arc<Self>) -> Weak<dyn LayerState> {
        let shared: Weak<Self> = Arc::downgrade(self);
        shared
    }
}

/// A cache is never unready. Without its entries it asks the service.
impl<K, V> LayerState for Shared<K, V>
where
    K: Eq + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    fn read(&self, readings: &mut Readings) {
        let counts = self.counts();
        readings.set(&CACHE_ENTRIES, counts.entries as f64);
        readings.set(&CACHE_BYTES, counts.bytes as f64);
        readings.set(&CACHE_SHARED_CALLS, counts.shared_calls.into());
    }

    fn control(&self, control: Control) -> bool {
        if control == Control::ForgetAll {
            self.forget_all();
            return true;
        }
        false
    }

    /// Waits for the shared calls, which may go on after their callers have left.
    fn drained(self: Arc<Self>) -> Option<Drained> {
        Some(Box::pin(async move { self.calls.drained().await }))
    }
}
