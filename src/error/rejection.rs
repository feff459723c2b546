//! Rejections and what they mean.

use std::{fmt, time::Duration};

use super::{
    name::{Name, Nanos, name_or},
    reasons::{
        BulkheadFull, CircuitOpen, DeadlineExceeded, NotReady, QueueTimedOut, RateLimited, TimedOut,
    },
};

/// Why a layer of this crate refused a call, or ended it.
///
/// It is an answer about the *call*, never about the dependency: only a [`TimedOut`] tells that the
/// dependency was slow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// A timeout of this crate ended the call.
    #[error(transparent)]
    TimedOut(TimedOut),
    /// The time for the call was over before it began.
    #[error(transparent)]
    DeadlineExceeded(DeadlineExceeded),
    /// A circuit breaker kept the call from a dependency that fails.
    #[error(transparent)]
    CircuitOpen(CircuitOpen),
    /// As many calls as the bulkhead allows were under way, and its queue, if any, was full.
    #[error(transparent)]
    BulkheadFull(BulkheadFull),
    /// The call waited in the bulkhead's queue for as long as it may.
    #[error(transparent)]
    QueueTimedOut(QueueTimedOut),
    /// The service did not become ready again for another attempt.
    #[error(transparent)]
    NotReady(NotReady),
    /// More calls came in a time than a limit allows. No layer of this crate says so: it is for rate
    /// limiters of others, whose refusals are then treated as our own.
    #[error(transparent)]
    RateLimited(RateLimited),
    /// The idempotency guard did not run the call.
    #[error(transparent)]
    Idempotency(IdempotencyRefused),
}

impl Rejection {
    /// What the layer that refused is called.
    pub fn name(&self) -> &str {
        match self {
            Self::TimedOut(r) => r.name(),
            Self::DeadlineExceeded(r) => r.name(),
            Self::CircuitOpen(r) => r.name(),
            Self::BulkheadFull(r) => r.name(),
            Self::QueueTimedOut(r) => r.name(),
            Self::NotReady(r) => r.name(),
            Self::RateLimited(r) => r.name(),
            Self::Idempotency(r) => r.name(),
        }
    }

    /// When it is worth coming back, counted from the refusal; `None` where that is not known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::CircuitOpen(open) => open.retry_after(),
            Self::RateLimited(limited) => limited.retry_after(),
            Self::Idempotency(refused) => refused.retry_after(),
            _ => None,
        }
    }

    /// A short name of the reason, for metrics and logs: one word of a small, fixed set.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TimedOut(_) => "timed_out",
            Self::DeadlineExceeded(_) => "deadline_exceeded",
            Self::CircuitOpen(_) => "circuit_open",
            Self::BulkheadFull(_) => "bulkhead_full",
            Self::QueueTimedOut(_) => "queue_timed_out",
            Self::NotReady(_) => "not_ready",
            Self::RateLimited(_) => "rate_limited",
            Self::Idempotency(refused) => refused.reason().as_str(),
        }
    }
}

/// The [idempotency guard](crate::idempotency) did not run a call, or cannot say what became of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", self.name())]
pub struct IdempotencyRefused {
    name: Option<Name>,
    retry_after: Option<Nanos>,
    reason: IdempotencyReason,
}

impl IdempotencyRefused {
    /// A refusal by `name`.
    pub fn new(
        name: impl Into<Name>,
        reason: IdempotencyReason,
        retry_after: Option<Duration>,
    ) -> Self {
        Self::by(Some(name.into()), reason, retry_after)
    }

    pub(crate) fn by(
        name: Option<Name>,
        reason: IdempotencyReason,
        retry_after: Option<Duration>,
    ) -> Self {
        Self { name, retry_after: retry_after.map(Nanos::from), reason }
    }

    /// What the layer that refused is called.
    pub fn name(&self) -> &str {
        name_or(&self.name, "idempotency")
    }

    /// Why.
    pub fn reason(&self) -> IdempotencyReason {
        self.reason
    }

    /// When it is worth sending the same request again; `None` if it is not.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after.map(Duration::from)
    }
}

impl From<IdempotencyRefused> for Rejection {
    fn from(refused: IdempotencyRefused) -> Self {
        Self::Idempotency(refused)
    }
}

/// Why the [idempotency guard](crate::idempotency) did not run a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdempotencyReason {
    /// The request must have a key, and has none.
    KeyMissing,
    /// The key is empty, too long, malformed, or there is more than one.
    KeyMalformed,
    /// It is not known whose key it is: nobody was authenticated, or not before the guard was asked.
    ScopeMissing,
    /// The body of the request is longer than the guard reads.
    BodyTooLarge,
    /// The body of the request did not come in time, or broke off.
    BodyIncomplete,
    /// The key was used for another request.
    Mismatch,
    /// The same request is being run.
    InFlight,
    /// The request was run, and its response could not be kept.
    NotReplayable,
    /// The request may have been run, and nobody knows what became of it.
    Unknown,
    /// The records cannot be reached.
    StoreUnavailable,
    /// There is no room for another record, or for another run.
    Full,
}

impl IdempotencyReason {
    /// The reason in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyMissing => "idempotency_key_missing",
            Self::KeyMalformed => "idempotency_key_malformed",
            Self::ScopeMissing => "idempotency_scope_missing",
            Self::BodyTooLarge => "idempotency_body_too_large",
            Self::BodyIncomplete => "idempotency_body_incomplete",
            Self::Mismatch => "idempotency_mismatch",
            Self::InFlight => "idempotency_in_flight",
            Self::NotReplayable => "idempotency_not_replayable",
            Self::Unknown => "idempotency_unknown",
            Self::StoreUnavailable => "idempotency_store_unavailable",
            Self::Full => "idempotency_full",
        }
    }
}

impl fmt::Display for IdempotencyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyMissing => "the request has no idempotency key",
            Self::KeyMalformed => "the idempotency key is malformed",
            Self::ScopeMissing => "it is not known whose idempotency key it is",
            Self::BodyTooLarge => "the request is too large to be guarded",
            Self::BodyIncomplete => "the request did not arrive whole and in time",
            Self::Mismatch => "the idempotency key was used for another request",
            Self::InFlight => "the same request is under way",
            Self::NotReplayable => "the request was done, and its response was not kept",
            Self::Unknown => "nobody knows what became of the request",
            Self::StoreUnavailable => "the records cannot be reached",
            Self::Full => "there is no room for another record or run",
        })
    }
}
