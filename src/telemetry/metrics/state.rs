//! The state of a layer, as a registry reads and changes it.

use std::{cmp::Ordering, future::Future, pin::Pin, sync::Arc, time::Duration};

use super::instrument::{Instrument, InstrumentKind};

/// The state of a layer that has gauges, or that can be changed by hand.
///
/// The state that the services of a layer share implements it. A registry holds it weakly.
pub(crate) trait LayerState: Send + Sync {
    /// Reads the gauges.
    fn read(&self, readings: &mut Readings) {
        let _ = readings;
    }

    /// Returns why the layer would reject a call now, or `None` if it would not.
    fn unready(&self) -> Option<&'static str> {
        None
    }

    /// Changes the state by hand. Returns `false` if the layer has nothing to change in this way.
    fn control(&self, control: Control) -> bool {
        let _ = control;
        false
    }

    /// Returns a future that is ready when no call is in the layer, if the layer knows its calls.
    fn drained(self: Arc<Self>) -> Option<Drained> {
        None
    }
}

/// A future that is ready when a layer has no calls.
pub(crate) type Drained = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A change of a layer by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Opens a circuit breaker by hand, for this time or without an end.
    ///
    /// After the time it is half-open. The time replaces an earlier one.
    ForceOpen(Option<Duration>),
    /// Closes a circuit breaker and resumes automatic operation.
    Close,
    /// Closes a circuit breaker as if it were new.
    Reset,
    /// Disables a circuit breaker, which then admits every call.
    Disable,
    /// Sets the maximum number of concurrent calls of a bulkhead, which must not be zero.
    Resize(u32),
    /// Disarms a chaos layer. No change arms one.
    Disarm,
    /// Switches the service beneath a fallback off.
    SwitchOff,
    /// Switches the service beneath a fallback on again.
    SwitchOn,
    /// Forgets all entries of a cache.
    ForgetAll,
}

impl Control {
    /// Returns the change as one word, such as `force_open`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ForceOpen(_) => "force_open",
            Self::Close => "close",
            Self::Reset => "reset",
            Self::Disable => "disable",
            Self::Resize(_) => "resize",
            Self::Disarm => "disarm",
            Self::SwitchOff => "switch_off",
            Self::SwitchOn => "switch_on",
            Self::ForgetAll => "forget_all",
        }
    }
}

/// The gauges of all layers with the same name and kind.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    /// Each instrument with the value of its additional attribute, which may be empty.
    pub(super) values: Vec<(&'static Instrument, &'static str, f64)>,
    /// The worst state, as an index into the states.
    pub(super) state: Option<(&'static Instrument, &'static [&'static str], usize)>,
}

impl Readings {
    /// Adds a value, which equal gauges combine as their instrument says.
    pub(crate) fn set(&mut self, instrument: &'static Instrument, value: f64) {
        self.set_with(instrument, "", value);
    }

    /// Adds a value with the value of the last attribute of the instrument.
    pub(crate) fn set_with(
        &mut self,
        instrument: &'static Instrument,
        attribute: &'static str,
        value: f64,
    ) {
        let same = |it: &&mut (&'static Instrument, &str, f64)| {
            std::ptr::eq(it.0, instrument) && it.1 == attribute
        };
        match self.values.iter_mut().find(same) {
            Some((_, _, known)) => match instrument.kind {
                InstrumentKind::MaxGauge => *known = known.max(value),
                InstrumentKind::MinGauge => *known = known.min(value),
                _ => *known += value,
            },
            None => self.values.push((instrument, attribute, value)),
        }
    }

    /// Adds a state, which is one of several. They are in order, the worst last.
    ///
    /// Returns how it compares to the worst state before.
    pub(crate) fn set_state(
        &mut self,
        instrument: &'static Instrument,
        states: &'static [&'static str],
        state: usize,
    ) -> Ordering {
        let known = self.state.map(|(_, _, known)| known);
        self.state = Some((instrument, states, known.map_or(state, |known| known.max(state))));
        known.map_or(Ordering::Greater, |known| state.cmp(&known))
    }

    /// Adds a value that belongs to the worst state alone, if that has one.
    pub(crate) fn set_of_state(
        &mut self,
        order: Ordering,
        instrument: &'static Instrument,
        value: Option<f64>,
    ) {
        if order == Ordering::Greater {
            self.values.retain(|it| !std::ptr::eq(it.0, instrument));
        }
        if let Some(value) = value.filter(|_| order != Ordering::Less) {
            self.set(instrument, value);
        }
    }
}
