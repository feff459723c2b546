//! The configuration of a bulkhead, and its checks.

use std::time::Duration;

use crate::{
    ConfigError,
    telemetry::{Kind, ReporterCell},
};

/// The default limit.
///
/// At 50 ms per call, 256 concurrent calls are about 5,000 calls per second. A dependency that
/// hangs blocks at most 256 tasks.
const MAX_CONCURRENT: u32 = 256;

/// The settings of a bulkhead, with or without a queue.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) reporter: ReporterCell,
    pub(super) max_concurrent: u32,
    pub(super) when_full: WhenFull,
}

impl Default for Config {
    fn default() -> Self {
        let reporter = ReporterCell::new(None, Kind::Bulkhead);
        Self { reporter, max_concurrent: MAX_CONCURRENT, when_full: WhenFull::Reject }
    }
}

impl Config {
    /// Returns the settings, or an error if the limit is zero.
    pub(super) fn checked(self) -> Result<Self, ConfigError> {
        ConfigError::require_nonzero("max_concurrent", self.max_concurrent)?;
        Ok(self)
    }
}

/// The treatment of a call that finds no free slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenFull {
    Reject,
    Wait,
}

/// The size of a queue and the longest wait in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) capacity: u32,
    pub(super) max_wait: Duration,
}

impl Queue {
    /// Returns the settings of a bulkhead and of its queue.
    ///
    /// Returns an error if a value is zero, or if backpressure is set too.
    pub(super) fn checked(self, bulkhead: Config) -> Result<(Config, Self), ConfigError> {
        if bulkhead.when_full == WhenFull::Wait {
            let rule = "a bulkhead either queues calls or pushes back";
            return Err(ConfigError::new("backpressure", true, rule));
        }
        let bulkhead = bulkhead.checked()?;
        if self.capacity == 0 {
            let rule = "its `capacity` must be at least 1";
            return Err(ConfigError::new("queue", self.capacity, rule));
        }
        if self.max_wait.is_zero() {
            let rule = "its `max_wait` must be longer than zero";
            return Err(ConfigError::new("queue", self.max_wait, rule));
        }
        Ok((bulkhead, self))
    }
}
