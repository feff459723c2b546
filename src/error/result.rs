//! The outcome of a call.
//!
//! It is public in [`outcome`](crate::outcome), beside the classifiers. It is here, because a
//! rejection can carry one.

use std::time::Duration;

/// The outcome of a finished call, as a statement about the service that was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service worked, even if its response reports an error of the caller.
    Success,
    /// The service failed.
    Failure(Fault),
    /// The call says nothing about the service.
    ///
    /// It does not count for a breaker, neither as a failure nor as a response. It is retried only
    /// with the hint [`Unsent`](crate::RetryHint::Unsent) or
    /// [`Unprocessed`](crate::RetryHint::Unprocessed). With such a hint, it is a failure for a
    /// breaker if [nobody has had a response for a
    /// while](crate::circuit_breaker#requests-that-are-given-back).
    Ignored,
}

/// The kind of failure of a service, which decides how each layer reacts.
///
/// | fault | retried | counted by a breaker |
/// |---|---|---|
/// | `Transient`, `TimedOut`, `Overloaded` | yes | as a failure |
/// | `InProgress` | yes | as a success |
/// | `Permanent` | no; once after [`Unprocessed`](crate::RetryHint::Unprocessed) | as a success |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The next call may succeed. Examples are a broken connection and a 5xx status.
    Transient,
    /// The service took too long.
    TimedOut,
    /// The service has more work than it can do.
    Overloaded {
        /// The time for which the service asks not to be called, or `None` if it does not say.
        retry_after: Option<Duration>,
    },
    /// The same request is already being run, and its response is not there yet.
    ///
    /// The service that says so is healthy. A later call gets the response.
    InProgress {
        /// The time after which to send the request again, or `None` if the service does not say.
        retry_after: Option<Duration>,
    },
    /// The same request would fail again with the same response.
    ///
    /// The service that responds so is healthy. A result that is no response of the service, such
    /// as a mistake of the caller, is [`Outcome::Ignored`].
    Permanent,
}

impl Outcome {
    /// Returns `true` if the service responded, which is evidence of its health.
    ///
    /// A service that rejects a wrong request, or still runs an earlier one, is well.
    #[inline]
    pub(crate) fn is_response(self) -> bool {
        matches!(self, Self::Success | Self::Failure(Fault::Permanent | Fault::InProgress { .. }))
    }

    /// The number of outcomes after which a call is retried.
    pub(crate) const FAULTS: usize = 6;

    /// Returns a number below [`FAULTS`](Self::FAULTS) for an outcome to retry.
    pub(crate) fn fault_index(self) -> usize {
        match self {
            Self::Success | Self::Ignored => 0,
            Self::Failure(Fault::Transient) => 1,
            Self::Failure(Fault::TimedOut) => 2,
            Self::Failure(Fault::Overloaded { .. }) => 3,
            Self::Failure(Fault::InProgress { .. }) => 4,
            Self::Failure(Fault::Permanent) => 5,
        }
    }

    /// Returns a short name for spans and events.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure(Fault::Transient) => "transient",
            Self::Failure(Fault::TimedOut) => "timed_out",
            Self::Failure(Fault::Overloaded { .. }) => "overloaded",
            Self::Failure(Fault::InProgress { .. }) => "in_progress",
            Self::Failure(Fault::Permanent) => "permanent",
            Self::Ignored => "ignored",
        }
    }
}
