use std::{fmt, hash::Hash, sync::Arc};

#[cfg(feature = "http")]
use super::hashing::KeyHasher;
use super::{counts::CacheCounts, hashing::Hashed, shared::Shared};

/// A handle for inspecting a cache and for forgetting entries at run time.
///
/// All clones control the same cache.
pub struct CacheHandle<K, V> {
    shared: Arc<Shared<K, V>>,
}

impl<K: Eq + Clone, V> CacheHandle<K, V> {
    pub(super) fn new(shared: Arc<Shared<K, V>>) -> Self {
        Self { shared }
    }

    /// Returns the numbers of the cache.
    pub fn counts(&self) -> CacheCounts {
        self.shared.counts()
    }

    /// Forgets all keys.
    ///
    /// The responses of calls that are under way are not kept. Only the callers that wait for them
    /// already get them.
    pub fn forget_all(&self) {
        self.shared.forget_all();
    }
}

impl<K, V> CacheHandle<K, V> {
    /// Forgets the keys with a tag.
    #[cfg(feature = "http")]
    pub(crate) fn forget_tag(&self, tag: impl FnOnce(&KeyHasher) -> u64) {
        self.shared.generations.begin(tag(&self.shared.hasher));
    }
}

impl<K: Hash + Eq + Clone, V> CacheHandle<K, V> {
    /// Forgets a key.
    ///
    /// Use it after a change that makes the kept response wrong. The caches of other processes keep
    /// theirs. The response of a call that is under way is not kept. Only the callers that wait for
    /// it already get it. Keys are forgotten in 65,536 groups, so one in 65,536 of the other keys
    /// is forgotten too, which costs a call.
    pub fn forget(&self, key: &K) {
        let tag = self.shared.hasher.hash_one(key);
        self.shared.forget(tag, &Hashed::new(tag, key.clone()));
    }
}

impl<K, V> Clone for CacheHandle<K, V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K, V> fmt::Debug for CacheHandle<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CacheHandle").field(&self.shared).finish()
    }
}
