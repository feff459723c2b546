//! The data of each rejection.

use std::{error::Error as StdError, fmt, time::Duration};

use super::{
    name::Name,
    nanos::{Nanos, whole_seconds},
};

/// The part of a rejection's data that its [row](super::row) reads.
pub(super) trait Data: StdError {
    /// Returns the name of the layer, if one was set.
    fn given_name(&self) -> &Option<Name>;

    /// Returns the time after which the caller may try again, if the rejection carries one.
    fn come_back_after(&self) -> Option<Duration> {
        None
    }
}

/// The end of a message: the time after which to retry, in whole seconds, rounded up.
pub(super) struct RetryIn(pub(super) Option<Duration>);

impl fmt::Display for RetryIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(delay) = self.0 else { return Ok(()) };
        write!(f, ", retry in {} s", whole_seconds(delay))
    }
}

/// The part of a message after the name: the part of the layer in parentheses.
struct OfPart<'a>(&'a Option<Name>);

impl fmt::Display for OfPart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(part) = self.0.as_ref().and_then(Name::part) else { return Ok(()) };
        write!(f, " ({part})")
    }
}

/// The rejection of a call that ran for longer than its [timeout](crate::timeout) allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: timed out after {:?}", self.name(), OfPart(&self.name), self.limit())]
pub struct TimedOut {
    name: Option<Name>,
    limit: Nanos,
}

impl TimedOut {
    /// Creates the rejection of a call that the layer `name` ended after `limit`.
    pub fn new(name: impl Into<Name>, limit: Duration) -> Self {
        Self::by(Some(name.into()), limit)
    }

    pub(crate) fn by(name: Option<Name>, limit: Duration) -> Self {
        Self { name, limit: limit.into() }
    }

    /// Returns the limit that the call reached.
    pub fn limit(&self) -> Duration {
        self.limit.into()
    }
}

impl Data for TimedOut {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

/// The rejection of a call whose deadline had passed before it began. The call was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}{}: the deadline had passed before the call began", self.name(), OfPart(&self.name)
)]
pub struct DeadlineExceeded {
    name: Option<Name>,
}

impl DeadlineExceeded {
    /// Creates the rejection of a call that the layer `name` did not begin.
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

/// The rejection by a [circuit breaker](crate::circuit_breaker) that does not admit the call.
///
/// The circuit is open, or it is half-open and all its probes are in flight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}{}: the circuit is open{}", self.name(), OfPart(&self.name), RetryIn(self.retry_after())
)]
pub struct CircuitOpen {
    name: Option<Name>,
    retry_after: Option<Nanos>,
}

impl CircuitOpen {
    /// Creates a rejection by the breaker `name`, which admits a probe after `retry_after`.
    pub fn new(name: impl Into<Name>, retry_after: Option<Duration>) -> Self {
        Self::by(Some(name.into()), retry_after)
    }

    pub(crate) fn by(name: Option<Name>, retry_after: Option<Duration>) -> Self {
        Self { name, retry_after: retry_after.map(Nanos::from) }
    }

    /// Returns the key of the breaker, as
    /// [`describe_fn`](crate::circuit_breaker::KeyedCircuitBreakerBuilder::describe_fn) describes
    /// it, or `None` if it does not.
    pub fn key(&self) -> Option<&str> {
        self.name.as_ref().and_then(Name::part)
    }

    /// Returns the time until the breaker admits a probe.
    ///
    /// It is `None` while the circuit is forced open, and while all probes are in flight.
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

/// The rejection by a [bulkhead](crate::bulkhead) with no free slot, and no room in its queue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: at the limit of {} concurrent calls", self.name(), self.limit)]
pub struct BulkheadFull {
    name: Option<Name>,
    limit: u32,
}

impl BulkheadFull {
    /// Creates a rejection by the bulkhead `name`, which allows `limit` concurrent calls.
    pub fn new(name: impl Into<Name>, limit: u32) -> Self {
        Self::by(Some(name.into()), limit)
    }

    pub(crate) fn by(name: Option<Name>, limit: u32) -> Self {
        Self { name, limit }
    }

    /// Returns the maximum number of concurrent calls.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

impl Data for BulkheadFull {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

/// The rejection of a call that timed out in the queue of a [bulkhead](crate::bulkhead).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: no free slot within {:?}", self.name(), self.waited())]
pub struct QueueTimedOut {
    name: Option<Name>,
    waited: Nanos,
}

impl QueueTimedOut {
    /// Creates the rejection of a call that waited for `waited` in the queue of `name`.
    pub fn new(name: impl Into<Name>, waited: Duration) -> Self {
        Self::by(Some(name.into()), waited)
    }

    pub(crate) fn by(name: Option<Name>, waited: Duration) -> Self {
        Self { name, waited: waited.into() }
    }

    /// Returns the maximum time that a call may wait in the queue.
    pub fn waited(&self) -> Duration {
        self.waited.into()
    }
}

impl Data for QueueTimedOut {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

/// The rejection by a [retry](crate::retry) whose service did not become ready again in time.
///
/// The time is the one that [`readiness_wait`](crate::retry::RetryBuilder::readiness_wait) sets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: the service was not ready again within {:?}", self.name(), self.waited())]
pub struct NotReady {
    name: Option<Name>,
    waited: Nanos,
}

impl NotReady {
    /// Creates the rejection of an attempt that the retry `name` gave up after `waited`.
    pub fn new(name: impl Into<Name>, waited: Duration) -> Self {
        Self::by(Some(name.into()), waited)
    }

    pub(crate) fn by(name: Option<Name>, waited: Duration) -> Self {
        Self { name, waited: waited.into() }
    }

    /// Returns the maximum time that the retry waits for readiness.
    pub fn waited(&self) -> Duration {
        self.waited.into()
    }
}

impl Data for NotReady {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

/// The rejection by [endpoints](crate::endpoints) of which none is left.
///
/// There are none, all are drained, or all that get calls are at their limit. If too few are
/// usable, those that are out get calls too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: no endpoint is left", self.name())]
pub struct NoEndpoint {
    name: Option<Name>,
}

impl NoEndpoint {
    /// Creates a rejection by the endpoints `name`.
    pub fn new(name: impl Into<Name>) -> Self {
        Self::by(Some(name.into()))
    }

    pub(crate) fn by(name: Option<Name>) -> Self {
        Self { name }
    }
}

impl Data for NoEndpoint {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

/// The rejection of a call whose service was switched off with the [fallback](crate::fallback).
///
/// The fallback had no response for the call. The service was not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: switched off", self.name())]
pub struct SwitchedOff {
    name: Option<Name>,
}

impl SwitchedOff {
    /// Creates a rejection by the fallback `name`.
    pub fn new(name: impl Into<Name>) -> Self {
        Self::by(Some(name.into()))
    }

    pub(crate) fn by(name: Option<Name>) -> Self {
        Self { name }
    }
}

impl Data for SwitchedOff {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

/// The rejection by a rate limiter that admits no more calls for now.
///
/// No layer of this crate creates it. It is for your own rate limiter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: the rate limit was exceeded{}", self.name(), RetryIn(self.retry_after()))]
pub struct RateLimited {
    name: Option<Name>,
    retry_after: Option<Nanos>,
}

impl RateLimited {
    /// Creates a rejection by the limiter `name`, which admits the next call after `retry_after`.
    pub fn new(name: impl Into<Name>, retry_after: Option<Duration>) -> Self {
        Self { name: Some(name.into()), retry_after: retry_after.map(Nanos::from) }
    }

    /// Returns the time until the limiter admits the next call, or `None` if it is not known.
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

/// The rejection by tower's `LoadShed`, whose service was not ready. The call was not made.
///
/// It stands for tower's own `Overloaded` in a [`BoxError`](super::BoxError). It is also for your
/// own layer that sheds load.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: the service was not ready", self.name())]
pub struct LoadShed {
    name: Option<Name>,
}

impl LoadShed {
    /// Creates a rejection by the layer `name`.
    pub fn new(name: impl Into<Name>) -> Self {
        Self { name: Some(name.into()) }
    }

    pub(super) const fn unnamed() -> Self {
        Self { name: None }
    }
}

impl Data for LoadShed {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}

/// The rejection of a call that tower's `Timeout` ended.
///
/// It stands for tower's own `Elapsed` in a [`BoxError`](super::BoxError). It is also for your own
/// layer with a limit that says nothing about the dependency. A [`TimedOut`] is a failure of the
/// dependency instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: the time of the call was over", self.name())]
pub struct Elapsed {
    name: Option<Name>,
}

impl Elapsed {
    /// Creates the rejection of a call that the layer `name` ended.
    pub fn new(name: impl Into<Name>) -> Self {
        Self { name: Some(name.into()) }
    }

    pub(super) const fn unnamed() -> Self {
        Self { name: None }
    }
}

impl Data for Elapsed {
    fn given_name(&self) -> &Option<Name> {
        &self.name
    }
}
