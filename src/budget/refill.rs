//! The tokens that an empty budget regains with time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::call::clock::{self, nanos};

/// One token, in the units of the balance. The units allow a ratio as small as one in a million.
pub(super) const TOKEN: u64 = 1_000_000;

/// The time that pays in one token.
const EVERY: Duration = Duration::from_secs(60);

/// The value of [`Refill::since`] while there is a balance.
const NOT_EMPTY: u64 = u64::MAX;

/// Pays in one token a minute while the balance is below one token.
///
/// Time with a balance pays in nothing. Otherwise a client that was idle could retry as often as
/// its whole balance, and then once more as often. It also means that no clock is read while there
/// is a balance.
pub(super) struct Refill {
    /// The balance up to which time pays in.
    most: u64,
    origin: Instant,
    /// The time from which on the balance was empty, in nanoseconds from the origin.
    ///
    /// The time that was paid in is left out.
    since: AtomicU64,
}

impl Refill {
    pub(super) fn up_to(most: u64) -> Self {
        Self { most, origin: clock::now(), since: AtomicU64::new(NOT_EMPTY) }
    }

    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// Begins to count time, because the balance has just become empty.
    ///
    /// An earlier beginning is replaced. The balance was not empty since, and another thread may
    /// have been too slow to write so.
    #[cold]
    pub(super) fn begin(&self) {
        let now = self.now();
        let later = |since| (since == NOT_EMPTY || since < now).then_some(now);
        let _ = self.since.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// Stops counting time, because the balance is no longer empty.
    #[cold]
    pub(super) fn end(&self) {
        self.since.store(NOT_EMPTY, Ordering::Relaxed);
    }

    /// Returns the whole tokens for the time since the last count, in units.
    ///
    /// Each moment is counted only once.
    pub(super) fn due(&self) -> u64 {
        let now = self.now();
        let tokens = |since: u64| match since {
            NOT_EMPTY => 0,
            since => now.saturating_sub(since) / nanos(EVERY),
        };
        let counted = |since| {
            let tokens = tokens(since);
            (tokens > 0).then(|| since + tokens * nanos(EVERY))
        };
        match self.since.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted) {
            Ok(since) => tokens(since).saturating_mul(TOKEN),
            Err(NOT_EMPTY) => {
                self.begin();
                0
            }
            Err(_) => 0,
        }
    }

    fn now(&self) -> u64 {
        nanos(clock::now().saturating_duration_since(self.origin)).min(NOT_EMPTY - 1)
    }
}
