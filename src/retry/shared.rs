//! What the services of a layer, and their calls, share.

use std::{
    any::type_name,
    fmt,
    sync::{Arc, Mutex},
};

use super::config::Config;
use crate::call::lock::lock;

/// What a call may need later: shared, so that a call which is not retried pays one reference count
/// and not a clone of everything beneath.
pub(super) struct Shared<S, P, C> {
    config: Arc<Config>,
    replay: Arc<P>,
    classifier: Arc<C>,
    /// Cloned for each retry. Behind a lock because it need not be `Sync`.
    spare: Mutex<S>,
}

impl<S, P, C> Shared<S, P, C> {
    pub(super) fn new(
        config: Arc<Config>,
        replay: Arc<P>,
        classifier: Arc<C>,
        service: S,
    ) -> Arc<Self> {
        Arc::new(Self { config, replay, classifier, spare: Mutex::new(service) })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn replay(&self) -> &P {
        &self.replay
    }

    pub(super) fn classifier(&self) -> &C {
        &self.classifier
    }

    /// A clone of the service, not yet ready.
    pub(super) fn service(&self) -> S
    where
        S: Clone,
    {
        // The clone of a service runs under this lock and cannot come back to it: nobody else has it.
        lock(&self.spare).clone()
    }
}

impl<S, P, C> fmt::Debug for Shared<S, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", self.config())
            .field("replay", &format_args!("{}", type_name::<P>()))
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish_non_exhaustive()
    }
}
