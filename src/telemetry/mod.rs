//! The spans and events that the layers emit through [`tracing`], and the names of their fields.
//!
//! | span or event | level |
//! |---|---|
//! | span `call`, one per logical call of a [`Stack`](crate::Stack) | `INFO` |
//! | span `attempt`, one per attempt of a [retry](crate::retry) | `INFO` |
//! | "circuit opened", "idempotent operation has unknown outcome" | `ERROR` |
//! | "call rejected", "call timed out", "retrying call", "retries exhausted", "circuit half-open", "idempotency store failed", "idempotency store almost full", "lease lost" | `WARN` |
//! | "circuit closed" | `INFO` |
//! | "call not retried", "call queued", "bulkhead resized", "circuit disabled" | `DEBUG` |
//!
//! The target of the events and of the span `attempt` is `buttress::telemetry`. The target of the
//! span `call` is `buttress::telemetry::call`. Field values are computed only if a subscriber is
//! interested in them. Every field name is a constant of [`field`].

mod call;
pub mod field;
pub mod future;

use std::time::Duration;

use tracing::{Span, warn};

pub use self::call::{CallSpan, CallSpanLayer};
use crate::{CarryRejection, Outcome, Rejection};

/// The target of every event and of the span of an attempt.
///
/// It is set explicitly, because the default would be the module path. The span of a call keeps the
/// default, `buttress::telemetry::call`.
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

/// Reports a rejection and creates the error of the call from it.
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
            { field::BREAKER_KEY } = breaker_key(rejection),
            { field::RETRY_AFTER_MS } = rejection.retry_after().map(millis),
        },
        "call rejected"
    );
}

fn breaker_key(rejection: &Rejection) -> Option<&str> {
    match rejection {
        Rejection::CircuitOpen(open) => open.key(),
        _ => None,
    }
}

/// Records the outcome of a call or attempt in its span.
///
/// For a failure it also records the type of the error, which is the kind of a rejection.
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

/// Records in a span that its response was dropped before its end.
pub(crate) fn record_cancelled(span: &Span) {
    span.record(field::OUTCOME, "cancelled");
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
