//! The slots of a bulkhead, and the queue of the callers that wait for one.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::line::Line;
use crate::{
    call::{
        account::{Account, End, Stamp},
        admission::{Admission, Ledger},
        lock::lock,
        waiters::{Key, Waiters, wake_all},
    },
    error::{BulkheadFull, Name, QueueTimedOut},
    telemetry::{Event, Reporter, ReporterCell},
};

/// A slot that a call holds. It is released when the permit is finished or dropped.
pub(crate) type Permit = Admission<Arc<Slots>>;

/// The slots of one bulkhead.
///
/// One word holds the number of slots in use, the number of queued callers, and whether a task
/// waits until both are zero. While the queue is empty, taking a slot and releasing it are one
/// atomic operation each. A caller that joins the queue is counted in the same word under the lock.
/// Therefore it cannot miss a slot that is released at the same time. Queued callers are served
/// before all others.
pub(crate) struct Slots {
    reporter: ReporterCell,
    limit: AtomicU32,
    /// The maximum number of queued callers, or `u32::MAX` for a queue without a limit.
    capacity: u32,
    word: AtomicU64,
    line: Mutex<Line>,
    /// The tasks that wait until the bulkhead is empty. Locked after `line` if both are.
    drains: Mutex<Waiters>,
    /// Set once a stack of a key owns the slots.
    owned: AtomicBool,
}

const ONE_TAKEN: u64 = 1;
const ONE_QUEUED: u64 = 1 << 32;
/// Set if a task may wait until the bulkhead is empty. The change that empties it clears the flag.
const DRAIN_AWAITED: u64 = 1 << 63;

#[inline]
fn taken(word: u64) -> u32 {
    word as u32
}

#[inline]
fn queued(word: u64) -> u32 {
    ((word & !DRAIN_AWAITED) >> 32) as u32
}

/// The result of an attempt to enter the queue.
pub(super) enum Entry {
    Granted(Permit),
    /// `end` is the end of the longest wait. It is `None` if the wait has no limit, or one beyond
    /// what the clock can express.
    Queued {
        place: Place,
        end: Option<Instant>,
    },
    Full,
}

impl Slots {
    pub(super) fn new(reporter: ReporterCell, limit: u32, capacity: u32) -> Arc<Self> {
        Arc::new(Self {
            reporter,
            limit: AtomicU32::new(limit),
            capacity,
            word: AtomicU64::new(0),
            line: Mutex::default(),
            drains: Mutex::default(),
            owned: AtomicBool::new(false),
        })
    }

    /// Returns `true` to the first caller only, who then owns the slots.
    pub(super) fn claim(&self) -> bool {
        !self.owned.swap(true, Ordering::Relaxed)
    }

    /// Returns as many free slots with the same name. The limit is the current one.
    pub(super) fn fresh(&self) -> Arc<Self> {
        Self::new(self.reporter.fresh(), self.limit(), self.capacity)
    }

    pub(super) fn reporter(&self) -> &Reporter {
        self.reporter.get()
    }

    pub(super) fn reporter_cell(&self) -> &ReporterCell {
        &self.reporter
    }

    fn name(&self) -> Option<Name> {
        self.reporter.name().cloned()
    }

    pub(super) fn queue_timed_out(&self, waited: Duration) -> QueueTimedOut {
        QueueTimedOut::by(self.name(), waited)
    }

    #[inline]
    pub(super) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Acquire)
    }

    pub(super) fn in_flight(&self) -> u32 {
        taken(self.word.load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn queued(&self) -> u32 {
        queued(self.word.load(Ordering::Acquire))
    }

    /// Returns the maximum number of queued callers, if there is one.
    pub(super) fn queue_limit(&self) -> Option<u32> {
        Some(self.capacity).filter(|capacity| *capacity < u32::MAX)
    }

    pub(super) fn rejection(&self) -> BulkheadFull {
        BulkheadFull::by(self.name(), self.limit())
    }

    /// Takes a slot if one is free and no caller is queued.
    #[inline]
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Permit> {
        let limit = self.limit();
        let take = |word| {
            let free = queued(word) == 0 && taken(word) < limit;
            free.then_some(word + ONE_TAKEN)
        };
        self.step(take).then(|| Admission::new(Arc::clone(self), ()))
    }

    /// Takes a slot, or a place in the queue for at most `max_wait`.
    ///
    /// A no-op waker is allowed if the caller polls the place before it waits.
    pub(super) fn enter(self: &Arc<Self>, max_wait: Option<Duration>, waker: Waker) -> Entry {
        let mut line = lock(&self.line);
        loop {
            let limit = self.limit();
            let word = self.word.load(Ordering::Acquire);
            let free = queued(word) == 0 && taken(word) < limit;
            if !free && queued(word) >= self.capacity {
                drop(line);
                return Entry::Full;
            }
            let next = word + if free { ONE_TAKEN } else { ONE_QUEUED };
            if !self.replace(word, next) {
                continue;
            }
            if free {
                drop(line);
                return Entry::Granted(Admission::new(Arc::clone(self), ()));
            }
            let (key, end) = line.join(max_wait, self.reporter.meter().is_some(), waker);
            let place = Place { slots: Arc::clone(self), key: Some(key) };
            return Entry::Queued { place, end };
        }
    }

    /// Changes the limit, hands new free slots to queued callers, and reports it.
    pub(super) fn resize(&self, limit: u32) {
        {
            // Changed under the lock, so that no caller joins the queue because of the old limit.
            let _line = lock(&self.line);
            self.limit.store(limit, Ordering::Release);
        }
        while self.serve_one() {}
        self.reporter().emit(Event::BulkheadResized { limit });
    }

    #[inline]
    fn give_back(&self) {
        let unwatched = |word| {
            let wakes_none = queued(word) == 0 && word != DRAIN_AWAITED | ONE_TAKEN;
            wakes_none.then(|| word - ONE_TAKEN)
        };
        if self.step(unwatched) {
            return;
        }
        wake_all(self.subtract(ONE_TAKEN));
        self.serve_one();
    }

    /// Takes one slot or one queued caller off the word.
    ///
    /// Returns the tasks that waited until the bulkhead is empty, if it is empty now. They must be
    /// woken without a lock.
    fn subtract(&self, one: u64) -> Vec<Waker> {
        // Under the lock, so that no task joins before the word is zero and is called after it.
        let mut drains = lock(&self.drains);
        let mut empty = false;
        self.step(|word| {
            empty = word == DRAIN_AWAITED | one;
            Some(if empty { 0 } else { word - one })
        });
        if empty { drains.call_all().collect() } else { Vec::new() }
    }

    /// Waits until no slot is in use and no caller is queued, at one instant since the first poll.
    pub(super) fn poll_drained(&self, place: &mut Option<Key>, waker: Waker) -> Poll<()> {
        let mut drains = lock(&self.drains);
        let Some(key) = *place else {
            if !self.step(|word| (word & !DRAIN_AWAITED > 0).then_some(word | DRAIN_AWAITED)) {
                return Poll::Ready(());
            }
            *place = Some(drains.push(waker));
            return Poll::Pending;
        };
        if !drains.is_called(key) {
            let outdated = drains.set_waker(key, waker);
            drop(drains);
            drop(outdated);
            return Poll::Pending;
        }
        *place = None;
        let _ = drains.remove(key);
        Poll::Ready(())
    }

    /// Removes a task that no longer waits until the bulkhead is empty.
    pub(super) fn stop_waiting(&self, place: Key) {
        let removed = lock(&self.drains).remove(place);
        drop(removed);
    }

    /// Hands a free slot to the queued caller whose turn it is.
    ///
    /// Returns `false` if no slot is free or no caller is queued.
    fn serve_one(&self) -> bool {
        let waker = {
            let mut line = lock(&self.line);
            let limit = self.limit();
            let hand_over = |word| {
                let possible = queued(word) > 0 && taken(word) < limit;
                possible.then(|| word + ONE_TAKEN - ONE_QUEUED)
            };
            if !self.step(hand_over) {
                return false;
            }
            line.call_next()
        };
        // The waker runs foreign code. It is called after the lock is released.
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Changes the word by `change`. Returns `false` if `change` returns `None`.
    #[inline]
    fn step(&self, change: impl FnMut(u64) -> Option<u64>) -> bool {
        self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok()
    }

    fn replace(&self, current: u64, new: u64) -> bool {
        self.word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Releases the slot, however the response ended.
impl Account for Slots {
    fn settle(&self, _: Stamp, _: &End) {
        self.give_back();
    }
}

/// Releases the slot, however the call ended.
impl Ledger for Arc<Slots> {
    type Stamp = ();

    #[inline]
    fn abandoned(&self, (): (), _panicked: bool) {
        self.give_back();
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("name", &self.reporter.as_str())
            .field("limit", &self.limit())
            .field("in_flight", &self.in_flight())
            .field("queued", &self.queued())
            .finish()
    }
}

/// A place in the queue.
///
/// Dropping it frees the place. A slot that was already handed to it goes to the next caller.
pub(super) struct Place {
    slots: Arc<Slots>,
    /// `None` once the slot is taken.
    key: Option<Key>,
}

impl Place {
    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Waits until a slot is handed over. The place must not be polled again after that.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<Permit> {
        let Some(key) = self.key else { return Poll::Pending };
        let waker = cx.waker().clone();
        let mut line = lock(&self.slots.line);
        let waiters = line.waiters();
        if !waiters.is_called(key) {
            let outdated = waiters.set_waker(key, waker);
            drop(line);
            drop(outdated);
            return Poll::Pending;
        }
        let _ = waiters.remove(key);
        let joined_at = line.joined_at(key);
        drop(line);
        self.key = None;
        let permit = Admission::new(Arc::clone(&self.slots), ());
        self.slots.measure_wait("admitted", joined_at);
        Poll::Ready(permit)
    }

    /// Frees the place because the wait took too long.
    pub(super) fn time_out(&mut self) {
        self.leave("timed_out");
    }

    fn leave(&mut self, result: &'static str) {
        let Some(key) = self.key.take() else { return };
        let (removed, joined_at, drained) = {
            let mut line = lock(&self.slots.line);
            let joined_at = line.joined_at(key);
            let removed = line.waiters().remove(key);
            let left = removed.is_err();
            let drained = if left { self.slots.subtract(ONE_QUEUED) } else { Vec::new() };
            (removed, joined_at, drained)
        };
        wake_all(drained);
        if removed.is_ok() {
            self.slots.give_back();
        }
        self.slots.measure_wait(result, joined_at);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave("left");
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}
