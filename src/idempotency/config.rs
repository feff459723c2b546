//! The settings of a guard, and their checks.

use std::time::Duration;

use super::{
    ClaimMode,
    fingerprint::Secrets,
    store::{LEASE, UNKNOWN_RETENTION},
};
use crate::{ConfigError, error::Name};

/// Settings of a guard that are checked.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) name: Option<Name>,
    pub(super) effect: Effect,
    pub(super) lease: Duration,
    pub(super) lease_limit: Duration,
    pub(super) run_limit: Duration,
    pub(super) store_timeout: Duration,
    pub(super) ttl: Duration,
    pub(super) unknown_for: Duration,
    pub(super) retry_after: Duration,
    /// For how long a duplicate waits; `None` if it is refused at once.
    pub(super) wait: Option<Duration>,
    pub(super) max_runs: u32,
    pub(super) secrets: Secrets,
    pub(super) retry_horizon: Duration,
}

/// When the effect of a run may have begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// With the claim.
    Claimed,
    /// When that has been noted.
    Marked,
    /// When the record is complete, for both are committed at once.
    Transactional,
}

impl Effect {
    pub(super) fn mode(self) -> ClaimMode {
        match self {
            Self::Claimed => ClaimMode::Started,
            Self::Marked | Self::Transactional => ClaimMode::Reserved,
        }
    }
}

impl Config {
    pub(super) const DEFAULT: Self = Self {
        name: None,
        effect: Effect::Claimed,
        lease: LEASE,
        // No run of a request takes so long; what does is stuck.
        lease_limit: Duration::from_secs(10 * 60),
        run_limit: Duration::from_secs(30),
        // A store that takes longer is better asked again, or not at all.
        store_timeout: Duration::from_secs(1),
        ttl: Duration::from_secs(24 * 60 * 60),
        unknown_for: UNKNOWN_RETENTION,
        // The least that `Retry-After` can say.
        retry_after: Duration::from_secs(1),
        wait: None,
        max_runs: 1_024,
        secrets: Secrets(Vec::new()),
        retry_horizon: Duration::ZERO,
    };

    /// Until when the owner of a lease trusts it: its clock and the store's do not run alike.
    pub(super) fn trusted(&self) -> Duration {
        self.lease - self.lease / 10
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (knob, value) in [
            ("lease", self.lease),
            ("run_limit", self.run_limit),
            ("store_timeout", self.store_timeout),
            ("ttl", self.ttl),
            ("retry_after", self.retry_after),
        ] {
            ConfigError::unless_positive(knob, value)?;
        }
        for (knob, value) in [
            ("lease_limit", self.lease_limit),
            ("store_timeout", self.store_timeout),
            ("wait", self.wait.unwrap_or_default()),
        ] {
            // Longer than a process runs, and short enough for every clock.
            if value > Duration::from_secs(365 * 24 * 60 * 60) {
                return Err(ConfigError::new(knob, value, "it must not be longer than a year"));
            }
        }
        if let Some(wait) = self.wait {
            ConfigError::unless_positive("wait", wait)?;
        }
        ConfigError::unless_counting("max_runs", self.max_runs)?;
        if self.store_timeout >= self.lease {
            let rule = "it must be shorter than the lease, which one late answer would cost";
            return Err(ConfigError::new("store_timeout", self.store_timeout, rule));
        }
        if self.lease_limit < self.run_limit {
            let rule = "it must not be shorter than the run_limit, for a run needs its lease";
            return Err(ConfigError::new("lease_limit", self.lease_limit, rule));
        }
        if self.lease_limit < self.lease {
            let rule = "it must not be shorter than one lease";
            return Err(ConfigError::new("lease_limit", self.lease_limit, rule));
        }
        if self.unknown_for < self.ttl {
            let rule = "it must not be shorter than the ttl: the key of an operation that may have \
                        been done must not come free before that of one that was";
            return Err(ConfigError::new("unknown_retention", self.unknown_for, rule));
        }
        if self.secrets.0.iter().any(|secret| secret.is_empty()) {
            let rule = "it must not be empty, or anybody could guess what requests said";
            return Err(ConfigError::new("fingerprint_secret", "", rule));
        }
        if self.ttl < self.retry_horizon.saturating_mul(2) {
            let rule = "it must be at least twice as long as clients go on retrying";
            return Err(ConfigError::new("ttl", self.ttl, rule));
        }
        Ok(())
    }
}
