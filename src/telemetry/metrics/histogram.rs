//! Distributions of durations.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::call::clock::nanos;

/// The upper bounds of all buckets but the last one, which has none, in nanoseconds.
///
/// Each decade from 100 µs to 100 s has eight. The [bounds for exporters](BUCKETS) are among them.
const BOUNDS: [u64; 49] = {
    const STEPS: [u64; 8] = [100, 150, 200, 250, 300, 400, 500, 750];
    let mut bounds = [0; 49];
    let (mut index, mut scale) = (0, 1_000);
    while index < 48 {
        bounds[index] = STEPS[index % 8] * scale;
        index += 1;
        if index % 8 == 0 {
            scale *= 10;
        }
    }
    bounds[48] = 100 * scale;
    bounds
};

const CELLS: usize = BOUNDS.len() + 1;

/// The first bucket in which a duration can be, for each number of bits of its nanoseconds.
///
/// No more than four buckets lie between two powers of two.
const FIRST: [u8; 65] = {
    let mut first = [0; 65];
    let mut bits = 1;
    while bits < 65 {
        let mut cell = 0;
        while cell < BOUNDS.len() && BOUNDS[cell] < 1 << (bits - 1) {
            cell += 1;
        }
        first[bits] = cell as u8;
        bits += 1;
    }
    first
};

/// Returns the number of the bucket of a duration in nanoseconds.
#[inline]
fn cell_of(nanos: u64) -> usize {
    let mut cell = usize::from(FIRST[(u64::BITS - nanos.leading_zeros()) as usize]);
    while cell < BOUNDS.len() && BOUNDS[cell] < nanos {
        cell += 1;
    }
    cell
}

/// The upper bounds of the buckets that exporters see, in seconds.
///
/// They are those that OpenTelemetry advises for `http.client.request.duration`, with 1 ms and 30 s
/// for calls that are faster or slower than most. The last bucket has no upper bound.
pub const BUCKETS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0];

/// The counts of one histogram, on cache lines of their own.
#[repr(align(128))]
pub(crate) struct Histogram {
    cells: [AtomicU64; CELLS],
    /// The sum in nanoseconds.
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) const fn new() -> Self {
        Self { cells: [const { AtomicU64::new(0) }; CELLS], sum: AtomicU64::new(0) }
    }

    /// Counts a duration in nanoseconds. `add` adds to one of the counts.
    #[inline]
    pub(crate) fn record_with(&self, took: u64, add: impl Fn(&AtomicU64, u64)) {
        add(&self.cells[cell_of(took)], 1);
        add(&self.sum, took);
    }

    /// Counts a duration. Several threads may do so at the same time.
    pub(crate) fn record(&self, took: Duration) {
        self.record_with(nanos(took), |count, more| {
            count.fetch_add(more, Ordering::Relaxed);
        });
    }

    /// Adds the counts to a snapshot.
    pub(crate) fn add_to(&self, snapshot: &mut HistogramSnapshot) {
        for (sum, cell) in snapshot.cells.iter_mut().zip(&self.cells) {
            *sum += cell.load(Ordering::Acquire);
        }
        snapshot.sum = snapshot.sum.wrapping_add(self.sum.load(Ordering::Relaxed));
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").finish_non_exhaustive()
    }
}

/// A distribution of durations, as it was when it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct HistogramSnapshot {
    cells: [u64; CELLS],
    sum: u64,
}

impl HistogramSnapshot {
    /// Creates the snapshot of a histogram without durations.
    pub const fn new() -> Self {
        Self { cells: [0; CELLS], sum: 0 }
    }

    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// Returns the sum of the durations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum)
    }

    /// Returns the buckets: the upper bound of each in seconds, and the number of durations in it.
    ///
    /// The bounds are [`BUCKETS`], and infinity for the last bucket. The numbers are not
    /// cumulative.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let mut cell = 0;
        BUCKETS.into_iter().chain([f64::INFINITY]).map(move |bound| {
            let mut count = 0;
            while cell < CELLS && BOUNDS.get(cell).is_none_or(|it| *it as f64 <= bound * 1e9) {
                if cell == BOUNDS.len() && bound.is_finite() {
                    break;
                }
                count += self.cells[cell];
                cell += 1;
            }
            (bound, count)
        })
    }

    /// Returns a duration that the share `quantile` of the durations does not exceed.
    ///
    /// `quantile` is from 0 to 1. The result is estimated within one of about 50 buckets, whose
    /// bounds differ by at most 50 %. It is `None` if there are no durations. Durations above 100 s
    /// count as 100 s.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = quantile.clamp(0.0, 1.0) * count as f64;
        let mut below = 0;
        for (index, cell) in self.cells.iter().enumerate() {
            let upper = BOUNDS[index.min(BOUNDS.len() - 1)];
            if *cell > 0 && (below + cell) as f64 >= rank {
                let lower = if index == 0 { 0 } else { BOUNDS[index - 1] };
                let share = ((rank - below as f64) / *cell as f64).clamp(0.0, 1.0);
                let nanos = lower as f64 + share * (upper - lower) as f64;
                return Some(Duration::from_nanos(nanos as u64));
            }
            below += cell;
        }
        Some(Duration::from_nanos(BOUNDS[BOUNDS.len() - 1]))
    }

    /// Returns the durations since an earlier snapshot of the same histogram.
    ///
    /// If the earlier one has more durations in a bucket, it is of another histogram, and the
    /// result is a copy.
    pub fn since(&self, earlier: &Self) -> Self {
        if self.cells.iter().zip(&earlier.cells).any(|(now, then)| now < then) {
            return self.clone();
        }
        let cells = std::array::from_fn(|index| self.cells[index] - earlier.cells[index]);
        Self { cells, sum: self.sum.wrapping_sub(earlier.sum) }
    }

    /// Adds the durations of another snapshot.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.cells.iter_mut().zip(&other.cells) {
            *sum += more;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl Default for HistogramSnapshot {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HistogramSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HistogramSnapshot")
            .field("count", &self.count())
            .field("sum", &self.sum())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations: &[Duration]) -> HistogramSnapshot {
        let (histogram, mut snapshot) = (Histogram::new(), HistogramSnapshot::new());
        durations.iter().for_each(|took| histogram.record(*took));
        histogram.add_to(&mut snapshot);
        snapshot
    }

    #[test]
    fn the_bounds_grow_and_contain_those_of_the_exporters() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b));
        assert_eq!((BOUNDS[0], BOUNDS[48]), (100_000, 100_000_000_000));
        for bound in BUCKETS {
            assert!(BOUNDS.contains(&((bound * 1e9) as u64)), "{bound}");
        }
    }

    #[test]
    fn every_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let edges = BOUNDS.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
        let powers = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for nanos in edges.chain(powers).chain([0, u64::MAX]) {
            let expected = BOUNDS.partition_point(|bound| *bound < nanos);
            assert_eq!(cell_of(nanos), expected, "{nanos}");
        }
    }

    #[test]
    fn a_duration_at_a_bound_is_in_the_bucket_beneath_it() {
        for (bound, place) in BUCKETS.into_iter().zip(0..) {
            let at = Duration::from_secs_f64(bound);
            for (took, place) in [(at, place), (at + Duration::from_nanos(1), place + 1)] {
                let counts: Vec<u64> = of(&[took]).buckets().map(|(_, count)| count).collect();
                assert_eq!(counts.len(), BUCKETS.len() + 1);
                assert_eq!(counts.iter().sum::<u64>(), 1);
                assert_eq!(counts.iter().position(|count| *count == 1), Some(place), "{took:?}");
            }
        }
        assert_eq!(of(&[Duration::MAX]).buckets().last(), Some((f64::INFINITY, 1)));
    }

    #[test]
    fn a_quantile_is_off_by_at_most_the_width_of_a_bucket() {
        let durations: Vec<_> = (1..=1_000).map(Duration::from_millis).collect();
        let snapshot = of(&durations);
        for (quantile, exact) in [(0.01, 0.010), (0.5, 0.5), (0.9, 0.9), (0.99, 0.99), (1.0, 1.0)] {
            let estimate = snapshot.quantile(quantile).unwrap().as_secs_f64();
            assert!((estimate / exact - 1.0).abs() < 0.05, "{quantile}: {estimate}");
        }
        assert_eq!(HistogramSnapshot::new().quantile(0.5), None);
    }

    #[test]
    fn what_was_recorded_between_two_snapshots_is_their_difference() {
        let (early, both) = (of(&[Duration::from_millis(3)]), [3, 20].map(Duration::from_millis));
        let later = of(&both);
        assert_eq!(later.since(&early), of(&both[1..]));
        let mut sum = early.clone();
        sum.merge(&of(&both[1..]));
        assert_eq!(sum, later);
        assert_eq!(early.since(&later), early);
    }
}
