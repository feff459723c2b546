//! The queued callers of a bulkhead, and the order in which they get slots.

use std::{task::Waker, time::Duration};

use tokio::time::Instant;

use crate::call::{
    clock, deadline,
    waiters::{Key, Waiters},
};

/// The queued callers, oldest first until the queue has stood for too long.
///
/// A queue that does not become empty receives more than it can serve. Oldest first, it would then
/// serve each caller just before the end of its time, and nobody would get a response in time.
/// Newest first, the callers that get a slot have most of their time left. The others time out in
/// the queue, and their calls never begin.
///
/// A burst does not change the order, if the queue is empty again before the time is over. Nor does
/// a queue that is seldom empty but moves, such as in front of a worker pool: the order changes
/// only if the oldest caller has also waited for half of the time that it is ready to wait.
///
/// A lock of the owner protects the line.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiters: Waiters,
    /// The time since the queue was last empty, and the longest time that one of the callers since
    /// then was ready to wait. `None` while no caller waits for a limited time.
    ///
    /// With the shortest time, one caller in a hurry would change the order for all others.
    standing: Option<Wait>,
    /// The wait of each caller, by the index of its place. `None` if it has no limit and is not
    /// measured.
    waits: Vec<Option<Wait>>,
}

/// A time that began, and its longest length.
#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Instant,
    patience: Duration,
}

impl Wait {
    fn has_lasted(self, part: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= part
    }
}

impl Line {
    /// Adds a caller at the end. Returns its place, and the end of its wait if there is one.
    ///
    /// A caller waits for `max_wait`, and not beyond its deadline. If `measured` is set, its
    /// beginning is noted even without a longest wait.
    pub(super) fn join(
        &mut self,
        max_wait: Option<Duration>,
        measured: bool,
        waker: Waker,
    ) -> (Key, Option<Instant>) {
        if self.waiters.is_empty() {
            self.standing = None;
        }
        let limited = max_wait.map(|max_wait| {
            let now = clock::now();
            let left = deadline::deadline().map(|end| end.saturating_duration_since(now));
            let patience = left.map_or(max_wait, |left| left.min(max_wait));
            let standing = self.standing.get_or_insert(Wait { since: now, patience });
            standing.patience = standing.patience.max(patience);
            Wait { since: now, patience }
        });
        let unlimited = || measured.then(|| Wait { since: clock::now(), patience: Duration::MAX });
        let wait = limited.or_else(unlimited);
        let end = wait.zip(max_wait).and_then(|(wait, most)| wait.since.checked_add(most));
        let key = self.waiters.push(waker);
        if self.waits.len() <= key.index() {
            self.waits.resize(key.index() + 1, None);
        }
        self.waits[key.index()] = wait;
        (key, end)
    }

    /// Calls the caller whose turn it is. The owner must wake the returned waker.
    pub(super) fn call_next(&mut self) -> Option<Waker> {
        if self.has_stood_too_long() { self.waiters.call_last() } else { self.waiters.call_first() }
    }

    /// Returns whether nobody who waited from the beginning would still wait, and the oldest caller
    /// has waited for half of its time.
    ///
    /// Reads the clock only if the order makes a difference.
    fn has_stood_too_long(&self) -> bool {
        let oldest = || self.waiters.first().and_then(|first| self.waits[first.index()]);
        let (true, Some(standing)) = (self.waiters.are_several(), self.standing) else {
            return false;
        };
        let now = clock::now();
        standing.has_lasted(standing.patience, now)
            && oldest().is_some_and(|oldest| oldest.has_lasted(oldest.patience / 2, now))
    }

    /// Returns the instant at which a caller joined, if it is known.
    pub(super) fn joined_at(&self, key: Key) -> Option<Instant> {
        self.waits[key.index()].map(|wait| wait.since)
    }

    pub(super) fn waiters(&mut self) -> &mut Waiters {
        &mut self.waiters
    }
}
