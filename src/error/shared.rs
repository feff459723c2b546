//! The failure of a call that several callers shared.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    name::Name,
    reasons::{Data, RetryIn},
    result::{Fault, Outcome},
    row::{
        ComeBack::{AsTold, Unstated},
        Row,
    },
};

/// The failure of a call that several callers shared, as a [cache](crate::cache) reports it.
///
/// Most errors cannot be cloned. The caller whose request was sent gets the error itself, and the
/// others get this copy of its outcome and its cause. The layers above treat it like the error: a
/// retry retries it, and a breaker counts it, if they would do so for the error.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: the shared call failed: {}{}", self.name(), self.text(), RetryIn(self.retry_after()))]
pub struct SharedFailure {
    name: Option<Name>,
    // One word, because a rejection has room for three, and its variant takes one.
    failure: Arc<Failure>,
}

#[derive(PartialEq, Eq)]
struct Failure {
    outcome: Outcome,
    error_type: Option<&'static str>,
    text: Box<str>,
}

impl SharedFailure {
    /// Creates the failure of a call that the layer `name` made for several callers.
    ///
    /// `text` says why it failed.
    pub fn new(name: impl Into<Name>, outcome: Outcome, text: impl Into<Box<str>>) -> Self {
        Self::by(Some(name.into()), outcome, None, text.into())
    }

    pub(crate) fn by(
        name: Option<Name>,
        outcome: Outcome,
        error_type: Option<&'static str>,
        text: Box<str>,
    ) -> Self {
        Self { name, failure: Arc::new(Failure { outcome, error_type, text }) }
    }

    /// Returns the outcome of the shared call, which is also that of this rejection.
    pub fn outcome(&self) -> Outcome {
        self.failure.outcome
    }

    /// Returns the cause of the failure, as
    /// [`Classify::error_type`](crate::Classify::error_type) named it.
    pub fn error_type(&self) -> Option<&'static str> {
        self.failure.error_type
    }

    /// Returns the text that says why the call failed. A cache gives the cause.
    pub fn text(&self) -> &str {
        &self.failure.text
    }

    /// Returns the time for which the service asks not to be called, or `None` if it does not say.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.failure.outcome {
            Outcome::Failure(
                Fault::Overloaded { retry_after } | Fault::InProgress { retry_after },
            ) => retry_after,
            _ => None,
        }
    }

    /// Returns the row for the outcome.
    ///
    /// A server says of it what it would say of a failed gateway. Only a failure that a later call
    /// may not have is a reason for a fallback.
    pub(super) fn row(&self) -> &'static Row {
        const KIND: &str = "shared_failure";
        const TRANSIENT: Row = Row::new(KIND, false, true, 502, 14, Unstated);
        const TIMED_OUT: Row = Row::new(KIND, false, true, 504, 4, Unstated);
        const OVERLOADED: Row = Row::new(KIND, false, true, 503, 14, AsTold);
        const IN_PROGRESS: Row = Row::new(KIND, false, false, 409, 10, AsTold);
        const FINAL: Row = Row::new(KIND, false, false, 502, 13, Unstated);
        match self.failure.outcome {
            Outcome::Failure(Fault::Transient) => &TRANSIENT,
            Outcome::Failure(Fault::TimedOut) => &TIMED_OUT,
            Outcome::Failure(Fault::Overloaded { .. }) => &OVERLOADED,
            Outcome::Failure(Fault::InProgress { .. }) => &IN_PROGRESS,
            Outcome::Failure(Fault::Permanent) | Outcome::Success | Outcome::Ignored => &FINAL,
        }
    }
}

impl Data for SharedFailure {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }

    fn come_back_after(&self) -> Option<Duration> {
        self.retry_after()
    }
}

impl fmt::Debug for SharedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedFailure")
            .field("name", &self.name)
            .field("outcome", &self.failure.outcome)
            .field("error_type", &self.failure.error_type)
            .field("text", &self.failure.text)
            .finish()
    }
}
