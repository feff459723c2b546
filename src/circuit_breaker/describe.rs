//! The report of a circuit breaker for [`Stack::explain`](crate::Stack::explain).

use std::time::Duration;

use super::{
    config::{Config, SlowCalls},
    keyed::KeyedCircuitBreakerLayer,
    layer::CircuitBreakerLayer,
    window::Span,
};
use crate::{
    describe::{Describe, Fact, Facts, fact},
    sealed::Sealed,
};

/// The length of a window of time.
pub(crate) const WINDOW: Fact<Duration> = Fact::new("window of the breaker");
/// The time after which a call is slow.
pub(crate) const SLOW_AFTER: Fact<Duration> = Fact::new("slow after");
/// The time after which a probe has failed.
pub(crate) const PROBE_LEASE: Fact<Duration> = Fact::new("lease of a probe");
/// The time without a response after which calls that are cut count.
pub(crate) const SILENCE: Fact<Duration> = Fact::new("silence");
/// The run time from which a call that its caller dropped is a failure at once, if it is set.
pub(crate) const ABANDONED_AFTER: Fact<Duration> = Fact::new("abandoned after");
/// The number of failures in a row that opens the breaker.
pub(crate) const NEEDED_IN_A_ROW: Fact<u64> = Fact::new("failures in a row");
/// The number of calls in its window that the breaker needs for a rate.
pub(crate) const NEEDED_IN_WINDOW: Fact<u64> = Fact::new("calls that the breaker needs");
/// The breaker waits for readiness within the call.
pub(crate) const WAITS_FOR_READINESS: Fact<()> = Fact::new("the breaker waits for readiness");
/// The circuit breaker reports `Pending` while it is open.
pub(crate) const PENDS: Fact<()> = Fact::new("the breaker pends");
/// The circuit breaker rejects calls while it is open.
pub(crate) const REJECTS: Fact<()> = Fact::new("the breaker rejects");

impl<C> Sealed for CircuitBreakerLayer<C> {}
impl<K, F, C> Sealed for KeyedCircuitBreakerLayer<K, F, C> {}

impl<C> Describe for CircuitBreakerLayer<C> {
    fn describe(&self, facts: &mut Facts) {
        self.config().describe(facts);
    }
}

impl<K, F, C> Describe for KeyedCircuitBreakerLayer<K, F, C> {
    fn describe(&self, facts: &mut Facts) {
        self.config().describe(facts);
        facts.note(fact::WAITS_FOR_READINESS);
        facts.note(WAITS_FOR_READINESS);
    }
}

impl Config {
    fn describe(&self, facts: &mut Facts) {
        let of = match self.span {
            Span::Calls(calls) => format!("the last {calls} calls"),
            Span::Time(time) => {
                facts.put(WINDOW, time);
                format!("the calls in the last {time:?}")
            }
        };
        let mut trips = Vec::new();
        let least = self.minimum_calls;
        if let Some(rate) = self.failure_rate {
            trips.push(format!("{:.0} % of {of} failed (at least {least} calls)", rate * 100.0));
        }
        if let Some(SlowCalls { longer_than, rate }) = self.slow_calls {
            facts.put(SLOW_AFTER, longer_than);
            let share = rate * 100.0;
            trips.push(format!(
                "{share:.0} % of {of} took {longer_than:?} (at least {least} calls)"
            ));
        }
        if let Some(most) = self.consecutive_failures {
            trips.push(format!("{most} calls in a row failed"));
        }
        facts.put(PROBE_LEASE, self.probe_lease);
        facts.put(SILENCE, self.silence);
        if let Some(after) = self.abandoned_after {
            facts.put(ABANDONED_AFTER, after);
        }
        if let Some(most) = self.consecutive_failures {
            facts.put(NEEDED_IN_A_ROW, most.into());
        }
        if self.failure_rate.is_some() || self.slow_calls.is_some() {
            facts.put(NEEDED_IN_WINDOW, self.minimum_calls.into());
        }
        let then = if self.pend {
            facts.note(PENDS);
            facts.note(fact::PUSHES_BACK);
            "pends"
        } else {
            facts.note(REJECTS);
            "rejects"
        };
        let trips = trips.join(", or ");
        let text = format_args!("opens when {trips}; then {then} for {:?}", self.open_for);
        facts.line("circuit breaker", text);
    }
}
