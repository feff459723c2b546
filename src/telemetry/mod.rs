//! The spans and events that the layers emit through [`tracing`], and the names of their fields.
//!
//! | what | level |
//! |---|---|
//! | span `call`, one per logical call of a [`Stack`](crate::Stack) | `INFO` |
//! | span `attempt`, one per attempt of a [retry](crate::retry) | `INFO` |
//! | a circuit opened; nobody knows what became of a guarded operation | `ERROR` |
//! | a circuit is half-open; a call was rejected, timed out or is retried; retrying was given up | `WARN` |
//! | a circuit closed | `INFO` |
//! | everything else | `DEBUG` |
//!
//! Nothing is built when nobody listens. Every name is a constant of [`field`].

mod call;
pub mod field;

use std::time::Duration;

use tracing::{Span, debug, error, info, info_span, warn};

pub use self::call::{CallFuture, CallSpan, CallSpanLayer};
use crate::{
    CarryRejection, Outcome, Rejection,
    circuit_breaker::TripReason,
    idempotency::{StorageKey, StoreError},
};

pub(crate) fn timed_out(name: &str, limit: Duration) {
    warn!({ field::LAYER } = name, { field::LIMIT_MS } = millis(limit), "call timed out");
}

/// Reports a refusal, and puts it into the error of the call.
pub(crate) fn refuse<E: CarryRejection>(reason: impl Into<Rejection>) -> E {
    let rejection = reason.into();
    rejected(&rejection);
    E::from_rejection(rejection)
}

pub(crate) fn rejected(rejection: &Rejection) {
    warn!(
        { field::LAYER } = rejection.name(),
        { field::ERROR_TYPE } = rejection.kind(),
        { field::RETRY_AFTER_MS } = rejection.retry_after().map(millis),
        "call rejected"
    );
}

pub(crate) fn store_failed(name: &str, error: &StoreError, took: Duration) {
    warn!(
        { field::LAYER } = name,
        { field::REASON } = %error,
        { field::STORE_MS } = millis(took),
        "a step of the store failed"
    );
}

pub(crate) fn lease_lost(name: &str, key: StorageKey) {
    warn!({ field::LAYER } = name, { field::KEY } = %key, "a lease ended before its run");
}

pub(crate) fn became_unknown(name: &str, key: StorageKey, fence: u64) {
    error!(
        { field::LAYER } = name,
        { field::KEY } = %key,
        { field::FENCE } = fence,
        "nobody knows what became of an operation"
    );
}

pub(crate) fn circuit_opened(name: &str, reason: TripReason, open_for: Option<Duration>) {
    error!(
        { field::LAYER } = name,
        { field::REASON } = reason.as_str(),
        { field::OPEN_MS } = open_for.map(millis),
        "circuit opened"
    );
}

pub(crate) fn circuit_half_open(name: &str, probes: u32) {
    warn!({ field::LAYER } = name, { field::PROBES } = probes, "circuit half-open");
}

pub(crate) fn circuit_closed(name: &str) {
    info!({ field::LAYER } = name, "circuit closed");
}

pub(crate) fn circuit_disabled(name: &str) {
    debug!({ field::LAYER } = name, "circuit disabled");
}

pub(crate) fn call_queued(name: &str, queued: u32) {
    debug!({ field::LAYER } = name, { field::QUEUED } = queued, "call queued");
}

pub(crate) fn resized(name: &str, limit: u32) {
    debug!({ field::LAYER } = name, { field::LIMIT } = limit, "bulkhead resized");
}

pub(crate) fn retrying(name: &str, attempt: u32, outcome: Outcome, delay: Duration) {
    warn!(
        { field::LAYER } = name,
        { field::ATTEMPT } = attempt,
        { field::OUTCOME } = outcome.as_str(),
        { field::DELAY_MS } = millis(delay),
        "call is retried"
    );
}

pub(crate) fn gave_up(name: &str, attempts: u32, outcome: Outcome, reason: &'static str) {
    warn!(
        { field::LAYER } = name,
        { field::ATTEMPT } = attempts,
        { field::OUTCOME } = outcome.as_str(),
        { field::REASON } = reason,
        "retrying was given up"
    );
}

/// The span of one attempt. Its result is recorded by [`record_outcome`].
#[inline]
pub(crate) fn attempt_span(name: &str, attempt: u32, delay: Duration) -> Span {
    info_span!(
        "attempt",
        { field::LAYER } = name,
        { field::ATTEMPT } = attempt,
        { field::DELAY_MS } = millis(delay),
        { field::OUTCOME } = tracing::field::Empty,
        { field::ERROR_TYPE } = tracing::field::Empty,
        { field::RESEND_COUNT } = tracing::field::Empty,
    )
}

/// Notes in a span how what it covers ended: the outcome, and for a failure its type, which for a
/// rejection is its kind.
#[inline]
pub(crate) fn record_outcome<'a>(
    span: &Span,
    outcome: Outcome,
    rejection: impl FnOnce() -> Option<&'a Rejection>,
) {
    if span.is_disabled() {
        return;
    }
    span.record(field::OUTCOME, outcome.as_str());
    match (rejection(), outcome) {
        (Some(rejection), _) => {
            span.record(field::ERROR_TYPE, rejection.kind());
        }
        (None, Outcome::Failure(_)) => {
            span.record(field::ERROR_TYPE, outcome.as_str());
        }
        (None, _) => {}
    }
}

/// What a span covers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Covers {
    /// A logical call: that it was answered is all that is said of it.
    Call,
    /// An attempt, which is judged.
    Attempt,
}

/// Notes in a span how a response ended that went on after its head.
pub(crate) fn record_end(span: &Span, covers: Covers, outcome: Outcome) {
    match (covers, outcome) {
        (Covers::Attempt, _) => record_outcome(span, outcome, || None),
        (Covers::Call, Outcome::Failure(_)) => {
            span.record(field::OUTCOME, "error").record(field::ERROR_TYPE, outcome.as_str());
        }
        (Covers::Call, _) => {
            span.record(field::OUTCOME, "answered");
        }
    }
}

/// Notes in a span that nobody read its response to the end.
pub(crate) fn record_cancelled(span: &Span) {
    span.record(field::OUTCOME, "cancelled");
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
