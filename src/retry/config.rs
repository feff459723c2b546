//! The configuration of a retry layer.

use std::{sync::Arc, time::Duration};

use crate::{
    ConfigError, Outcome,
    backoff::Backoff,
    budget::{Bucket, Budget},
    call::account::{Account, End, How, Stamp},
    telemetry::{
        Kind, Reporter, ReporterCell,
        instrument::{HTTP_HINTS, RETRY_CALLS},
    },
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

    /// Returns the account of the budget.
    #[inline]
    pub(super) fn bucket(&self) -> Option<&Arc<Bucket>> {
        self.budget.as_ref().map(Budget::bucket)
    }

    /// Counts a call that has its final result. `retried` says that it was retried before.
    pub(super) fn count_call(&self, retried: bool, is_success: bool) {
        let Some(meter) = self.reporter.meter() else { return };
        let values = match (retried, is_success) {
            // The meter computes their number from that of the successful attempts.
            (false, true) => return,
            (false, false) => ["false", "failure"],
            (true, true) => ["true", "success"],
            (true, false) => ["true", "failure"],
        };
        meter.add(&RETRY_CALLS, values);
    }

    /// Counts a hint of the server by what the retry did with it.
    pub(super) fn count_hint(&self, result: &'static str) {
        if let Some(meter) = self.reporter.meter() {
            meter.add(&HTTP_HINTS, [result, ""]);
        }
    }

    /// Returns the settings, or an error if `readiness_wait` is zero.
    pub(super) fn checked(self) -> Result<Self, ConfigError> {
        ConfigError::require_positive("readiness_wait", self.readiness_wait)?;
        Ok(self)
    }
}

/// Counts a call whose response continued after its head.
///
/// The word of the stamp is 1 if the call was retried before.
impl Account for Config {
    fn settle(&self, stamp: Stamp, end: &End) {
        if let How::Complete(outcome, _) = end.how {
            self.count_call(stamp.word() > 0, outcome == Outcome::Success);
        }
    }
}
