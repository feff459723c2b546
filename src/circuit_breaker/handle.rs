use std::{fmt, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use tokio::time::Instant;

use super::{
    breaker::{Breaker, Phase},
    state::{State, TripReason},
};
use crate::{
    call::waiters::Key,
    keyed::{Kept, Rank},
    telemetry::Reporters,
};

/// A handle for inspecting and controlling a circuit breaker at run time.
///
/// All clones control the same breaker. A change of state affects every service that shares the
/// breaker, and wakes the waiting callers. Calls in flight continue, but their results no longer
/// count.
#[derive(Clone)]
pub struct CircuitBreakerHandle {
    breaker: Arc<Breaker>,
}

impl CircuitBreakerHandle {
    pub(super) fn new(breaker: Arc<Breaker>) -> Self {
        Self { breaker }
    }

    /// Takes the names and the registry of a stack.
    pub(crate) fn inherit(&self, stack: &Reporters) {
        let state = || Some(self.breaker.layer_state());
        self.breaker.config().reporter.inherit(stack, state);
    }

    /// Sets the text of a key for the breaker's events and rejections, unless it was set before.
    pub(crate) fn describe(&self, key: String) {
        self.breaker.describe(key);
    }

    /// Returns `true` to the first caller only. Others share the breaker with it.
    pub(crate) fn claim(&self) -> bool {
        self.breaker.claim()
    }

    /// Returns the state.
    ///
    /// After its open time, the breaker still reports `Open` or `ForcedOpen` until a caller asks to
    /// be admitted.
    pub fn state(&self) -> State {
        self.breaker.phase().state()
    }

    /// Returns a snapshot of the state and the counts.
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
            time_in_state: breaker.time_in_state(),
            rejected: breaker.rejected(),
        }
    }

    /// Opens the breaker by hand, for example to drain a dependency.
    ///
    /// No call is admitted until [`close`](Self::close), [`reset`](Self::reset) or
    /// [`disable`](Self::disable) is called. If that could be forgotten, use
    /// [`force_open_for`](Self::force_open_for).
    pub fn force_open(&self) {
        self.breaker.force_open(None);
    }

    /// Opens the breaker by hand for this time, which replaces that of an earlier call.
    ///
    /// After this time the breaker is half-open, as after an outage. Its probes decide whether it
    /// closes, because the dependency may be down by then. Rejections carry the time that is left.
    /// No background task is needed. The next call that asks to be admitted checks the time.
    ///
    /// ```
    /// use buttress::circuit_breaker::{CircuitBreakerLayer, State};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let handle = CircuitBreakerLayer::new().handle();
    /// handle.force_open_for(Duration::from_secs(600));
    /// assert_eq!(handle.state(), State::ForcedOpen);
    /// assert_eq!(handle.snapshot().retry_after(), Some(Duration::from_secs(600)));
    /// # }
    /// ```
    pub fn force_open_for(&self, time: Duration) {
        self.breaker.force_open(Some(time));
    }

    /// Closes the breaker with an empty window, and resumes automatic operation.
    ///
    /// Does nothing if the breaker is closed. Earlier trips may still lengthen the next open time.
    /// [`reset`](Self::reset) discards them.
    pub fn close(&self) {
        self.breaker.force_closed(false);
    }

    /// Closes the breaker as if it were new. Earlier trips do not lengthen the next open time.
    pub fn reset(&self) {
        self.breaker.force_closed(true);
    }

    /// Disables the breaker, which then admits every call without counting it.
    ///
    /// It stays disabled until [`close`](Self::close), [`reset`](Self::reset) or
    /// [`force_open`](Self::force_open) is called.
    pub fn disable(&self) {
        self.breaker.disable();
    }

    /// Returns a watch of the changes of state from now on.
    pub fn watch(&self) -> Watch {
        let seen = self.breaker.phase();
        Watch { breaker: Arc::clone(&self.breaker), seen, place: None }
    }
}

impl Kept for CircuitBreakerHandle {
    fn rank(&self) -> Rank {
        self.breaker.rank()
    }

    fn outlasts(&self, now: Instant) -> bool {
        self.breaker.outlasts(now)
    }
}

impl fmt::Debug for CircuitBreakerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CircuitBreakerHandle").field(&self.breaker).finish()
    }
}

/// A snapshot of a circuit breaker, returned by [`CircuitBreakerHandle::snapshot`].
///
/// The values are read one after the other. A call that ends meanwhile may be included in one
/// value and not in another. The counts of the window are zero unless the breaker is closed.
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
    time_in_state: Duration,
    rejected: u64,
}

impl Snapshot {
    /// Returns the state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns the number of calls in the window.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Returns the number of failed calls in the window.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Returns the number of slow calls in the window.
    pub fn slow_calls(&self) -> u64 {
        self.slow_calls
    }

    /// Returns the number of times that the breaker has opened, by itself or by hand.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Returns the number of times that the breaker has closed again.
    pub fn closed(&self) -> u64 {
        self.closed
    }

    /// Returns the number of probes that have a lease.
    pub fn probes(&self) -> u32 {
        self.probes
    }

    /// Returns the reason why the breaker last opened, or `None` if it never did.
    pub fn last_trip(&self) -> Option<TripReason> {
        self.last_trip
    }

    /// Returns the time until an open breaker admits a probe.
    ///
    /// It is `None` in every other state, once that time has elapsed, and after
    /// [`force_open`](CircuitBreakerHandle::force_open).
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns the time since the last change of state, or since the breaker was made.
    pub fn time_in_state(&self) -> Duration {
        self.time_in_state
    }

    /// Returns the number of calls that were rejected since the breaker opened.
    ///
    /// It includes all trips until the breaker closes, and is zero once it has closed.
    pub fn rejected(&self) -> u64 {
        self.rejected
    }
}

/// A watch for changes of a breaker's state, created by [`CircuitBreakerHandle::watch`].
///
/// It always returns the latest state. If the state changes several times between two calls of
/// [`changed`](Self::changed), the earlier changes are skipped.
pub struct Watch {
    breaker: Arc<Breaker>,
    seen: Phase,
    place: Option<Key>,
}

impl Watch {
    /// Returns the current state.
    pub fn current(&self) -> State {
        self.breaker.phase().state()
    }

    /// Waits until the state has changed since the last call, and returns the new state.
    ///
    /// The first call waits for a change since the watch was created.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. Dropping the future loses no change.
    pub async fn changed(&mut self) -> State {
        poll_fn(|cx| {
            // Joins the list before it reads the state, so that it cannot miss a change in between.
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
