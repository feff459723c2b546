//! The configuration of endpoints, and its checks.

use std::time::Duration;

use crate::{
    ConfigError,
    telemetry::{Kind, ReporterCell},
};

/// The settings of a set of endpoints.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) reporter: ReporterCell,
    pub(super) max_concurrent: Option<u32>,
    pub(super) consecutive_failures: u32,
    pub(super) eject_for: Duration,
    pub(super) max_eject_for: Duration,
    pub(super) max_ejected: f64,
    pub(super) panic_below: f64,
    pub(super) check_interval: Duration,
    pub(super) check_timeout: Duration,
    pub(super) out_after: u32,
    pub(super) back_after: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            reporter: ReporterCell::new(None, Kind::Endpoints),
            max_concurrent: None,
            consecutive_failures: 5,
            eject_for: Duration::from_secs(30),
            max_eject_for: Duration::from_secs(300),
            max_ejected: 0.5,
            panic_below: 0.5,
            check_interval: Duration::from_secs(10),
            check_timeout: Duration::from_secs(2),
            out_after: 3,
            back_after: 2,
        }
    }
}

impl Config {
    /// Returns the settings, or an error if one of them is invalid.
    pub(super) fn checked(self) -> Result<Self, ConfigError> {
        if let Some(limit) = self.max_concurrent {
            ConfigError::require_nonzero("max_concurrent", limit)?;
        }
        ConfigError::require_nonzero("consecutive_failures", self.consecutive_failures)?;
        ConfigError::require_positive("eject_for", self.eject_for)?;
        if self.max_eject_for < self.eject_for {
            let rule = "it must be at least `eject_for`";
            return Err(ConfigError::new("max_eject_for", self.max_eject_for, rule));
        }
        require_share("max_ejected", self.max_ejected)?;
        require_share("panic_below", self.panic_below)?;
        ConfigError::require_positive("check_interval", self.check_interval)?;
        ConfigError::require_positive("check_timeout", self.check_timeout)?;
        if self.check_timeout > self.check_interval {
            let rule = "it must not be longer than `check_interval`";
            return Err(ConfigError::new("check_timeout", self.check_timeout, rule));
        }
        ConfigError::require_nonzero("out_after", self.out_after)?;
        ConfigError::require_nonzero("back_after", self.back_after)?;
        Ok(self)
    }
}

fn require_share(knob: &'static str, share: f64) -> Result<(), ConfigError> {
    if (0.0..=1.0).contains(&share) {
        Ok(())
    } else {
        Err(ConfigError::new(knob, share, "it must be between 0 and 1"))
    }
}
