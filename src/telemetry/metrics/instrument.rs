//! The catalogue of instruments.

use super::super::field::{ERROR_TYPE, FAULT, KIND, LAYER, OUTCOME, REASON, STACK};

/// One instrument of the [catalogue](CATALOGUE): the name and the meaning of some numbers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Instrument {
    /// The name, as in OpenTelemetry, such as `buttress.call.duration`.
    pub name: &'static str,
    /// The unit, as in UCUM: `s`, `1`, or a word in braces such as `{call}`.
    pub unit: &'static str,
    /// The kind of its values.
    pub kind: InstrumentKind,
    /// The attributes of its series. A layer outside of a stack has no `buttress.stack`.
    pub attributes: &'static [&'static str],
    /// The meaning, as one sentence.
    pub help: &'static str,
}

impl Instrument {
    /// Returns the name in Prometheus, such as `buttress_call_duration_seconds`.
    ///
    /// It is translated as OpenTelemetry does: with underscores, the unit, and `_total` for a
    /// counter. A histogram has series with this name and `_bucket`, `_sum` and `_count`.
    pub fn prometheus_name(&self) -> String {
        let mut name = self.name.replace('.', "_");
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            "1" if self.kind != InstrumentKind::Counter => "_ratio",
            _ => "",
        };
        for suffix in [unit, if self.kind == InstrumentKind::Counter { "_total" } else { "" }] {
            if !name.ends_with(suffix) {
                name.push_str(suffix);
            }
        }
        name
    }
}

/// The kind of the values of an [`Instrument`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstrumentKind {
    /// A sum that only grows.
    Counter,
    /// A value that is read when the registry is read. Equal series are added up.
    Gauge,
    /// The same, but of equal series the greatest value counts.
    MaxGauge,
    /// The same, but of equal series the smallest value counts.
    MinGauge,
    /// A distribution of durations in seconds.
    Histogram,
}

/// The state of a circuit breaker.
pub(crate) const STATE: &str = "buttress.state";
/// `true` if the call was retried.
pub(crate) const RETRIED: &str = "buttress.retried";
/// The result of a probe, of a fallback, of a request with an idempotency key, or of a hint.
pub(crate) const RESULT: &str = "buttress.result";
/// The step of an idempotency store.
pub(crate) const STEP: &str = "buttress.step";
/// The version of this crate.
pub(crate) const VERSION: &str = "buttress.version";

macro_rules! instruments {
    ($(
        $id:ident: $kind:ident $name:literal $unit:literal [$($attribute:expr),*] $help:literal;
    )+) => {
        $(
            pub(crate) static $id: Instrument = Instrument {
                name: $name,
                unit: $unit,
                kind: InstrumentKind::$kind,
                attributes: &[$($attribute),*],
                help: $help,
            };
        )+

        /// All instruments. `docs/metrics.md` is made from this table.
        pub static CATALOGUE: &[&Instrument] = &[$(&$id),+];
    };
}

// A series of each counter exists before its first event, but for those by cause, because causes
// are not known before. A series that begins with 1 would hide this event from the `increase()` of
// Prometheus.
instruments! {
    CALL_DURATION: Histogram "buttress.call.duration" "s" [STACK, OUTCOME]
        "The duration of calls, as their callers see it.";
    CALL_ACTIVE: Gauge "buttress.call.active" "{call}" [STACK]
        "The number of calls that have begun and not ended.";
    CALL_ERRORS: Counter "buttress.call.errors" "{call}" [STACK, ERROR_TYPE]
        "Calls that failed or were rejected, by cause.";
    ATTEMPT_DURATION: Histogram "buttress.attempt.duration" "s" [STACK, LAYER, OUTCOME]
        "The duration of attempts: that of the dependency, and of queues beneath the retry.";
    ATTEMPT_ERRORS: Counter "buttress.attempt.errors" "{attempt}" [STACK, LAYER, ERROR_TYPE]
        "Attempts that failed or were rejected, by cause. A later attempt may have succeeded.";
    ATTEMPT_RESENDS: Counter "buttress.attempt.resends" "{attempt}" [STACK, LAYER]
        "Attempts after the first one of a call.";
    REJECTIONS: Counter "buttress.rejections" "{call}" [STACK, LAYER, KIND, ERROR_TYPE]
        "Calls that a layer rejected or ended.";
    RETRY_CALLS: Counter "buttress.retry.calls" "{call}" [STACK, LAYER, RETRIED, OUTCOME]
        "Calls through a retry. One that succeeded after a retry was saved. A rejected one failed.";
    RETRY_ENDED: Counter "buttress.retry.ended" "{call}" [STACK, LAYER, REASON]
        "Failed calls that were not retried further, by reason. `rejected` is that of a retry.";
    RETRY_DELAY: Histogram "buttress.retry.delay" "s" [STACK, LAYER]
        "The pauses before retries.";
    RETRY_BUDGET_RATIO: MinGauge "buttress.retry.budget.ratio" "1" [STACK, LAYER]
        "The share of the retry budget that is left.";
    RETRY_BUDGET_TOKENS: Gauge "buttress.retry.budget.tokens" "{retry}" [STACK, LAYER]
        "The retries that the budget allows at the moment.";
    BULKHEAD_ACTIVE: Gauge "buttress.bulkhead.active" "{call}" [STACK, LAYER]
        "Calls that hold a slot of the bulkhead.";
    BULKHEAD_LIMIT: Gauge "buttress.bulkhead.limit" "{call}" [STACK, LAYER]
        "The maximum number of concurrent calls.";
    BULKHEAD_QUEUED: Gauge "buttress.bulkhead.queued" "{call}" [STACK, LAYER]
        "Calls that wait for a slot.";
    BULKHEAD_QUEUE_LIMIT: Gauge "buttress.bulkhead.queue.limit" "{call}" [STACK, LAYER]
        "The maximum number of calls that wait for a slot.";
    BULKHEAD_QUEUE_DURATION: Histogram "buttress.bulkhead.queue.duration" "s" [STACK, LAYER, RESULT]
        "The time that calls waited in the queue.";
    CIRCUIT_BREAKER_STATE: MaxGauge "buttress.circuit_breaker.state" "{breaker}"
        [STACK, LAYER, STATE]
        "1 for the state. Of several: forced_open, open, half_open, disabled, then closed.";
    CIRCUIT_BREAKER_STATE_DURATION: MaxGauge "buttress.circuit_breaker.state.duration" "s"
        [STACK, LAYER]
        "The time since the last change of state. Of several breakers, the worst counts.";
    CIRCUIT_BREAKER_NEXT_PROBE: MaxGauge "buttress.circuit_breaker.next_probe" "s" [STACK, LAYER]
        "The time until an open breaker admits a probe. Only there while it is open.";
    CIRCUIT_BREAKER_TRANSITIONS: Counter "buttress.circuit_breaker.transitions" "{transition}"
        [STACK, LAYER, STATE, REASON] "Changes of state, by new state and reason.";
    CIRCUIT_BREAKER_FAILURE_RATIO: MaxGauge "buttress.circuit_breaker.failure_ratio" "1"
        [STACK, LAYER] "The share of failures among the attempts in the window, if there are any.";
    CIRCUIT_BREAKER_SLOW_RATIO: MaxGauge "buttress.circuit_breaker.slow_ratio" "1" [STACK, LAYER]
        "The share of slow ones among the attempts in the window, if there are any.";
    CIRCUIT_BREAKER_WINDOW_CALLS: Gauge "buttress.circuit_breaker.window.calls" "{call}"
        [STACK, LAYER] "Attempts in the window, which is empty unless it is closed.";
    CIRCUIT_BREAKER_PROBES: Counter "buttress.circuit_breaker.probes" "{probe}"
        [STACK, LAYER, RESULT] "Probes of a half-open breaker, by result.";
    CIRCUIT_BREAKER_KEYS: Gauge "buttress.circuit_breaker.keys" "{key}" [STACK, LAYER, STATE]
        "Keys of a breaker by key, by state.";
    CIRCUIT_BREAKER_KEYS_EVICTED: Counter "buttress.circuit_breaker.keys.evicted" "{key}"
        [STACK, LAYER] "Keys that a breaker by key forgot to make room for others.";
    FALLBACK_CALLS: Counter "buttress.fallback.calls" "{call}" [STACK, LAYER, RESULT]
        "Calls that needed the fallback. `off` is a response while it was switched off.";
    FALLBACK_SWITCHED_OFF: MaxGauge "buttress.fallback.switched_off" "{layer}" [STACK, LAYER]
        "1 if the service was switched off by hand.";
    HTTP_REPLAY_OVERFLOW: Counter "buttress.http.replay.overflow" "{request}" [STACK, LAYER]
        "Requests whose body was too large to keep for a retry. They are sent once.";
    HTTP_HINTS: Counter "buttress.http.hints" "{response}" [STACK, LAYER, RESULT]
        "Failed responses whose hint decided about a retry, by what the retry did with it.";
    HTTP_BODY_DURATION: Histogram "buttress.http.body.duration" "s" [STACK, LAYER, OUTCOME]
        "The time from the head of a response to the end of its body. A retry cancels it.";
    IDEMPOTENCY_REQUESTS: Counter "buttress.idempotency.requests" "{request}"
        [STACK, LAYER, RESULT] "Requests with an idempotency key, by result.";
    IDEMPOTENCY_UNKNOWN: Counter "buttress.idempotency.unknown" "{operation}" [STACK, LAYER]
        "Operations whose outcome became unknown.";
    IDEMPOTENCY_LEASES_LOST: Counter "buttress.idempotency.leases.lost" "{lease}" [STACK, LAYER]
        "Leases that ended before their run.";
    IDEMPOTENCY_ACTIVE: Gauge "buttress.idempotency.active" "{operation}" [STACK, LAYER]
        "Operations that run.";
    IDEMPOTENCY_STORE_DURATION: Histogram "buttress.idempotency.store.duration" "s"
        [STACK, LAYER, STEP, OUTCOME] "The duration of the steps of the store.";
    CHAOS_ARMED: Gauge "buttress.chaos.armed" "{layer}" [STACK, LAYER]
        "Chaos layers that are armed, and inject faults on purpose.";
    CHAOS_FAULTS: Counter "buttress.chaos.faults" "{fault}" [STACK, LAYER, FAULT]
        "Faults that were injected on purpose.";
    CHAOS_HUNG: Gauge "buttress.chaos.hung" "{call}" [STACK, LAYER]
        "Calls and bodies that a chaos layer lets hang.";
    ENDPOINTS: Gauge "buttress.endpoints" "{endpoint}" [STACK, LAYER, STATE]
        "Endpoints, by state.";
    ENDPOINTS_ACTIVE: Gauge "buttress.endpoints.active" "{call}" [STACK, LAYER]
        "Calls to all endpoints that have begun and not ended.";
    ENDPOINTS_TRANSITIONS: Counter "buttress.endpoints.transitions" "{transition}"
        [STACK, LAYER, STATE, REASON]
        "Endpoints that went out or came back, by new state and reason.";
    CACHE_REQUESTS: Counter "buttress.cache.requests" "{call}" [STACK, LAYER, RESULT]
        "Calls of a cache, by what their callers got. A bypass asked for one caller alone.";
    CACHE_ENTRIES: Gauge "buttress.cache.entries" "{entry}" [STACK, LAYER]
        "Entries of a cache.";
    CACHE_BYTES: Gauge "buttress.cache.bytes" "By" [STACK, LAYER]
        "The bytes of these entries.";
    CACHE_SHARED_CALLS: Gauge "buttress.cache.shared_calls" "{call}" [STACK, LAYER]
        "Calls under way that callers share.";
    OBSERVER_PANICS: Counter "buttress.observer.panics" "{panic}" []
        "Panics of observers. Each was caught.";
    INFO: MaxGauge "buttress.info" "{process}" [VERSION] "Always 1. The attribute is the version.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_prometheus_have_the_unit_once() {
        let names = [&CALL_DURATION, &REJECTIONS, &CALL_ACTIVE, &RETRY_BUDGET_RATIO]
            .map(Instrument::prometheus_name);
        let expected = [
            "buttress_call_duration_seconds",
            "buttress_rejections_total",
            "buttress_call_active",
            "buttress_retry_budget_ratio",
        ];
        assert_eq!(names, expected);
        assert_eq!(
            CIRCUIT_BREAKER_SLOW_RATIO.prometheus_name(),
            "buttress_circuit_breaker_slow_ratio"
        );
    }
}
