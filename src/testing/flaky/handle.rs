//! The handle of a scripted service.

use std::{fmt, mem, sync::Arc};

use super::{
    script::{Step, Violation},
    state::{Counts, Shared, wake_all},
};
use crate::call::lock::lock;

/// Steers a [`Flaky`](super::Flaky) service from outside, and reads its counts.
pub struct FlakyHandle<Res, E> {
    pub(super) shared: Arc<Shared<Res, E>>,
}

impl<Res, E> FlakyHandle<Res, E> {
    /// Adds a step to the end of the script.
    pub fn push(&self, step: Step<Res, E>) {
        lock(&self.shared.0).script.push_back(step);
    }

    /// Changes what is answered after the end of the script.
    pub fn otherwise<Answer>(&self, answer: Answer)
    where
        Answer: Fn() -> Result<Res, E> + Send + Sync + 'static,
    {
        lock(&self.shared.0).otherwise = Arc::new(answer);
    }

    /// Makes instances that are not ready yet wait. One that is ready stays so until it is called.
    pub fn set_unready(&self) {
        lock(&self.shared.0).unready = true;
    }

    /// Ends the waiting for readiness, and wakes those who wait.
    pub fn set_ready(&self) {
        let mut state = lock(&self.shared.0);
        state.unready = false;
        let waiters = mem::take(&mut state.readiness_waiters);
        drop(state);
        wake_all(waiters);
    }

    /// Lets every call made so far answer that waits with [`Step::RespondWhenReleased`].
    pub fn release(&self) {
        let mut state = lock(&self.shared.0);
        state.released_below = state.next_id;
        let waiters = mem::take(&mut state.call_waiters);
        drop(state);
        wake_all(waiters);
    }

    fn counts(&self) -> Counts {
        lock(&self.shared.0).counts
    }

    /// Calls so far, one that panicked included.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.counts().calls
    }

    /// Calls that have neither answered nor been dropped.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.counts().in_flight
    }

    /// The most calls that were in flight at once.
    #[must_use]
    pub fn peak_in_flight(&self) -> usize {
        self.counts().peak_in_flight
    }

    /// Calls that answered, well or badly.
    #[must_use]
    pub fn completed(&self) -> usize {
        self.counts().completed
    }

    /// Futures dropped before they answered, after a panic included.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.counts().dropped
    }

    /// Polls of all its futures.
    #[must_use]
    pub fn polls(&self) -> usize {
        self.counts().polls
    }

    /// Polls of readiness, of all clones.
    #[must_use]
    pub fn readiness_polls(&self) -> usize {
        self.counts().readiness_polls
    }

    /// What callers did that tower forbids, in order.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        lock(&self.shared.0).violations.clone()
    }
}

impl<Res, E> Clone for FlakyHandle<Res, E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<Res, E> fmt::Debug for FlakyHandle<Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}
