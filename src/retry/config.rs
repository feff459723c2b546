//! The configuration of a retry layer.

use std::time::Duration;

use crate::{
    ConfigError,
    backoff::Backoff,
    budget::Budget,
    telemetry::{Kind, Reporter, ReporterCell},
};

/// The settings of a retry layer, and its budget.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) reporter: ReporterCell,
    pub(super) retries: u32,
    pub(super) backoff: Backoff,
    pub(super) budget: Option<Budget>,
    pub(super) hint_cap: Duration,
    pub(super) readiness_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            reporter: ReporterCell::new(None, Kind::Retry),
            retries: 3,
            backoff: Backoff::default(),
            budget: Some(Budget::default()),
            hint_cap: Duration::from_secs(2),
            readiness_wait: Duration::from_secs(1),
        }
    }
}

impl Config {
    pub(super) fn reporter(&self) -> &Reporter {
        self.reporter.get()
    }

    /// Returns the settings, or an error if `readiness_wait` is zero.
    pub(super) fn checked(self) -> Result<Self, ConfigError> {
        ConfigError::require_positive("readiness_wait", self.readiness_wait)?;
        Ok(self)
    }
}
