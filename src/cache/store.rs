//! The entries, bounded by their bytes.

use std::{
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
};

use quick_cache::{Equivalent, Lifecycle, OptionsBuilder, Weighter, sync::Cache};

use super::{
    config::Config,
    entry::Entry,
    hashing::{Given, Hashed},
    rules::Probe,
};

/// The bytes of an average entry, from which the store estimates the number of its entries.
const AVERAGE_BYTES: usize = 4 << 10;
/// The least number of entries for each shard. With fewer, the store would take fewer shards.
const LEAST_ENTRIES: usize = 32;

/// The key of a request, with which an entry is looked up.
struct Lookup<'a, P> {
    hash: u64,
    probe: &'a P,
}

impl<P> Hash for Lookup<'_, P> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<K, P: Probe<K>> Equivalent<Hashed<K>> for Lookup<'_, P> {
    #[inline]
    fn equivalent(&self, key: &Hashed<K>) -> bool {
        self.hash == key.hash() && self.probe.is(key.key())
    }
}

#[derive(Clone, Copy, Debug)]
struct ByBytes;

impl<K, V> Weighter<Hashed<K>, Arc<Entry<V>>> for ByBytes {
    fn weight(&self, _: &Hashed<K>, entry: &Arc<Entry<V>>) -> u64 {
        entry.bytes() as u64
    }
}

/// Keeps what is evicted until the lock is released, because dropping it runs code of the user.
#[derive(Clone, Copy, Debug)]
struct DropLater;

impl<K, V> Lifecycle<Hashed<K>, Arc<Entry<V>>> for DropLater {
    type RequestState = Removed<K, V>;

    fn on_evict(&self, evicted: &mut Self::RequestState, key: Hashed<K>, entry: Arc<Entry<V>>) {
        evicted.push((Some(key), entry));
    }
}

type Entries<K, V> = Cache<Hashed<K>, Arc<Entry<V>>, ByBytes, BuildHasherDefault<Given>, DropLater>;

/// The entries of a cache. It keeps those that are used often, and evicts the others.
pub(super) struct Store<K, V> {
    entries: Entries<K, V>,
    biggest_entry: usize,
}

/// The entries that were taken out of a store. Drop them without a lock.
pub(super) type Removed<K, V> = Vec<(Option<Hashed<K>>, Arc<Entry<V>>)>;

impl<K: Eq + Clone, V> Store<K, V> {
    pub(super) fn new(config: &Config) -> Self {
        let shards = config.shards();
        let entries = (config.max_bytes / AVERAGE_BYTES).max(shards * LEAST_ENTRIES);
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(entries)
            .weight_capacity(config.max_bytes as u64)
            .build()
            .unwrap_or_else(|_| unreachable!("both capacities are set"));
        let entries = Cache::with_options(options, ByBytes, BuildHasherDefault::new(), DropLater);
        Self { entries, biggest_entry: config.biggest_entry() }
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, probe: &impl Probe<K>) -> Option<Arc<Entry<V>>> {
        // This is a lock for readers, which a panic of the user's `Eq` does not poison.
        self.entries.get(&Lookup { hash, probe })
    }

    pub(super) fn get(&self, key: &Hashed<K>) -> Option<Arc<Entry<V>>> {
        self.entries.get(key)
    }

    /// Returns `true` if an entry is not too big.
    pub(super) fn takes(&self, entry: &Entry<V>) -> bool {
        entry.bytes() <= self.biggest_entry
    }

    /// Adds an entry that is not too big. Returns what had to go.
    pub(super) fn insert(&self, key: Hashed<K>, entry: Entry<V>) -> Removed<K, V> {
        debug_assert!(self.takes(&entry));
        let mut removed = Vec::new();
        // The store drops the entry that it replaces under its lock. This reference is longer.
        removed.extend(self.entries.peek(&key).map(|replaced| (None, replaced)));
        self.entries.insert_with_lifecycle(key, Arc::new(entry), &mut removed);
        removed
    }

    pub(super) fn remove(&self, key: &Hashed<K>) -> Removed<K, V> {
        let removed = self.entries.remove(key);
        removed.map(|(key, entry)| (Some(key), entry)).into_iter().collect()
    }

    /// Removes each entry by itself, so that none is dropped under the lock.
    pub(super) fn clear(&self) {
        let keys: Vec<_> = self.entries.iter().map(|(key, _)| key).collect();
        for key in keys {
            drop(self.entries.remove(&key));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.entries.weight()
    }
}

impl<K, V> fmt::Debug for Store<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("biggest_entry", &self.biggest_entry).finish_non_exhaustive()
    }
}
