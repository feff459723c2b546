use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::config::Config;

/// The count of kept bytes, with its limits.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptBytes {
    pub(super) config: Config,
    held: Arc<AtomicUsize>,
}

impl KeptBytes {
    pub(super) fn new(config: Config) -> Self {
        Self { config, held: Arc::default() }
    }

    /// Returns the number of bytes held now, for all bodies.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self, bytes: usize) -> bool {
        let max = self.config.max_total;
        let taken = |held: usize| held.checked_add(bytes).filter(|held| *held <= max);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    pub(super) fn take_beyond(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}
