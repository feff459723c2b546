//! Counters that many threads add to without sharing a cache line.

use std::{
    cell::Cell,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::histogram::{Histogram, HistogramSnapshot};
use crate::call::lock::lock;

/// The number of shards. Each of them but the last belongs to at most one thread at a time.
const SHARDS: usize = 16;
/// The shard of all threads that do not own one.
const COMMON: usize = SHARDS - 1;
const UNKNOWN: usize = usize::MAX;

/// The shards that no thread owns, as bits.
///
/// The lock orders the writes of a thread that ends before those of the next owner.
static FREE: Mutex<u32> = Mutex::new((1 << COMMON) - 1);

thread_local! {
    /// The number of the shard of this thread.
    static SHARD: Cell<usize> = const { Cell::new(UNKNOWN) };
    /// It is separate, because a value that is dropped costs a check at each access.
    static OWNED: Owned = Owned::take();
}

/// The ownership of a shard. It ends with the thread.
struct Owned(usize);

impl Owned {
    fn take() -> Self {
        let mut free = lock(&FREE);
        let shard = (free.trailing_zeros() as usize).min(COMMON);
        *free &= !(1 << shard);
        Self(shard)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Values of the thread that are dropped later may still count.
        SHARD.set(COMMON);
        if self.0 != COMMON {
            *lock(&FREE) |= 1 << self.0;
        }
    }
}

/// Returns the number of the shard of this thread.
#[inline]
fn shard() -> usize {
    match SHARD.get() {
        UNKNOWN => take_shard(),
        shard => shard,
    }
}

#[cold]
fn take_shard() -> usize {
    // While the thread ends, `OWNED` may be gone already.
    let shard = OWNED.try_with(|owned| owned.0).unwrap_or(COMMON);
    SHARD.set(shard);
    shard
}

/// Adds to a count in the shard of this thread.
///
/// A reader that sees the end of a call then also sees its beginning, even on another thread.
#[inline]
fn add(shard: usize, count: &AtomicU64, more: u64) {
    if shard == COMMON {
        count.fetch_add(more, Ordering::Release);
    } else {
        // No other thread writes, so this needs no locked instruction.
        count.store(count.load(Ordering::Relaxed).wrapping_add(more), Ordering::Release);
    }
}

/// A value for each shard, made when a thread first needs it.
struct Shards<T>([OnceLock<Box<T>>; SHARDS]);

impl<T: Default> Shards<T> {
    const fn new() -> Self {
        Self([const { OnceLock::new() }; SHARDS])
    }

    #[inline]
    fn of(&self, shard: usize) -> &T {
        self.0[shard].get_or_init(Box::default)
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|shard| shard.get().map(|value| &**value))
    }
}

/// A count on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// A counter.
pub(crate) struct ShardedCounter(Shards<Line>);

impl ShardedCounter {
    pub(crate) const fn new() -> Self {
        Self(Shards::new())
    }

    #[inline]
    pub(crate) fn increment(&self) {
        let shard = shard();
        add(shard, &self.0.of(shard).0, 1);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|line| line.0.load(Ordering::Acquire)).sum()
    }
}

/// A histogram.
pub(crate) struct ShardedHistogram(Shards<Histogram>);

impl ShardedHistogram {
    pub(crate) const fn new() -> Self {
        Self(Shards::new())
    }

    #[inline]
    pub(crate) fn record(&self, took: u64) {
        let shard = shard();
        self.0.of(shard).record_with(took, |count, more| add(shard, count, more));
    }

    /// Adds the counts to a snapshot.
    pub(crate) fn add_to(&self, snapshot: &mut HistogramSnapshot) {
        self.0.iter().for_each(|histogram| histogram.add_to(snapshot));
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicBool, thread};

    use super::*;

    #[test]
    fn threads_that_come_and_go_during_scrapes_lose_no_count() {
        const THREADS: usize = 40;
        const ROUNDS: u64 = 25;
        const COUNTS: u64 = 200;
        let (counter, histogram) = (ShardedCounter::new(), ShardedHistogram::new());
        let done = AtomicBool::new(false);
        let read = || {
            let mut snapshot = HistogramSnapshot::new();
            histogram.add_to(&mut snapshot);
            (counter.total(), snapshot.count())
        };
        thread::scope(|scope| {
            let scraper = scope.spawn(|| {
                let mut last = (0, 0);
                while !done.load(Ordering::Relaxed) {
                    let now = read();
                    assert!(now.0 >= last.0 && now.1 >= last.1, "a count went back");
                    last = now;
                }
            });
            let workers: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        // Each round runs on a thread of its own, which ends and frees its shard.
                        for _ in 0..ROUNDS {
                            thread::scope(|round| {
                                round.spawn(|| {
                                    for _ in 0..COUNTS {
                                        counter.increment();
                                        histogram.record(1_000_000);
                                    }
                                });
                            });
                        }
                    })
                })
                .collect();
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            done.store(true, Ordering::Relaxed);
            scraper.join().unwrap();
        });
        let expected = THREADS as u64 * ROUNDS * COUNTS;
        assert_eq!(read(), (expected, expected));
    }

    /// A value of a thread that counts when it is dropped.
    struct CountsLate(&'static ShardedCounter);

    impl Drop for CountsLate {
        fn drop(&mut self) {
            self.0.increment();
        }
    }

    thread_local! {
        static LATE: Cell<Option<CountsLate>> = const { Cell::new(None) };
    }

    #[test]
    fn a_thread_that_ends_still_counts() {
        static COUNTER: ShardedCounter = ShardedCounter::new();
        for counts_before in [true, false] {
            let before = COUNTER.total();
            thread::spawn(move || {
                LATE.set(Some(CountsLate(&COUNTER)));
                if counts_before {
                    COUNTER.increment();
                }
            })
            .join()
            .unwrap();
            assert_eq!(COUNTER.total() - before, 1 + u64::from(counts_before));
        }
    }
}
