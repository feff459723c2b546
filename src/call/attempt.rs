//! The attempt that is being made, ambient while it runs.

use std::cell::Cell;

use super::restore::Restore;
use crate::Outcome;

thread_local! {
    static ATTEMPT: Cell<Option<Attempt>> = const { Cell::new(None) };
}

/// Makes `attempt` the ambient one.
#[inline]
pub(crate) fn enter_attempt(attempt: Attempt) -> Restore<Option<Attempt>> {
    Restore::after_setting(&ATTEMPT, Some(attempt))
}

/// Makes the attempt ambient that a caller said it was making.
#[cfg(feature = "http")]
pub(crate) fn enter_received(attempt: Option<Attempt>) -> Restore<Option<Attempt>> {
    Restore::after_setting(&ATTEMPT, attempt)
}

/// Hides the ambient attempt.
pub(super) fn clear() -> Restore<Option<Attempt>> {
    Restore::after_setting(&ATTEMPT, None)
}

/// Which attempt of a [retried](crate::retry) call is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    number: u32,
    previous: Option<Outcome>,
    received: bool,
}

impl Attempt {
    pub(crate) const FIRST: Self = Self { number: 1, previous: None, received: false };

    /// The attempt that a caller says it is making.
    #[cfg(feature = "http")]
    pub(crate) fn received(number: u32) -> Self {
        Self { number, previous: None, received: true }
    }

    /// Whether a retry layer of this process makes it.
    #[cfg(feature = "http")]
    pub(crate) fn is_own(&self) -> bool {
        !self.received
    }

    pub(crate) fn next(self, outcome: Outcome) -> Self {
        let number = self.number.saturating_add(1);
        Self { number, previous: Some(outcome), received: false }
    }

    /// The attempt that is being called or polled: that of the nearest retry layer, or else the one that
    /// the caller of the request which is being served says it is making; `None` without either.
    pub fn current() -> Option<Self> {
        ATTEMPT.get()
    }

    /// Its number; the first is 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How the attempt before ended; `None` for the first.
    pub fn previous(&self) -> Option<Outcome> {
        self.previous
    }
}
