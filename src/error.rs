//! Why a layer refused a call, and how that reaches the caller without changing the error type.

use std::{convert::Infallible, error::Error as StdError, fmt, sync::Arc, time::Duration};

/// The boxed error that tower's own layers use.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What a layer is called in errors, spans and events.
///
/// A `&'static str` costs nothing to copy. A name made at run time is shared.
#[derive(Clone)]
pub struct Name(Inner);

#[derive(Clone)]
enum Inner {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Name {
    /// A name known when the program is compiled.
    pub const fn new(name: &'static str) -> Self {
        Self(Inner::Static(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Inner::Static(name) => name,
            Inner::Shared(name) => name,
        }
    }
}

impl From<&'static str> for Name {
    fn from(name: &'static str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self(Inner::Shared(name.into()))
    }
}

impl From<Arc<str>> for Name {
    fn from(name: Arc<str>) -> Self {
        Self(Inner::Shared(name))
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
        }
    }

    /// When it is worth coming back, counted from the refusal; `None` where that is not known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::CircuitOpen(open) => open.retry_after(),
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
        }
    }
}

/// The pieces that every reason shares: the name of the layer, `std::error::Error`, `Into<Rejection>`.
macro_rules! reason {
    ($reason:ident) => {
        impl $reason {
            /// What the layer that refused is called.
            pub fn name(&self) -> &str {
                self.name.as_str()
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
#[error("{name}: timed out after {limit:?}")]
pub struct TimedOut {
    name: Name,
    limit: Duration,
}

impl TimedOut {
    /// A call that `name` ended after `limit`.
    pub fn new(name: impl Into<Name>, limit: Duration) -> Self {
        Self { name: name.into(), limit }
    }

    /// The limit that was reached.
    pub fn limit(&self) -> Duration {
        self.limit
    }
}

reason!(TimedOut);

/// The deadline of a call had passed before the call was made, so it was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: the deadline had passed before the call began")]
pub struct DeadlineExceeded {
    name: Name,
}

impl DeadlineExceeded {
    /// A call that `name` did not begin.
    pub fn new(name: impl Into<Name>) -> Self {
        Self { name: name.into() }
    }
}

reason!(DeadlineExceeded);

/// A [circuit breaker](crate::circuit_breaker) is open, or half-open with all its probes under way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: the circuit is open")]
pub struct CircuitOpen {
    name: Name,
    retry_after: Option<Duration>,
}

impl CircuitOpen {
    /// A refusal by `name`, which asks again after `retry_after`.
    pub fn new(name: impl Into<Name>, retry_after: Option<Duration>) -> Self {
        Self { name: name.into(), retry_after }
    }

    /// How long until the breaker lets a probe through; `None` while an operator holds it open and
    /// while probes are under way.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

reason!(CircuitOpen);

/// A [bulkhead](crate::bulkhead) had no free slot, and no free place in its queue if it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {limit} calls are under way, which is the limit")]
pub struct BulkheadFull {
    name: Name,
    limit: u32,
}

impl BulkheadFull {
    /// A refusal by `name`, which allows `limit` calls at once.
    pub fn new(name: impl Into<Name>, limit: u32) -> Self {
        Self { name: name.into(), limit }
    }

    /// How many calls the bulkhead allows at once.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

reason!(BulkheadFull);

/// A call waited in a [bulkhead's queue](crate::bulkhead) for as long as it may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: no slot came free within {waited:?}")]
pub struct QueueTimedOut {
    name: Name,
    waited: Duration,
}

impl QueueTimedOut {
    /// A call that `name` let wait for `waited`.
    pub fn new(name: impl Into<Name>, waited: Duration) -> Self {
        Self { name: name.into(), waited }
    }

    /// The longest wait that the queue allows.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

reason!(QueueTimedOut);

/// The service did not become ready for another attempt within the wait that
/// [retry](crate::retry) allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: the service was not ready again within {waited:?}")]
pub struct NotReady {
    name: Name,
    waited: Duration,
}

impl NotReady {
    /// An attempt that `name` did not make after waiting for `waited`.
    pub fn new(name: impl Into<Name>, waited: Duration) -> Self {
        Self { name: name.into(), waited }
    }

    /// The longest wait that is allowed.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

reason!(NotReady);

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
    note = "or implement `buttress::CarryRejection` for an error type of your own"
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
        let mut cause: Option<&(dyn StdError + 'static)> = Some(self.as_ref());
        while let Some(error) = cause {
            if let Some(rejection) = error.downcast_ref() {
                return Some(rejection);
            }
            cause = error.source();
        }
        None
    }
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
