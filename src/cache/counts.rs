//! The numbers of a cache.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::ShardedCounter;

/// The numbers of a cache, which [`CacheHandle::counts`](super::CacheHandle::counts) returns.
///
/// Each call that ends with a response or an error is counted in exactly one of the first five
/// numbers. A call that its caller drops before is in none of them, except for a hit, which is
/// counted when the call is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheCounts {
    /// Calls that got a fresh response without a call of the service.
    pub hits: u64,
    /// Calls that got a response that was no longer fresh.
    pub stale: u64,
    /// Calls that began a call of the service, which other callers could share.
    pub misses: u64,
    /// Calls that got the result of a call that another caller began.
    pub collapsed: u64,
    /// Calls that asked the service for themselves alone.
    pub bypassed: u64,
    /// Entries that are kept now.
    pub entries: u64,
    /// The bytes of these entries.
    pub bytes: u64,
    /// Shared calls that are under way now.
    pub shared_calls: u32,
}

/// The result of a call, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Result {
    Hit,
    Stale,
    Miss,
    Collapsed,
    Bypassed,
}

impl Result {
    /// Returns the result as one word.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Bypassed => "bypassed",
        }
    }
}

/// The counters.
pub(super) struct Counts {
    // Each hit adds to it, on every thread.
    hits: ShardedCounter,
    others: [AtomicU64; 4],
}

impl Default for Counts {
    fn default() -> Self {
        Self { hits: ShardedCounter::new(), others: [const { AtomicU64::new(0) }; 4] }
    }
}

impl Counts {
    #[inline]
    pub(super) fn hit(&self) {
        self.hits.increment();
    }

    pub(super) fn add(&self, result: Result) {
        match result {
            Result::Hit => self.hit(),
            other => _ = self.others[other as usize - 1].fetch_add(1, Ordering::Relaxed),
        }
    }

    pub(super) fn read(&self) -> CacheCounts {
        let [stale, misses, collapsed, bypassed] =
            [0, 1, 2, 3].map(|place: usize| self.others[place].load(Ordering::Relaxed));
        let hits = self.hits.total();
        CacheCounts { hits, stale, misses, collapsed, bypassed, ..CacheCounts::default() }
    }
}
