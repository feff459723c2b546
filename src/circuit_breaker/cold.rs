//! The state that only a breaker with a failing dependency needs.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    half_open::Round,
    overloads::Overloads,
    state::{State, TripReason},
    window::{Sample, Totals},
};
use crate::{
    call::waiters::Waiters,
    window::{Buckets, Tick},
};

/// The end of the open time of a breaker that is held open until it is changed by hand.
pub(super) const NO_END: u64 = u64::MAX;

/// The state that a breaker needs only after a failure, or after a change by hand.
pub(super) struct Cold {
    /// Generation (32 bits), and its failures in a row (32).
    ///
    /// With the generation in the word, a result from before a change of state neither counts in
    /// the new phase nor ends a row of it.
    consecutive_failures: AtomicU64,
    /// The kinds of the latest failures.
    pub(super) overloads: Overloads,
    /// The last tick with a failure or a slow call.
    ///
    /// If it is not in the window, there is nothing to add up.
    pub(super) last_bad: AtomicU64,
    pub(super) failures: Buckets,
    pub(super) slow: Buckets,
    /// Nanoseconds from the origin, while the breaker is open. [`NO_END`] if it has no end.
    pub(super) open_until: AtomicU64,
    /// The calls that were rejected since the outage began.
    pub(super) rejected: AtomicU64,
    pub(super) machine: Mutex<Machine>,
}

/// The state that changes only under the lock.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) round: Round,
    /// The trips in a row of a dependency that failed, and the last open time of such a trip.
    ///
    /// The row ends when the breaker has stayed closed for as long, apart from overloads.
    pub(super) outages: u32,
    pub(super) last_outage: Duration,
    /// An outage or a person opened the breaker, and no round of probes has passed since.
    pub(super) is_down: bool,
    /// The end of the last outage.
    pub(super) closed_at: Option<Instant>,
    /// The trips of an overloaded dependency in a row, without a round of probes that passed.
    ///
    /// They are separate. Otherwise a short overload would lengthen or end a row of outages.
    pub(super) overloads: u32,
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) last_trip: Option<TripReason>,
    /// The last change of state.
    pub(super) changed_at: Option<Instant>,
    /// The beginning of the outage, which includes all trips until the breaker closes.
    pub(super) open_since: Option<Instant>,
    /// The state in which the key of the breaker is counted.
    pub(super) counted: State,
    /// The callers that wait to be admitted.
    pub(super) waiting: Waiters,
    /// The tasks that watch for a change of state.
    pub(super) watching: Waiters,
}

impl Cold {
    pub(super) fn new() -> Self {
        Self {
            consecutive_failures: AtomicU64::new(0),
            overloads: Overloads::default(),
            last_bad: AtomicU64::new(0),
            failures: Buckets::new(),
            slow: Buckets::new(),
            open_until: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
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

    /// Begins a row of failures for a new generation, before its phase is visible.
    pub(super) fn reset_consecutive(&self, generation: u64) {
        self.consecutive_failures.store(row_of(generation), Ordering::Release);
    }

    /// Counts a result of `generation`, and returns its number of failures in a row.
    ///
    /// Returns zero for a result of an earlier generation.
    #[inline]
    pub(super) fn count_consecutive(&self, generation: u64, failed: bool) -> u32 {
        let empty = row_of(generation);
        let counted = |row: u64| {
            if row & !COUNT != empty {
                return None;
            }
            let longer = u64::from((row as u32).saturating_add(1));
            Some(empty | if failed { longer } else { 0 })
        };
        // Written only if there is something to reset, because all callers share this word.
        if !failed && self.consecutive_failures.load(Ordering::Acquire) & COUNT == 0 {
            return 0;
        }
        let row = &self.consecutive_failures;
        match row.fetch_update(Ordering::AcqRel, Ordering::Acquire, counted) {
            Ok(before) if failed => (before as u32).saturating_add(1),
            _ => 0,
        }
    }
}

/// The part of a word that is a number of failures.
const COUNT: u64 = 0xFFFF_FFFF;

/// An empty row of failures of a generation.
#[inline]
fn row_of(generation: u64) -> u64 {
    generation << 32
}
