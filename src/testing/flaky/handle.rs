//! The handle of a scripted service.

use std::{fmt, mem, sync::Arc};

use super::{
    script::{Step, Violation},
    state::{Counts, Shared, wake_all},
};
use crate::call::lock::lock;

/// A handle for controlling a [`Flaky`](super::Flaky) service and reading its counts.
pub struct FlakyHandle<Res, E> {
    pub(super) shared: Arc<Shared<Res, E>>,
}

impl<Res, E> FlakyHandle<Res, E> {
    /// Adds a step to the end of the script.
    pub fn push(&self, step: Step<Res, E>) {
        lock(&self.shared.0).script.push_back(step);
    }

    /// Sets the result of calls after the end of the script.
    pub fn otherwise<Answer>(&self, answer: Answer)
    where
        Answer: Fn() -> Result<Res, E> + Send + Sync + 'static,
    {
        lock(&self.shared.0).otherwise = Arc::new(answer);
    }

    /// Makes every instance that is not ready yet wait.
    ///
    /// An instance that is ready stays ready until it is called.
    pub fn set_unready(&self) {
        lock(&self.shared.0).unready = true;
    }

    /// Ends the wait for readiness, and wakes the waiting tasks.
    pub fn set_ready(&self) {
        let mut state = lock(&self.shared.0);
        state.unready = false;
        let waiters = mem::take(&mut state.readiness_waiters);
        drop(state);
        wake_all(waiters);
    }

    /// Completes every call so far that waits at [`Step::RespondWhenReleased`].
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

    /// Returns the number of calls so far, including calls that panicked.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.counts().calls
    }

    /// Returns the number of calls that have neither completed nor been dropped.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.counts().in_flight
    }

    /// Returns the largest number of calls that were in flight at once.
    #[must_use]
    pub fn peak_in_flight(&self) -> usize {
        self.counts().peak_in_flight
    }

    /// Returns the number of calls that completed, with a response or an error.
    #[must_use]
    pub fn completed(&self) -> usize {
        self.counts().completed
    }

    /// Returns the number of futures dropped before completion, including futures that panicked.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.counts().dropped
    }

    /// Returns the number of polls of all futures.
    #[must_use]
    pub fn polls(&self) -> usize {
        self.counts().polls
    }

    /// Returns the number of polls of readiness, of all clones.
    #[must_use]
    pub fn readiness_polls(&self) -> usize {
        self.counts().readiness_polls
    }

    /// Returns the violations of tower's contract, in order.
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
