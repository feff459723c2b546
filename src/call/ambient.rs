//! The ambient values of a call, kept for its body after its future has ended.

use tokio::time::Instant;

use super::{
    attempt::{Attempt, Entered, enter_attempt},
    deadline::{deadline, narrow},
    restore::Restore,
};

/// The deadline and the attempt that were ambient when a call was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ambient {
    deadline: Option<Instant>,
    attempt: Option<Attempt>,
}

impl Ambient {
    #[inline]
    pub(crate) fn capture() -> Self {
        Self { deadline: deadline(), attempt: Attempt::current() }
    }

    /// Returns the deadline, if there was one.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Makes the values ambient again.
    ///
    /// The nearer deadline applies, because the polling caller may have less time.
    #[inline]
    pub(crate) fn enter(&self) -> EnteredAmbient {
        EnteredAmbient { _deadline: narrow(self.deadline), _attempt: enter_attempt(self.attempt) }
    }
}

/// Restores the values that were ambient before.
#[must_use]
pub(crate) struct EnteredAmbient {
    _attempt: Entered,
    _deadline: Restore<Option<Instant>>,
}
