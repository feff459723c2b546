//! The span of an attempt.

use std::time::Duration;

use tracing::{Span, info_span};

use super::config::Config;
use crate::{
    call::account::How,
    telemetry::{RETRY, field, millis, record_cancelled, record_outcome},
};

/// Opens the span of one attempt.
#[inline]
pub(super) fn attempt_span(config: &Config, attempt: u32, delay: Duration) -> Span {
    info_span!(
        target: RETRY,
        "attempt",
        { field::LAYER } = config.reporter.as_str(),
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
