//! The data of each rejection.

use std::{error::Error as StdError, fmt, time::Duration};

use super::{name::Name, nanos::Nanos};

/// The data of a rejection, for the [row](super::row).
pub(super) trait Data: StdError {
    /// Returns the name of the layer, if it was given one.
    fn given_name(&self) -> &Option<Name>;

    /// Returns the time to come back after that the rejection carries.
    fn come_back_after(&self) -> Option<Duration> {
        None
    }
}

/// The end of a message: the time after which to retry, in whole seconds, rounded up.
struct RetryIn(Option<Duration>);

impl fmt::Display for RetryIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(delay) = self.0 else { return Ok(()) };
        let rounded_up = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        write!(f, ", retry in {rounded_up} s")
    }
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

impl Data for TimedOut {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

/// The deadline of a call had passed before the call was made, so it was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: the deadline had passed before the call began", self.name())]
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

impl Data for DeadlineExceeded {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

/// A [circuit breaker](crate::circuit_breaker) is open, or half-open with all its probes under way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: the circuit is open{}", self.name(), RetryIn(self.retry_after()))]
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

impl Data for CircuitOpen {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }

    fn come_back_after(&self) -> Option<Duration> {
        self.retry_after()
    }
}

/// A [bulkhead](crate::bulkhead) had no free slot, and no free place in its queue if it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: at the limit of {} concurrent calls", self.name(), self.limit)]
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

impl Data for BulkheadFull {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

/// A call waited in a [bulkhead's queue](crate::bulkhead) for as long as it may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: no free slot within {:?}", self.name(), self.waited())]
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

impl Data for QueueTimedOut {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

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

impl Data for NotReady {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

/// A rate limiter let no more calls through for now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: the rate limit was exceeded{}", self.name(), RetryIn(self.retry_after()))]
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

impl Data for RateLimited {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }

    fn come_back_after(&self) -> Option<Duration> {
        self.retry_after()
    }
}
