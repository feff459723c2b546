//! The guard behind every admission: whatever a layer lets through is accounted for once, however
//! it ends.

use std::mem;

/// Keeps account of the calls that it admits. As a rule it is a handle to what its clones share.
pub(crate) trait Ledger {
    /// What tells one admission from another: the generation that admitted it, and what else the
    /// ledger needs to know at its end.
    type Stamp;
    /// What a call that ran to its end came to.
    type Verdict;

    /// The call ran to its end.
    fn finished(&self, stamp: Self::Stamp, verdict: Self::Verdict);

    /// The call was dropped before its end; with `panicked`, because it panicked.
    fn abandoned(&self, stamp: Self::Stamp, panicked: bool);
}

/// One admitted call. Dropped unfinished, it is reported as abandoned.
pub(crate) struct Admission<L: Ledger> {
    ledger: L,
    status: Status<L::Stamp>,
}

enum Status<S> {
    Open(S),
    Panicked(S),
    Settled,
}

impl<L: Ledger> Admission<L> {
    #[inline]
    pub(crate) fn new(ledger: L, stamp: L::Stamp) -> Self {
        Self { ledger, status: Status::Open(stamp) }
    }

    #[inline]
    pub(crate) fn ledger(&self) -> &L {
        &self.ledger
    }

    /// The stamp, until the admission is settled.
    #[inline]
    pub(crate) fn stamp(&mut self) -> Option<&mut L::Stamp> {
        match &mut self.status {
            Status::Open(stamp) | Status::Panicked(stamp) => Some(stamp),
            Status::Settled => None,
        }
    }

    /// Takes out the stamp of an open admission, which is accounted for elsewhere from now on.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<L::Stamp> {
        match mem::replace(&mut self.status, Status::Settled) {
            Status::Open(stamp) | Status::Panicked(stamp) => Some(stamp),
            Status::Settled => None,
        }
    }

    /// Runs a piece of the call. If it panics the admission ends as a panic, whenever the future
    /// that holds it is dropped: a runtime drops it after the unwinding, too late to ask the thread.
    #[inline]
    pub(crate) fn run<T>(&mut self, piece: impl FnOnce() -> T) -> T {
        let mut unwinding = Unwinding { status: &mut self.status, armed: true };
        let value = piece();
        unwinding.armed = false;
        value
    }

    /// Runs the last piece of the call, which finds the verdict, and settles the admission. Settled
    /// twice, the first time counts.
    #[inline]
    pub(crate) fn finish(&mut self, verdict: impl FnOnce(&L) -> L::Verdict) {
        self.finish_if(|ledger| Some(verdict(ledger)));
    }

    /// The same, unless there is no verdict yet: then the admission stays open.
    #[inline]
    pub(crate) fn finish_if(&mut self, verdict: impl FnOnce(&L) -> Option<L::Verdict>) {
        let mut unwinding = Unwinding { status: &mut self.status, armed: true };
        let verdict = verdict(&self.ledger);
        unwinding.armed = false;
        drop(unwinding);
        let Some(verdict) = verdict else { return };
        match mem::replace(&mut self.status, Status::Settled) {
            Status::Open(stamp) => self.ledger.finished(stamp, verdict),
            Status::Panicked(stamp) => self.ledger.abandoned(stamp, true),
            Status::Settled => {}
        }
    }
}

/// Notes a panic as it passes. It costs nothing while there is none.
struct Unwinding<'a, S> {
    status: &'a mut Status<S>,
    armed: bool,
}

impl<S> Drop for Unwinding<'_, S> {
    #[inline]
    fn drop(&mut self) {
        if self.armed {
            if let Status::Open(stamp) = mem::replace(self.status, Status::Settled) {
                *self.status = Status::Panicked(stamp);
            }
        }
    }
}

impl<L: Ledger> Drop for Admission<L> {
    #[inline]
    fn drop(&mut self) {
        match mem::replace(&mut self.status, Status::Settled) {
            Status::Open(stamp) => self.ledger.abandoned(stamp, false),
            Status::Panicked(stamp) => self.ledger.abandoned(stamp, true),
            Status::Settled => {}
        }
    }
}
