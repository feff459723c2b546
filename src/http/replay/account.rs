use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How much may be kept, and how much is.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) max_request: usize,
    pub(super) max_total: usize,
    held: Arc<AtomicUsize>,
}

impl Default for Account {
    fn default() -> Self {
        Self { max_request: 64 << 10, max_total: 16 << 20, held: Arc::default() }
    }
}

impl Account {
    /// Bytes that are held now, for all bodies.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self, bytes: usize) -> bool {
        let taken = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.max_total);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    pub(super) fn take_beyond(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}
