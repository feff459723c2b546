//! The recent response time of an endpoint.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The time in which the mean halves if no call ends.
const HALF_LIFE: u64 = 10_000;

/// The shortest time that a failure counts as, in microseconds.
const FAILURE: u64 = 10_000;

/// The longest time that counts, in microseconds.
const MOST: u64 = 60_000_000;

/// The number of responses after which the mean is compared.
///
/// The first ones are slow because they wait for new connections. The shortest of them is the mean.
const FIRST: u64 = 8;

/// The time by which the clock of a call may be behind that of an update, in milliseconds.
const BEHIND: u32 = 60_000;

/// The mean of the recent response times, where failures count as slow.
///
/// A new value has a weight of a quarter. An update that another one overwrites is lost, which does
/// not matter to a mean.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// The mean in microseconds (26 bits), the number of values up to `FIRST` (6 bits), and the
    /// time of the last update in milliseconds from the origin (32 bits). Zero before the first
    /// update.
    word: AtomicU64,
}

impl Load {
    /// Returns the mean in microseconds, or `None` before the first call has ended.
    #[inline]
    pub(super) fn mean(&self, now: Duration) -> Option<u64> {
        self.read(now).map(|(mean, _)| mean)
    }

    /// Returns the mean if it can be compared with that of another endpoint.
    #[inline]
    pub(super) fn comparable(&self, now: Duration) -> Option<u64> {
        self.read(now).filter(|(_, values)| *values >= FIRST).map(|(mean, _)| mean)
    }

    /// Includes a response.
    pub(super) fn responded(&self, took: Duration, now: Duration) {
        let took = micros(took);
        match self.read(now) {
            None => self.write(took, 1, now),
            Some((mean, values)) if values < FIRST => self.write(mean.min(took), values + 1, now),
            Some((mean, _)) => self.write(moved(mean, took), FIRST, now),
        }
    }

    /// Includes a failure. A failure that is fast would otherwise draw calls.
    pub(super) fn failed(&self, took: Duration, now: Duration) {
        let mean = self.mean(now);
        let took = micros(took).max(4 * mean.unwrap_or(0)).clamp(FAILURE, MOST);
        self.write(mean.map_or(took, |mean| moved(mean, took)), FIRST, now);
    }

    /// Includes a call without a result, which says at least that a response takes longer.
    pub(super) fn left(&self, took: Duration, now: Duration) {
        let took = micros(took);
        if let Some(mean) = self.mean(now).filter(|mean| took > *mean) {
            self.write(moved(mean, took), FIRST, now);
        }
    }

    /// Forgets everything, because the endpoint is back.
    pub(super) fn forget(&self) {
        self.word.store(0, Ordering::Relaxed);
    }

    /// Returns the mean and the number of its values.
    #[inline]
    fn read(&self, now: Duration) -> Option<(u64, u64)> {
        let word = self.word.load(Ordering::Relaxed);
        let idle = millis(now).wrapping_sub(word as u32);
        // Another thread may have updated it after this one read the clock.
        let idle = if idle > u32::MAX - BEHIND { 0 } else { idle };
        (word != 0).then(|| (faded(word >> 38, idle.into()), word >> 32 & 0x3F))
    }

    fn write(&self, mean: u64, values: u64, now: Duration) {
        let word = mean.clamp(1, MOST) << 38 | values << 32 | u64::from(millis(now));
        self.word.store(word, Ordering::Relaxed);
    }
}

/// Returns a mean with a new value.
fn moved(mean: u64, value: u64) -> u64 {
    mean - mean / 4 + value / 4
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
    u64::try_from(time.as_micros()).unwrap_or(MOST).clamp(1, MOST)
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
        (0..30).for_each(|_| load.responded(16 * MS, SECOND));
        assert!(load.mean(SECOND).unwrap() > 15_900);
        let [half, quarter] = [11, 21].map(|after| load.mean(after * SECOND).unwrap());
        assert!((7_900..8_001).contains(&half) && (3_900..4_001).contains(&quarter));
        assert_eq!(load.mean(Duration::from_secs(86_400)), Some(1));
        // A call that has read the clock before the last update takes it for the newest.
        assert_eq!(load.mean(SECOND - MS), load.mean(SECOND));
        // The clock of milliseconds begins anew.
        let (load, late) = (Load::default(), Duration::from_millis(u64::from(u32::MAX)));
        load.responded(8 * MS, late);
        assert!(load.mean(late + 20 * SECOND).unwrap() < 3_000);
    }

    #[test]
    fn the_first_responses_count_as_the_fastest_of_them() {
        let load = Load::default();
        for (took, comparable) in [(37, None), (9, None), (8, None), (40, None)] {
            load.responded(took * MS, SECOND);
            assert_eq!(load.comparable(SECOND), comparable);
        }
        (0..4).for_each(|_| load.responded(9 * MS, SECOND));
        assert_eq!(load.comparable(SECOND), Some(8_000));
        load.forget();
        load.responded(37 * MS, SECOND);
        assert_eq!((load.mean(SECOND), load.comparable(SECOND)), (Some(37_000), None));
        // A failure says enough.
        load.failed(MS, SECOND);
        assert!(load.comparable(SECOND).is_some_and(|mean| mean > 37_000));
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
