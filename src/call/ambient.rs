//! What is ambient, kept for what goes on after the future of a call has ended.

use tokio::time::Instant;

use super::{
    attempt::{Attempt, enter_received},
    deadline::{deadline, narrow},
    restore::Restore,
};

/// What was ambient when a call was made, for what goes on after its future has ended.
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

    /// The deadline, if there was one.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Makes it ambient again. The nearest deadline counts: whoever polls may have less time.
    #[inline]
    pub(crate) fn enter(&self) -> (Restore<Option<Instant>>, Restore<Option<Attempt>>) {
        (narrow(self.deadline), enter_received(self.attempt))
    }
}
