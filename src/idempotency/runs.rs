//! The runs of this process, counted, bounded, and awaited at shutdown.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

/// The bit of the count that forbids new runs.
const CLOSED: u64 = 1 << 63;

/// The number of runs, and its maximum.
#[derive(Debug)]
pub(super) struct Runs {
    /// The number of runs, with the bit [`CLOSED`].
    ///
    /// Both are in one atomic, so that no run begins after a caller has closed it and seen the
    /// count at zero.
    count: AtomicU64,
    max: u64,
    /// Notified when the last run has ended.
    idle: Notify,
}

impl Runs {
    pub(super) fn new(max: u32) -> Arc<Self> {
        let (count, max, idle) = (AtomicU64::new(0), u64::from(max), Notify::new());
        Arc::new(Self { count, max, idle })
    }

    /// Returns a slot for a run, if one is free.
    pub(super) fn enter(self: &Arc<Self>) -> Option<RunSlot> {
        // The bit `CLOSED` makes the count larger than any limit.
        self.count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count < self.max).then_some(count + 1)
            })
            .ok()?;
        Some(RunSlot(Arc::clone(self)))
    }

    pub(super) fn count(&self) -> u32 {
        let count = self.count.load(Ordering::Acquire) & !CLOSED;
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.count.load(Ordering::Acquire) & CLOSED != 0
    }

    pub(super) fn close(&self) {
        self.count.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Waits until there is no run.
    pub(super) async fn drained(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            // Listens before it reads the count, so that the end of a run in between is not
            // missed.
            idle.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// The slot of one run, freed when it is dropped.
#[derive(Debug)]
pub(super) struct RunSlot(Arc<Runs>);

impl Drop for RunSlot {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) & !CLOSED == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_counts_what_is_under_way_and_lets_nothing_in() {
        let runs = Runs::new(u32::MAX);
        let slot = runs.enter();
        runs.close();
        assert!(runs.enter().is_none());
        assert_eq!(runs.count(), 1);
        drop(slot);
        assert!(runs.enter().is_none());
        assert_eq!(runs.count(), 0);
    }
}
