//! The effects of a change of state, carried out after the lock is released.

use std::{task::Waker, time::Duration};

use super::state::TripReason;

/// The time for which a failing dependency asks not to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) time: Duration,
    /// The failure is an overload. Of a trip: most of its failures are overloads that name a time.
    pub(super) overload: bool,
}

/// The number of probes that ended in each way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProbeEnds {
    pub(super) passed: u32,
    pub(super) failed: u32,
    /// They have failed too.
    pub(super) expired: u32,
    /// They said nothing, and their slots are free again.
    pub(super) returned: u32,
}

impl ProbeEnds {
    /// Returns each result and its number of probes.
    pub(super) fn by_result(&self) -> [(&'static str, u32); 4] {
        let Self { passed, failed, expired, returned } = *self;
        [("passed", passed), ("failed", failed), ("expired", expired), ("returned", returned)]
    }

    pub(super) fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.expired += more.expired;
        self.returned += more.returned;
    }
}

/// The wakers, the ended probes and the event of a change of state.
///
/// They are used after the lock is released, because wakers and subscribers of events run foreign
/// code.
#[derive(Default)]
#[must_use]
pub(super) struct Effects {
    pub(super) wake: Vec<Waker>,
    pub(super) probes: ProbeEnds,
    pub(super) event: Option<Change>,
}

/// A change of state to report.
pub(super) enum Change {
    Opened { reason: TripReason, open_for: Option<Duration> },
    HalfOpen,
    Closed { reason: &'static str, rejected: u64, open_for: Option<Duration> },
    Disabled,
}
