//! The runs of this process: counted, bounded, and waited for when it shuts down.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use tokio::sync::Notify;

/// How many runs there are, and may be.
#[derive(Debug)]
pub(super) struct Runs {
    count: AtomicU32,
    max: u32,
    closed: AtomicBool,
    /// Told when the last run has ended.
    idle: Notify,
}

impl Runs {
    pub(super) fn new(max: u32) -> Arc<Self> {
        let (count, closed, idle) = (AtomicU32::new(0), AtomicBool::new(false), Notify::new());
        Arc::new(Self { count, max, closed, idle })
    }

    /// A place for a run, if there is one.
    pub(super) fn enter(self: &Arc<Self>) -> Option<RunSlot> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        self.count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count < self.max).then_some(count + 1)
            })
            .ok()?;
        Some(RunSlot(Arc::clone(self)))
    }

    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Waits until there is none.
    pub(super) async fn drained(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            // Listens before it looks: a run that ends in between is heard.
            idle.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// The place of one run, until it is dropped.
#[derive(Debug)]
pub(super) struct RunSlot(Arc<Runs>);

impl Drop for RunSlot {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}
