//! The results of an endpoint since its last response.

use std::sync::atomic::{AtomicU64, Ordering};

/// The number of ignored results from which each of them counts as a slow response.
///
/// An endpoint that gives all of its requests back at once would otherwise seem to be idle, and
/// draw most calls.
const SLOW_FROM: u32 = 5;

/// The maximum number of times that the calls under way are doubled.
const MAX_DOUBLINGS: u32 = 10;

/// The failures and the ignored results since the last response.
#[derive(Debug, Default)]
pub(super) struct Streak {
    /// The failures (32 bits), and above them the ignored results (32 bits).
    word: AtomicU64,
}

impl Streak {
    /// Ends the streak, because the endpoint has responded or is back.
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

    /// Adds an ignored result. Returns `true` if it counts as a slow response.
    pub(super) fn ignored(&self) -> bool {
        self.add(1 << 32).1 >= SLOW_FROM
    }

    fn add(&self, more: u64) -> (u32, u32) {
        let word = self.word.fetch_add(more, Ordering::Relaxed).wrapping_add(more);
        (word as u32, (word >> 32) as u32)
    }

    /// Returns the number of calls under way, doubled for each result of the streak.
    ///
    /// Otherwise, an endpoint that fails at once would seem to be idle, because its calls do not
    /// stay under way.
    #[inline]
    pub(super) fn weighted(&self, active: u64) -> u64 {
        let word = self.word.load(Ordering::Relaxed);
        let length = (word as u32).saturating_add((word >> 32) as u32);
        active << length.min(MAX_DOUBLINGS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streak_weighs_more_with_each_result_up_to_a_limit_until_a_response() {
        let streak = Streak::default();
        assert_eq!(streak.weighted(3), 3);
        assert_eq!([streak.failed(), streak.failed()], [1, 2]);
        assert_eq!(streak.weighted(3), 12);
        assert_eq!([(); 5].map(|()| streak.ignored()), [false, false, false, false, true]);
        assert_eq!(streak.weighted(3), 3 << 7);
        (0..100).for_each(|_| _ = streak.ignored());
        assert_eq!((streak.weighted(3), streak.failed()), (3 << MAX_DOUBLINGS, 3));
        streak.end();
        assert_eq!((streak.weighted(3), streak.failed(), streak.ignored()), (3, 1, false));
    }
}
