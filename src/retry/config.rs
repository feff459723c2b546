//! The configuration of a retry layer.

use std::time::Duration;

use crate::{
    ConfigError,
    backoff::Backoff,
    budget::Budget,
    error::{Name, name_or},
};

/// The settings of a retry layer, and its budget.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) name: Option<Name>,
    pub(super) retries: u32,
    pub(super) backoff: Backoff,
    pub(super) budget: Option<Budget>,
    pub(super) hint_cap: Duration,
    pub(super) readiness_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            retries: 3,
            backoff: Backoff::default(),
            budget: Some(Budget::default()),
            hint_cap: Duration::from_secs(2),
            readiness_wait: Duration::from_secs(1),
        }
    }
}

impl Config {
    pub(super) fn name(&self) -> &str {
        name_or(&self.name, "retry")
    }

    /// Returns the settings, or an error if `readiness_wait` is zero.
    pub(super) fn checked(self) -> Result<Self, ConfigError> {
        ConfigError::require_positive("readiness_wait", self.readiness_wait)?;
        Ok(self)
    }
}
