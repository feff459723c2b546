//! The recent response time of an endpoint.
//!
//! Its times are in microseconds. Instants are [`Ticks`] from the origin.

use std::sync::atomic::{AtomicU64, Ordering};

/// The number of ticks in which the mean halves if no call ends. It is a power of two.
const HALF_LIFE: u32 = 1_024;

/// The nanoseconds of a tick. The mean halves in 10 s.
const TICK: u64 = 10_000_000_000 / HALF_LIFE as u64;

/// A time from the origin in ticks of about 10 ms. It begins anew after 16 months.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks(u32);

impl Ticks {
    #[inline]
    pub(super) fn of(nanos: u64) -> Self {
        Self((nanos / TICK) as u32)
    }
}

/// The shortest time that a failure counts as, in microseconds.
const FAILURE: u64 = 10_000;

/// The longest time that counts, in microseconds.
const MOST: u64 = 60_000_000;

/// The number of responses after which the mean is compared.
///
/// The first ones are slow because they wait for new connections. The shortest of them is the mean.
const FIRST: u64 = 8;

/// The ticks by which the clock of a call may be behind that of an update, about a minute.
const BEHIND: u32 = 6 * HALF_LIFE;

/// The mean of the recent response times, where failures count as slow.
///
/// A new value has a weight of a quarter. An update that another one overwrites is lost, which does
/// not matter to a mean.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// The mean in microseconds (26 bits), the number of values up to `FIRST` (6 bits), and the
    /// ticks of the last update (32 bits). Zero before the first update.
    word: AtomicU64,
}

impl Load {
    /// Returns the mean in microseconds, or `None` before the first call has ended.
    #[inline]
    pub(super) fn mean(&self, now: Ticks) -> Option<u64> {
        self.read(now).map(|(mean, _)| mean)
    }

    /// Returns the means of two endpoints for a comparison, or `None` if one has too few values.
    ///
    /// This does not read the clock. The means are those at the later of the two last updates. From
    /// then on, both fade alike.
    #[inline]
    pub(super) fn means(&self, other: &Self) -> Option<(u64, u64)> {
        let (one, other) = (self.word.load(Ordering::Relaxed), other.word.load(Ordering::Relaxed));
        let is_later = (one as u32).wrapping_sub(other as u32) as i32 >= 0;
        let last = Ticks(if is_later { one } else { other } as u32);
        let are_known = values(one) >= FIRST && values(other) >= FIRST;
        are_known.then(|| (mean(one, last), mean(other, last)))
    }

    /// Returns `true` if a response at once would not make the mean smaller.
    #[inline]
    pub(super) fn is_least(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        let mean = word >> 38;
        values(word) >= FIRST && moved(mean, 1) == mean
    }

    /// Includes a response.
    #[inline]
    pub(super) fn responded(&self, took: u64, now: Ticks) {
        match self.read(now) {
            None => self.write(took, 1, now),
            Some((mean, values)) if values < FIRST => self.write(mean.min(took), values + 1, now),
            Some((mean, _)) => self.write(moved(mean, took), FIRST, now),
        }
    }

    /// Includes a failure. A failure that is fast would otherwise draw calls.
    pub(super) fn failed(&self, took: u64, now: Ticks) {
        let mean = self.mean(now);
        let took = took.max(4 * mean.unwrap_or(0)).clamp(FAILURE, MOST);
        self.write(mean.map_or(took, |mean| moved(mean, took)), FIRST, now);
    }

    /// Includes a call without a result, which says at least that a response takes longer.
    pub(super) fn left(&self, took: u64, now: Ticks) {
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
    fn read(&self, now: Ticks) -> Option<(u64, u64)> {
        let word = self.word.load(Ordering::Relaxed);
        (word != 0).then(|| (mean(word, now), values(word)))
    }

    /// Writes a mean from 1 to `MOST`.
    #[inline]
    fn write(&self, mean: u64, values: u64, now: Ticks) {
        let word = mean << 38 | values << 32 | u64::from(now.0);
        self.word.store(word, Ordering::Relaxed);
    }
}

/// Returns the number of values of a word.
#[inline]
fn values(word: u64) -> u64 {
    word >> 32 & 0x3F
}

/// Returns the mean of a word.
#[inline]
fn mean(word: u64, now: Ticks) -> u64 {
    let (mean, idle) = (word >> 38, now.0.wrapping_sub(word as u32));
    // Another thread may have updated it after this one read the clock.
    if idle == 0 || idle > u32::MAX - BEHIND { mean } else { faded(mean, idle) }
}

/// Returns a mean with a new value. Both are from 1 to `MOST`, and so is the result.
#[inline]
fn moved(mean: u64, value: u64) -> u64 {
    mean - mean / 4 + value / 4
}

/// Returns a mean after some ticks without an update.
#[inline]
fn faded(mean: u64, idle: u32) -> u64 {
    let halvings = idle / HALF_LIFE;
    if halvings >= 32 {
        return 1;
    }
    let whole = mean >> halvings;
    (whole - whole / 2 * u64::from(idle % HALF_LIFE) / u64::from(HALF_LIFE)).max(1)
}

/// Returns the microseconds of a time that counts.
#[inline]
pub(super) fn micros(nanos: u64) -> u64 {
    (nanos / 1_000).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: Ticks = Ticks(102);

    /// Returns the mean if it can be compared.
    fn mean_of(load: &Load) -> Option<u64> {
        load.means(load).map(|(mean, _)| mean)
    }

    fn after(seconds: u64) -> Ticks {
        Ticks::of(seconds * 1_000 * MS)
    }

    #[test]
    fn a_mean_follows_its_values_and_fades() {
        let load = Load::default();
        assert_eq!(load.mean(SECOND), None);
        load.responded(micros(8 * MS), SECOND);
        assert_eq!(load.mean(SECOND), Some(8_000));
        (0..30).for_each(|_| load.responded(micros(16 * MS), SECOND));
        assert!(load.mean(SECOND).unwrap() > 15_900);
        let [half, quarter] = [11, 21].map(|seconds| load.mean(after(seconds)).unwrap());
        assert!((7_900..8_001).contains(&half) && (3_900..4_001).contains(&quarter));
        assert_eq!(load.mean(after(86_400)), Some(1));
        // A call that has read the clock before the last update takes it for the newest.
        assert_eq!(load.mean(Ticks(SECOND.0 - 1)), load.mean(SECOND));
        // The ticks begin anew.
        let (load, late) = (Load::default(), Ticks(u32::MAX));
        load.responded(micros(8 * MS), late);
        assert!(load.mean(Ticks(2 * HALF_LIFE)).unwrap() < 3_000);
    }

    #[test]
    fn the_first_responses_count_as_the_fastest_of_them() {
        let load = Load::default();
        for (took, comparable) in [(37, None), (9, None), (8, None), (40, None)] {
            load.responded(micros(took * MS), SECOND);
            assert_eq!(mean_of(&load), comparable);
        }
        (0..4).for_each(|_| load.responded(micros(9 * MS), SECOND));
        assert_eq!(mean_of(&load), Some(8_000));
        load.forget();
        load.responded(micros(37 * MS), SECOND);
        assert_eq!((load.mean(SECOND), mean_of(&load)), (Some(37_000), None));
        // A failure says enough.
        load.failed(micros(MS), SECOND);
        assert!(mean_of(&load).is_some_and(|mean| mean > 37_000));
    }

    #[test]
    fn two_means_compare_as_of_the_later_update_even_when_the_ticks_begin_anew() {
        let (fast, slow) = (Load::default(), Load::default());
        let half_life = |from: u32| (Ticks(from), Ticks(from.wrapping_add(HALF_LIFE)));
        for (early, late) in [half_life(102), half_life(u32::MAX - 9)] {
            (0..FIRST).for_each(|_| fast.responded(micros(8 * MS), late));
            assert_eq!(fast.means(&slow), None);
            (0..FIRST).for_each(|_| slow.responded(micros(20 * MS), early));
            assert_eq!(fast.means(&slow), Some((8_000, 10_000)));
            assert_eq!(slow.means(&fast), Some((10_000, 8_000)));
            fast.forget();
            slow.forget();
        }
    }

    #[test]
    fn a_mean_is_least_when_no_response_makes_it_smaller() {
        let load = Load::default();
        assert!(!load.is_least());
        (0..FIRST).for_each(|_| load.responded(micros(MS), SECOND));
        for responses in 0..100 {
            let before = mean_of(&load);
            let is_least = load.is_least();
            load.responded(1, SECOND);
            assert_eq!(is_least, mean_of(&load) == before, "{responses}");
        }
        assert!(load.is_least());
        load.failed(1, SECOND);
        assert!(!load.is_least());
    }

    #[test]
    fn failures_in_a_row_count_as_slower_and_slower_up_to_a_limit() {
        let (load, fast) = (Load::default(), Load::default());
        load.failed(0, SECOND);
        fast.responded(micros(MS), SECOND);
        assert!(load.mean(SECOND) > fast.mean(SECOND), "it looks idle");
        let mut last = load.mean(SECOND).unwrap();
        for _ in 0..10 {
            load.failed(0, SECOND);
            let mean = load.mean(SECOND).unwrap();
            assert!(mean > last);
            last = mean;
        }
        (0..100).for_each(|_| load.failed(u64::MAX, SECOND));
        assert!(load.mean(SECOND).unwrap() <= MOST);
    }

    #[test]
    fn a_call_that_was_left_says_only_that_it_would_have_been_slow() {
        let load = Load::default();
        load.left(micros(1_000 * MS), SECOND);
        assert_eq!(load.mean(SECOND), None);
        load.responded(micros(8 * MS), SECOND);
        load.left(micros(MS), SECOND);
        assert_eq!(load.mean(SECOND), Some(8_000));
        load.left(micros(1_000 * MS), SECOND);
        assert_eq!(load.mean(SECOND), Some(256_000));
    }
}
