//! The numbers of all layers with the same name and kind.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    super::{
        event::{CallOutcome, Event, Source},
        kind::Kind,
        observer::Observers,
    },
    calls::Calls,
    causes::Causes,
    family::Value,
    gather::Gatherer,
    histogram::{Histogram, HistogramSnapshot},
    instrument::{
        ATTEMPT_DURATION, ATTEMPT_ERRORS, ATTEMPT_RESENDS, CALL_ACTIVE, CALL_DURATION, CALL_ERRORS,
        CHAOS_FAULTS, CIRCUIT_BREAKER_TRANSITIONS, ENDPOINTS_TRANSITIONS, HTTP_BODY_DURATION,
        IDEMPOTENCY_LEASES_LOST, IDEMPOTENCY_UNKNOWN, Instrument, REJECTIONS, RETRY_CALLS,
        RETRY_DELAY, RETRY_ENDED,
    },
    rows::{self, Row},
    state::{LayerState, Readings},
};
#[cfg(feature = "http")]
use crate::call::clock;
use crate::{call::lock::lock, error::Name};

/// The names under which a layer counts.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) stack: Option<Name>,
    pub(crate) layer: Name,
    pub(crate) kind: Kind,
}

impl Identity {
    /// Returns the values of its labels. The parts of the names of timeouts and keys are none.
    fn labels(&self) -> (Kind, &str, Option<&str>) {
        (self.kind, self.layer.as_str(), self.stack.as_ref().map(Name::as_str))
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.labels() == other.labels()
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.labels().hash(state);
    }
}

/// The numbers of all layers of one registry with the same name and kind.
///
/// The layers own it, and a registry knows it weakly. A number therefore never goes back while a
/// layer with the name is left.
pub(crate) struct Meter {
    identity: Identity,
    counts: Box<[AtomicU64]>,
    /// Made late, because most layers never need them.
    durations: Box<[OnceLock<Box<Histogram>>]>,
    calls: Option<Box<Calls>>,
    causes: OnceLock<Box<Causes>>,
    /// The number of successful calls that were not retried, as it was last read.
    not_retried: AtomicU64,
    states: Mutex<Vec<Weak<dyn LayerState>>>,
    observers: Arc<Observers>,
}

impl Meter {
    pub(super) fn new(identity: Identity, observers: Arc<Observers>) -> Self {
        let kind = identity.kind;
        Self {
            identity,
            counts: rows::counters(kind).iter().map(|_| AtomicU64::new(0)).collect(),
            durations: rows::durations(kind).iter().map(|_| OnceLock::new()).collect(),
            calls: calls_of(kind).map(|_| Box::default()),
            causes: OnceLock::new(),
            not_retried: AtomicU64::new(0),
            states: Mutex::default(),
            observers,
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn source(&self) -> Source<'_> {
        let Identity { stack, layer, kind } = &self.identity;
        Source::new(stack.as_ref().map(Name::as_str), layer.as_str(), *kind)
    }

    /// Adds the states of a layer, which are read with the numbers.
    pub(crate) fn add_states(&self, more: impl IntoIterator<Item = Weak<dyn LayerState>>) {
        let mut states = lock(&self.states);
        if states.len() == states.capacity() {
            states.retain(|state| state.strong_count() > 0);
            // Many layers may share one state, such as a budget, and come and go while it stays.
            states.sort_unstable_by_key(|state| state.as_ptr().cast::<()>());
            states.dedup_by(|a, b| Weak::ptr_eq(a, b));
        }
        states.extend(more);
    }

    /// Returns the states of the layers that are left.
    ///
    /// A state that several layers share, such as a budget, is there once.
    pub(super) fn states(&self) -> Vec<Arc<dyn LayerState>> {
        let mut states: Vec<_> = lock(&self.states).iter().filter_map(Weak::upgrade).collect();
        let address = |state: &Arc<dyn LayerState>| Arc::as_ptr(state).cast::<()>();
        states.sort_unstable_by_key(address);
        states.dedup_by_key(|state| address(state));
        states
    }

    /// Returns the counts of calls or attempts.
    #[inline]
    pub(crate) fn calls(&self) -> Option<&Calls> {
        self.calls.as_deref()
    }

    /// Counts the begin of a call. That of an attempt is not needed.
    #[inline]
    pub(crate) fn begin(&self) {
        if let Some(calls) = &self.calls {
            calls.begin();
        }
    }

    /// Counts the success of a call or an attempt, and tells the observers that want all events.
    ///
    /// `took` is the duration in nanoseconds.
    #[inline]
    pub(crate) fn succeeded(&self, took: u64) {
        let Some(calls) = &self.calls else { return };
        calls.ended(CallOutcome::Success, took);
        if self.observers.wants_all() {
            self.tell_end(CallOutcome::Success, None, Duration::from_nanos(took));
        }
    }

    /// Counts the end of a call or an attempt, and tells the observers that want all events.
    ///
    /// `took` is the duration in nanoseconds.
    pub(crate) fn ended(&self, outcome: CallOutcome, error_type: Option<&'static str>, took: u64) {
        let Some(calls) = &self.calls else { return };
        calls.ended(outcome, took);
        if outcome != CallOutcome::Success {
            self.note_cause(outcome, error_type);
        }
        if self.observers.wants_all() {
            self.tell_end(outcome, error_type, Duration::from_nanos(took));
        }
    }

    #[cold]
    fn tell_end(&self, outcome: CallOutcome, error_type: Option<&'static str>, took: Duration) {
        self.tell(&match self.identity.kind {
            Kind::Call => Event::CallEnded { outcome, error_type, took },
            Kind::Retry => Event::AttemptEnded { outcome, error_type, took },
            _ => Event::Measured {
                instrument: &HTTP_BODY_DURATION,
                values: [outcome.as_str(), ""],
                took,
            },
        });
    }

    /// Counts a body at its end. `took` is the time since the head.
    #[cfg(feature = "http")]
    #[cold]
    pub(crate) fn count_body(&self, outcome: CallOutcome, took: Duration) {
        if let Some(calls) = &self.calls {
            calls.begin();
        }
        self.ended(outcome, None, clock::nanos(took));
    }

    #[cold]
    fn note_cause(&self, outcome: CallOutcome, error_type: Option<&'static str>) {
        let has_causes = matches!(self.identity.kind, Kind::Call | Kind::Retry);
        if has_causes && !matches!(outcome, CallOutcome::Cancelled | CallOutcome::Degraded) {
            let cause = error_type.unwrap_or(outcome.as_str());
            self.causes.get_or_init(Box::default).add(cause);
        }
    }

    /// Counts an event.
    #[cold]
    pub(crate) fn count(&self, event: &Event<'_>) {
        match *event {
            Event::Rejected { rejection } => self.add(&REJECTIONS, [rejection.kind(), ""]),
            Event::Retrying { delay, .. } => {
                self.add(&ATTEMPT_RESENDS, ["", ""]);
                self.measure(&RETRY_DELAY, ["", ""], delay);
            }
            Event::RetriesExhausted { reason, .. } => self.add(&RETRY_ENDED, [reason, ""]),
            Event::CircuitOpened { reason, .. } => {
                let state = if reason == "forced" { "forced_open" } else { "open" };
                self.add(&CIRCUIT_BREAKER_TRANSITIONS, [state, reason]);
            }
            Event::CircuitHalfOpen { .. } => {
                self.add(&CIRCUIT_BREAKER_TRANSITIONS, ["half_open", "open_time"]);
            }
            Event::CircuitClosed { reason, .. } => {
                self.add(&CIRCUIT_BREAKER_TRANSITIONS, ["closed", reason]);
            }
            Event::CircuitDisabled { .. } => {
                self.add(&CIRCUIT_BREAKER_TRANSITIONS, ["disabled", "forced"]);
            }
            Event::EndpointOut { reason, .. } => {
                let state = if reason == "check" { "check_failed" } else { "ejected" };
                self.add(&ENDPOINTS_TRANSITIONS, [state, reason]);
            }
            Event::EndpointBack { reason, .. } => {
                self.add(&ENDPOINTS_TRANSITIONS, ["usable", reason]);
            }
            Event::OperationUnknown { .. } => self.add(&IDEMPOTENCY_UNKNOWN, ["", ""]),
            Event::FaultInjected { fault, .. } => self.add(&CHAOS_FAULTS, [fault, ""]),
            Event::LeaseLost { .. } => self.add(&IDEMPOTENCY_LEASES_LOST, ["", ""]),
            _ => {}
        }
    }

    /// Adds 1 to a counter. `values` are those of its last attributes.
    pub(crate) fn add(&self, instrument: &'static Instrument, values: [&'static str; 2]) {
        let rows = rows::counters(self.identity.kind);
        match place(rows, instrument, values) {
            Some(place) => {
                self.counts[place].fetch_add(1, Ordering::Relaxed);
            }
            None => debug_assert!(false, "no series {} {values:?}", instrument.name),
        }
    }

    /// Adds a duration to a histogram, and tells the observers that want all events.
    pub(crate) fn measure(
        &self,
        instrument: &'static Instrument,
        values: [&'static str; 2],
        took: Duration,
    ) {
        match place(rows::durations(self.identity.kind), instrument, values) {
            Some(place) => self.durations[place].get_or_init(Box::default).record(took),
            None => debug_assert!(false, "no series {} {values:?}", instrument.name),
        }
        if self.observers.wants_all() {
            self.tell(&Event::Measured { instrument, values, took });
        }
    }

    /// Returns `true` if there is an observer.
    pub(crate) fn is_observed(&self) -> bool {
        !self.observers.is_empty()
    }

    /// Tells the observers of an event.
    #[inline]
    pub(crate) fn tell(&self, event: &Event<'_>) {
        self.observers.tell(self.source(), event);
    }

    /// Gathers all numbers.
    pub(super) fn gather(&self, out: &mut Gatherer) {
        let kind = self.identity.kind;
        for (row, count) in rows::counters(kind).iter().zip(&self.counts) {
            self.put(out, row.instrument, &row.values, number(count.load(Ordering::Relaxed)));
        }
        for (row, histogram) in rows::durations(kind).iter().zip(&self.durations) {
            let mut snapshot = HistogramSnapshot::new();
            if let Some(histogram) = histogram.get() {
                histogram.add_to(&mut snapshot);
            }
            self.put(out, row.instrument, &row.values, Value::Histogram(Box::new(snapshot)));
        }
        if let (Some(calls), Some(instrument)) = (&self.calls, calls_of(kind)) {
            self.gather_calls(out, calls, instrument);
        }
        let mut readings = Readings::default();
        for state in self.states() {
            state.read(&mut readings);
        }
        for (instrument, value, reading) in readings.values {
            self.put(out, instrument, &[value, ""], Value::Number(reading));
        }
        if let Some((instrument, states, worst)) = readings.state {
            for (index, state) in states.iter().enumerate() {
                self.put(out, instrument, &[state, ""], number(u64::from(index == worst)));
            }
        }
    }

    fn gather_calls(&self, out: &mut Gatherer, calls: &Calls, instrument: &'static Instrument) {
        // The ends first, so that a call that begins and ends meanwhile is not missing.
        let ended = calls.snapshot();
        let total: u64 = ended.iter().map(HistogramSnapshot::count).sum();
        let successes = ended[CallOutcome::Success as usize].count();
        for (outcome, snapshot) in CallOutcome::ALL.into_iter().zip(ended) {
            if outcome == CallOutcome::Degraded && self.identity.kind != Kind::Call {
                continue;
            }
            self.put(
                out,
                instrument,
                &[outcome.as_str(), ""],
                Value::Histogram(Box::new(snapshot)),
            );
        }
        match self.identity.kind {
            Kind::Call => {
                let started = calls.started();
                debug_assert!(total <= started, "{total} of {started} calls ended");
                let active = started.saturating_sub(total);
                self.put(out, &CALL_ACTIVE, &["", ""], number(active));
                self.gather_causes(out, &CALL_ERRORS);
            }
            Kind::Retry => {
                // A call has at most one successful attempt, so the others were not retried.
                let saved = self.total(&RETRY_CALLS, ["true", "success"]);
                let rest = successes.saturating_sub(saved);
                // The two are not read at one instant. The count must not go back nevertheless.
                let rest = rest.max(self.not_retried.fetch_max(rest, Ordering::Relaxed));
                self.put(out, &RETRY_CALLS, &["false", "success"], number(rest));
                self.gather_causes(out, &ATTEMPT_ERRORS);
            }
            _ => {}
        }
    }

    fn gather_causes(&self, out: &mut Gatherer, instrument: &'static Instrument) {
        let causes = self.causes.get().map(|causes| causes.snapshot());
        for (cause, count) in causes.into_iter().flatten() {
            self.put(out, instrument, &[cause, ""], number(count));
        }
    }

    /// Returns the value of a counter.
    fn total(&self, instrument: &'static Instrument, values: [&'static str; 2]) -> u64 {
        let place = place(rows::counters(self.identity.kind), instrument, values);
        place.map_or(0, |place| self.counts[place].load(Ordering::Relaxed))
    }

    /// Puts a value under the names of the layer. `values` are those of the last attributes.
    fn put(
        &self,
        out: &mut Gatherer,
        instrument: &'static Instrument,
        values: &[&'static str],
        value: Value,
    ) {
        let attributes = self.source().attributes(instrument, values);
        out.put(instrument, attributes, value);
    }
}

/// Returns the histogram of the calls that a kind of layer counts, if it counts calls.
fn calls_of(kind: Kind) -> Option<&'static Instrument> {
    match kind {
        Kind::Call => Some(&CALL_DURATION),
        Kind::Retry => Some(&ATTEMPT_DURATION),
        #[cfg(feature = "http")]
        Kind::Client => Some(&HTTP_BODY_DURATION),
        _ => None,
    }
}

fn place(
    rows: &'static [Row],
    instrument: &'static Instrument,
    values: [&'static str; 2],
) -> Option<usize> {
    rows.iter().position(|row| std::ptr::eq(row.instrument, instrument) && row.values == values)
}

fn number(count: u64) -> Value {
    Value::Number(count as f64)
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("identity", &self.identity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Shared(#[expect(dead_code, reason = "it has an address")] u8);

    impl LayerState for Shared {}

    #[test]
    fn layers_that_come_and_go_with_a_shared_state_take_no_memory() {
        let (stack, layer, kind) = (None, Kind::Retry.as_str().into(), Kind::Retry);
        let meter = Meter::new(Identity { stack, layer, kind }, Arc::default());
        let shared: Arc<dyn LayerState> = Arc::new(Shared(0));
        for _ in 0..1_000 {
            let own: Arc<dyn LayerState> = Arc::new(Shared(0));
            meter.add_states([Arc::downgrade(&shared)]);
            meter.add_states([Arc::downgrade(&own)]);
        }
        assert!(lock(&meter.states).len() < 10);
        assert_eq!(meter.states().len(), 1);
    }
}
