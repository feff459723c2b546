//! The series of each kind of layer, which exist before their first event.

#[cfg(feature = "http")]
use super::instrument::HTTP_REPLAY_OVERFLOW;
use super::{
    super::kind::Kind,
    instrument::{
        ATTEMPT_RESENDS, BULKHEAD_QUEUE_DURATION, CACHE_REQUESTS, CHAOS_FAULTS,
        CIRCUIT_BREAKER_KEYS_EVICTED, CIRCUIT_BREAKER_PROBES, CIRCUIT_BREAKER_TRANSITIONS,
        ENDPOINTS_TRANSITIONS, FALLBACK_CALLS, HTTP_HINTS, IDEMPOTENCY_LEASES_LOST,
        IDEMPOTENCY_REQUESTS, IDEMPOTENCY_STORE_DURATION, IDEMPOTENCY_UNKNOWN, Instrument,
        REJECTIONS, RETRY_CALLS, RETRY_DELAY, RETRY_ENDED,
    },
};

/// A series of a counter or a histogram that only some calls touch.
///
/// `values` are those of the last attributes of the instrument. An empty one stands for none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) instrument: &'static Instrument,
    pub(super) values: [&'static str; 2],
}

const fn row(instrument: &'static Instrument) -> Row {
    Row { instrument, values: ["", ""] }
}

const fn with(instrument: &'static Instrument, value: &'static str) -> Row {
    Row { instrument, values: [value, ""] }
}

const fn pair(instrument: &'static Instrument, first: &'static str, last: &'static str) -> Row {
    Row { instrument, values: [first, last] }
}

static TIMEOUT: &[Row] = &[with(&REJECTIONS, "timed_out"), with(&REJECTIONS, "deadline_exceeded")];

static RETRY: &[Row] = &[
    with(&REJECTIONS, "not_ready"),
    row(&ATTEMPT_RESENDS),
    pair(&RETRY_CALLS, "false", "failure"),
    pair(&RETRY_CALLS, "true", "success"),
    pair(&RETRY_CALLS, "true", "failure"),
    with(&RETRY_ENDED, "retries"),
    with(&RETRY_ENDED, "budget"),
    with(&RETRY_ENDED, "deadline"),
    with(&RETRY_ENDED, "hint_over_cap"),
    with(&RETRY_ENDED, "stop_hint"),
    with(&RETRY_ENDED, "rejected"),
    with(&RETRY_ENDED, "retries_disabled"),
    with(&RETRY_ENDED, "not_replayable"),
    with(&RETRY_ENDED, "not_retryable"),
    with(&HTTP_HINTS, "kept"),
    with(&HTTP_HINTS, "over_cap"),
    with(&HTTP_HINTS, "stop"),
];

static FALLBACK: &[Row] = &[
    with(&REJECTIONS, "timed_out"),
    with(&REJECTIONS, "switched_off"),
    with(&FALLBACK_CALLS, "used"),
    with(&FALLBACK_CALLS, "off"),
    with(&FALLBACK_CALLS, "failed"),
    with(&FALLBACK_CALLS, "declined"),
];

static BULKHEAD: &[Row] =
    &[with(&REJECTIONS, "bulkhead_full"), with(&REJECTIONS, "queue_timed_out")];

static CIRCUIT_BREAKER: &[Row] = &[
    with(&REJECTIONS, "circuit_open"),
    pair(&CIRCUIT_BREAKER_TRANSITIONS, "open", "failure_rate"),
    pair(&CIRCUIT_BREAKER_TRANSITIONS, "open", "slow_call_rate"),
    pair(&CIRCUIT_BREAKER_TRANSITIONS, "open", "consecutive_failures"),
    pair(&CIRCUIT_BREAKER_TRANSITIONS, "open", "probes_failed"),
    pair(&CIRCUIT_BREAKER_TRANSITIONS, "forced_open", "forced"),
    pair(&CIRCUIT_BREAKER_TRANSITIONS, "half_open", "open_time"),
    pair(&CIRCUIT_BREAKER_TRANSITIONS, "closed", "probes_passed"),
    pair(&CIRCUIT_BREAKER_TRANSITIONS, "closed", "forced"),
    pair(&CIRCUIT_BREAKER_TRANSITIONS, "disabled", "forced"),
    with(&CIRCUIT_BREAKER_PROBES, "passed"),
    with(&CIRCUIT_BREAKER_PROBES, "failed"),
    with(&CIRCUIT_BREAKER_PROBES, "expired"),
    with(&CIRCUIT_BREAKER_PROBES, "returned"),
    row(&CIRCUIT_BREAKER_KEYS_EVICTED),
];

static IDEMPOTENCY: &[Row] = &[
    with(&REJECTIONS, "idempotency_key_missing"),
    with(&REJECTIONS, "idempotency_key_malformed"),
    with(&REJECTIONS, "idempotency_scope_missing"),
    with(&REJECTIONS, "idempotency_body_too_large"),
    with(&REJECTIONS, "idempotency_body_incomplete"),
    with(&REJECTIONS, "idempotency_mismatch"),
    with(&REJECTIONS, "idempotency_in_flight"),
    with(&REJECTIONS, "idempotency_not_replayable"),
    with(&REJECTIONS, "idempotency_unknown"),
    with(&REJECTIONS, "idempotency_store_unavailable"),
    with(&REJECTIONS, "idempotency_full"),
    with(&IDEMPOTENCY_REQUESTS, "run"),
    with(&IDEMPOTENCY_REQUESTS, "taken_over"),
    with(&IDEMPOTENCY_REQUESTS, "replayed"),
    with(&IDEMPOTENCY_REQUESTS, "rejected"),
    with(&IDEMPOTENCY_REQUESTS, "left"),
    row(&IDEMPOTENCY_UNKNOWN),
    row(&IDEMPOTENCY_LEASES_LOST),
];

static CHAOS: &[Row] = &[
    with(&CHAOS_FAULTS, "delay"),
    with(&CHAOS_FAULTS, "error"),
    with(&CHAOS_FAULTS, "response"),
    with(&CHAOS_FAULTS, "late_response"),
    with(&CHAOS_FAULTS, "lost_response"),
    with(&CHAOS_FAULTS, "hang"),
    with(&CHAOS_FAULTS, "partition"),
    with(&CHAOS_FAULTS, "body_cut"),
    with(&CHAOS_FAULTS, "body_stall"),
    with(&CHAOS_FAULTS, "body_trickle"),
];

static ENDPOINTS: &[Row] = &[
    with(&REJECTIONS, "no_endpoint"),
    pair(&ENDPOINTS_TRANSITIONS, "ejected", "consecutive_failures"),
    pair(&ENDPOINTS_TRANSITIONS, "check_failed", "check"),
    pair(&ENDPOINTS_TRANSITIONS, "usable", "ejection_ended"),
    pair(&ENDPOINTS_TRANSITIONS, "usable", "check"),
];

static CACHE: &[Row] = &[
    with(&CACHE_REQUESTS, "hit"),
    with(&CACHE_REQUESTS, "stale"),
    with(&CACHE_REQUESTS, "miss"),
    with(&CACHE_REQUESTS, "collapsed"),
    with(&CACHE_REQUESTS, "bypassed"),
    with(&REJECTIONS, "timed_out"),
];

#[cfg(feature = "http")]
static CLIENT: &[Row] = &[with(&REJECTIONS, "deadline_exceeded")];

#[cfg(feature = "http")]
static SERVER: &[Row] = &[with(&REJECTIONS, "timed_out"), with(&REJECTIONS, "deadline_exceeded")];

#[cfg(feature = "http")]
static BODY: &[Row] = &[with(&REJECTIONS, "timed_out")];

#[cfg(feature = "http")]
static REPLAY_BODY: &[Row] = &[row(&HTTP_REPLAY_OVERFLOW)];

static RETRY_DURATIONS: &[Row] = &[row(&RETRY_DELAY)];

static BULKHEAD_DURATIONS: &[Row] = &[
    with(&BULKHEAD_QUEUE_DURATION, "admitted"),
    with(&BULKHEAD_QUEUE_DURATION, "timed_out"),
    with(&BULKHEAD_QUEUE_DURATION, "left"),
];

static IDEMPOTENCY_DURATIONS: &[Row] = &[
    pair(&IDEMPOTENCY_STORE_DURATION, "claim", "success"),
    pair(&IDEMPOTENCY_STORE_DURATION, "claim", "failure"),
    pair(&IDEMPOTENCY_STORE_DURATION, "mark_started", "success"),
    pair(&IDEMPOTENCY_STORE_DURATION, "mark_started", "failure"),
    pair(&IDEMPOTENCY_STORE_DURATION, "renew", "success"),
    pair(&IDEMPOTENCY_STORE_DURATION, "renew", "failure"),
    pair(&IDEMPOTENCY_STORE_DURATION, "checkpoint", "success"),
    pair(&IDEMPOTENCY_STORE_DURATION, "checkpoint", "failure"),
    pair(&IDEMPOTENCY_STORE_DURATION, "complete", "success"),
    pair(&IDEMPOTENCY_STORE_DURATION, "complete", "failure"),
    pair(&IDEMPOTENCY_STORE_DURATION, "release", "success"),
    pair(&IDEMPOTENCY_STORE_DURATION, "release", "failure"),
    pair(&IDEMPOTENCY_STORE_DURATION, "abandon", "success"),
    pair(&IDEMPOTENCY_STORE_DURATION, "abandon", "failure"),
    pair(&IDEMPOTENCY_STORE_DURATION, "resolve", "success"),
    pair(&IDEMPOTENCY_STORE_DURATION, "resolve", "failure"),
    pair(&IDEMPOTENCY_STORE_DURATION, "unknown", "success"),
    pair(&IDEMPOTENCY_STORE_DURATION, "unknown", "failure"),
    pair(&IDEMPOTENCY_STORE_DURATION, "count_unknown", "success"),
    pair(&IDEMPOTENCY_STORE_DURATION, "count_unknown", "failure"),
    pair(&IDEMPOTENCY_STORE_DURATION, "sweep", "success"),
    pair(&IDEMPOTENCY_STORE_DURATION, "sweep", "failure"),
];

/// Returns the counters of a kind of layer.
pub(super) fn counters(kind: Kind) -> &'static [Row] {
    match kind {
        Kind::Call => &[],
        Kind::Timeout | Kind::TotalTimeout | Kind::AttemptTimeout => TIMEOUT,
        Kind::Retry => RETRY,
        Kind::Fallback => FALLBACK,
        Kind::Bulkhead => BULKHEAD,
        Kind::CircuitBreaker => CIRCUIT_BREAKER,
        Kind::Idempotency => IDEMPOTENCY,
        Kind::Chaos => CHAOS,
        Kind::Endpoints => ENDPOINTS,
        Kind::Cache => CACHE,
        #[cfg(feature = "http")]
        Kind::Client => CLIENT,
        #[cfg(feature = "http")]
        Kind::Server => SERVER,
        #[cfg(feature = "http")]
        Kind::Body | Kind::IdleBody | Kind::UnreadBody => BODY,
        #[cfg(feature = "http")]
        Kind::ReplayBody => REPLAY_BODY,
    }
}

/// Returns the histograms of a kind of layer that only some calls touch.
pub(super) fn durations(kind: Kind) -> &'static [Row] {
    match kind {
        Kind::Retry => RETRY_DURATIONS,
        Kind::Bulkhead => BULKHEAD_DURATIONS,
        Kind::Idempotency => IDEMPOTENCY_DURATIONS,
        _ => &[],
    }
}
