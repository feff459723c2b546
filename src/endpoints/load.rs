//! The recent response time of an endpoint.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The time in which the mean halves if no call ends.
///
/// An endpoint that was slow is thus tried again, and its time is known again.
const HALF_LIFE: u64 = 10_000;

/// The shortest time that a failure counts as, in microseconds.
const FAILURE: u64 = 10_000;

/// The longest time that counts, in microseconds.
const MOST: u64 = 60_000_000;

/// The mean of the recent response times, where failures count as slow.
///
/// A new value has a weight of a quarter. An update that another one overwrites is lost, which does
/// not matter to a mean.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// The mean in microseconds (32 bits), and the time of the last update in milliseconds from the
    /// origin (32 bits). Zero before the first update.
    word: AtomicU64,
}

impl Load {
    /// Returns the mean in microseconds, or `None` before the first call has ended.
    #[inline]
    pub(super) fn mean(&self, now: Duration) -> Option<u64> {
        match self.word.load(Ordering::Relaxed) {
            0 => None,
            word => Some(faded(word >> 32, u64::from(millis(now).wrapping_sub(word as u32)))),
        }
    }

    /// Includes a response.
    pub(super) fn responded(&self, took: Duration, now: Duration) {
        self.add(micros(took), now);
    }

    /// Includes a failure. A failure that is fast would otherwise draw calls.
    pub(super) fn failed(&self, took: Duration, now: Duration) {
        let mean = self.mean(now).unwrap_or(0);
        self.add(micros(took).max(4 * mean).max(FAILURE), now);
    }

    /// Includes a call without a result, which says at least that a response takes longer.
    pub(super) fn left(&self, took: Duration, now: Duration) {
        if self.mean(now).is_some_and(|mean| micros(took) > mean) {
            self.add(micros(took), now);
        }
    }

    /// Forgets everything, because the endpoint is back.
    pub(super) fn forget(&self) {
        self.word.store(0, Ordering::Relaxed);
    }

    fn add(&self, took: u64, now: Duration) {
        let took = took.clamp(1, MOST);
        let mean = self.mean(now).map_or(took, |mean| mean - mean / 4 + took / 4).clamp(1, MOST);
        self.word.store(mean << 32 | u64::from(millis(now)), Ordering::Relaxed);
    }
}

/// Returns a mean after some milliseconds without an update.
#[inline]
fn faded(mean: u64, idle: u64) -> u64 {
    let halvings = idle / HALF_LIFE;
    if halvings >= 32 {
        return 1;
    }
    let whole = mean >> halvings;
    (whole - whole / 2 * (idle % HALF_LIFE) / HALF_LIFE).max(1)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(MOST)
}

/// Returns a number of milliseconds that begins anew after seven weeks.
fn millis(time: Duration) -> u32 {
    time.as_millis() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_mean_follows_its_values_and_fades() {
        let load = Load::default();
        assert_eq!(load.mean(SECOND), None);
        load.responded(8 * MS, SECOND);
        assert_eq!(load.mean(SECOND), Some(8_000));
        (0..20).for_each(|_| load.responded(16 * MS, SECOND));
        assert!(load.mean(SECOND).unwrap() > 15_900);
        let [half, quarter] = [11, 21].map(|after| load.mean(after * SECOND).unwrap());
        assert!((7_900..8_001).contains(&half) && (3_900..4_001).contains(&quarter));
        assert_eq!(load.mean(Duration::from_secs(86_400)), Some(1));
        // The clock of milliseconds begins anew.
        let late = Duration::from_millis(u64::from(u32::MAX));
        load.responded(8 * MS, late);
        assert!(load.mean(late + 20 * SECOND).unwrap() < 3_000);
    }

    #[test]
    fn failures_in_a_row_count_as_slower_and_slower_up_to_a_limit() {
        let (load, fast) = (Load::default(), Load::default());
        load.failed(Duration::ZERO, SECOND);
        fast.responded(MS, SECOND);
        assert!(load.mean(SECOND) > fast.mean(SECOND), "it looks idle");
        let mut last = load.mean(SECOND).unwrap();
        for _ in 0..10 {
            load.failed(Duration::ZERO, SECOND);
            let mean = load.mean(SECOND).unwrap();
            assert!(mean > last);
            last = mean;
        }
        (0..100).for_each(|_| load.failed(Duration::MAX, SECOND));
        assert!(load.mean(SECOND).unwrap() <= MOST);
    }

    #[test]
    fn a_call_that_was_left_says_only_that_it_would_have_been_slow() {
        let load = Load::default();
        load.left(SECOND, SECOND);
        assert_eq!(load.mean(SECOND), None);
        load.responded(8 * MS, SECOND);
        load.left(MS, SECOND);
        assert_eq!(load.mean(SECOND), Some(8_000));
        load.left(SECOND, SECOND);
        assert_eq!(load.mean(SECOND), Some(256_000));
    }
}
