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
pub mod future;

use std::time::Duration;

use tracing::{Span, warn};

pub use self::call::{CallSpan, CallSpanLayer};
use crate::{CarryRejection, Outcome, Rejection};

/// The target of every event and of the span of an attempt. It is fixed because the default is the
/// module of the code. The span of a call keeps its own, `buttress::telemetry::call`.
pub(crate) const TARGET: &str = "buttress::telemetry";

pub(crate) fn timed_out(name: &str, limit: Duration) {
    warn!(
        target: TARGET,
        {
            { field::LAYER } = name,
            { field::LIMIT_MS } = millis(limit),
        },
        "call timed out"
    );
}

/// Reports a rejection, and puts it into the error of the call.
pub(crate) fn reject<E: CarryRejection>(reason: impl Into<Rejection>) -> E {
    let rejection = reason.into();
    rejected(&rejection);
    E::from_rejection(rejection)
}

pub(crate) fn rejected(rejection: &Rejection) {
    warn!(
        target: TARGET,
        {
            { field::LAYER } = rejection.name(),
            { field::ERROR_TYPE } = rejection.kind(),
            { field::RETRY_AFTER_MS } = rejection.retry_after().map(millis),
        },
        "call rejected"
    );
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

/// Notes in a span that nobody read its response to the end.
pub(crate) fn record_cancelled(span: &Span) {
    span.record(field::OUTCOME, "cancelled");
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
