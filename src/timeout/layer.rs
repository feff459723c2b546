use std::{any::type_name, fmt, time::Duration};

use tower_layer::Layer;

use super::{Timeout, TotalTimeout};
use crate::Name;

/// How long a call may take.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a time limit for a request of type `{Req}`",
    note = "`TimeoutLayer::per_request` takes a closure `|request: &{Req}| -> Duration`"
)]
pub trait Limit<Req> {
    /// The limit for this request.
    fn limit(&self, request: &Req) -> Duration;
}

/// What can be said of a limit without a request.
pub trait KnownLimit {
    /// The limit, where it is the same for all requests.
    fn known_limit(&self) -> Option<Duration>;
}

impl KnownLimit for Fixed {
    fn known_limit(&self) -> Option<Duration> {
        Some(self.0)
    }
}

impl<F> KnownLimit for PerRequest<F> {
    fn known_limit(&self) -> Option<Duration> {
        None
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

/// A limit of its own for each request, by a function.
#[derive(Clone, Copy)]
pub struct PerRequest<F>(F);

impl<F, Req> Limit<Req> for PerRequest<F>
where
    F: Fn(&Req) -> Duration,
{
    fn limit(&self, request: &Req) -> Duration {
        (self.0)(request)
    }
}

impl<F> fmt::Debug for PerRequest<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PerRequest({})", type_name::<F>())
    }
}

/// Makes [`Timeout`]s. See the [module docs](super) for an example.
#[derive(Clone, Debug)]
pub struct TimeoutLayer<L = Fixed> {
    limit: L,
    name: Option<Name>,
}

impl TimeoutLayer {
    /// Ends calls after `limit`, counted from `call`.
    ///
    /// A limit of zero lets through only what is ready at once, and nothing that has another timeout
    /// beneath. `Duration::MAX` is no limit.
    pub const fn new(limit: Duration) -> Self {
        Self { limit: Fixed(limit), name: None }
    }

    /// The limit.
    pub fn duration(&self) -> Duration {
        self.limit.0
    }
}

impl From<Duration> for TimeoutLayer {
    fn from(limit: Duration) -> Self {
        Self::new(limit)
    }
}

impl<F> TimeoutLayer<PerRequest<F>> {
    /// Ends each call after the limit that the function gives for its request.
    pub fn per_request<Req>(limit: F) -> Self
    where
        F: Fn(&Req) -> Duration,
    {
        Self { limit: PerRequest(limit), name: None }
    }
}

impl<L> TimeoutLayer<L> {
    /// What the layer is called in errors and events; `timeout` until it is set.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The limit, where it is the same for all requests.
    pub(crate) fn known_limit(&self) -> Option<Duration>
    where
        L: KnownLimit,
    {
        self.limit.known_limit()
    }

    /// Counts the wait for readiness too. See [`TotalTimeout`].
    pub fn including_readiness(self) -> TotalTimeoutLayer<L> {
        TotalTimeoutLayer { timeout: self }
    }
}

impl<S, L> Layer<S> for TimeoutLayer<L>
where
    L: Clone,
{
    type Service = Timeout<S, L>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout::new(inner, self.limit.clone(), self.name.clone())
    }
}

/// Makes [`TotalTimeout`]s.
#[derive(Clone, Debug)]
pub struct TotalTimeoutLayer<L = Fixed> {
    timeout: TimeoutLayer<L>,
}

impl<L: KnownLimit> TotalTimeoutLayer<L> {
    /// The limit, where it is the same for all requests.
    pub(crate) fn known_limit(&self) -> Option<Duration> {
        self.timeout.known_limit()
    }
}

impl<S, L> Layer<S> for TotalTimeoutLayer<L>
where
    L: Clone,
{
    type Service = TotalTimeout<S, L>;

    fn layer(&self, inner: S) -> Self::Service {
        TotalTimeout::new(inner, self.timeout.limit.clone(), self.timeout.name.clone())
    }
}
