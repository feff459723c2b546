use std::{fmt, sync::Arc};

use http::HeaderName;
use tower_layer::Layer;

use super::{
    SetIdempotencyKey,
    config::{Config, ForRequests, Generate},
};
use crate::{
    ConfigError,
    http::{
        RequestHead,
        checks::{Once, unless_free},
    },
    idempotency::Key,
};

/// A layer that gives each call of a client an idempotency key.
///
/// It wraps services in [`SetIdempotencyKey`]. See the [module docs](super) for an example.
#[derive(Clone, Debug, Default)]
pub struct SetIdempotencyKeyLayer {
    config: Arc<Config>,
}

impl SetIdempotencyKeyLayer {
    /// Creates a layer with the defaults of [`builder`](Self::builder).
    ///
    /// Each POST and each PATCH, except gRPC calls, gets the header `Idempotency-Key` with a new
    /// random UUID in quotes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a builder, to change the defaults.
    pub fn builder() -> SetIdempotencyKeyBuilder {
        SetIdempotencyKeyBuilder {
            config: Config::default(),
            for_requests: Once::UNSET,
            generate: Once::UNSET,
        }
    }
}

impl<S> Layer<S> for SetIdempotencyKeyLayer {
    type Service = SetIdempotencyKey<S>;

    fn layer(&self, inner: S) -> SetIdempotencyKey<S> {
        SetIdempotencyKey::new(inner, Arc::clone(&self.config))
    }
}

/// A builder for a [`SetIdempotencyKeyLayer`].
///
/// [`build`](Self::build) returns a [`ConfigError`] for an invalid setting.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct SetIdempotencyKeyBuilder {
    config: Config,
    for_requests: Once<Arc<ForRequests>>,
    generate: Once<Arc<Generate>>,
}

impl SetIdempotencyKeyBuilder {
    /// Sets the header that carries the key.
    ///
    /// Default: `Idempotency-Key`.
    ///
    /// [`build`](Self::build) rejects a header with another meaning, such as `authorization` or
    /// `content-type`.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.config.header = name;
        self
    }

    /// Sends keys without quotes, as Stripe and other servers expect.
    ///
    /// Default: off. A key is sent as a quoted string of RFC 8941.
    ///
    /// A key that begins with a quote, contains a comma, or has a space at either end keeps its
    /// quotes, because it would be read as a different key without them.
    pub fn bare(mut self) -> Self {
        self.config.bare = true;
        self
    }

    /// Sets the function that selects the requests that get a key.
    ///
    /// Default: none. POST and PATCH requests get a key, except gRPC calls.
    ///
    /// The function must return `true` only for requests whose server honours a key.
    /// [`build`](Self::build) rejects a second function.
    pub fn for_requests_fn<F>(mut self, honoured: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.for_requests.set(Arc::new(honoured));
        self
    }

    /// Trusts the key in the header of a request, so the request may be replayed.
    ///
    /// Default: off. The header is sent unchanged, and does not make the request safe to
    /// repeat.
    ///
    /// A key is trusted only if it is valid and the only one in the header, and if
    /// [`for_requests_fn`](Self::for_requests_fn) selects the request. Use this setting only if
    /// your own code creates all requests of the client. A request that a proxy forwards may have
    /// the key of another request.
    pub fn trust_header(mut self) -> Self {
        self.config.trust_header = true;
        self
    }

    /// Sets the function that creates the keys.
    ///
    /// Default: none. The keys are random UUIDs (version 4).
    ///
    /// The function must not return the same key for two calls. The second call would then have no
    /// effect. [`build`](Self::build) rejects a second function.
    pub fn generate_fn<F>(mut self, generate: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> Key + Send + Sync + 'static,
    {
        self.generate.set(Arc::new(generate));
        self
    }

    /// Validates the settings and returns the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if the [`header`](Self::header) has another meaning, or if a
    /// function was set twice.
    pub fn build(self) -> Result<SetIdempotencyKeyLayer, ConfigError> {
        let config = Config {
            header: unless_free("header", self.config.header)?,
            for_requests: self.for_requests.get("for_requests_fn")?,
            generate: self.generate.get("generate_fn")?,
            ..self.config
        };
        Ok(SetIdempotencyKeyLayer { config: Arc::new(config) })
    }
}

impl fmt::Debug for SetIdempotencyKeyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetIdempotencyKeyBuilder")
            .field("header", &self.config.header)
            .field("bare", &self.config.bare)
            .field("trust_header", &self.config.trust_header)
            .field("for_requests_fn", &self.for_requests.is_set())
            .field("generate_fn", &self.generate.is_set())
            .finish()
    }
}
