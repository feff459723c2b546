use std::{fmt, sync::Arc, time::Duration};

use super::switch::Switch;
use crate::ConfigError;

/// A handle for arming and disarming a chaos layer at run time.
///
/// All clones control the same layer. Dropping the handle does not disarm the layer. The layer
/// disarms itself when the time of [`arm_for`](Self::arm_for) is over.
#[derive(Clone)]
pub struct ChaosHandle {
    switch: Arc<Switch>,
}

impl ChaosHandle {
    pub(crate) fn new(switch: Arc<Switch>) -> Self {
        Self { switch }
    }

    /// Injects faults from now on, for at most `time`.
    ///
    /// The calls are numbered from zero, so that the same calls have the same faults each time.
    /// Calls in flight get no fault. If the layer is armed already, the time begins anew, and the
    /// calls and bodies that are held continue.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] for `arm_for` if `time` is zero or longer than an hour.
    pub fn arm_for(&self, time: Duration) -> Result<(), ConfigError> {
        self.switch.arm_for(time)
    }

    /// Stops injecting faults. The calls and bodies that are held continue.
    pub fn disarm(&self) {
        self.switch.disarm();
    }

    /// Returns `true` while the layer injects faults.
    pub fn is_armed(&self) -> bool {
        self.switch.is_armed()
    }

    /// Returns the number of faults that were injected since the layer was created.
    pub fn injected(&self) -> u64 {
        self.switch.injected()
    }

    /// Returns the number of calls and bodies that hang at the moment, without those that are late.
    pub fn hung(&self) -> u32 {
        self.switch.hung()
    }
}

impl fmt::Debug for ChaosHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChaosHandle").field(&self.switch).finish()
    }
}
