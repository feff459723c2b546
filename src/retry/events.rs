//! The events of a retry layer, and the span of an attempt.

use std::time::Duration;

use tracing::{Span, debug, info_span, warn};

use crate::{
    Outcome,
    call::account::How,
    telemetry::{TARGET, field, millis, record_cancelled, record_outcome},
};

pub(super) fn retrying(name: &str, attempt: u32, outcome: Outcome, delay: Duration) {
    warn!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::ATTEMPT } = attempt,
            { field::OUTCOME } = outcome.as_str(),
            { field::DELAY_MS } = millis(delay),
        },
        "retrying call"
    );
}

pub(super) fn gave_up(name: &str, attempts: u32, outcome: Outcome, reason: &'static str) {
    warn!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::ATTEMPT } = attempts,
            { field::OUTCOME } = outcome.as_str(),
            { field::REASON } = reason,
        },
        "retries exhausted"
    );
}

/// Reports a failure that is not retried, although nothing is exhausted.
///
/// It is an expected result of most writes, so it is no warning.
pub(super) fn not_retried(
    name: &str,
    attempt: u32,
    outcome: Outcome,
    reason: impl FnOnce() -> &'static str,
) {
    debug!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::ATTEMPT } = attempt,
            { field::OUTCOME } = outcome.as_str(),
            { field::REASON } = reason(),
        },
        "call not retried"
    );
}

/// Opens the span of one attempt.
#[inline]
pub(super) fn attempt_span(name: &str, attempt: u32, delay: Duration) -> Span {
    info_span!(
        target: TARGET,
        "attempt",
        { field::LAYER } = name,
        { field::ATTEMPT } = attempt,
        { field::DELAY_MS } = millis(delay),
        { field::OUTCOME } = tracing::field::Empty,
        { field::ERROR_TYPE } = tracing::field::Empty,
        { field::RESEND_COUNT } = tracing::field::Empty,
    )
}

/// Records in the span of an attempt how its response ended.
pub(super) fn record_attempt_end(span: &Span, how: How) {
    match how {
        How::Complete(outcome) => record_outcome(span, outcome, || None),
        How::DroppedBetweenReads | How::DroppedWhileReading => record_cancelled(span),
        How::Panicked => {}
    }
}
