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

/// Makes [`SetIdempotencyKey`]s, which give each call a key. See the [module docs](super) for an
/// example.
#[derive(Clone, Debug, Default)]
pub struct SetIdempotencyKeyLayer {
    config: Arc<Config>,
}

impl SetIdempotencyKeyLayer {
    /// Creates a layer with the defaults of [`builder`](Self::builder): a new random UUID in
    /// `Idempotency-Key`, quoted, for each POST and each PATCH but those of gRPC.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a builder.
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

/// Settings of a [`SetIdempotencyKeyLayer`].
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct SetIdempotencyKeyBuilder {
    config: Config,
    for_requests: Once<Arc<ForRequests>>,
    generate: Once<Arc<Generate>>,
}

impl SetIdempotencyKeyBuilder {
    /// Sets the header that the key is sent in.
    ///
    /// Default: `Idempotency-Key`.
    ///
    /// A header that means something else, such as `authorization` or `content-type`, is an error.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.config.header = name;
        self
    }

    /// Sends keys without quotes, as Stripe and others have them.
    ///
    /// Default: a quoted string of RFC 8941.
    ///
    /// A key that would be read as another without them keeps its quotes: one that begins with a
    /// quote, has a comma, or has a space at either end.
    pub fn bare(mut self) -> Self {
        self.config.bare = true;
        self
    }

    /// Sets the requests whose server honours a key. Those get one.
    ///
    /// Default: POST and PATCH, but not gRPC.
    ///
    /// A second function is an error.
    pub fn for_requests_fn<F>(mut self, honoured: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.for_requests.set(Arc::new(honoured));
        self
    }

    /// Trusts the key that a request came with in its header, so that the request may be sent
    /// again.
    ///
    /// Default: the header is sent as it is, and allows no retry.
    ///
    /// It must be a single valid key, and the server must honour it
    /// ([`for_requests_fn`](Self::for_requests_fn)). Use it where your own code makes all requests
    /// of the client: what a proxy passes on may have the key of another request.
    pub fn trust_header(mut self) -> Self {
        self.config.trust_header = true;
        self
    }

    /// Sets the function that makes the keys.
    ///
    /// Default: random UUIDs.
    ///
    /// It must not give two calls the same key, or the second has no effect. A second function is
    /// an error.
    pub fn generate_fn<F>(mut self, generate: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> Key + Send + Sync + 'static,
    {
        self.generate.set(Arc::new(generate));
        self
    }

    /// Checks the settings, and creates the layer.
    ///
    /// # Errors
    ///
    /// A [`header`](Self::header) that means something else, and a function that was set twice.
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
