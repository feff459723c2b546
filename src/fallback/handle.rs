use std::{fmt, sync::Arc};

use super::state::{State, Use};
use crate::telemetry::Reporters;

/// A handle for switching the service off and on, and for inspecting its fallback.
///
/// All clones control the same fallback.
#[derive(Clone)]
pub struct FallbackHandle {
    state: Arc<State>,
}

impl FallbackHandle {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    /// Takes the names and the registry of a stack.
    pub(crate) fn inherit(&self, stack: &Reporters) {
        self.state.inherit(stack);
    }

    /// Returns `true` to the first caller only. Others share the fallback with it.
    pub(crate) fn claim(&self) -> bool {
        self.state.claim()
    }

    /// Switches the service off. Calls get the fallback at once, and the service is not called.
    ///
    /// The next call of each service sees it, and so do callers that wait until the service is
    /// ready. Calls in flight continue. It stays off until [`switch_on`](Self::switch_on).
    pub fn switch_off(&self) {
        self.state.switch(true);
    }

    /// Switches the service on again.
    pub fn switch_on(&self) {
        self.state.switch(false);
    }

    /// Returns `true` if the service is switched off.
    pub fn is_off(&self) -> bool {
        self.state.is_off()
    }

    /// Returns the number of failed calls that got the response of the fallback.
    pub fn used(&self) -> u64 {
        self.state.count(Use::Used)
    }

    /// Returns the number of calls that got the fallback because the service was switched off.
    pub fn used_while_off(&self) -> u64 {
        self.state.count(Use::Off)
    }

    /// Returns the number of calls for which the fallback failed, panicked or took too long.
    pub fn failed(&self) -> u64 {
        self.state.count(Use::Failed)
    }

    /// Returns the number of calls that needed a fallback but got none from it.
    ///
    /// The source has no response for such a call. They end with the result of the service, or are
    /// rejected while the service is switched off.
    pub fn declined(&self) -> u64 {
        self.state.count(Use::Declined)
    }
}

impl fmt::Debug for FallbackHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackHandle")
            .field("is_off", &self.is_off())
            .field("used", &self.used())
            .field("used_while_off", &self.used_while_off())
            .field("failed", &self.failed())
            .field("declined", &self.declined())
            .finish_non_exhaustive()
    }
}
