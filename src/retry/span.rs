//! The span of an attempt.

use std::time::Duration;

use tracing::{field::Empty, info_span};

use super::config::Config;
use crate::telemetry::{Attempt, RETRY, Tracked, field, millis, record_in_own_span};

/// Opens the span of one attempt.
#[inline(always)]
pub(super) fn begin_attempt(config: &Config, attempt: u32, delay: Duration) -> Tracked<Attempt> {
    let span = info_span!(
        target: RETRY,
        "attempt",
        { field::LAYER } = config.reporter.as_str(),
        { field::ATTEMPT } = attempt,
        { field::DELAY_MS } = millis(delay),
        { field::OUTCOME } = Empty,
        { field::ERROR_TYPE } = Empty,
        { field::STATUS } = Empty,
        { field::RESEND_COUNT } = Empty,
        { field::SERVER_ADDRESS } = Empty,
    );
    let reporter = config.reporter.counting();
    Tracked::begin(span, reporter.is_some(), || Attempt { reporter: reporter.cloned() })
}

/// Records the number of attempts of a call that was retried, in the span of the call.
///
/// It is the current span, unless another span is between the two.
#[cold]
pub(super) fn record_attempts(attempts: u32) {
    if attempts > 1 {
        record_in_own_span(field::ATTEMPTS, attempts);
    }
}
