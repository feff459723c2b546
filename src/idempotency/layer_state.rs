//! An idempotency layer as a registry reads it.

use std::sync::{Arc, Weak};

use super::{IdempotencyLayer, shared::Shared};
use crate::telemetry::{Drained, LayerState, Readings, Registry, instrument::IDEMPOTENCY_ACTIVE};

impl<St: Send + Sync + 'static, K, C, Q, R, U> IdempotencyLayer<St, K, C, Q, R, U> {
    /// Registers the layer, which counts from now on, and returns it.
    ///
    /// Default: none. Nothing is counted in a registry then.
    ///
    /// All clones of the layer and all services that it creates are registered with it. The first
    /// registry that a layer is registered in keeps it. The layer counts its requests with a key,
    /// its rejections, its unknown operations and its lost leases, and measures the steps of its
    /// store. The [module docs](super#telemetry) list them.
    pub fn register(self, registry: &Registry) -> Self {
        let state: Weak<Shared<St>> = Arc::downgrade(&self.shared);
        self.shared.config.reporter.register(registry, Some(state));
        self
    }
}

impl<St: Send + Sync + 'static> LayerState for Shared<St> {
    fn read(&self, readings: &mut Readings) {
        readings.set(&IDEMPOTENCY_ACTIVE, self.runs.count().into());
    }

    fn unready(&self) -> Option<&'static str> {
        self.runs.is_closed().then_some("closed")
    }

    fn drained(self: Arc<Self>) -> Option<Drained> {
        Some(Box::pin(async move { self.runs.drained().await }))
    }
}
