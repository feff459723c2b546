//! A set of endpoints as a registry reads it.

use std::sync::{Arc, Weak};

use super::{health::EndpointStatus, shared::Shared};
use crate::telemetry::{
    LayerState, Readings, Registry,
    instrument::{ENDPOINTS, ENDPOINTS_ACTIVE},
};

impl<S: Send + 'static> Shared<S> {
    /// Counts in a registry from now on.
    pub(super) fn register(self: &Arc<Self>, registry: &Registry) {
        let state: Weak<Self> = Arc::downgrade(self);
        self.config.reporter.register(registry, Some(state));
    }
}

impl<S: Send> LayerState for Shared<S> {
    fn read(&self, readings: &mut Readings) {
        let endpoints = self.endpoints();
        for status in EndpointStatus::ALL {
            let count = endpoints.iter().filter(|(_, it)| *it == status).count();
            readings.set_with(&ENDPOINTS, status.as_str(), count as f64);
        }
        let active: u32 = endpoints.iter().map(|(endpoint, _)| endpoint.active()).sum();
        readings.set(&ENDPOINTS_ACTIVE, (active + self.active_at_removed()).into());
    }

    /// Endpoints that are out still get calls if there are no others.
    fn unready(&self) -> Option<&'static str> {
        let endpoints = self.endpoints();
        let open = endpoints.iter().any(|(_, it)| *it != EndpointStatus::Draining);
        (!open).then_some("no_endpoint")
    }
}
