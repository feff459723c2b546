use std::{sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    config::{Endless, Fixed, KnownLimit, PerRequest},
    service::{Timeout, TotalTimeout},
};
use crate::{
    ConfigError,
    error::Name,
    telemetry::{Kind, Registry, Reporter, Reporters},
};

/// A layer that creates [`Timeout`] services. See the [module docs](super) for an example.
#[derive(Clone, Debug)]
pub struct TimeoutLayer<L = Fixed> {
    limit: L,
    /// `None` for a layer without a name, outside of a stack.
    reporter: Option<Arc<Reporter>>,
}

impl TimeoutLayer {
    /// Creates a layer that ends calls after `limit`, counted from `call`.
    ///
    /// `Duration::MAX` means no limit. Zero is accepted, because `new` never fails. A call then
    /// succeeds only if its result is ready on the first poll and there is no other timeout
    /// beneath. With [`builder`](Self::builder), zero is an error.
    pub const fn new(limit: Duration) -> Self {
        Self { limit: Fixed(limit), reporter: None }
    }

    /// Returns a builder for a layer that ends calls after `limit`, counted from `call`.
    ///
    /// `limit` must be longer than zero. Otherwise [`build`](TimeoutBuilder::build) returns a
    /// [`ConfigError`]. `Duration::MAX` means no limit.
    pub const fn builder(limit: Duration) -> TimeoutBuilder {
        TimeoutBuilder { layer: Self::new(limit) }
    }

    /// Returns the limit.
    pub fn duration(&self) -> Duration {
        self.limit.0
    }
}

impl From<Duration> for TimeoutLayer {
    /// Creates a layer with [`TimeoutLayer::new`], which accepts zero.
    fn from(limit: Duration) -> Self {
        Self::new(limit)
    }
}

impl<F> TimeoutLayer<PerRequest<F>> {
    /// Creates a layer that ends each call after the limit that a closure returns for the request.
    ///
    /// A limit of zero affects only its own request. See [`new`](TimeoutLayer::new).
    pub fn per_request_fn<Req>(limit: F) -> Self
    where
        F: Fn(&Req) -> Duration,
    {
        Self { limit: PerRequest::new(limit), reporter: None }
    }

    /// Returns a builder for a layer with a limit for each request, returned by a closure.
    ///
    /// A limit of zero affects only its own request. See [`new`](TimeoutLayer::new).
    pub fn builder_fn<Req>(limit: F) -> TimeoutBuilder<PerRequest<F>>
    where
        F: Fn(&Req) -> Duration,
    {
        TimeoutBuilder { layer: Self::per_request_fn(limit) }
    }
}

impl<L> TimeoutLayer<L> {
    /// Returns the limit if it is the same for all requests.
    pub(crate) fn known_limit(&self) -> Option<Duration>
    where
        L: KnownLimit,
    {
        self.limit.known_limit()
    }

    /// Returns the same layer without a limit.
    pub(crate) fn endless(&self) -> Self
    where
        L: Endless,
    {
        Self { limit: self.limit.endless(), reporter: self.reporter.clone() }
    }

    /// Returns the same layer for a slot of a stack, where it is of this kind.
    ///
    /// It keeps its name. Its numbers are those of the stack.
    pub(crate) fn in_slot(self, kind: Kind) -> Self {
        let named = self.reporter.filter(|own| own.given_name().is_some());
        let reporter = named.map(|own| Arc::new(own.of_kind(kind)));
        Self { limit: self.limit, reporter }
    }

    /// Returns a layer with the same settings, which counts its repeated events apart.
    pub(crate) fn fresh(&self) -> Self
    where
        L: Clone,
    {
        let reporter = self.reporter.as_ref().map(|own| Arc::new(own.fresh()));
        Self { limit: self.limit.clone(), reporter }
    }

    /// Returns the same layer with the reporter of its stack, unless it has its own.
    pub(crate) fn reporting(&self, stack: &Reporters, kind: Kind) -> Self
    where
        L: Clone,
    {
        let reporter = match &self.reporter {
            Some(own) => {
                own.join(stack);
                Some(Arc::clone(own))
            }
            None => stack.of(kind).cloned(),
        };
        Self { limit: self.limit.clone(), reporter }
    }

    /// Registers the layer, which counts from now on, and returns it.
    ///
    /// Default: none. Nothing is counted then.
    ///
    /// It is for a layer outside of a stack. In a stack, use
    /// [`Stack::register`](crate::Stack::register). Without a name, it counts as `timeout`.
    pub fn register(self, registry: &Registry) -> Self {
        let unnamed = || Arc::new(Reporter::new(None, Kind::Timeout));
        let reporter = self.reporter.unwrap_or_else(unnamed);
        reporter.register(registry);
        Self { limit: self.limit, reporter: Some(reporter) }
    }

    /// Includes the wait for readiness in the limit.
    ///
    /// The service is then always ready. See [`TotalTimeout`].
    pub fn including_readiness(self) -> TotalTimeoutLayer<L> {
        TotalTimeoutLayer { timeout: self }
    }
}

/// A builder for a [`TimeoutLayer`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct TimeoutBuilder<L = Fixed> {
    layer: TimeoutLayer<L>,
}

impl<L> TimeoutBuilder<L> {
    /// Sets the name of the layer in errors and events.
    ///
    /// Default: `timeout`, and in a [`DeadlineExceeded`](crate::error::DeadlineExceeded)
    /// `deadline`. In a stack with a name, it is that of the stack. In another stack it is
    /// `total_timeout` or `attempt_timeout`.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.layer.reporter = Some(Arc::new(Reporter::new(Some(&name.into()), Kind::Timeout)));
        self
    }
}

impl TimeoutBuilder {
    /// Checks the settings and builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] for `limit` if the limit is zero.
    pub fn build(self) -> Result<TimeoutLayer, ConfigError> {
        ConfigError::require_positive("limit", self.layer.limit.0)?;
        Ok(self.layer)
    }
}

impl<F> TimeoutBuilder<PerRequest<F>> {
    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// Never fails at present, because the limits are known only when there are requests.
    pub fn build(self) -> Result<TimeoutLayer<PerRequest<F>>, ConfigError> {
        Ok(self.layer)
    }
}

impl<S, L> Layer<S> for TimeoutLayer<L>
where
    L: Clone,
{
    type Service = Timeout<S, L>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout::new(inner, self.limit.clone(), self.reporter.clone())
    }
}

/// A layer that creates [`TotalTimeout`] services.
///
/// [`TimeoutLayer::including_readiness`] creates it. See the [module docs](super) for an example.
#[derive(Clone, Debug)]
pub struct TotalTimeoutLayer<L = Fixed> {
    timeout: TimeoutLayer<L>,
}

impl<L: KnownLimit> TotalTimeoutLayer<L> {
    /// Returns the limit if it is the same for all requests.
    pub(crate) fn known_limit(&self) -> Option<Duration> {
        self.timeout.known_limit()
    }
}

impl<L: Clone> TotalTimeoutLayer<L> {
    /// Returns a layer with the same settings, which counts its repeated events apart.
    pub(crate) fn fresh(&self) -> Self {
        Self { timeout: self.timeout.fresh() }
    }

    /// Returns the same layer with the reporter of its stack, unless it has its own.
    pub(crate) fn reporting(&self, stack: &Reporters, kind: Kind) -> Self {
        Self { timeout: self.timeout.reporting(stack, kind) }
    }
}

impl<L: Endless> TotalTimeoutLayer<L> {
    /// Returns the same layer without a limit.
    pub(crate) fn endless(&self) -> Self {
        Self { timeout: self.timeout.endless() }
    }
}

impl<S, L> Layer<S> for TotalTimeoutLayer<L>
where
    L: Clone,
{
    type Service = TotalTimeout<S, L>;

    fn layer(&self, inner: S) -> Self::Service {
        TotalTimeout::new(inner, self.timeout.limit.clone(), self.timeout.reporter.clone())
    }
}
