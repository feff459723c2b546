//! Reads a breaker from outside, and keeps its waiting callers.

use std::{task::Waker, time::Duration};

use tokio::time::Instant;

use super::{
    breaker::{Breaker, Window},
    state::{State, TripReason},
    window::Totals,
};
use crate::call::{lock::lock, waiters::Key};

impl Breaker {
    /// What is in the window now.
    pub(super) fn totals(&self) -> Totals {
        if !self.phase().is_closed() {
            // What led to a trip is over, and what comes after is not counted here.
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

    /// How often it has opened and closed, and how many probes are under way.
    pub(super) fn counters(&self) -> (u64, u64, u32) {
        match self.cold.get() {
            None => (0, 0, 0),
            Some(cold) => {
                let machine = lock(&cold.machine);
                (machine.opened, machine.closed, machine.round.under_way())
            }
        }
    }

    /// Whether an operator holds it open, or has taken it out.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.phase().state(), State::ForcedOpen | State::Disabled)
    }

    /// Why it last opened.
    pub(super) fn last_trip(&self) -> Option<TripReason> {
        self.cold.get().and_then(|cold| lock(&cold.machine).last_trip)
    }

    /// How much of the open time is left.
    pub(super) fn open_time_left(&self) -> Option<Duration> {
        match self.phase().state() {
            State::Open => {
                self.still_open(Instant::now()).and_then(|rejected| rejected.retry_after)
            }
            _ => None,
        }
    }

    /// Has a task woken when a call may go through. It asks after this, or it could miss its turn.
    pub(super) fn wait(&self, place: Option<Key>, waker: Waker) -> Key {
        let (place, outdated) = self.machine().waiting.join(place, waker);
        drop(outdated);
        place
    }

    /// Takes a task off the list. If it was woken and did not go through, the next one is.
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

    /// Has a task woken at the next change of state. It looks after this, or it could miss one.
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
