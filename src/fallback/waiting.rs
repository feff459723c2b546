//! A caller that waits until the service is ready or is switched off.

use std::{sync::Arc, task::Waker};

use super::state::State;
use crate::call::waiters::Key;

/// The place of a caller that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    state: Arc<State>,
    place: Key,
}

impl Waiting {
    pub(super) fn join(state: &Arc<State>, waker: &Waker) -> Self {
        Self { state: Arc::clone(state), place: state.wait(None, waker) }
    }

    pub(super) fn join_again(&mut self, waker: &Waker) {
        self.place = self.state.wait(Some(self.place), waker);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.state.stop_waiting(self.place);
    }
}
