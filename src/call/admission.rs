//! The admission of a call. Each admitted call is counted once, however it ends.

use std::mem;

use super::catch_panic::Unwinding;

/// Counts the calls that a layer admits. It is usually a handle to shared state.
pub(crate) trait Ledger {
    /// The identity of an admission: the generation that admitted it, and the other values that the
    /// ledger needs at its end.
    type Stamp;

    /// Counts a call that was dropped before its end. `panicked` is `true` after a panic.
    fn abandoned(&self, stamp: Self::Stamp, panicked: bool);
}

/// One admitted call. If it is dropped before its end, it is counted as abandoned.
pub(crate) struct Admission<L: Ledger> {
    ledger: L,
    status: Status<L::Stamp>,
}

enum Status<S> {
    Open(S),
    Panicked(S),
    Settled,
}

impl<S> Status<S> {
    fn note_panic(&mut self) {
        *self = match mem::replace(self, Self::Settled) {
            Self::Open(stamp) | Self::Panicked(stamp) => Self::Panicked(stamp),
            Self::Settled => Self::Settled,
        };
    }
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

    /// Returns the stamp until the admission is settled.
    #[inline]
    pub(crate) fn stamp(&mut self) -> Option<&mut L::Stamp> {
        match &mut self.status {
            Status::Open(stamp) | Status::Panicked(stamp) => Some(stamp),
            Status::Settled => None,
        }
    }

    /// Runs a part of the call.
    ///
    /// If it panics, the admission ends as a panic, even if it is dropped later.
    #[inline]
    pub(crate) fn run<T>(&mut self, piece: impl FnOnce(&L) -> T) -> T {
        let Self { ledger, status } = self;
        let mut unwinding = Unwinding::noting(|| status.note_panic());
        let value = piece(ledger);
        unwinding.disarm();
        value
    }

    /// Ends the admission and returns its stamp, or `None` if it has ended.
    ///
    /// The caller must count the call from now on. A call that has panicked is counted here, and
    /// the result is `None`.
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

impl<L: Ledger> Drop for Admission<L> {
    #[inline]
    fn drop(&mut self) {
        if let Some(stamp) = self.take() {
            self.ledger.abandoned(stamp, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        panic::{AssertUnwindSafe, catch_unwind},
        rc::Rc,
    };

    use super::*;

    /// The stamps of the abandoned calls, each with `true` after a panic.
    type Abandoned = Rc<RefCell<Vec<(u32, bool)>>>;

    impl Ledger for Abandoned {
        type Stamp = u32;

        fn abandoned(&self, stamp: u32, panicked: bool) {
            self.borrow_mut().push((stamp, panicked));
        }
    }

    fn panicking_times(times: u32) -> (Admission<Abandoned>, Abandoned) {
        let ledger = Abandoned::default();
        let mut admission = Admission::new(Rc::clone(&ledger), 7);
        for _ in 0..times {
            let piece = || admission.run(|_| panic!("a piece of the call"));
            assert!(catch_unwind(AssertUnwindSafe(piece)).is_err());
        }
        (admission, ledger)
    }

    #[test]
    fn a_call_that_is_dropped_is_accounted_for_once_however_often_it_panicked() {
        for times in 0..3 {
            let (admission, ledger) = panicking_times(times);
            assert_eq!(*ledger.borrow(), []);
            drop(admission);
            assert_eq!(*ledger.borrow(), [(7, times > 0)]);
        }
    }

    #[test]
    fn a_call_that_panicked_is_not_taken_for_one_that_ended() {
        for times in 0..3 {
            let (mut admission, ledger) = panicking_times(times);
            assert_eq!(admission.take(), (times == 0).then_some(7));
            assert_eq!(admission.take(), None);
            drop(admission);
            let abandoned: &[(u32, bool)] = if times == 0 { &[] } else { &[(7, true)] };
            assert_eq!(*ledger.borrow(), abandoned);
        }
    }
}
