//! The table of rejections: a row for each kind, and what is read from it.

use std::{error::Error as StdError, fmt, time::Duration};

use super::{
    name::{Name, name_or},
    nanos::Nanos,
    reasons::{
        BulkheadFull, CircuitOpen, Data, DeadlineExceeded, NotReady, QueueTimedOut, RateLimited,
        TimedOut,
    },
    row::{
        ComeBack::{AsTold, InASecond, Unstated},
        Row, idempotency_reasons, rejections, row,
    },
};

// The columns of a row: the kind, `nothing_began`, `is_unavailable`, the HTTP status, the gRPC
// status, and when a server tells its caller to come back.
//
// To add a rejection, write
//
// 1. its row, which is also its variant, so that neither is there without the other;
// 2. the type of its data in `reasons.rs` with `Data`, and its name in `mod.rs` and in `lib.rs`;
// 3. its line in `tests.rs`, in `tests/rejections.rs` and in the documentation of `http::server`.
//
// `nothing_began` is true only if no copy of the request can have had an effect. A timeout ends
// what has begun, and a retry that waits for readiness has made an attempt before.
rejections! {
    /// Why a layer of this crate refused a call, or ended it.
    ///
    /// It is an answer about the *call*, never about the dependency: only a [`TimedOut`] tells that
    /// the dependency was slow.
    #[derive(Clone, Debug, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum Rejection {
        /// A timeout of this crate ended the call.
        TimedOut(TimedOut) "timeout"
            ["timed_out", false, true, 504, 4, Unstated],
        /// The time for the call was over before it began.
        DeadlineExceeded(DeadlineExceeded) "deadline"
            ["deadline_exceeded", true, true, 504, 4, Unstated],
        /// A circuit breaker kept the call from a dependency that fails.
        CircuitOpen(CircuitOpen) "circuit_breaker"
            ["circuit_open", true, true, 503, 14, AsTold],
        /// As many calls as the bulkhead allows were under way, and its queue, if any, was full.
        BulkheadFull(BulkheadFull) "bulkhead"
            ["bulkhead_full", true, true, 503, 8, InASecond],
        /// The call waited in the bulkhead's queue for as long as it may.
        QueueTimedOut(QueueTimedOut) "bulkhead"
            ["queue_timed_out", true, true, 503, 8, InASecond],
        /// The service did not become ready again for another attempt.
        NotReady(NotReady) "retry"
            ["not_ready", false, true, 503, 14, Unstated],
        /// More calls came in a time than a limit allows. No layer of this crate says so: it is for
        /// rate limiters of others, whose rejections are treated as this crate's.
        RateLimited(RateLimited) "rate_limit"
            ["rate_limited", true, true, 429, 8, AsTold],
        /// The idempotency guard did not run the call.
        Idempotency(IdempotencyRejected) "idempotency"
            [of its reason],
    }
}

// `nothing_began` is false in all of them: an earlier copy of the request may have begun the
// operation, and the guard has either found that out or not been able to look.
//
// A time to come back stands only where the same request can succeed later. With it, clients would
// take a 409 or a 400 for something that passes by itself.
idempotency_reasons! {
    /// Why the [idempotency guard](crate::idempotency) did not run a call.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum IdempotencyReason {
        /// The request must have a key, and has none.
        KeyMissing ["idempotency_key_missing", false, false, 400, 3, Unstated]
            "the request has no idempotency key",
        /// The key is empty, too long, malformed, or there is more than one.
        KeyMalformed ["idempotency_key_malformed", false, false, 400, 3, Unstated]
            "the idempotency key is malformed",
        /// It is not known whose key it is: nobody was authenticated, or not before the guard was
        /// asked.
        // The server is put together wrongly: the guard stands outside authentication.
        ScopeMissing ["idempotency_scope_missing", false, false, 500, 13, Unstated]
            "the owner of the idempotency key is unknown",
        /// The body of the request is longer than the guard reads.
        BodyTooLarge ["idempotency_body_too_large", false, false, 413, 8, Unstated]
            "the request body is too large for the idempotency guard",
        /// The body of the request did not come in time, or broke off.
        BodyIncomplete ["idempotency_body_incomplete", false, false, 408, 4, Unstated]
            "the request body was not received completely and in time",
        /// The key was used for another request.
        Mismatch ["idempotency_mismatch", false, false, 422, 3, Unstated]
            "the idempotency key was used for another request",
        /// The same request is being run.
        InFlight ["idempotency_in_flight", false, false, 409, 10, AsTold]
            "a request with this idempotency key is in progress",
        /// The request was run, and its response could not be kept.
        NotReplayable ["idempotency_not_replayable", false, false, 409, 9, Unstated]
            "the request completed, but its response was not recorded",
        /// The request may have been run, and nobody knows what became of it.
        Unknown ["idempotency_unknown", false, false, 409, 9, Unstated]
            "the outcome of the request is unknown",
        /// The records cannot be reached.
        StoreUnavailable ["idempotency_store_unavailable", false, true, 503, 14, InASecond]
            "the idempotency store is unavailable",
        /// There is no room for another record, or for another run.
        Full ["idempotency_full", false, true, 503, 14, InASecond]
            "there is no capacity for another record or run",
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.data(), f)
    }
}

impl StdError for Rejection {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.data().source()
    }
}

impl Rejection {
    /// What the layer that refused is called.
    pub fn name(&self) -> &str {
        name_or(self.data().given_name(), self.layer())
    }

    /// When it is worth coming back, counted from the refusal; `None` where that is not known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.data().come_back_after()
    }

    /// A short name of the reason, for metrics and logs: one word of a small, fixed set.
    pub fn kind(&self) -> &'static str {
        self.row().kind
    }

    /// Returns `true` if no part of the operation that the request asks for has begun, as far as
    /// this rejection tells.
    ///
    /// Use it to decide whether a request that must not be repeated may still be sent: to this
    /// service later, or to another one now. `false` means that something may have begun, not that
    /// it has.
    ///
    /// A rejection speaks of the attempt that it ended. If the layer that rejected stands beneath a
    /// [retry](crate::retry), an earlier attempt may have reached the service.
    ///
    /// It is `false` for every reason of the [idempotency guard](crate::idempotency). The guard
    /// speaks of the operation, which an earlier copy of the request may have begun.
    ///
    /// ```
    /// use buttress::{Rejection, error::{CircuitOpen, TimedOut}};
    /// use std::time::Duration;
    ///
    /// let rejection = Rejection::from(CircuitOpen::new("orders", None));
    /// assert!(rejection.nothing_began());
    ///
    /// // The order may have been placed by the time the limit was reached.
    /// let rejection = Rejection::from(TimedOut::new("orders", Duration::from_secs(2)));
    /// assert!(!rejection.nothing_began());
    /// ```
    pub fn nothing_began(&self) -> bool {
        self.row().nothing_began
    }

    /// Returns `true` if the service is out of reach, or has no room or no time left for the call.
    ///
    /// Use it to decide whether a fallback should answer: a default, an older response, or another
    /// service. It is `false` for what a fallback would only hide: a request that is wrong, a guard
    /// that is set up wrongly, and an operation that is in progress, done, or of unknown outcome.
    ///
    /// It says nothing of effects: the call may have begun before it was ended. See
    /// [`nothing_began`](Self::nothing_began).
    ///
    /// ```
    /// use buttress::{Rejection, error::{BulkheadFull, IdempotencyReason, IdempotencyRejected}};
    ///
    /// let rejection = Rejection::from(BulkheadFull::new("recommendations", 64));
    /// assert!(rejection.is_unavailable());
    ///
    /// let mismatch = IdempotencyRejected::new("payments", IdempotencyReason::Mismatch, None);
    /// assert!(!Rejection::from(mismatch).is_unavailable());
    /// ```
    pub fn is_unavailable(&self) -> bool {
        self.row().is_unavailable
    }
}

/// What a server answers with.
#[cfg(feature = "http")]
impl Rejection {
    /// Returns the HTTP status.
    pub(crate) fn http_status(&self) -> u16 {
        self.row().http
    }

    /// Returns the number of the gRPC status.
    pub(crate) fn grpc_code(&self) -> u8 {
        self.row().grpc
    }

    /// Returns when the caller is told to come back.
    pub(crate) fn come_back(&self) -> Option<Duration> {
        self.row().come_back.after(self.retry_after())
    }
}

impl IdempotencyReason {
    /// Returns when the caller is told to come back; `told` is the guard's own time.
    pub(crate) fn come_back(self, told: Duration) -> Option<Duration> {
        self.row().come_back.after(Some(told))
    }

    /// The reason in one word.
    pub fn as_str(self) -> &'static str {
        self.row().kind
    }
}

/// The [idempotency guard](crate::idempotency) did not run a call, or cannot say what became of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", self.name())]
pub struct IdempotencyRejected {
    name: Option<Name>,
    retry_after: Option<Nanos>,
    reason: IdempotencyReason,
}

impl IdempotencyRejected {
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

    /// Why.
    pub fn reason(&self) -> IdempotencyReason {
        self.reason
    }

    /// When it is worth sending the same request again; `None` if it is not.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after.map(Duration::from)
    }
}

impl Data for IdempotencyRejected {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }

    fn come_back_after(&self) -> Option<Duration> {
        self.retry_after()
    }
}
