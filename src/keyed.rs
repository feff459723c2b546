//! A map of values by key, in bounded memory.

use std::{
    borrow::Borrow,
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::call::{
    clock::{self, nanos},
    lock::lock,
};

/// A bounded map of values by key that evicts unused values.
///
/// Each shard has two maps, a young and an old one. A key that is used moves to the young map. When
/// the young map has half of the keys that the shard may have, or when the idle time has elapsed,
/// the young map becomes the old one. The values that are left in the previous old map are evicted.
/// Therefore a key needs no links and no time of its own, and no search for the oldest key.
///
/// While the young map is full, a key that is used stays in the old map. The next new key then
/// evicts it.
pub(crate) struct Keys<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    hasher: RandomState,
    most_young: usize,
    /// Nanoseconds.
    idle: u64,
    origin: Instant,
    /// The last time that all shards turned because the idle time had elapsed.
    ///
    /// In nanoseconds from the origin.
    turned: AtomicU64,
}

/// A value that is kept by key.
pub(crate) trait Kept {
    /// Returns `true` if the value must not be evicted, even if it is unused.
    ///
    /// Otherwise a caller that sends enough other keys could undo a change by hand.
    fn is_pinned(&self) -> bool;
}

type Map<K, V> = HashMap<K, Arc<V>>;

struct Shard<K, V> {
    young: Map<K, V>,
    old: Map<K, V>,
}

impl<K: Hash + Eq, V: Kept> Shard<K, V> {
    /// Makes the young values old, and returns the evicted values.
    ///
    /// The caller drops them after it has released the lock.
    fn turn(&mut self) -> Map<K, V> {
        let forgotten = mem::replace(&mut self.old, mem::take(&mut self.young));
        if !forgotten.values().any(|value| value.is_pinned()) {
            return forgotten;
        }
        let (pinned, forgotten): (Map<K, V>, Map<K, V>) =
            forgotten.into_iter().partition(|(_, value)| value.is_pinned());
        self.old.extend(pinned);
        forgotten
    }
}

impl<K: Hash + Eq, V: Kept> Keys<K, V> {
    /// Creates an empty map for about `max_keys` keys, each kept for at least `idle`.
    ///
    /// Time is counted from `origin`.
    pub(crate) fn new(max_keys: usize, idle: Duration, origin: Instant) -> Self {
        // Enough shards to avoid contention, but far fewer shards than keys.
        let shards = if max_keys >= 1_024 { 16 } else { 1 };
        let shard = || Shard { young: HashMap::new(), old: HashMap::new() };
        Self {
            shards: (0..shards).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
            most_young: (max_keys / shards / 2).max(1),
            idle: nanos(idle),
            origin,
            turned: AtomicU64::new(0),
        }
    }

    fn shard<Q>(&self, key: &Q) -> &Mutex<Shard<K, V>>
    where
        Q: Hash + ?Sized,
    {
        let hash = self.hasher.hash_one(key) as usize;
        &self.shards[hash % self.shards.len()]
    }

    /// Returns the value of a key. If there is none, creates it with `make`.
    ///
    /// `make` runs under the lock of a shard.
    pub(crate) fn entry(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        self.forget_idle(clock::now());
        let mut shard = lock(self.shard(&key));
        if let Some(value) = shard.young.get(&key) {
            return Arc::clone(value);
        }
        let full = shard.young.len() >= self.most_young;
        if full {
            // Only a new key turns the maps. Otherwise a known key would evict itself.
            if let Some(value) = shard.old.get(&key) {
                return Arc::clone(value);
            }
        }
        let forgotten = full.then(|| shard.turn());
        let value = shard.old.remove(&key).unwrap_or_else(|| Arc::new(make()));
        shard.young.insert(key, Arc::clone(&value));
        drop(shard);
        drop(forgotten);
        value
    }

    /// Turns all shards when the idle time has elapsed. One caller does it for all callers.
    fn forget_idle(&self, now: Instant) {
        let now = nanos(now.saturating_duration_since(self.origin));
        let turned = self.turned.load(Ordering::Relaxed);
        let idle = now.saturating_sub(turned);
        if idle < self.idle {
            return;
        }
        if self.turned.compare_exchange(turned, now, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        // The map was unused for so long that the young values are idle too.
        let turns = if idle / 2 >= self.idle { 2 } else { 1 };
        for shard in &self.shards {
            for _ in 0..turns {
                let forgotten = lock(shard).turn();
                drop(forgotten);
            }
        }
    }

    /// Returns the value of a key, if it has one.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = lock(self.shard(key));
        shard.young.get(key).or_else(|| shard.old.get(key)).cloned()
    }

    /// Returns the number of keys that have a value.
    pub(crate) fn len(&self) -> usize {
        let len = |shard: &Mutex<Shard<K, V>>| {
            let shard = lock(shard);
            shard.young.len() + shard.old.len()
        };
        self.shards.iter().map(len).sum()
    }
}
