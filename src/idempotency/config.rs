//! The settings of an idempotency layer, and their checks.

use std::time::Duration;

use super::{
    ClaimMode,
    fingerprint::Secrets,
    store::{LEASE, UNKNOWN_RETENTION},
};
use crate::{
    ConfigError,
    telemetry::{Kind, ReporterCell},
};

/// The shortest time that every store distinguishes from zero.
const MILLISECOND: Duration = Duration::from_millis(1);

/// A limit that is longer than any process runs, and short enough for every clock.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The longest time from now that every store can express. Stores would cut a longer one short.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Checked settings of a layer.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) reporter: ReporterCell,
    /// Records the start of the effect before it begins.
    pub(super) reserve_first: bool,
    /// Commits the effect and the record at once.
    pub(super) transactional: bool,
    pub(super) lease: Duration,
    pub(super) lease_limit: Duration,
    pub(super) run_limit: Duration,
    pub(super) store_timeout: Duration,
    pub(super) ttl: Duration,
    pub(super) unknown_for: Duration,
    pub(super) retry_after: Duration,
    /// The time that a duplicate waits; `None` if it is rejected at once.
    pub(super) wait: Option<Duration>,
    pub(super) max_runs: u32,
    pub(super) secrets: Secrets,
    /// The time that clients keep retrying, if it is known.
    pub(super) retry_horizon: Option<Duration>,
    /// The first invalid setting of a part that the builder was given.
    pub(super) invalid: Option<ConfigError>,
}

/// The moment from which the effect of a run may have begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The claim.
    Claimed,
    /// The store's record of the start.
    Marked,
    /// The completion of the record, because the effect is committed with it.
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

impl Default for Config {
    fn default() -> Self {
        Self {
            reporter: ReporterCell::new(None, Kind::Idempotency),
            reserve_first: false,
            transactional: false,
            lease: LEASE,
            // A longer run is probably stuck.
            lease_limit: Duration::from_secs(10 * 60),
            run_limit: Duration::from_secs(30),
            // A slower step is better retried or abandoned.
            store_timeout: Duration::from_secs(1),
            ttl: Duration::from_secs(24 * 60 * 60),
            unknown_for: UNKNOWN_RETENTION,
            // The smallest value of `Retry-After`.
            retry_after: Duration::from_secs(1),
            wait: None,
            max_runs: 1_024,
            secrets: Secrets(Vec::new()),
            retry_horizon: None,
            invalid: None,
        }
    }
}

impl Config {
    /// Returns how long the owner trusts its lease.
    ///
    /// It is shorter than the lease, because the clocks of the owner and the store may run at
    /// different speeds.
    pub(super) fn trusted(&self) -> Duration {
        self.lease - self.lease / 10
    }

    pub(super) fn effect(&self) -> Effect {
        match (self.transactional, self.reserve_first) {
            (true, _) => Effect::Transactional,
            (false, true) => Effect::Marked,
            (false, false) => Effect::Claimed,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some(invalid) = &self.invalid {
            return Err(invalid.clone());
        }
        self.check_ranges()?;
        self.check_order()?;
        if self.transactional && self.reserve_first {
            let rule = "a transactional layer writes nothing before its transaction";
            return Err(ConfigError::new("reserve_first", true, rule));
        }
        if self.secrets.0.iter().any(|secret| secret.is_empty()) {
            let rule = "it must not be empty, or anyone could guess the content of requests";
            return Err(ConfigError::new("fingerprint_secret", "", rule));
        }
        Ok(())
    }

    /// Checks each setting by itself.
    fn check_ranges(&self) -> Result<(), ConfigError> {
        for (knob, value) in [
            ("run_limit", Some(self.run_limit)),
            ("store_timeout", Some(self.store_timeout)),
            ("retry_after", Some(self.retry_after)),
            ("wait_for_duplicates", self.wait),
            ("clients_retry_for", self.retry_horizon),
        ] {
            value.map(|value| ConfigError::require_positive(knob, value)).transpose()?;
        }
        for (knob, value) in [("lease", self.lease), ("ttl", self.ttl)] {
            if value < MILLISECOND {
                let rule = "it must be at least 1 ms, because stores count in microseconds";
                return Err(ConfigError::new(knob, value, rule));
            }
        }
        for (knob, value) in [
            ("lease_limit", self.lease_limit),
            ("store_timeout", self.store_timeout),
            ("retry_after", self.retry_after),
            ("wait_for_duplicates", self.wait.unwrap_or_default()),
        ] {
            if value > YEAR {
                return Err(ConfigError::new(knob, value, "it must not be longer than a year"));
            }
        }
        for (knob, value) in [("ttl", self.ttl), ("unknown_retention", self.unknown_for)] {
            if value > CENTURY {
                let rule = "it must not be longer than a hundred years, which stores can express";
                return Err(ConfigError::new(knob, value, rule));
            }
        }
        ConfigError::require_nonzero("max_runs", self.max_runs)?;
        Ok(())
    }

    /// Checks the settings against each other.
    fn check_order(&self) -> Result<(), ConfigError> {
        if self.store_timeout >= self.lease {
            let rule = "it must be shorter than the lease, or one slow step would lose it";
            return Err(ConfigError::new("store_timeout", self.store_timeout, rule));
        }
        if self.lease_limit < self.run_limit {
            let rule = "it must not be shorter than the run_limit, because a run needs its lease";
            return Err(ConfigError::new("lease_limit", self.lease_limit, rule));
        }
        if self.lease_limit < self.lease {
            let rule = "it must not be shorter than one lease";
            return Err(ConfigError::new("lease_limit", self.lease_limit, rule));
        }
        if self.unknown_for < self.ttl {
            let rule = "it must not be shorter than the ttl: the key of an operation that may have \
                        run must not be freed before the key of one that did";
            return Err(ConfigError::new("unknown_retention", self.unknown_for, rule));
        }
        let horizon = self.retry_horizon.unwrap_or_default();
        if self.ttl < horizon.saturating_mul(2) {
            let rule = "it must be at least twice as long as `clients_retry_for`";
            return Err(ConfigError::new("ttl", self.ttl, rule));
        }
        Ok(())
    }
}
