//! The calls under way that several callers share, and the callers that wait for them.

use std::{
    collections::HashMap,
    fmt,
    hash::BuildHasherDefault,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use super::hashing::{Given, Hashed};
use crate::{
    Rejection,
    call::{
        degraded::{DegradedBy, ResponseSource},
        hop::Hop,
        lock::lock,
        waiters::{Key as PlaceKey, Waiters, wake_all},
    },
};

/// The number of locks of the table.
const SHARDS: usize = 16;

/// The end of a shared call, for the callers that did not begin it.
#[derive(Debug)]
pub(super) enum Ended<V> {
    /// A response. `failed` is set if it is a failure of the service, and `degraded` if a layer
    /// beneath gave it.
    Response { value: V, failed: bool, degraded: Option<DegradedBy> },
    /// An error. `failed` is set if an older response is better.
    Error { rejection: Rejection, failed: bool },
    /// The response is for one caller only. `failed` is set if it is a failure of the service.
    NotShareable { failed: bool },
    /// The call panicked, or its runtime has ended.
    Lost,
}

impl<V> Ended<V> {
    /// Reports the findings of the task to the call of a caller.
    pub(super) fn report_again(&self, hop: Hop) {
        hop.report_again();
        if let Self::Response { degraded: Some(by), .. } = self {
            ResponseSource::Degraded(*by).report();
        }
    }
}

/// A call under way.
pub(super) struct SharedCall<V> {
    /// The generation of the key when the call began.
    generation: u64,
    /// The end of the time in which callers can join it, and in which it runs without any. It would
    /// hold its key for ever if it hangs.
    until: Instant,
    waiting: Mutex<Waiting>,
    ended: OnceLock<(Ended<V>, Hop)>,
}

#[derive(Default)]
struct Waiting {
    /// The number of places. At zero, the call is ended.
    places: usize,
    /// The places of the call itself, so that it goes on without callers.
    own: usize,
    wakers: Waiters,
    task: Option<AbortHandle>,
    /// No caller can join, because the last one has left.
    is_left: bool,
}

impl<V> SharedCall<V> {
    fn new(generation: u64, until: Instant) -> Arc<Self> {
        let waiting = Mutex::new(Waiting { places: 1, ..Waiting::default() });
        Arc::new(Self { generation, until, waiting, ended: OnceLock::new() })
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds a place, unless the last caller has left or the call takes too long.
    ///
    /// A call that has ended is still in the table if the comparison of its key has panicked.
    fn join(&self) -> bool {
        let mut waiting = lock(&self.waiting);
        let is_open = !waiting.is_left && self.ended.get().is_none() && !self.is_too_long();
        waiting.places += usize::from(is_open);
        is_open
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    fn is_too_long(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Returns `true` if no caller waits for the call.
    pub(super) fn is_unattended(&self) -> bool {
        let waiting = lock(&self.waiting);
        waiting.places <= waiting.own
    }

    /// Stores the handle that ends the task of the call.
    pub(super) fn set_task(&self, task: AbortHandle) {
        lock(&self.waiting).task = Some(task);
    }

    /// Ends the call, and wakes each waiting caller once.
    pub(super) fn end(&self, ended: Ended<V>, hop: Hop) {
        if self.ended.set((ended, hop)).is_err() {
            return;
        }
        let mut wakers = Vec::new();
        let mut waiting = lock(&self.waiting);
        wakers.reserve(waiting.places);
        wakers.extend(waiting.wakers.call_all());
        drop(waiting);
        wake_all(wakers);
    }

    pub(super) fn ended(&self) -> Option<&(Ended<V>, Hop)> {
        self.ended.get()
    }
}

impl<V> fmt::Debug for SharedCall<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCall").field("generation", &self.generation).finish_non_exhaustive()
    }
}

type Shard<K, V> = HashMap<Hashed<K>, Arc<SharedCall<V>>, BuildHasherDefault<Given>>;

/// The calls under way, by key.
pub(super) struct SharedCalls<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    under_way: Arc<UnderWay>,
    max: u32,
}

/// The count of calls under way.
#[derive(Debug, Default)]
struct UnderWay {
    count: AtomicU32,
    /// Is notified when the last one has ended.
    idle: Notify,
}

/// A place in the count of calls under way, freed when it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<UnderWay>);

impl Drop for Permit {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// The part of a caller in the call of its key.
pub(super) enum Part<K: Eq, V> {
    /// The caller began the call and must spawn its task.
    Began(Place<K, V>, Permit),
    /// The caller waits for a call that another one began.
    Joined(Place<K, V>),
    /// There are too many calls under way.
    Full,
}

impl<K: Eq + Clone, V> SharedCalls<K, V> {
    pub(super) fn new(max: u32) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, under_way: Arc::default(), max }
    }

    /// Joins the call of a key, or begins one.
    ///
    /// A call of an earlier generation is left to those who wait for it already. The generation is
    /// read under the lock, so that it is not earlier than that of any call in the table. `look`
    /// runs if there is no call. If it returns a value, a call has ended in between, and no other
    /// begins. `until` is the end of the time in which callers can join a call that begins.
    pub(super) fn join_or_begin<T>(
        self: &Arc<Self>,
        key: &Hashed<K>,
        generation: impl FnOnce() -> u64,
        until: Instant,
        look: impl FnOnce(u64) -> Option<T>,
    ) -> Result<Part<K, V>, T> {
        // Code of the user does not run under the lock. An outdated call has a value of the user.
        let (own_key, tabled) = (key.clone(), key.clone());
        let mut shard = lock(self.shard(key));
        let generation = generation();
        if let Some(call) = shard.get(key).filter(|call| call.generation == generation) {
            if call.join() {
                return Ok(Part::Joined(Place::new(self, own_key, call)));
            }
        }
        if let Some(found) = look(generation) {
            return Err(found);
        }
        let Some(permit) = self.enter() else { return Ok(Part::Full) };
        let call = SharedCall::new(generation, until);
        let place = Place::new(self, own_key, &call);
        let outdated = shard.remove_entry(key);
        shard.insert(tabled, call);
        drop(shard);
        drop(outdated);
        Ok(Part::Began(place, permit))
    }

    /// Removes a call that has ended from the table, after `store` has run under its lock.
    ///
    /// `store` does not run if a caller of a later generation has begun another call.
    pub(super) fn remove<T>(
        &self,
        key: &Hashed<K>,
        call: &Arc<SharedCall<V>>,
        store: impl FnOnce() -> T,
    ) -> Option<T> {
        let mut shard = lock(self.shard(key));
        if !shard.get(key).is_some_and(|current| Arc::ptr_eq(current, call)) {
            return None;
        }
        let stored = store();
        let removed = shard.remove_entry(key);
        drop(shard);
        drop(removed);
        Some(stored)
    }

    fn enter(&self) -> Option<Permit> {
        let more = |count| (count < self.max).then_some(count + 1);
        let count = &self.under_way.count;
        count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Permit(Arc::clone(&self.under_way)))
    }

    /// Returns the number of calls under way.
    pub(super) fn count(&self) -> u32 {
        self.under_way.count.load(Ordering::Acquire)
    }

    /// Waits until no call is under way.
    pub(super) async fn drained(&self) {
        loop {
            let mut idle = pin!(self.under_way.idle.notified());
            // Listens before it reads the count, so that an end in between is not missed.
            idle.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl<K, V> SharedCalls<K, V> {
    fn shard(&self, key: &Hashed<K>) -> &Mutex<Shard<K, V>> {
        &self.shards[(key.hash() >> 56) as usize % SHARDS]
    }
}

impl<K, V> fmt::Debug for SharedCalls<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCalls")
            .field("under_way", &self.under_way.count)
            .finish_non_exhaustive()
    }
}

/// A place among the callers that share a call. When the last one is dropped, the call ends.
pub(super) struct Place<K: Eq, V> {
    calls: Arc<SharedCalls<K, V>>,
    key: Hashed<K>,
    call: Arc<SharedCall<V>>,
    waiter: Option<PlaceKey>,
}

impl<K: Eq + Clone, V> Place<K, V> {
    fn new(calls: &Arc<SharedCalls<K, V>>, key: Hashed<K>, call: &Arc<SharedCall<V>>) -> Self {
        let (calls, call) = (Arc::clone(calls), Arc::clone(call));
        Self { calls, key, call, waiter: None }
    }
}

impl<K: Eq, V> Place<K, V> {
    pub(super) fn call(&self) -> &Arc<SharedCall<V>> {
        &self.call
    }

    /// Returns a place of the call itself.
    pub(super) fn of_call(&self) -> Self
    where
        K: Clone,
    {
        let key = self.key.clone();
        self.leave_running();
        Place::new(&self.calls, key, &self.call)
    }

    /// Lets the call go on after all callers have left.
    pub(super) fn leave_running(&self) {
        let mut waiting = lock(&self.call.waiting);
        waiting.places += 1;
        waiting.own += 1;
    }

    /// Waits for the end of the call.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<&(Ended<V>, Hop)> {
        if self.call.ended.get().is_none() {
            let waker = cx.waker().clone();
            let mut waiting = lock(&self.call.waiting);
            // The call may have ended before the lock was taken. Its wakers are called after.
            let outdated = if self.call.ended.get().is_none() {
                let (place, outdated) = waiting.wakers.join(self.waiter, waker);
                self.waiter = Some(place);
                outdated
            } else {
                Some(waker)
            };
            drop(waiting);
            drop(outdated);
        }
        match self.call.ended.get() {
            Some(ended) => Poll::Ready(ended),
            None => Poll::Pending,
        }
    }
}

impl<K: Eq, V> Drop for Place<K, V> {
    fn drop(&mut self) {
        let mut shard = lock(self.calls.shard(&self.key));
        let mut waiting = lock(&self.call.waiting);
        let waker = self.waiter.take().and_then(|waiter| waiting.wakers.remove(waiter).err());
        waiting.places -= 1;
        let is_last = self.call.ended.get().is_none()
            && (waiting.places == 0 || waiting.places <= waiting.own && self.call.is_too_long());
        let task = if is_last { waiting.task.take() } else { None };
        waiting.is_left |= is_last;
        drop(waiting);
        let mut removed = None;
        if is_last {
            let current = shard.get(&self.key);
            if current.is_some_and(|current| Arc::ptr_eq(current, &self.call)) {
                removed = shard.remove_entry(&self.key);
            }
        }
        drop(shard);
        drop((removed, waker));
        if let Some(task) = task {
            task.abort();
        }
    }
}
