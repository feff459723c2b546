//! The number of keys in each state.

use std::sync::atomic::{AtomicU64, Ordering};

use super::state::State;

/// The number of kept keys of a breaker by key, in each state.
///
/// The breakers of the keys share it. A change of state moves a key from one number to another.
#[derive(Debug, Default)]
pub(super) struct KeyCounts([AtomicU64; State::ALL.len()]);

impl KeyCounts {
    /// Adds a key whose breaker is in this state.
    pub(super) fn add(&self, state: State) {
        self.0[state as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, state: State) {
        self.0[state as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns each state and its number of keys.
    pub(super) fn get(&self) -> [(State, u64); State::ALL.len()] {
        State::ALL.map(|state| (state, self.0[state as usize].load(Ordering::Relaxed)))
    }
}
