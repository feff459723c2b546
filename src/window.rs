//! Counts of events in a window of time. Old events expire without being cleared.
//!
//! The counts are exact and are written without a lock. Their cost does not depend on the number of
//! events. Each cell carries the generation that wrote it. Therefore a stale result cannot be
//! counted in a newer window.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use crate::call::clock::nanos;

/// The number of buckets in a window. A window is exact to a tenth of its length.
pub(crate) const BUCKETS: usize = 10;

/// The part of a tag that is the lap.
const LAP: u32 = 0xFF_FFFF;

/// A count for each of the last [`BUCKETS`] time spans.
///
/// Each bucket stores which time span it counts. Therefore nothing has to be cleared as time
/// passes, unless a bucket was last written a whole number of 2^24 laps ago.
#[derive(Debug)]
pub(crate) struct Buckets {
    /// The generation whose calls are counted.
    generation: AtomicU64,
    /// The latest tick that was counted.
    newest: AtomicU64,
    /// Generation (8 bits), lap (24), count (32).
    cells: [AtomicU64; BUCKETS],
}

/// One of the time spans that buckets count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u64);

impl Tick {
    /// Returns the tick of length `width` that contains `now`.
    ///
    /// Times before the origin are in the first tick.
    #[inline]
    pub(crate) fn at(now: Instant, origin: Instant, width: u64) -> Self {
        Self(nanos(now.saturating_duration_since(origin)) / width.max(1))
    }

    /// Returns `true` if a window that ends with this tick no longer contains `earlier`.
    pub(crate) fn outlived(self, earlier: Self) -> bool {
        self.0.saturating_sub(earlier.0) >= BUCKETS as u64
    }

    pub(crate) fn as_u64(self) -> u64 {
        self.0
    }

    pub(crate) fn from_u64(tick: u64) -> Self {
        Self(tick)
    }

    #[inline]
    fn index(self) -> usize {
        (self.0 % BUCKETS as u64) as usize
    }

    #[inline]
    fn tag(self, generation: u64) -> u32 {
        (generation as u32) << 24 | self.lap()
    }

    /// Returns how often the buckets were gone through before, which begins again after 2^24 laps.
    #[inline]
    fn lap(self) -> u32 {
        (self.0 / BUCKETS as u64) as u32 & LAP
    }
}

impl Buckets {
    pub(crate) fn new() -> Self {
        Self {
            generation: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            cells: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Empties all buckets for a new generation.
    pub(crate) fn reset(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
        for cell in &self.cells {
            cell.store(0, Ordering::Release);
        }
    }

    #[inline]
    pub(crate) fn add(&self, generation: u64, tick: Tick) {
        // Stored before the cell is written. A thread that finds the cell written can then tell
        // whether its own tick is too old.
        if self.newest.load(Ordering::Acquire) < tick.0 {
            self.advance(tick);
        }
        let tag = tick.tag(generation);
        let one_more = |cell: u64| {
            let count = cell as u32;
            if (cell >> 32) as u32 == tag {
                return Some(u64::from(tag) << 32 | u64::from(count.saturating_add(1)));
            }
            // A thread that was delayed for a full lap, or past a change of state, must not
            // overwrite newer counts.
            let newest = Tick(self.newest.load(Ordering::Acquire));
            let current = self.generation.load(Ordering::Acquire) == generation;
            (current && !newest.outlived(tick)).then_some(u64::from(tag) << 32 | 1)
        };
        let cell = &self.cells[tick.index()];
        let _ = cell.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
    }

    /// Makes `tick` the latest tick that was counted.
    ///
    /// No cell counts a tick after the latest one yet. A cell that has the lap of such a tick is
    /// 2^24 laps old, or a multiple of that, and is emptied. Otherwise it would count again.
    #[cold]
    fn advance(&self, tick: Tick) {
        loop {
            let first = (tick.0 + 1).saturating_sub(BUCKETS as u64);
            let newest = self.newest.load(Ordering::Acquire);
            if newest >= tick.0 {
                return;
            }
            let ahead = (first.max(newest + 1)..=tick.0).map(Tick);
            let mut outdated = [None; BUCKETS];
            for (tick, outdated) in ahead.zip(&mut outdated) {
                let cell = &self.cells[tick.index()];
                let count = cell.load(Ordering::Acquire);
                if count as u32 != 0 && (count >> 32) as u32 & LAP == tick.lap() {
                    *outdated = Some((cell, count));
                }
            }
            // Still true after the cells were read, so that none of them is a new one.
            if self.newest.load(Ordering::Acquire) != newest {
                continue;
            }
            for (cell, count) in outdated.into_iter().flatten() {
                let _ = cell.compare_exchange(count, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
            let (relaxed, tick) = (Ordering::Relaxed, tick.0);
            if self.newest.compare_exchange(newest, tick, Ordering::AcqRel, relaxed).is_ok() {
                return;
            }
        }
    }

    /// Returns the count of the window that ends with `now`.
    pub(crate) fn total(&self, generation: u64, now: Tick) -> u64 {
        // Nothing was counted after the latest tick. A cell that seems to has an old lap.
        let newest = self.newest.load(Ordering::Acquire);
        (0..BUCKETS as u64)
            .filter_map(|age| now.0.checked_sub(age).map(Tick))
            .filter(|tick| tick.0 <= newest)
            .map(|tick| {
                let cell = self.cells[tick.index()].load(Ordering::Acquire);
                let ours = (cell >> 32) as u32 == tick.tag(generation);
                if ours { u64::from(cell as u32) } else { 0 }
            })
            .sum()
    }
}
