use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::config::Config;
use crate::{
    error::Name,
    telemetry::{Kind, Registry, ReporterCell, instrument::HTTP_REPLAY_OVERFLOW},
};

/// The count of kept bytes, with its limits.
#[derive(Clone, Debug)]
pub(super) struct KeptBytes {
    pub(super) config: Config,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    held: AtomicUsize,
    reporter: ReporterCell,
}

impl Default for KeptBytes {
    fn default() -> Self {
        Self::new(Config::default(), None)
    }
}

impl KeptBytes {
    pub(super) fn new(config: Config, name: Option<Name>) -> Self {
        let reporter = ReporterCell::new(name, Kind::ReplayBody);
        Self { config, shared: Arc::new(Shared { held: AtomicUsize::new(0), reporter }) }
    }

    /// Counts in a registry from now on.
    pub(super) fn register(&self, registry: &Registry) {
        self.shared.reporter.register(registry, None);
    }

    /// Counts a body that exceeded a limit.
    pub(super) fn count_overflow(&self) {
        if let Some(meter) = self.shared.reporter.meter() {
            meter.add(&HTTP_REPLAY_OVERFLOW, ["", ""]);
        }
    }

    /// Returns the number of bytes held now, for all bodies.
    pub(super) fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self, bytes: usize) -> bool {
        let max = self.config.max_total;
        let taken = |held: usize| held.checked_add(bytes).filter(|held| *held <= max);
        self.shared.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    pub(super) fn take_beyond(&self, bytes: usize) {
        self.shared.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.shared.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}
