//! The table of rejections, with one row for each kind, and the methods that read it.

use std::{error::Error as StdError, fmt, time::Duration};

use super::{
    name::{Name, name_or},
    nanos::Nanos,
    reasons::{
        BulkheadFull, CircuitOpen, Data, DeadlineExceeded, Elapsed, LoadShed, NoEndpoint, NotReady,
        QueueTimedOut, RateLimited, RetryIn, SwitchedOff, TimedOut,
    },
    row::{
        ComeBack::{AsTold, InASecond, Unstated},
        Row, idempotency_reasons, rejections, row,
    },
    shared::SharedFailure,
};

// The columns of a row are the kind, `nothing_began`, `is_unavailable`, the HTTP status, the gRPC
// status, and the time that a server tells its caller to wait.
//
// To add a rejection, write
//
// 1. its row, which is also its variant, because neither can then exist without the other;
// 2. the type of its data in `reasons.rs` with `Data`, and its name in `mod.rs` and in `lib.rs`;
// 3. its line in `tests.rs`, in `tests/rejections.rs` and in the documentation of `http::server`.
//
// `nothing_began` is true only if no copy of the request can have had an effect. It is false for
// a timeout, which ends a call that has begun, and for a retry that waits for readiness, which has
// already made an attempt.
rejections! {
    /// The reason why a layer rejected or ended a call.
    ///
    /// It describes the *call*, not the dependency. Only a [`TimedOut`] says that the dependency
    /// was slow.
    #[derive(Clone, Debug, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum Rejection {
        /// A timeout of this crate ended the call.
        TimedOut(TimedOut) "timeout"
            ["timed_out", false, true, 504, 4, Unstated],
        /// The deadline of the call had passed before the call began.
        DeadlineExceeded(DeadlineExceeded) "deadline"
            ["deadline_exceeded", true, true, 504, 4, Unstated],
        /// A circuit breaker rejected the call because the dependency fails.
        CircuitOpen(CircuitOpen) "circuit_breaker"
            ["circuit_open", true, true, 503, 14, AsTold],
        /// The bulkhead had no free slot, and no room in its queue if it has one.
        BulkheadFull(BulkheadFull) "bulkhead"
            ["bulkhead_full", true, true, 503, 8, InASecond],
        /// The call waited in the bulkhead's queue for the maximum time.
        QueueTimedOut(QueueTimedOut) "bulkhead"
            ["queue_timed_out", true, true, 503, 8, InASecond],
        /// A fallback is switched off, and it had no response for the call.
        SwitchedOff(SwitchedOff) "fallback"
            ["switched_off", true, true, 503, 14, Unstated],
        /// The service did not become ready for another attempt.
        NotReady(NotReady) "retry"
            ["not_ready", false, true, 503, 14, Unstated],
        /// No endpoint was left for the call.
        NoEndpoint(NoEndpoint) "endpoints"
            ["no_endpoint", true, true, 503, 14, Unstated],
        /// A rate limiter rejected the call. No layer of this crate creates it. It is for your own
        /// rate limiters. All layers treat it like a rejection of this crate.
        RateLimited(RateLimited) "rate_limit"
            ["rate_limited", true, true, 429, 8, AsTold],
        /// tower's `LoadShed` rejected the call. All layers treat it like a rejection of this
        /// crate.
        LoadShed(LoadShed) "load_shed"
            ["load_shed", true, true, 503, 8, InASecond],
        /// tower's `Timeout` ended the call. It is not retried. A breaker treats it like a call
        /// that its caller dropped.
        Elapsed(Elapsed) "tower_timeout"
            ["elapsed", false, true, 504, 4, Unstated],
        /// The idempotency layer rejected the call.
        Idempotency(IdempotencyRejected) "idempotency"
            [of its reason],
        /// A call that several callers shared failed. Its error is not `Clone`, so only one of them
        /// could have it.
        Shared(SharedFailure) "cache"
            [of its outcome],
    }
}

// `nothing_began` is false for all reasons, because an earlier copy of the request may have begun
// the operation. The layer knows that it did, or could not find out.
//
// A row has a time to wait only if the same request can succeed later. With a time, clients would
// mistake a 409 or a 400 for a temporary failure.
idempotency_reasons! {
    /// The reason why the [idempotency layer](crate::idempotency) rejected a call.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum IdempotencyReason {
        /// The request must have a key and has none.
        KeyMissing ["idempotency_key_missing", false, false, 400, 3, Unstated]
            "the request has no idempotency key",
        /// The key is empty, too long or malformed, or there is more than one key.
        KeyMalformed ["idempotency_key_malformed", false, false, 400, 3, Unstated]
            "the idempotency key is malformed",
        /// The scope of the key is not known. The caller is not authenticated, or the idempotency
        /// layer is outside the layer that authenticates the caller.
        // The status 500 is for the second case, which is a fault of the server's setup.
        ScopeMissing ["idempotency_scope_missing", false, false, 500, 13, Unstated]
            "the owner of the idempotency key is unknown",
        /// The body of the request is longer than the idempotency layer's maximum.
        BodyTooLarge ["idempotency_body_too_large", false, false, 413, 8, Unstated]
            "the request body is too large for the idempotency layer",
        /// The body of the request did not arrive in time, its stream failed, or it stalled while
        /// other requests needed its memory.
        BodyIncomplete ["idempotency_body_incomplete", false, false, 408, 4, Unstated]
            "the request body was not received completely and in time",
        /// The key was used for a different request.
        Mismatch ["idempotency_mismatch", false, false, 422, 3, Unstated]
            "the idempotency key was used for another request",
        /// The same request is in flight.
        InFlight ["idempotency_in_flight", false, false, 409, 10, AsTold]
            "a request with this idempotency key is in progress",
        /// The request was run, but its response cannot be replayed. It could not be recorded, or
        /// it has an encoding that this request did not ask for.
        NotReplayable ["idempotency_not_replayable", false, false, 409, 9, Unstated]
            "the request completed, but its response cannot be replayed",
        /// The request may have been run. Its outcome is unknown.
        Unknown ["idempotency_unknown", false, false, 409, 9, Unstated]
            "the outcome of the request is unknown",
        /// The store cannot be reached or returned invalid data, or the lease of the run was lost
        /// before the effect could begin. In a transactional layer, it may be lost later. Sending
        /// the same request again is safe.
        StoreUnavailable ["idempotency_store_unavailable", false, true, 503, 14, InASecond]
            "the idempotency store is unavailable",
        /// There is no room for another record, another run or the body, or the service did not
        /// become ready within the maximum time of a run.
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
    /// The number of reasons that a layer of one kind can have.
    pub(crate) const REASONS: usize = {
        let (all, idempotency) = (Self::VARIANTS.len(), IdempotencyReason::VARIANTS.len());
        if all > idempotency { all } else { idempotency }
    };

    /// Returns the name of the layer that rejected the call.
    pub fn name(&self) -> &str {
        name_or(self.data().given_name(), self.layer())
    }

    /// Returns the time after which a new call can succeed, or `None` if it is not known.
    ///
    /// The time counts from the rejection.
    pub fn retry_after(&self) -> Option<Duration> {
        self.data().come_back_after()
    }

    /// Returns a short name of the reason for metrics and logs.
    ///
    /// It is one word of a small, fixed set.
    pub fn kind(&self) -> &'static str {
        self.row().kind
    }

    /// Returns the cause for spans and metrics: the kind, or the cause of a shared failure.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Shared(shared) => shared.error_type().unwrap_or(shared.outcome().as_str()),
            _ => self.kind(),
        }
    }

    /// Returns `true` if no part of the requested operation has begun, as far as this rejection
    /// knows.
    ///
    /// Use it to decide whether a request that is not safe to repeat may still be sent, to this
    /// service later or to another one now. `false` means that the operation may have begun, not
    /// that it has.
    ///
    /// A rejection describes only the attempt that it ended. If the layer that rejected is beneath
    /// a [retry](crate::retry), an earlier attempt may have reached the service.
    ///
    /// It is `false` for every reason of the [idempotency layer](crate::idempotency), because an
    /// earlier copy of the request may have begun the operation. It is also `false` for a
    /// [`SharedFailure`], because the shared call reached the service.
    ///
    /// ```
    /// use buttress::{Rejection, error::{CircuitOpen, TimedOut}};
    /// use std::time::Duration;
    ///
    /// let rejection = Rejection::from(CircuitOpen::new("orders", None));
    /// assert!(rejection.nothing_began());
    ///
    /// // The service may have placed the order before the call timed out.
    /// let rejection = Rejection::from(TimedOut::new("orders", Duration::from_secs(2)));
    /// assert!(!rejection.nothing_began());
    /// ```
    pub fn nothing_began(&self) -> bool {
        self.row().nothing_began
    }

    /// Returns `true` if the service is out of reach, or has no room or no time left for the call.
    ///
    /// Use it to decide whether to fall back to a default, an older response or another service. It
    /// is `false` if a fallback would hide a fault, such as an invalid request or a wrong setup. It
    /// is also `false` for an idempotent operation that is in progress, completed or unknown.
    ///
    /// It says nothing about effects, because the call may have begun before it was ended. See
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

/// The statuses and times of a server's response.
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

    /// Returns the time that the server tells its caller to wait.
    pub(crate) fn come_back(&self) -> Option<Duration> {
        self.row().come_back.after(self.retry_after())
    }
}

impl IdempotencyReason {
    /// Returns the time that the caller is told to wait. `told` is the layer's configured time.
    pub(crate) fn come_back(self, told: Duration) -> Option<Duration> {
        self.row().come_back.after(Some(told))
    }

    /// Returns the reason as one word, the same as [`Rejection::kind`].
    pub fn as_str(self) -> &'static str {
        self.row().kind
    }
}

/// The rejection by an [idempotency layer](crate::idempotency).
///
/// The [`reason`](Self::reason) says whether the request was run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}{}", self.name(), RetryIn(self.retry_after()))]
pub struct IdempotencyRejected {
    name: Option<Name>,
    retry_after: Option<Nanos>,
    reason: IdempotencyReason,
}

impl IdempotencyRejected {
    /// Creates a rejection by the idempotency layer `name`.
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

    /// Returns the reason of the rejection.
    pub fn reason(&self) -> IdempotencyReason {
        self.reason
    }

    /// Returns the time after which the same request can succeed, or `None` if there is none.
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
