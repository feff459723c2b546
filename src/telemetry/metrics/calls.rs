//! The counts that every call touches.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

use super::{
    super::event::CallOutcome,
    histogram::HistogramSnapshot,
    shards::{ShardedCounter, ShardedHistogram},
};
use crate::call::race::{Either, race};

/// The time after which each thread sees that the calls are watched.
///
/// The end of a call takes no fence, so it may at first miss that a task waits for it. A processor
/// publishes a write in far less than a microsecond.
const VISIBLE: Duration = Duration::from_millis(10);

/// The calls of a stack, the attempts of a retry or the bodies of a client.
pub(crate) struct Calls {
    started: ShardedCounter,
    ended: [ShardedHistogram; CallOutcome::ALL.len()],
    /// The number of tasks that wait until there is no call.
    watchers: AtomicUsize,
    /// Notified at the end of each call while it is watched.
    an_end: Notify,
}

impl Calls {
    #[inline]
    pub(crate) fn begin(&self) {
        self.started.increment();
    }

    #[inline]
    pub(super) fn ended(&self, outcome: CallOutcome, took: u64) {
        self.ended[outcome as usize].record(took);
        if self.watchers.load(Ordering::Relaxed) > 0 {
            self.notify();
        }
    }

    #[cold]
    fn notify(&self) {
        self.an_end.notify_waiters();
    }

    /// Waits until there is no call, at one instant since the first poll.
    ///
    /// Dropping the future ends only the wait.
    pub(super) async fn drained(&self) {
        if self.active() == 0 {
            return;
        }
        let _watcher = Watcher::new(&self.watchers);
        let mut visible = pin!(sleep(VISIBLE));
        let mut is_visible = false;
        loop {
            let mut an_end = pin!(self.an_end.notified());
            // Listens before it counts, so that an end in between is not missed.
            an_end.as_mut().enable();
            if self.active() == 0 {
                return;
            }
            if is_visible {
                an_end.await;
            } else if let Either::Right(()) = race(an_end, visible.as_mut()).await {
                // A call that ended unseen is counted now.
                is_visible = true;
            }
        }
    }

    /// Returns the number of calls that have begun and not ended.
    pub(super) fn active(&self) -> u64 {
        // The ends first. A call that begins and ends meanwhile then counts as active.
        let ended: u64 = self.snapshot().iter().map(HistogramSnapshot::count).sum();
        self.started().saturating_sub(ended)
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
            watchers: AtomicUsize::new(0),
            an_end: Notify::new(),
        }
    }
}

/// A task that waits, until it is dropped.
struct Watcher<'a>(&'a AtomicUsize);

impl<'a> Watcher<'a> {
    fn new(watchers: &'a AtomicUsize) -> Self {
        watchers.fetch_add(1, Ordering::SeqCst);
        Self(watchers)
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Barrier},
        thread,
    };

    use tokio::time::{Instant, advance};
    use tokio_test::task::{self, Spawn};

    use super::*;

    const TOOK: u64 = 1_000_000;

    fn begun(count: usize) -> Arc<Calls> {
        let calls = Arc::new(Calls::default());
        (0..count).for_each(|_| calls.begin());
        calls
    }

    fn drained(calls: &Arc<Calls>) -> Spawn<impl Future<Output = ()> + use<>> {
        let calls = Arc::clone(calls);
        task::spawn(async move { calls.drained().await })
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_call_the_wait_is_over_at_once() {
        let calls = begun(0);
        assert!(drained(&calls).poll().is_ready());
        calls.begin();
        calls.ended(CallOutcome::Success, TOOK);
        assert!(drained(&calls).poll().is_ready());
        assert_eq!(calls.watchers.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_end_wakes_the_task_whatever_the_outcome() {
        for last in CallOutcome::ALL {
            for visible in [true, false] {
                let calls = begun(3);
                let mut drained = drained(&calls);
                assert!(drained.poll().is_pending());
                if visible {
                    advance(VISIBLE).await;
                    assert!(drained.is_woken() && drained.poll().is_pending());
                }
                for outcome in [CallOutcome::Success, CallOutcome::Cancelled] {
                    calls.ended(outcome, TOOK);
                    assert!(drained.poll().is_pending());
                }
                assert!(!drained.is_woken());
                calls.ended(last, TOOK);
                assert!(drained.is_woken() && drained.poll().is_ready(), "{last:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_ended_unseen_is_found_after_a_moment() {
        let calls = begun(1);
        let mut drained = drained(&calls);
        assert!(drained.poll().is_pending());
        // As if the thread had looked for watchers before.
        calls.ended[0].record(TOOK);
        advance(VISIBLE).await;
        assert!(drained.is_woken() && drained.poll().is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_waits_does_not_poll() {
        let calls = begun(1);
        let mut drained = drained(&calls);
        assert!(drained.poll().is_pending());
        advance(VISIBLE).await;
        assert!(drained.poll().is_pending());
        advance(Duration::from_secs(3_600)).await;
        assert!(!drained.is_woken());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_begin_meanwhile_are_waited_for() {
        let calls = begun(1);
        let mut drained = drained(&calls);
        assert!(drained.poll().is_pending());
        calls.begin();
        calls.ended(CallOutcome::Success, TOOK);
        assert!(drained.is_woken() && drained.poll().is_pending());
        calls.ended(CallOutcome::Success, TOOK);
        // A call after the end of the wait concerns nobody.
        assert!(drained.poll().is_ready());
        calls.begin();
        assert_eq!((calls.active(), calls.watchers.load(Ordering::Relaxed)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_dropped_leaves_nothing_and_harms_no_other() {
        let calls = begun(1);
        let (mut first, mut second) = (drained(&calls), drained(&calls));
        assert!(first.poll().is_pending() && second.poll().is_pending());
        drop(first);
        assert_eq!(calls.watchers.load(Ordering::Relaxed), 1);
        calls.ended(CallOutcome::Failure, TOOK);
        assert!(second.is_woken() && second.poll().is_ready());
        drop(second);
        assert_eq!(calls.watchers.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn no_end_on_another_thread_is_missed() {
        const THREADS: usize = 4;
        for _ in 0..100 {
            let calls = begun(THREADS);
            let barrier = Arc::new(Barrier::new(THREADS + 1));
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    let (calls, barrier) = (Arc::clone(&calls), Arc::clone(&barrier));
                    thread::spawn(move || {
                        barrier.wait();
                        calls.ended(CallOutcome::Success, TOOK);
                    })
                })
                .collect();
            barrier.wait();
            let began = Instant::now();
            calls.drained().await;
            assert!(began.elapsed() < Duration::from_secs(10));
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }
}
