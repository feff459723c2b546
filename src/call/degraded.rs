//! The mark of a degraded response, and the source that a layer reports for a response.

use std::{cell::Cell, fmt, time::Duration};

use super::restore::Restore;
use crate::{Fault, Outcome, Rejection};

/// The kind of a response that a layer gave instead of the service.
///
/// If the service makes another call whose response is degraded, and that call has no
/// [`Stack`](crate::Stack), the call around counts as degraded too. Make the other call in
/// [`Deadline::detached`](crate::Deadline::detached), or give it a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DegradedBy {
    /// A [fallback](crate::fallback) gave it, because the call failed.
    Fallback,
    /// It is an earlier response of the service that is no longer fresh.
    Stale,
    /// A [fallback](crate::fallback) gave it without a call, because the service is switched off.
    Off,
}

impl DegradedBy {
    /// Returns the source as one word, the same as in [`field::SOURCE`](crate::telemetry::field).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::Stale => "stale",
            Self::Off => "off",
        }
    }
}

/// The reason why a call has no response of its service.
///
/// It is owned and not generic, so that a closure that takes it needs no annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The service failed.
    Failed(Fault),
    /// A layer rejected or ended the call. A timeout of a layer is here.
    Rejected(Rejection),
    /// The service was not called, because it is switched off.
    Off,
}

impl Reason {
    /// Returns the reason of a result, or `None` if it is neither a failure nor a rejection.
    pub(crate) fn of(outcome: Outcome, rejection: Option<&Rejection>) -> Option<Self> {
        match (rejection, outcome) {
            // The service has failed, and another caller has its error.
            (None | Some(Rejection::Shared(_)), Outcome::Failure(fault)) => {
                Some(Self::Failed(fault))
            }
            (Some(rejection), _) => Some(Self::Rejected(rejection.clone())),
            (None, Outcome::Success | Outcome::Ignored) => None,
        }
    }

    /// Returns `true` if the service is out of reach, so that a degraded response is better.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Failed(Fault::Transient | Fault::TimedOut | Fault::Overloaded { .. }) => true,
            // The same request would fail again, or is being run, and its response will be there.
            Self::Failed(Fault::Permanent | Fault::InProgress { .. }) => false,
            Self::Rejected(rejection) => rejection.is_unavailable(),
            Self::Off => true,
        }
    }

    /// Returns the reason as one word of a fixed set, such as `transient` or `circuit_open`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Failed(fault) => Outcome::Failure(*fault).as_str(),
            Self::Rejected(rejection) => rejection.kind(),
            Self::Off => "off",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(_) => write!(f, "the service failed ({})", self.as_str()),
            Self::Rejected(rejection) => fmt::Display::fmt(rejection, f),
            Self::Off => f.write_str("switched off"),
        }
    }
}

/// The mark of a response that a layer gave instead of the service.
///
/// Every degraded HTTP response has it in its extensions:
///
/// ```
/// use buttress::{http::Degraded, telemetry::DegradedBy};
///
/// fn is_old<B>(response: &http::Response<B>) -> bool {
///     let degraded = response.extensions().get::<Degraded>();
///     degraded.is_some_and(|degraded| degraded.source() == DegradedBy::Stale)
/// }
/// # let _ = is_old::<()>;
/// ```
///
/// It is not sent anywhere. A server that passes the response on may say in a header of its own
/// that the response is degraded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Degraded {
    source: DegradedBy,
    reason: Reason,
    age: Option<Duration>,
}

impl Degraded {
    pub(crate) fn new(source: DegradedBy, reason: Reason) -> Self {
        Self { source, reason, age: None }
    }

    /// Sets the age of a stale response.
    pub(crate) fn aged(self, age: Duration) -> Self {
        Self { age: Some(age), ..self }
    }

    /// Returns the kind of the response.
    pub fn source(&self) -> DegradedBy {
        self.source
    }

    /// Returns the reason why the service did not respond.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// Returns the age of a stale response, and `None` for any other.
    pub fn age(&self) -> Option<Duration> {
        self.age
    }
}

thread_local! {
    static SOURCE: Cell<Option<ResponseSource>> = const { Cell::new(None) };
}

/// The source of a response, as a layer reports it for the span of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseSource {
    Degraded(DegradedBy),
    /// A cache gave it. It is a response of the service that is not degraded.
    Cache,
}

impl ResponseSource {
    /// Reports the source of the response of the current call. The last report counts.
    ///
    /// Call it while the call is polled, and not while it is made.
    pub(crate) fn report(self) {
        SOURCE.set(Some(self));
    }

    /// Returns the last report since [`listen`].
    #[inline]
    pub(crate) fn reported() -> Option<Self> {
        SOURCE.get()
    }

    /// Returns the kind of a degraded response.
    pub(crate) fn degraded(self) -> Option<DegradedBy> {
        match self {
            Self::Degraded(by) => Some(by),
            Self::Cache => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Degraded(by) => by.as_str(),
            Self::Cache => "cache",
        }
    }
}

/// Keeps the reports of a call from the calls around it. `known` is the report of earlier polls.
///
/// A server's call is not degraded because its handler called a service that is.
#[inline]
pub(crate) fn listen(known: Option<ResponseSource>) -> Restore<Option<ResponseSource>> {
    Restore::after_setting(&SOURCE, known)
}
