//! The current attempt of a retried call, ambient while it runs.

use std::cell::Cell;

use super::restore::Restore;
use crate::Outcome;

thread_local! {
    static ATTEMPT: Cell<Option<Attempt>> = const { Cell::new(None) };
}

/// Makes `attempt` the ambient attempt.
#[inline]
pub(crate) fn enter_attempt(attempt: Attempt) -> Restore<Option<Attempt>> {
    Restore::after_setting(&ATTEMPT, Some(attempt))
}

/// Makes an attempt that a remote caller reported the ambient attempt.
#[cfg(feature = "http")]
pub(crate) fn enter_received(attempt: Option<Attempt>) -> Restore<Option<Attempt>> {
    Restore::after_setting(&ATTEMPT, attempt)
}

/// Hides the ambient attempt.
pub(super) fn clear() -> Restore<Option<Attempt>> {
    Restore::after_setting(&ATTEMPT, None)
}

/// The current attempt of a [retried](crate::retry) call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    number: u32,
    previous: Option<Outcome>,
    received: bool,
}

impl Attempt {
    pub(crate) const FIRST: Self = Self { number: 1, previous: None, received: false };

    /// Creates the attempt that a remote caller reported.
    #[cfg(feature = "http")]
    pub(crate) fn received(number: u32) -> Self {
        Self { number, received: true, ..Self::FIRST }
    }

    /// Returns `true` if a retry layer of this process makes the attempt.
    #[cfg(feature = "http")]
    pub(crate) fn is_own(&self) -> bool {
        !self.received
    }

    pub(crate) fn next(self, outcome: Outcome) -> Self {
        let number = self.number.saturating_add(1);
        Self { number, previous: Some(outcome), ..Self::FIRST }
    }

    /// Returns the attempt that is being called or polled, or `None` outside an attempt.
    ///
    /// It is the attempt of the nearest retry layer. In a server without a retry layer in between,
    /// it is the attempt that the remote caller reported.
    pub fn current() -> Option<Self> {
        ATTEMPT.get()
    }

    /// Returns the number of the attempt, starting with 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns the outcome of the previous attempt.
    ///
    /// It is `None` for the first attempt, and for an attempt that a remote caller reported.
    pub fn previous(&self) -> Option<Outcome> {
        self.previous
    }
}
