//! The results of the last calls, counted by number of calls.
//!
//! [`Buckets`](crate::window::Buckets) count by time instead. The window is exact and is written
//! without a lock. Its cost does not depend on the number of calls. Each cell carries the
//! generation that wrote it. Therefore a stale result cannot be counted in a newer window.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The result of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) failed: bool,
    pub(super) slow: bool,
}

/// The counts of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) calls: u64,
    pub(super) failures: u64,
    pub(super) slow: u64,
}

/// The size of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// The last calls, up to this number.
    Calls(u32),
    /// The calls of this span of time.
    Time(Duration),
}

/// The result of recording a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    /// The call belongs to an earlier generation and was not counted.
    Stale,
    /// The call was counted. No call in the window failed or was slow.
    AllWell,
    /// The call was counted. A call in the window failed or was slow.
    NotAllWell,
}

/// The last `capacity` calls, two bits each.
///
/// A call claims its position from the cursor, then writes its bits and adds the difference to
/// the counts. While all calls succeed the bits do not change, and a call costs one atomic step.
#[derive(Debug)]
pub(super) struct CallWindow {
    /// Generation (32 bits), whether the ring has been filled (1), next position (31).
    cursor: AtomicU64,
    /// Generation (16 bits), failures (24), slow calls (24).
    counts: AtomicU64,
    /// Generation (32 bits), and 16 calls of two bits each.
    cells: Box<[AtomicU64]>,
    capacity: u32,
}

const CALLS_PER_CELL: u32 = 16;
const FAILED: u64 = 0b01;
const SLOW: u64 = 0b10;
const FILLED: u64 = 1 << 31;
/// The largest number that the counts can hold.
pub(super) const MOST_CALLS: u32 = (1 << 24) - 1;

impl CallWindow {
    pub(super) fn new(capacity: u32) -> Self {
        let cells = capacity.div_ceil(CALLS_PER_CELL);
        Self {
            cursor: AtomicU64::new(0),
            counts: AtomicU64::new(0),
            cells: (0..cells).map(|_| AtomicU64::new(0)).collect(),
            capacity,
        }
    }

    /// Empties the window for a new generation. Only one thread may call it at a time.
    pub(super) fn reset(&self, generation: u64) {
        for cell in &self.cells {
            cell.store(tag32(generation), Ordering::Relaxed);
        }
        self.counts.store(tag16(generation), Ordering::Relaxed);
        self.cursor.store(tag32(generation), Ordering::Release);
    }

    /// Adds a call.
    #[inline]
    pub(super) fn record(&self, generation: u64, sample: Sample) -> Recorded {
        let Some(position) = self.claim(generation) else { return Recorded::Stale };
        let cell = &self.cells[(position / CALLS_PER_CELL) as usize];
        let shift = 2 * (position % CALLS_PER_CELL);
        let bits = (u64::from(sample.failed) * FAILED) | (u64::from(sample.slow) * SLOW);
        let written = cell.load(Ordering::Acquire);
        if (written >> shift) & (FAILED | SLOW) != bits || written & TAG32 != tag32(generation) {
            self.overwrite(generation, cell, shift, bits);
        }
        if self.counts.load(Ordering::Acquire) & !TAG16 == 0 {
            Recorded::AllWell
        } else {
            Recorded::NotAllWell
        }
    }

    #[cold]
    fn overwrite(&self, generation: u64, cell: &AtomicU64, shift: u32, bits: u64) {
        let mut old = 0;
        let changed = cell.fetch_update(Ordering::AcqRel, Ordering::Acquire, |cell| {
            old = (cell >> shift) & (FAILED | SLOW);
            let ours = cell & TAG32 == tag32(generation);
            (ours && old != bits).then_some(cell & !((FAILED | SLOW) << shift) | bits << shift)
        });
        if changed.is_ok() {
            self.count(generation, old, bits);
        }
    }

    #[inline]
    fn claim(&self, generation: u64) -> Option<u32> {
        let next = |cursor: u64| {
            if cursor & TAG32 != tag32(generation) {
                return None;
            }
            let position = cursor as u32 & !(FILLED as u32);
            if position + 1 == self.capacity {
                return Some(tag32(generation) | FILLED);
            }
            Some(cursor + 1)
        };
        let claimed = self.cursor.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        claimed.ok().map(|cursor| cursor as u32 & !(FILLED as u32))
    }

    /// Removes the overwritten bits from the counts and adds the new ones.
    fn count(&self, generation: u64, old: u64, new: u64) {
        let _ = self.counts.fetch_update(Ordering::AcqRel, Ordering::Acquire, |counts| {
            if counts & TAG16 != tag16(generation) {
                return None;
            }
            let failures = counts & 0xFF_FFFF;
            let slow = (counts >> 24) & 0xFF_FFFF;
            // Wraps within the field. Of two writers of one cell, the later one may count first.
            let failures = failures.wrapping_add(new & FAILED).wrapping_sub(old & FAILED);
            let slow = slow.wrapping_add((new & SLOW) >> 1).wrapping_sub((old & SLOW) >> 1);
            Some(tag16(generation) | (slow & 0xFF_FFFF) << 24 | failures & 0xFF_FFFF)
        });
    }

    #[inline]
    pub(super) fn totals(&self) -> Totals {
        let cursor = self.cursor.load(Ordering::Acquire);
        let counts = self.counts.load(Ordering::Acquire);
        let filled = cursor & FILLED != 0;
        let position = cursor as u32 & !(FILLED as u32);
        let calls = u64::from(if filled { self.capacity } else { position });
        // A count may be wrong for a moment, by the calls that are being written. A wrapped count
        // is taken as zero.
        let part = |part: u64| if part > u64::from(MOST_CALLS / 2) { 0 } else { part };
        Totals { calls, failures: part(counts & 0xFF_FFFF), slow: part((counts >> 24) & 0xFF_FFFF) }
    }
}

const TAG16: u64 = 0xFFFF << 48;
const TAG32: u64 = 0xFFFF_FFFF << 32;

#[inline]
fn tag16(generation: u64) -> u64 {
    generation << 48
}

#[inline]
fn tag32(generation: u64) -> u64 {
    generation << 32
}
