//! A map of values by key, in bounded memory.

use std::{
    borrow::Borrow,
    cmp::Reverse,
    collections::{HashSet, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

pub(crate) use self::kept::{Kept, Rank};
use self::{
    kept::Now,
    shard::{Oldest, Shard},
};
use crate::call::{
    catch_panic::Unwinding,
    clock::{self, nanos},
    lock::lock,
};

mod chunks;
mod kept;
mod shard;

/// From this many keys on, the map is divided.
///
/// Below it, one lock is enough, and the order of eviction is exact even if the clock stands
/// still. Divided among many shards, fewer keys could be spread so unevenly that it matters.
const DIVIDED_FROM: usize = 4_096;

/// The number of shards of a map that is divided.
const SHARDS: usize = 16;

/// The number of entries that one call files anew, or removes because they are unused.
const STEPS: usize = 16;

/// Returns the text of a key in errors and events.
pub(crate) type DescribeKey<K> = Arc<dyn Fn(&K) -> String + Send + Sync>;

/// A bounded map of values by key that evicts unused values.
///
/// A value that is not used for the idle time is evicted. Besides, a new key evicts a value when
/// the map is full:
///
/// - the oldest preferred value, if more than half of the values are preferred;
/// - otherwise the oldest ordinary value.
///
/// The oldest value is the one that was unused for the longest time. Therefore the values of the
/// most recently used keys, half as many as the map may have, are kept, and as many preferred
/// values even if they are unused. Pinned values are not counted and not evicted. A busy value is
/// kept like a preferred one, and is not evicted as unused.
///
/// A value changes its rank without notice. The lists by rank are corrected when a key is used, and
/// when its value is the oldest of its list.
///
/// No call visits more than about 64 entries, however many there are.
pub(crate) struct Keys<K, V: Kept> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    hasher: RandomState,
    max_keys: usize,
    /// The number of values that can be evicted.
    evictable: Arc<AtomicUsize>,
    /// Nanoseconds.
    idle: u64,
    origin: Instant,
    /// The time of the next search for unused values, in nanoseconds from the origin.
    next_search: AtomicU64,
    /// The number of shards that were searched so far.
    searched: AtomicUsize,
}

impl<K: Hash + Eq, V: Kept> Keys<K, V> {
    /// Creates an empty map for at most `max_keys` keys, each kept for `idle` after its last use.
    ///
    /// Time is counted from `origin`.
    pub(crate) fn new(max_keys: usize, idle: Duration, origin: Instant) -> Self {
        let evictable = Arc::<AtomicUsize>::default();
        let shards = if max_keys < DIVIDED_FROM { 1 } else { SHARDS };
        let shard = || Mutex::new(Shard::new(Arc::clone(&evictable)));
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            hasher: RandomState::new(),
            max_keys,
            evictable,
            idle: nanos(idle),
            origin,
            next_search: AtomicU64::new(0),
            searched: AtomicUsize::new(0),
        }
    }

    /// Returns an empty map with the same bounds.
    pub(crate) fn fresh<L: Hash + Eq, W: Kept>(&self) -> Keys<L, W> {
        Keys::new(self.max_keys, Duration::from_nanos(self.idle), self.origin)
    }

    fn now(&self) -> Now {
        let at = clock::now();
        Now { at, nanos: nanos(at.saturating_duration_since(self.origin)) }
    }

    /// Returns the shard of a key, and the hash of the key in it.
    #[inline]
    fn shard<Q>(&self, key: &Q) -> (&Mutex<Shard<K, V>>, u32)
    where
        Q: Hash + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        (&self.shards[(hash >> 32) as usize % self.shards.len()], hash as u32)
    }

    /// Returns the value of a key. If there is none, creates it with `make`.
    pub(crate) fn entry(&self, key: K, make: impl FnOnce(&K) -> V) -> Arc<V> {
        let now = self.now();
        if now.nanos >= self.next_search.load(Ordering::Relaxed) {
            self.search_unused(now);
        }
        let (shard, hash) = self.shard(&key);
        let known = lock(shard).touch(hash, &key, now, self.idle);
        known.unwrap_or_else(|| {
            let value = Arc::new(make(&key));
            self.add(key, value, now)
        })
    }

    /// Adds the value of a new key, and returns it. Evicts another value if the map is full.
    ///
    /// If there is no value to evict, the new value is not kept.
    #[cold]
    fn add(&self, key: K, value: Arc<V>, now: Now) -> Arc<V> {
        let key = Arc::new(key);
        let (shard, hash) = self.shard(&*key);
        let expired = {
            let mut shard = lock(shard);
            let id = shard.find(hash, &*key).filter(|id| shard.is_expired(*id, now, self.idle));
            id.and_then(|id| shard.remove(id))
        };
        drop(expired);
        while !self.reserve() {
            if !self.evict() {
                return value;
            }
        }
        let mut reserved = Unwinding::noting(|| self.release());
        let mut shard = lock(shard);
        let known = shard.find(hash, &*key);
        reserved.disarm();
        if let Some(id) = known {
            // Another caller was quicker.
            let value = Arc::clone(shard.value(id));
            self.release();
            return value;
        }
        // Corrects the lists while there is room, so that an eviction finds them in order.
        shard.sort_out_oldest(4);
        shard.insert(hash, key, Arc::clone(&value), now);
        value
    }

    /// Counts one more value, unless the map is full.
    fn reserve(&self) -> bool {
        let more = |values: usize| (values < self.max_keys).then(|| values + 1);
        self.evictable.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Takes back the count of a value that is not added.
    fn release(&self) {
        self.evictable.fetch_sub(1, Ordering::AcqRel);
    }

    /// Evicts a value, unless there is room now. Returns `false` if there is none to evict.
    fn evict(&self) -> bool {
        let steps = STEPS / self.shards.len();
        let mut preferred_values = 0;
        let mut ordinary = None;
        let mut preferred = None;
        for shard in &self.shards {
            let mut guard = lock(shard);
            guard.sort_out_oldest(steps);
            preferred_values += guard.count(Rank::Preferred);
            consider(&mut ordinary, guard.oldest(Rank::Ordinary), shard);
            consider(&mut preferred, guard.oldest(Rank::Preferred), shard);
        }
        if self.evictable.load(Ordering::Acquire) < self.max_keys {
            // Values were filed as pinned.
            return true;
        }
        let (oldest, rank) = if preferred_values > self.max_keys / 2 {
            (preferred, Rank::Preferred)
        } else {
            (ordinary, Rank::Ordinary)
        };
        // If all values are filed as preferred, one of them makes room. Otherwise a new key that is
        // called often would get a new value for each call.
        let (oldest, rank) = match oldest {
            None => (preferred, Rank::Preferred),
            found => (found, rank),
        };
        let Some(((outlives, ..), shard)) = oldest else { return false };
        let evicted = lock(shard).remove_oldest(rank, outlives);
        if let Some(entry) = &evicted {
            entry.value().evicted();
        }
        // If there was none, another caller was quicker, and may have left room. It may also have
        // used the oldest value, behind which a busy one stands.
        drop(evicted);
        true
    }

    /// Removes some of the values that are unused. One caller does it for all callers.
    #[cold]
    fn search_unused(&self, now: Now) {
        let due = self.next_search.load(Ordering::Relaxed);
        let claim = |to| {
            self.next_search.compare_exchange(due, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        // A pause between two shards, so short that all are searched well within the idle time.
        let next = now.nanos.saturating_add((self.idle / 4 / SHARDS as u64).max(1));
        if now.nanos < due || !claim(next) {
            return;
        }
        let searched = self.searched.load(Ordering::Relaxed);
        let shard = &self.shards[searched % self.shards.len()];
        let (removed, all) = lock(shard).remove_expired(now, self.idle, STEPS);
        if all {
            self.searched.store(searched.wrapping_add(1), Ordering::Relaxed);
        } else {
            // The next call goes on.
            self.next_search.store(now.nanos, Ordering::Release);
        }
        drop(removed);
    }

    /// Returns the value of a key, if it has one. This is not a use of the key.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let now = self.now();
        let (shard, hash) = self.shard(key);
        let shard = lock(shard);
        let id = shard.find(hash, key).filter(|id| !shard.is_expired(*id, now, self.idle))?;
        Some(Arc::clone(shard.value(id)))
    }

    /// Calls a closure with each key and its value. This is not a use of the keys.
    ///
    /// A few keys are listed under one lock, before the first call. A key that is added or evicted
    /// meanwhile may be left out or included.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&K, &Arc<V>)) {
        // The list does not own the values. Otherwise all would be busy until it ends.
        for (key, value) in self.list() {
            if let Some(value) = value.upgrade() {
                f(&key, &value);
            }
        }
    }

    fn list(&self) -> Vec<(Arc<K>, Weak<V>)> {
        let now = self.now();
        // The listed values keep their memory, so no other value gets the address of one.
        let (mut listed, mut seen) = (Vec::new(), HashSet::new());
        for shard in &self.shards {
            let mut next = lock(shard).len();
            while next > 0 {
                let some = lock(shard).list_before(&mut next, STEPS, now, self.idle);
                listed.extend(some.into_iter().filter(|(_, value)| seen.insert(value.as_ptr())));
            }
        }
        listed
    }

    /// Returns the number of keys that have a value. Removes all that are unused.
    pub(crate) fn len(&self) -> usize {
        let now = self.now();
        let len = |shard: &Mutex<Shard<K, V>>| {
            loop {
                let (removed, all, len) = {
                    let mut shard = lock(shard);
                    let (removed, all) = shard.remove_expired(now, self.idle, STEPS);
                    (removed, all, shard.len())
                };
                drop(removed);
                if all {
                    return len;
                }
            }
        };
        self.shards.iter().map(len).sum()
    }
}

/// The age of a value: if it outlives others, the time of its last use, and the length of its list.
type Age = (bool, u64, Reverse<usize>);

/// Replaces `oldest` by an older candidate. A value that outlives others counts as the younger one.
///
/// Among values of the same age, it is the one of the longest list. Otherwise, while the clock
/// stands still, one shard would lose all of its values.
fn consider<'a, S>(oldest: &mut Option<(Age, &'a S)>, candidate: Option<Oldest>, shard: &'a S) {
    let Some(Oldest { outlives, used, of }) = candidate else { return };
    let age = (outlives, used, Reverse(of));
    if oldest.as_ref().is_none_or(|(oldest, _)| age < *oldest) {
        *oldest = Some((age, shard));
    }
}

#[cfg(test)]
mod tests;
