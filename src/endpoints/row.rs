//! The calls without a response since the last response.

use std::sync::atomic::{AtomicU64, Ordering};

/// The number of results in a row from which results that say nothing count as slow responses.
///
/// An endpoint that gives all of its requests back at once would otherwise seem to be idle, and
/// draw most calls.
const MANY: u32 = 5;

/// The highest power of two by which the calls under way are multiplied.
const MOST: u32 = 10;

/// The results in a row that are no responses.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// The failures (32 bits), and above them the results that say nothing (32 bits).
    word: AtomicU64,
}

impl Row {
    /// Ends the row.
    #[inline]
    pub(super) fn end(&self) {
        if self.word.load(Ordering::Relaxed) != 0 {
            self.word.store(0, Ordering::Relaxed);
        }
    }

    /// Adds a failure, and returns the number of failures.
    pub(super) fn failed(&self) -> u32 {
        self.add(1).0
    }

    /// Adds a result that says nothing. Returns `true` if there are many of them.
    pub(super) fn ignored(&self) -> bool {
        self.add(1 << 32).1 >= MANY
    }

    fn add(&self, more: u64) -> (u32, u32) {
        let word = self.word.fetch_add(more, Ordering::Relaxed).wrapping_add(more);
        (word as u32, (word >> 32) as u32)
    }

    /// Returns the calls under way, as they count for an endpoint with this row.
    ///
    /// A result that is no response doubles them, because the calls of an endpoint that fails at
    /// once do not stay under way.
    #[inline]
    pub(super) fn weigh(&self, active: u64) -> u64 {
        let word = self.word.load(Ordering::Relaxed);
        let length = (word as u32).saturating_add((word >> 32) as u32);
        active << length.min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_weighs_more_with_each_result_up_to_a_limit_until_a_response() {
        let row = Row::default();
        assert_eq!(row.weigh(3), 3);
        assert_eq!([row.failed(), row.failed()], [1, 2]);
        assert_eq!(row.weigh(3), 12);
        assert_eq!([(); 5].map(|()| row.ignored()), [false, false, false, false, true]);
        assert_eq!(row.weigh(3), 3 << 7);
        (0..100).for_each(|_| _ = row.ignored());
        assert_eq!((row.weigh(3), row.failed()), (3 << MOST, 3));
        row.end();
        assert_eq!((row.weigh(3), row.failed(), row.ignored()), (3, 1, false));
    }
}
