//! Why a layer refused a call, and how that reaches the caller without changing the error type.

use std::{
    convert::Infallible, error::Error as StdError, fmt, iter::successors, num::NonZeroU64,
    sync::Arc, time::Duration,
};

/// The boxed error that tower's own layers use.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What a layer is called in errors, spans and events.
///
/// A layer that was given none is called by what it is, such as `timeout`.
#[derive(Clone)]
pub struct Name(
    // One word, and not the two of an `Arc<str>`: every result that passes through a stack has room
    // for a rejection, and is moved once for each layer.
    Arc<Box<str>>,
);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self(Arc::new(name.into()))
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self(Arc::new(name.into()))
    }
}

impl From<Arc<str>> for Name {
    fn from(name: Arc<str>) -> Self {
        Self::from(&*name)
    }
}

/// The name that a layer was given, or else what it is.
#[inline]
pub(crate) fn name_or<'a>(name: &'a Option<Name>, default: &'static str) -> &'a str {
    name.as_ref().map_or(default, Name::as_str)
}

/// A duration in one word: to the nanosecond, up to five hundred years.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nanos(NonZeroU64);

impl fmt::Debug for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Duration::from(*self).fmt(f)
    }
}

impl From<Duration> for Nanos {
    fn from(duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1);
        // One more than it is, so that none at all is zero.
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }
}

impl From<Nanos> for Duration {
    fn from(nanos: Nanos) -> Self {
        Self::from_nanos(nanos.0.get() - 1)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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

/// The pieces that every reason shares: the name of the layer, or what it is called without one, and
/// `Into<Rejection>`.
macro_rules! reason {
    ($reason:ident, $default:literal) => {
        impl $reason {
            /// What the layer that refused is called.
            pub fn name(&self) -> &str {
                name_or(&self.name, $default)
            }
        }

        impl From<$reason> for Rejection {
            fn from(reason: $reason) -> Self {
                Self::$reason(reason)
            }
        }
    };
}

/// A call ran for longer than its [timeout](crate::timeout) allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: timed out after {:?}", self.name(), self.limit())]
pub struct TimedOut {
    name: Option<Name>,
    limit: Nanos,
}

impl TimedOut {
    /// A call that `name` ended after `limit`.
    pub fn new(name: impl Into<Name>, limit: Duration) -> Self {
        Self::by(Some(name.into()), limit)
    }

    pub(crate) fn by(name: Option<Name>, limit: Duration) -> Self {
        Self { name, limit: limit.into() }
    }

    /// The limit that was reached.
    pub fn limit(&self) -> Duration {
        self.limit.into()
    }
}

reason!(TimedOut, "timeout");

/// The deadline of a call had passed before the call was made, so it was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: the time for the call was over", self.name())]
pub struct DeadlineExceeded {
    name: Option<Name>,
}

impl DeadlineExceeded {
    /// A call that `name` did not begin.
    pub fn new(name: impl Into<Name>) -> Self {
        Self::by(Some(name.into()))
    }

    pub(crate) fn by(name: Option<Name>) -> Self {
        Self { name }
    }
}

reason!(DeadlineExceeded, "deadline");

/// A [circuit breaker](crate::circuit_breaker) is open, or half-open with all its probes under way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: the circuit is open", self.name())]
pub struct CircuitOpen {
    name: Option<Name>,
    retry_after: Option<Nanos>,
}

impl CircuitOpen {
    /// A refusal by `name`, which asks again after `retry_after`.
    pub fn new(name: impl Into<Name>, retry_after: Option<Duration>) -> Self {
        Self::by(Some(name.into()), retry_after)
    }

    pub(crate) fn by(name: Option<Name>, retry_after: Option<Duration>) -> Self {
        Self { name, retry_after: retry_after.map(Nanos::from) }
    }

    /// How long until the breaker lets a probe through; `None` while an operator holds it open and
    /// while probes are under way.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after.map(Duration::from)
    }
}

reason!(CircuitOpen, "circuit_breaker");

/// A [bulkhead](crate::bulkhead) had no free slot, and no free place in its queue if it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {} calls are under way, which is the limit", self.name(), self.limit)]
pub struct BulkheadFull {
    name: Option<Name>,
    limit: u32,
}

impl BulkheadFull {
    /// A refusal by `name`, which allows `limit` calls at once.
    pub fn new(name: impl Into<Name>, limit: u32) -> Self {
        Self::by(Some(name.into()), limit)
    }

    pub(crate) fn by(name: Option<Name>, limit: u32) -> Self {
        Self { name, limit }
    }

    /// How many calls the bulkhead allows at once.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

reason!(BulkheadFull, "bulkhead");

/// A call waited in a [bulkhead's queue](crate::bulkhead) for as long as it may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: no slot came free within {:?}", self.name(), self.waited())]
pub struct QueueTimedOut {
    name: Option<Name>,
    waited: Nanos,
}

impl QueueTimedOut {
    /// A call that `name` let wait for `waited`.
    pub fn new(name: impl Into<Name>, waited: Duration) -> Self {
        Self::by(Some(name.into()), waited)
    }

    pub(crate) fn by(name: Option<Name>, waited: Duration) -> Self {
        Self { name, waited: waited.into() }
    }

    /// The longest wait that the queue allows.
    pub fn waited(&self) -> Duration {
        self.waited.into()
    }
}

reason!(QueueTimedOut, "bulkhead");

/// The service did not become ready for another attempt within the wait that
/// [retry](crate::retry) allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: the service was not ready again within {:?}", self.name(), self.waited())]
pub struct NotReady {
    name: Option<Name>,
    waited: Nanos,
}

impl NotReady {
    /// An attempt that `name` did not make after waiting for `waited`.
    pub fn new(name: impl Into<Name>, waited: Duration) -> Self {
        Self::by(Some(name.into()), waited)
    }

    pub(crate) fn by(name: Option<Name>, waited: Duration) -> Self {
        Self { name, waited: waited.into() }
    }

    /// The longest wait that is allowed.
    pub fn waited(&self) -> Duration {
        self.waited.into()
    }
}

reason!(NotReady, "retry");

/// A rate limiter let no more calls through for now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: too many calls in too short a time", self.name())]
pub struct RateLimited {
    name: Option<Name>,
    retry_after: Option<Nanos>,
}

impl RateLimited {
    /// A refusal by `name`, which lets the next call through after `retry_after`.
    pub fn new(name: impl Into<Name>, retry_after: Option<Duration>) -> Self {
        Self { name: Some(name.into()), retry_after: retry_after.map(Nanos::from) }
    }

    /// How long until the next call is let through, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after.map(Duration::from)
    }
}

reason!(RateLimited, "rate_limit");

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

/// An error that can carry a [`Rejection`]: the only thing a layer asks of an error type.
///
/// It is what lets the error type stay the same through a whole stack. [`Error<E>`] is the
/// ready-made carrier, tower's [`BoxError`] is one, and an error of your own becomes one with two
/// short methods:
///
/// ```
/// use buttress::{CarryRejection, Rejection};
///
/// enum CallError {
///     Refused(Rejection),
///     Http(u16),
/// }
///
/// impl CarryRejection for CallError {
///     fn from_rejection(rejection: Rejection) -> Self {
///         Self::Refused(rejection)
///     }
///
///     fn rejection(&self) -> Option<&Rejection> {
///         match self {
///             Self::Refused(rejection) => Some(rejection),
///             Self::Http(_) => None,
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "the error type `{Self}` cannot carry a rejection of a buttress layer",
    label = "this service fails with `{Self}`",
    note = "give the stack the service: `Stack::service(svc)` makes the error `buttress::Error<{Self}>`, `Stack::boxed(svc)` makes it a `BoxError`",
    note = "or implement `buttress::CarryRejection` for an error type of your own",
    note = "around a handler of axum or tonic: `ServerLayer::new(Stack::new()).outside(layer)`"
)]
pub trait CarryRejection: Sized {
    /// Wraps a rejection.
    fn from_rejection(rejection: Rejection) -> Self;

    /// The rejection inside, if this is one; `None` for an error of the service.
    fn rejection(&self) -> Option<&Rejection>;
}

/// A rejection of a layer, or the error of the service underneath: the ready-made carrier.
///
/// `?` turns a service's error into it; [`Error::rejected`] is for the other side. It is a
/// [`std::error::Error`] when `E` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// A layer refused or ended the call.
    Rejected(Rejection),
    /// The service failed.
    Service(E),
}

impl<E> Error<E> {
    /// Wraps a rejection, or the reason for one.
    pub fn rejected(rejection: impl Into<Rejection>) -> Self {
        Self::Rejected(rejection.into())
    }

    /// The service's own error, if it is one.
    pub fn service(&self) -> Option<&E> {
        match self {
            Self::Rejected(_) => None,
            Self::Service(error) => Some(error),
        }
    }

    /// Turns the service's error into another, and leaves a rejection alone.
    pub fn map_service<T>(self, map: impl FnOnce(E) -> T) -> Error<T> {
        match self {
            Self::Rejected(rejection) => Error::Rejected(rejection),
            Self::Service(error) => Error::Service(map(error)),
        }
    }
}

impl<E> From<E> for Error<E> {
    fn from(error: E) -> Self {
        Self::Service(error)
    }
}

impl<E> CarryRejection for Error<E> {
    fn from_rejection(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }

    fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Service(_) => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(_) => f.write_str("rejected"),
            Self::Service(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl<E: StdError> StdError for Error<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Service(error) => error.source(),
        }
    }
}

impl CarryRejection for BoxError {
    fn from_rejection(rejection: Rejection) -> Self {
        // Boxed as `Error` and not bare, so that a chain reads alike from either carrier.
        Box::new(Error::<Infallible>::Rejected(rejection))
    }

    fn rejection(&self) -> Option<&Rejection> {
        find_rejection(self.as_ref())
    }
}

/// The rejection among an error and its causes.
pub(crate) fn find_rejection<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Rejection> {
    successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

/// A setting that cannot work: which knob, what it was given, and the rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{knob}` is {value}, but {rule}")]
pub struct ConfigError {
    knob: &'static str,
    value: String,
    rule: &'static str,
}

impl ConfigError {
    pub(crate) fn new(knob: &'static str, value: impl fmt::Debug, rule: &'static str) -> Self {
        Self { knob, value: format!("{value:?}"), rule }
    }

    /// The setter that was called.
    pub fn knob(&self) -> &str {
        self.knob
    }

    /// What it was given.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The rule that the value breaks.
    pub fn rule(&self) -> &str {
        self.rule
    }

    /// Refuses a duration of zero.
    pub(crate) fn unless_positive(knob: &'static str, value: Duration) -> Result<Duration, Self> {
        if value.is_zero() {
            return Err(Self::new(knob, value, "it must be longer than zero"));
        }
        Ok(value)
    }

    /// Refuses a count of none.
    pub(crate) fn unless_counting(knob: &'static str, value: u32) -> Result<u32, Self> {
        if value == 0 {
            return Err(Self::new(knob, value, "it must be at least 1"));
        }
        Ok(value)
    }

    /// Refuses what is not a share of a whole, NaN included.
    pub(crate) fn unless_ratio(knob: &'static str, value: f64) -> Result<f64, Self> {
        if !(0.0..=1.0).contains(&value) {
            return Err(Self::new(knob, value, "it must be a ratio between 0 and 1"));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_is_three_words() {
        assert_eq!(size_of::<Rejection>(), 24);
        assert_eq!(size_of::<Result<u64, Error<Infallible>>>(), 24);
    }

    #[test]
    fn times_in_a_rejection_are_kept_to_the_nanosecond_and_capped() {
        for time in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(86_400)] {
            assert_eq!(CircuitOpen::by(None, Some(time)).retry_after(), Some(time));
        }
        assert!(
            TimedOut::by(None, Duration::MAX).limit() > Duration::from_secs(86_400 * 365 * 500)
        );
        assert_eq!(CircuitOpen::by(None, None).retry_after(), None);
    }
}
