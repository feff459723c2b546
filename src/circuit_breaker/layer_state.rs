//! A circuit breaker as a registry reads and changes it.

use std::{
    cmp::Ordering,
    sync::{Arc, Weak},
};

use tokio::time::Instant;

use super::{breaker::Breaker, key_counts::KeyCounts, state::State};
use crate::telemetry::{
    Control, LayerState, Readings,
    instrument::{
        CIRCUIT_BREAKER_FAILURE_RATIO, CIRCUIT_BREAKER_KEYS, CIRCUIT_BREAKER_NEXT_PROBE,
        CIRCUIT_BREAKER_SLOW_RATIO, CIRCUIT_BREAKER_STATE, CIRCUIT_BREAKER_STATE_DURATION,
        CIRCUIT_BREAKER_WINDOW_CALLS,
    },
};

/// The states, the worst last.
const STATES: [State; State::ALL.len()] =
    [State::Closed, State::Disabled, State::HalfOpen, State::Open, State::ForcedOpen];
const NAMES: &[&str] = &[
    STATES[0].as_str(),
    STATES[1].as_str(),
    STATES[2].as_str(),
    STATES[3].as_str(),
    STATES[4].as_str(),
];

fn set_state(readings: &mut Readings, state: State) -> Ordering {
    let place = STATES.iter().position(|known| *known == state).unwrap_or_default();
    readings.set_state(&CIRCUIT_BREAKER_STATE, NAMES, place)
}

impl Breaker {
    /// Returns the state that a registry reads.
    pub(super) fn layer_state(self: &Arc<Self>) -> Weak<dyn LayerState> {
        let breaker: Weak<Self> = Arc::downgrade(self);
        breaker
    }
}

impl LayerState for Breaker {
    fn read(&self, readings: &mut Readings) {
        let totals = self.totals();
        let share = |part: u64| part as f64 / totals.calls as f64;
        let time = self.time_in_state().as_secs_f64();
        // Of breakers with equal names, the times of another one would not fit the state.
        let order = set_state(readings, self.phase().state());
        readings.set_of_state(order, &CIRCUIT_BREAKER_STATE_DURATION, Some(time));
        let next_probe = self.open_time_left().map(|left| left.as_secs_f64());
        readings.set_of_state(order, &CIRCUIT_BREAKER_NEXT_PROBE, next_probe);
        // The window of an open breaker is empty, and a ratio of 0 would look healthy.
        if totals.calls > 0 {
            readings.set(&CIRCUIT_BREAKER_FAILURE_RATIO, share(totals.failures));
            readings.set(&CIRCUIT_BREAKER_SLOW_RATIO, share(totals.slow));
        }
        readings.set(&CIRCUIT_BREAKER_WINDOW_CALLS, totals.calls as f64);
    }

    /// A breaker that would admit a probe is ready.
    fn unready(&self) -> Option<&'static str> {
        let state = self.phase().state();
        let rejects = match state {
            State::Closed | State::Disabled | State::HalfOpen => false,
            State::Open | State::ForcedOpen => self.still_open(Instant::now()).is_some(),
        };
        rejects.then_some(state.as_str())
    }

    fn control(&self, control: Control) -> bool {
        match control {
            Control::ForceOpen(time) => self.force_open(time),
            Control::Close => self.force_closed(false),
            Control::Reset => self.force_closed(true),
            Control::Disable => self.disable(),
            _ => return false,
        }
        true
    }
}

impl KeyCounts {
    /// Returns the state that a registry reads.
    pub(super) fn layer_state(self: &Arc<Self>) -> Weak<dyn LayerState> {
        let counts: Weak<Self> = Arc::downgrade(self);
        counts
    }
}

/// The breakers of all keys have the worst of their states.
///
/// They are never unready, because a key that is down says nothing about the others. They cannot be
/// changed together, because a new key would not have the change, and no key that is open or
/// disabled by hand is ever evicted.
impl LayerState for KeyCounts {
    fn read(&self, readings: &mut Readings) {
        for (state, keys) in self.get() {
            readings.set_with(&CIRCUIT_BREAKER_KEYS, state.as_str(), keys as f64);
            if keys > 0 || state == State::Closed {
                set_state(readings, state);
            }
        }
    }
}
