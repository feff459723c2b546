use std::{fmt, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use super::{
    breaker::{Breaker, Phase},
    state::{State, TripReason},
};
use crate::call::waiters::Key;

/// What an operator sees of a circuit breaker, and does to it. Clones are the same handle.
///
/// All of it takes effect for every service that shares the breaker, and wakes who waits for it. What
/// is under way goes on; its results are not counted any more.
#[derive(Clone)]
pub struct CircuitBreakerHandle {
    breaker: Arc<Breaker>,
}

impl CircuitBreakerHandle {
    pub(super) fn new(breaker: Arc<Breaker>) -> Self {
        Self { breaker }
    }

    /// The state. An open breaker whose time is over is open until somebody asks to be let through.
    pub fn state(&self) -> State {
        self.breaker.phase().state()
    }

    /// What the breaker knows, computed now.
    pub fn snapshot(&self) -> Snapshot {
        let breaker = &self.breaker;
        let totals = breaker.totals();
        let (opened, closed, probes) = breaker.counters();
        Snapshot {
            state: self.state(),
            calls: totals.calls,
            failures: totals.failures,
            slow_calls: totals.slow,
            opened,
            closed,
            probes,
            retry_after: breaker.open_time_left(),
            last_trip: breaker.last_trip(),
        }
    }

    /// Refuses every call until [`close`](Self::close) or [`reset`](Self::reset): to
    /// drain a dependency by hand.
    pub fn force_open(&self) {
        self.breaker.force(State::ForcedOpen, false);
    }

    /// Closes the breaker now, with an empty window, and lets it go on by itself. Nothing happens if it
    /// is closed.
    pub fn close(&self) {
        self.breaker.force(State::Closed, false);
    }

    /// Closes the breaker as if it were new: earlier trips do not lengthen the next open time.
    pub fn reset(&self) {
        self.breaker.force(State::Closed, true);
    }

    /// Lets every call through and counts none, until [`close`](Self::close),
    /// [`reset`](Self::reset) or [`force_open`](Self::force_open).
    pub fn disable(&self) {
        self.breaker.force(State::Disabled, false);
    }

    /// A watch of the breaker's changes, from now on.
    pub fn watch(&self) -> Watch {
        let seen = self.breaker.phase();
        Watch { breaker: Arc::clone(&self.breaker), seen, place: None }
    }
}

impl fmt::Debug for CircuitBreakerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CircuitBreakerHandle").field(&self.breaker).finish()
    }
}

/// What a circuit breaker knew at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    state: State,
    calls: u64,
    failures: u64,
    slow_calls: u64,
    opened: u64,
    closed: u64,
    probes: u32,
    retry_after: Option<Duration>,
    last_trip: Option<TripReason>,
}

impl Snapshot {
    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// How many calls are in the window; none while the breaker is not closed.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// How many of them failed.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// How many of them were slow.
    pub fn slow_calls(&self) -> u64 {
        self.slow_calls
    }

    /// How often the breaker has opened, by itself or by hand.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// How often it has closed again.
    pub fn closed(&self) -> u64 {
        self.closed
    }

    /// How many probes are under way.
    pub fn probes(&self) -> u32 {
        self.probes
    }

    /// Why it last opened; `None` if it never did.
    pub fn last_trip(&self) -> Option<TripReason> {
        self.last_trip
    }

    /// How long until an open breaker lets a probe through.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// A watch of a breaker's changes of state.
///
/// It always tells the latest state. Of several changes while nobody asked only the last is seen.
pub struct Watch {
    breaker: Arc<Breaker>,
    seen: Phase,
    place: Option<Key>,
}

impl Watch {
    /// The state now.
    pub fn current(&self) -> State {
        self.breaker.phase().state()
    }

    /// Waits for a change since the last one that was seen here, and returns the state it led to.
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn changed(&mut self) -> State {
        poll_fn(|cx| {
            // On the list first, then looked at: a change in between is not missed.
            let breaker = &self.breaker;
            self.place = Some(breaker.watch(self.place, cx.waker().clone()));
            let phase = breaker.phase();
            if phase == self.seen {
                return Poll::Pending;
            }
            self.seen = phase;
            self.leave();
            Poll::Ready(phase.state())
        })
        .await
    }

    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.breaker.stop_watching(place);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("current", &self.current()).finish_non_exhaustive()
    }
}
