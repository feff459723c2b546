//! The guard behind every admission: whatever a layer lets through is accounted for once, however
//! it ends.

use std::sync::Arc;

/// Keeps account of the calls that it admits.
pub(crate) trait Ledger {
    /// What tells one admission from another: the generation that admitted it, and what else the
    /// ledger needs to know at its end.
    type Stamp;
    /// How a call that ran to its end ended.
    type Verdict;

    /// The call ran to its end.
    fn finished(&self, stamp: Self::Stamp, verdict: Self::Verdict);

    /// The call was dropped before its end; with `panicked`, because it panicked.
    fn abandoned(&self, stamp: Self::Stamp, panicked: bool);
}

/// One admitted call. Dropped unfinished, it is reported as abandoned.
pub(crate) struct Admission<L: Ledger> {
    /// `None` once it is settled.
    open: Option<(Arc<L>, L::Stamp)>,
    running: bool,
}

impl<L: Ledger> Admission<L> {
    pub(crate) fn new(ledger: Arc<L>, stamp: L::Stamp) -> Self {
        Self { open: Some((ledger, stamp)), running: false }
    }

    /// The stamp, until the admission is settled.
    pub(crate) fn stamp(&mut self) -> Option<&mut L::Stamp> {
        self.open.as_mut().map(|(_, stamp)| stamp)
    }

    /// Runs a piece of the call. If it panics the admission ends as a panic, whenever the future
    /// that holds it is dropped: a runtime drops it after the unwinding, too late to ask the thread.
    pub(crate) fn run<T>(&mut self, piece: impl FnOnce() -> T) -> T {
        self.running = true;
        let value = piece();
        self.running = false;
        value
    }

    /// Runs a piece of the call that needs the ledger; `None` once the admission is settled.
    pub(crate) fn run_with<T>(&mut self, piece: impl FnOnce(&L) -> T) -> Option<T> {
        let (ledger, _) = self.open.as_ref()?;
        self.running = true;
        let value = piece(ledger);
        self.running = false;
        Some(value)
    }

    /// Settles the admission. Settled twice, the first time counts.
    pub(crate) fn finish(&mut self, verdict: L::Verdict) {
        if let Some((ledger, stamp)) = self.open.take() {
            ledger.finished(stamp, verdict);
        }
    }
}

impl<L: Ledger> Drop for Admission<L> {
    fn drop(&mut self) {
        if let Some((ledger, stamp)) = self.open.take() {
            ledger.abandoned(stamp, self.running);
        }
    }
}
