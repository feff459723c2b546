use std::sync::Arc;

use http::HeaderName;
use tower_layer::Layer;

use super::{IdempotencyKey, config::Config};
use crate::{http::RequestHead, idempotency::Key};

/// Makes [`IdempotencyKey`]s, which give each call a key. See the [module docs](super) for an example.
#[derive(Clone, Debug, Default)]
pub struct IdempotencyKeyLayer {
    config: Arc<Config>,
}

impl IdempotencyKeyLayer {
    /// A new random UUID in `Idempotency-Key`, quoted, for each POST and each PATCH but those of gRPC.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which header the key is sent in. The default is `Idempotency-Key`.
    pub fn header(self, name: HeaderName) -> Self {
        self.with(|config| config.header = name)
    }

    /// Sends keys without quotes, as Stripe and others have them. The default is a quoted string of
    /// RFC 8941. A key that would be read as another without them keeps its quotes: one that begins with a
    /// quote, has a comma, or has a space at either end.
    pub fn bare(self) -> Self {
        self.with(|config| config.bare = true)
    }

    /// For which requests the server honours a key: those that get one. The default is POST and PATCH,
    /// but not gRPC. Said again, the last counts.
    pub fn for_requests<F>(self, honoured: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.with(|config| config.for_requests = Some(Arc::new(honoured)))
    }

    /// Lets a request be sent again that came with a key in its header, if that is a single valid one and
    /// the server honours it ([`for_requests`](Self::for_requests)). For clients whose requests are all made by
    /// code of one's own: what a proxy passes on may have the key of another request. The default is not to.
    pub fn trust_header(self) -> Self {
        self.with(|config| config.trust_header = true)
    }

    /// Makes the keys, in place of random ones. It must not give two calls the same key, or the second has
    /// no effect. Said again, the last counts.
    pub fn generate<F>(self, generate: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> Key + Send + Sync + 'static,
    {
        self.with(|config| config.generate = Some(Arc::new(generate)))
    }

    fn with(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S> Layer<S> for IdempotencyKeyLayer {
    type Service = IdempotencyKey<S>;

    fn layer(&self, inner: S) -> IdempotencyKey<S> {
        IdempotencyKey::new(inner, Arc::clone(&self.config))
    }
}
