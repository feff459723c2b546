//! The state that the services of one cache share.

use std::{fmt, sync::Arc};

use super::{
    config::{Config, Times},
    counts::{CacheCounts, Counts, Result},
    entry::Entry,
    generations::Generations,
    hashing::{Hashed, KeyHasher},
    rules::Probe,
    shared_call::SharedCalls,
    store::Store,
};
use crate::telemetry::instrument::CACHE_REQUESTS;

/// The entries, the calls under way and the numbers of a cache.
pub(super) struct Shared<K, V> {
    pub(super) config: Config,
    pub(super) hasher: KeyHasher,
    pub(super) generations: Generations,
    pub(super) calls: Arc<SharedCalls<K, V>>,
    pub(super) store: Store<K, V>,
    counts: Counts,
}

impl<K: Eq + Clone, V> Shared<K, V> {
    /// Creates the state from settings that were checked.
    pub(super) fn new(config: Config) -> Arc<Self> {
        let (store, calls) = (Store::new(&config), SharedCalls::new(config.max_shared_calls));
        Arc::new(Self {
            hasher: KeyHasher::default(),
            generations: Generations::default(),
            calls: Arc::new(calls),
            counts: Counts::default(),
            store,
            config,
        })
    }

    /// Returns the entry of a request, unless it was forgotten.
    #[inline]
    pub(super) fn find(
        &self,
        hash: u64,
        probe: &impl Probe<K>,
        generation: u64,
    ) -> Option<Arc<Entry<V>>> {
        self.store.find(hash, probe).filter(|entry| entry.generation() == generation)
    }

    /// Returns the entry of a key, unless it was forgotten.
    pub(super) fn get(&self, key: &Hashed<K>, generation: u64) -> Option<Arc<Entry<V>>> {
        self.store.get(key).filter(|entry| entry.generation() == generation)
    }

    /// Forgets the keys with this tag, and drops the entry of one of them.
    pub(super) fn forget(&self, tag: u64, key: &Hashed<K>) {
        self.generations.begin(tag);
        drop(self.store.remove(key));
    }

    pub(super) fn counts(&self) -> CacheCounts {
        CacheCounts {
            entries: self.store.len() as u64,
            bytes: self.store.bytes(),
            shared_calls: self.calls.count(),
            ..self.counts.read()
        }
    }
}

impl<K, V> Shared<K, V> {
    pub(super) fn times(&self) -> &Times {
        &self.config.times
    }

    /// Counts the result of a call.
    #[inline]
    pub(super) fn count(&self, result: Result) {
        self.counts.add(result);
        if let Some(meter) = self.config.reporter.meter() {
            meter.add(&CACHE_REQUESTS, [result.as_str(), ""]);
        }
    }
}

impl<K: Eq + Clone, V> Shared<K, V> {
    /// Forgets all keys.
    pub(super) fn forget_all(&self) {
        self.generations.begin_all();
        self.store.clear();
    }
}

/// Forgets the keys of a tag at its start and at its end, however the call ends.
pub(super) struct Forgetting<K, V> {
    shared: Arc<Shared<K, V>>,
    tag: u64,
}

impl<K, V> Forgetting<K, V> {
    pub(super) fn begin(shared: Arc<Shared<K, V>>, tag: u64) -> Self {
        shared.generations.begin(tag);
        Self { shared, tag }
    }
}

impl<K, V> Drop for Forgetting<K, V> {
    fn drop(&mut self) {
        self.shared.generations.begin(self.tag);
    }
}

impl<K, V> fmt::Debug for Shared<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("config", &self.config).finish_non_exhaustive()
    }
}
