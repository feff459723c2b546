//! The counts that every call touches.

use std::time::Duration;

use super::{
    super::event::CallOutcome,
    histogram::HistogramSnapshot,
    shards::{ShardedCounter, ShardedHistogram},
};

/// The calls of a stack, the attempts of a retry or the bodies of a client.
pub(crate) struct Calls {
    started: ShardedCounter,
    ended: [ShardedHistogram; CallOutcome::ALL.len()],
}

impl Calls {
    #[inline]
    pub(crate) fn begin(&self) {
        self.started.increment();
    }

    #[inline]
    pub(super) fn ended(&self, outcome: CallOutcome, took: Duration) {
        self.ended[outcome as usize].record(took);
    }

    /// Returns the number of calls that have begun.
    pub(super) fn started(&self) -> u64 {
        self.started.total()
    }

    /// Returns the durations of the calls that have ended, for each outcome.
    pub(super) fn snapshot(&self) -> [HistogramSnapshot; CallOutcome::ALL.len()] {
        std::array::from_fn(|outcome| {
            let mut snapshot = HistogramSnapshot::new();
            self.ended[outcome].add_to(&mut snapshot);
            snapshot
        })
    }
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            started: ShardedCounter::new(),
            ended: [const { ShardedHistogram::new() }; CallOutcome::ALL.len()],
        }
    }
}
