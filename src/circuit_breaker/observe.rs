//! Reads the state of a breaker, and keeps the list of its waiting callers.

use std::{sync::atomic::Ordering, task::Waker, time::Duration};

use tokio::time::Instant;

use super::{
    breaker::{Breaker, Window},
    state::{State, TripReason},
    window::Totals,
};
use crate::call::{lock::lock, waiters::Key};

impl Breaker {
    /// Returns the counts of the window.
    pub(super) fn totals(&self) -> Totals {
        if !self.phase().is_closed() {
            // The counts that led to a trip are obsolete, and calls after it are not counted here.
            return Totals::default();
        }
        match &self.window {
            Window::Calls(window) => window.totals(),
            Window::Time(calls) => {
                let tick = self.tick(Instant::now());
                let generation = self.phase().generation();
                match self.cold.get() {
                    Some(cold) => cold.totals(calls, generation, tick),
                    None => Totals { calls: calls.total(generation, tick), ..Totals::default() },
                }
            }
        }
    }

    /// Returns how often the breaker has opened and closed, and the number of probes with a lease.
    pub(super) fn counters(&self) -> (u64, u64, u32) {
        match self.cold.get() {
            None => (0, 0, 0),
            Some(cold) => {
                let machine = lock(&cold.machine);
                (machine.opened, machine.closed, machine.round.under_way())
            }
        }
    }

    /// Returns the reason why the breaker last opened.
    pub(super) fn last_trip(&self) -> Option<TripReason> {
        self.cold.get().and_then(|cold| lock(&cold.machine).last_trip)
    }

    /// Returns the time since the last change of state, or since the breaker was made.
    pub(super) fn time_in_state(&self) -> Duration {
        let changed = self.cold.get().and_then(|cold| lock(&cold.machine).changed_at);
        Instant::now().saturating_duration_since(changed.unwrap_or(self.config.origin))
    }

    /// Returns the number of calls that were rejected since the outage began, if there is one.
    pub(super) fn rejected(&self) -> u64 {
        let cold = self.cold.get().filter(|cold| lock(&cold.machine).open_since.is_some());
        cold.map_or(0, |cold| cold.rejected.load(Ordering::Relaxed))
    }

    /// Returns the rest of the open time.
    pub(super) fn open_time_left(&self) -> Option<Duration> {
        match self.phase().state() {
            State::Open | State::ForcedOpen => {
                self.still_open(Instant::now()).and_then(|rejected| rejected.retry_after)
            }
            _ => None,
        }
    }

    /// Registers a task to be woken when a call may be admitted.
    ///
    /// The task must ask the breaker again after this call. Otherwise it could miss its turn.
    pub(super) fn wait(&self, place: Option<Key>, waker: Waker) -> Key {
        let (place, outdated) = self.machine().waiting.join(place, waker);
        drop(outdated);
        place
    }

    /// Removes a task from the list. If it was woken but not admitted, the next one is woken.
    pub(super) fn stop_waiting(&self, place: Key, went_through: bool) {
        let next = {
            let mut machine = self.machine();
            match machine.waiting.remove(place) {
                Ok(()) if !went_through => machine.waiting.call_first().ok_or(None),
                Ok(()) => Err(None),
                Err(outdated) => Err(Some(outdated)),
            }
        };
        if let Ok(waker) = next {
            waker.wake();
        }
    }

    /// Registers a task to be woken at the next change of state.
    ///
    /// The task must read the state again after this call. Otherwise it could miss a change.
    pub(super) fn watch(&self, place: Option<Key>, waker: Waker) -> Key {
        let (place, outdated) = self.machine().watching.join(place, waker);
        drop(outdated);
        place
    }

    pub(super) fn stop_watching(&self, place: Key) {
        let outdated = self.machine().watching.remove(place);
        drop(outdated);
    }
}
