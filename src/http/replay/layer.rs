use std::task::{Context, Poll};

use http::Request;
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{body::ReplayBody, config::Config, kept_bytes::KeptBytes};
use crate::{ConfigError, error::Name, telemetry::Registry};

/// A layer that turns the bodies of requests into [`ReplayBody`]s.
///
/// Put it outside the [retry](crate::retry), around the whole stack. See the [module docs](super)
/// for an example.
///
/// Clones of the layer, and all services that it creates, share one count of kept bytes and its
/// limits.
#[derive(Clone, Debug, Default)]
pub struct ReplayBodyLayer {
    kept_bytes: KeptBytes,
}

impl ReplayBodyLayer {
    /// Creates a layer with the defaults of [`builder`](Self::builder).
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a builder, to change the defaults.
    pub fn builder() -> ReplayBodyBuilder {
        ReplayBodyBuilder { config: Config::default(), max_total: None, name: None }
    }

    /// Registers the layer, which counts from now on, and returns it.
    ///
    /// Default: none. Nothing is counted then.
    ///
    /// It counts the requests whose body exceeded a limit while a retry was possible, as
    /// `buttress.http.replay.overflow`. These are sent only once.
    pub fn register(self, registry: &Registry) -> Self {
        self.kept_bytes.register(registry);
        self
    }

    /// Returns the number of bytes that are currently kept for all requests together.
    pub fn buffered(&self) -> usize {
        self.kept_bytes.held()
    }

    /// Turns one body into a [`ReplayBody`], which counts against the limits of this layer.
    #[cfg(feature = "reqwest")]
    pub(in crate::http) fn replayable<B: Body>(&self, body: B) -> ReplayBody<B> {
        ReplayBody::counted_in(body, self.kept_bytes.clone())
    }
}

impl<S> Layer<S> for ReplayBodyLayer {
    type Service = MakeReplayable<S>;

    fn layer(&self, inner: S) -> MakeReplayable<S> {
        MakeReplayable { inner, kept_bytes: self.kept_bytes.clone() }
    }
}

/// A builder for a [`ReplayBodyLayer`].
///
/// [`build`](Self::build) returns a [`ConfigError`] for an invalid setting.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct ReplayBodyBuilder {
    config: Config,
    max_total: Option<usize>,
    name: Option<Name>,
}

impl ReplayBodyBuilder {
    /// Sets the name of the layer in a [`Registry`].
    ///
    /// Default: `replay_body`.
    ///
    /// The layer is outside of the stack. Give it the name of the stack.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the maximum number of bytes kept of one request.
    ///
    /// Default: `64 KiB` (65,536 bytes).
    ///
    /// It must be at least 1. A body that is longer, or has more than 1,024 frames, is not kept. It
    /// is sent only once.
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.config.max_request = bytes;
        self
    }

    /// Sets the maximum number of bytes kept of all requests together.
    ///
    /// Default: `16 MiB` (16,777,216 bytes), or `max_request_bytes` if that is more.
    ///
    /// A request that would exceed it is sent only once. It must be at least
    /// [`max_request_bytes`](Self::max_request_bytes), because no request could otherwise use its
    /// full limit.
    pub fn max_total_bytes(mut self, bytes: usize) -> Self {
        self.max_total = Some(bytes);
        self
    }

    /// Validates the settings and returns the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if a limit is zero, or if `max_total_bytes` is less than
    /// `max_request_bytes`.
    pub fn build(self) -> Result<ReplayBodyLayer, ConfigError> {
        let mut config = self.config;
        config.max_total = self.max_total.unwrap_or(config.max_total.max(config.max_request));
        config.check()?;
        Ok(ReplayBodyLayer { kept_bytes: KeptBytes::new(config, self.name) })
    }
}

/// A service that turns the bodies of requests into [`ReplayBody`]s.
///
/// [`ReplayBodyLayer`] creates it.
#[derive(Clone, Debug)]
pub struct MakeReplayable<S> {
    inner: S,
    kept_bytes: KeptBytes,
}

accessors!(MakeReplayable<S>);

impl<S, B> Service<Request<B>> for MakeReplayable<S>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let kept_bytes = self.kept_bytes.clone();
        self.inner.call(request.map(|body| ReplayBody::counted_in(body, kept_bytes)))
    }
}
