use std::time::Duration;

use tower_layer::Layer;

use super::{
    config::{Fixed, KnownLimit, PerRequest},
    service::{Timeout, TotalTimeout},
};
use crate::error::Name;

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
