//! The limit of a timeout.

use std::{any::type_name, fmt, time::Duration};

use crate::sealed::Sealed;

/// The time limit of a call. This trait is sealed.
///
/// [`TimeoutLayer::per_request_fn`] takes a closure instead.
///
/// [`TimeoutLayer::per_request_fn`]: super::TimeoutLayer::per_request_fn
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a time limit for a request of type `{Req}`",
    note = "`TimeoutLayer::per_request_fn` takes a closure `|request: &{Req}| -> Duration`"
)]
pub trait Limit<Req>: KnownLimit {
    /// Returns the limit for this request.
    fn limit(&self, request: &Req) -> Duration;
}

/// A limit that can be known before there is a request. This trait is sealed.
pub trait KnownLimit: Sealed {
    /// `true` if the limit is the same for all requests.
    const IS_FIXED: bool = false;

    /// Returns the limit if it is the same for all requests.
    fn known_limit(&self) -> Option<Duration>;
}

/// A limit that can be lifted. This trait is sealed.
pub trait Endless: Sealed {
    /// Returns a limit of the same type that never ends a call.
    fn endless(&self) -> Self;
}

impl Sealed for Fixed {}
impl<F> Sealed for PerRequest<F> {}

impl KnownLimit for Fixed {
    const IS_FIXED: bool = true;

    fn known_limit(&self) -> Option<Duration> {
        Some(self.0)
    }
}

impl Endless for Fixed {
    fn endless(&self) -> Self {
        Self(Duration::MAX)
    }
}

impl<F> KnownLimit for PerRequest<F> {
    fn known_limit(&self) -> Option<Duration> {
        self.endless.then_some(Duration::MAX)
    }
}

impl<F: Clone> Endless for PerRequest<F> {
    fn endless(&self) -> Self {
        Self { limit: self.limit.clone(), endless: true }
    }
}

/// The same limit for every request.
#[derive(Clone, Copy, Debug)]
pub struct Fixed(pub(crate) Duration);

impl<Req> Limit<Req> for Fixed {
    fn limit(&self, _: &Req) -> Duration {
        self.0
    }
}

/// A separate limit for each request, returned by a closure.
#[derive(Clone, Copy)]
pub struct PerRequest<F> {
    limit: F,
    endless: bool,
}

impl<F> PerRequest<F> {
    pub(super) fn new(limit: F) -> Self {
        Self { limit, endless: false }
    }
}

impl<F, Req> Limit<Req> for PerRequest<F>
where
    F: Fn(&Req) -> Duration,
{
    fn limit(&self, request: &Req) -> Duration {
        if self.endless { Duration::MAX } else { (self.limit)(request) }
    }
}

impl<F> fmt::Debug for PerRequest<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PerRequest({})", type_name::<F>())
    }
}
