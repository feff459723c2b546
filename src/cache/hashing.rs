//! Keys with their hashes.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
};

use quick_cache::DefaultHashBuilder;

/// A key with its hash, which is computed once for each call.
#[derive(Clone, Debug)]
pub(super) struct Hashed<K> {
    hash: u64,
    key: K,
}

impl<K> Hashed<K> {
    #[inline]
    pub(super) fn new(hash: u64, key: K) -> Self {
        Self { hash, key }
    }

    #[inline]
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn key(&self) -> &K {
        &self.key
    }
}

impl<K> Hash for Hashed<K> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<K: Eq> PartialEq for Hashed<K> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        // A panic of the user's `Eq` would poison a lock of the store for good. Two keys that
        // cannot be compared are taken for different ones, which costs a call.
        self.hash == other.hash
            && catch_unwind(AssertUnwindSafe(|| self.key == other.key)).unwrap_or(false)
    }
}

impl<K: Eq> Eq for Hashed<K> {}

/// Passes on the hash that a [`Hashed`] has already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given(u64);

impl Hasher for Given {
    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// The hashes of keys, which differ in every cache.
///
/// It is the hasher of the store's own default, several times as fast as that of the standard
/// library. Keys that collide cost time, and only entries of one cache.
#[derive(Clone, Debug, Default)]
#[expect(unnameable_types, reason = "only the rules of this crate make it")]
pub struct KeyHasher(DefaultHashBuilder);

impl KeyHasher {
    #[inline]
    pub(crate) fn hash_one<T: Hash + ?Sized>(&self, value: &T) -> u64 {
        self.0.hash_one(value)
    }

    /// Returns a hasher for a key of several parts.
    #[cfg(feature = "http")]
    pub(crate) fn build(&self) -> impl Hasher + use<> {
        self.0.build_hasher()
    }
}
