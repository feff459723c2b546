//! The guard behind every admission: whatever a layer lets through is accounted for once, however
//! it ends.

use std::mem;

/// Keeps account of the calls that it admits. As a rule it is a handle to what its clones share.
pub(crate) trait Ledger {
    /// What tells one admission from another: the generation that admitted it, and what else the
    /// ledger needs to know at its end.
    type Stamp;

    /// Accounts for a call that was dropped before its end; with `panicked`, because it panicked.
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

    /// Runs a piece of the call. If it panics the admission ends as a panic, whenever the future
    /// that holds it is dropped: a runtime drops it after the unwinding, too late to ask the thread.
    #[inline]
    pub(crate) fn run<T>(&mut self, piece: impl FnOnce(&L) -> T) -> T {
        let mut unwinding = Unwinding { status: &mut self.status, armed: true };
        let value = piece(&self.ledger);
        unwinding.armed = false;
        value
    }

    /// Ends the admission and returns its stamp, for which the caller accounts from now on; `None` if
    /// it has ended. A call that panicked before is accounted for here.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<L::Stamp> {
        match mem::replace(&mut self.status, Status::Settled) {
            Status::Open(stamp) => Some(stamp),
            Status::Panicked(stamp) => {
                self.ledger.abandoned(stamp, true);
                None
            }
            Status::Settled => None,
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
        if let Some(stamp) = self.take() {
            self.ledger.abandoned(stamp, false);
        }
    }
}
