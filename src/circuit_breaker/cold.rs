//! The state that only a breaker with a failing dependency needs.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    half_open::Round,
    state::TripReason,
    window::{Sample, Totals},
};
use crate::{
    call::waiters::Waiters,
    window::{Buckets, Tick},
};

/// The state that a breaker needs only after a failure, or after a change by hand.
pub(super) struct Cold {
    pub(super) consecutive_failures: AtomicU32,
    /// The last tick with a failure or a slow call.
    ///
    /// If it is not in the window, there is nothing to add up.
    pub(super) last_bad: AtomicU64,
    pub(super) failures: Buckets,
    pub(super) slow: Buckets,
    /// Nanoseconds from the origin, while the breaker is open.
    pub(super) open_until: AtomicU64,
    pub(super) machine: Mutex<Machine>,
}

/// The state that changes only under the lock.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) round: Round,
    /// The number of trips in a row.
    ///
    /// The row ends when the breaker has stayed closed for as long as it was last open.
    pub(super) trips: u32,
    pub(super) last_open: Duration,
    pub(super) closed_at: Option<Instant>,
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) last_trip: Option<TripReason>,
    /// The callers that wait to be admitted.
    pub(super) waiting: Waiters,
    /// The tasks that watch for a change of state.
    pub(super) watching: Waiters,
}

impl Cold {
    pub(super) fn new() -> Self {
        Self {
            consecutive_failures: AtomicU32::new(0),
            last_bad: AtomicU64::new(0),
            failures: Buckets::new(),
            slow: Buckets::new(),
            open_until: AtomicU64::new(0),
            machine: Mutex::default(),
        }
    }

    /// Adds a call, and returns the counts of the window.
    ///
    /// Returns zeros if the window has no failure and no slow call.
    #[cold]
    pub(super) fn add(
        &self,
        calls: &Buckets,
        generation: u64,
        tick: Tick,
        sample: Sample,
    ) -> Totals {
        if sample.failed {
            self.failures.add(generation, tick);
        }
        if sample.slow {
            self.slow.add(generation, tick);
        }
        if sample.failed || sample.slow {
            self.last_bad.fetch_max(tick.as_u64(), Ordering::AcqRel);
        } else if tick.outlived(Tick::from_u64(self.last_bad.load(Ordering::Acquire))) {
            return Totals::default();
        }
        self.totals(calls, generation, tick)
    }

    pub(super) fn totals(&self, calls: &Buckets, generation: u64, tick: Tick) -> Totals {
        Totals {
            calls: calls.total(generation, tick),
            failures: self.failures.total(generation, tick),
            slow: self.slow.total(generation, tick),
        }
    }

    #[inline]
    pub(super) fn count_consecutive(&self, failed: bool) -> u32 {
        if failed {
            return self.consecutive_failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        }
        // Written only if there is something to reset, because all callers share this word.
        if self.consecutive_failures.load(Ordering::Acquire) != 0 {
            self.consecutive_failures.store(0, Ordering::Release);
        }
        0
    }
}
