//! The generations of keys. Forgetting a key begins a new one.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// The number of generations. Keys share them by their tags.
const COUNT: usize = 1 << 16;

/// A generation for each group of keys.
///
/// A response that was asked for in an earlier generation is not given to a caller of a later one,
/// even if it is stored or still under way. Keys with the same generation forget each other, which
/// costs a call and does no harm. So forgetting needs no lock and no list of keys.
///
/// They need 512 KiB, which is allocated once a key is forgotten. Many caches never do, and a stack
/// for each host may have a cache for each.
#[derive(Debug, Default)]
pub(super) struct Generations(OnceLock<Box<[AtomicU64]>>);

impl Generations {
    fn all(&self) -> &[AtomicU64] {
        self.0.get_or_init(|| (0..COUNT).map(|_| AtomicU64::new(0)).collect())
    }

    /// Returns the generation of the keys with this tag.
    #[inline]
    pub(super) fn current(&self, tag: u64) -> u64 {
        self.0.get().map_or(0, |all| all[tag as usize % COUNT].load(Ordering::Acquire))
    }

    /// Begins a new generation of the keys with this tag.
    pub(super) fn begin(&self, tag: u64) {
        self.all()[tag as usize % COUNT].fetch_add(1, Ordering::AcqRel);
    }

    /// Begins a new generation of all keys.
    pub(super) fn begin_all(&self) {
        for generation in self.all() {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }
}
