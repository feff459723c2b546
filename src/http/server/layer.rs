use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use tower_layer::{Layer, Stack as Layers};

use super::{
    config::{Config, Trust},
    handler::Handler,
    service::HttpServer,
    shared::Shared,
};
use crate::{
    ConfigError, Stack,
    stack::slots::{Empty, Fill, Filled, ServerTransport, SlotAt, position},
};

/// Puts a [`Stack`] around a handler, and turns its rejections into responses. See the
/// [module docs](super) for an example.
///
/// One type for `axum::Router::layer`, for `tonic::transport::Server::layer`, and around a single
/// service. The layer has the state of its stack: its clones, and all services that it makes, share it.
#[derive(Clone)]
pub struct HttpServerLayer<L> {
    stack: L,
    shared: Arc<Shared>,
}

/// The stack of a server: one without a transport, whose calls end with their response.
type ServerStack<Slots, C> = Stack<Filled<Slots, position::TransportPosition, ServerTransport>, C>;

impl HttpServerLayer<()> {
    /// Creates a layer with a stack around each handler, and the defaults of
    /// [`builder`](Self::builder).
    ///
    /// The stack is usually a bulkhead and a total timeout. What its layers hold is held until the
    /// body of the response has ended. With an empty stack the layer still keeps the caller's
    /// deadline, and tells the caller when to stop retrying.
    pub fn new<Slots, C>(stack: Stack<Slots, C>) -> HttpServerLayer<ServerStack<Slots, C>>
    where
        Slots: SlotAt<position::TransportPosition, Layer = Empty>
            + Fill<position::TransportPosition, ServerTransport>,
    {
        HttpServerLayer::around(stack.with(ServerTransport))
    }

    /// Returns a builder of a layer with a stack around each handler.
    pub fn builder<Slots, C>(stack: Stack<Slots, C>) -> HttpServerBuilder<ServerStack<Slots, C>>
    where
        Slots: SlotAt<position::TransportPosition, Layer = Empty>
            + Fill<position::TransportPosition, ServerTransport>,
    {
        HttpServerLayer::builder_around(stack.with(ServerTransport))
    }
}

impl<L> HttpServerLayer<L> {
    /// Creates a layer with any other layer around each handler, and the defaults of
    /// [`builder_around`](Self::builder_around).
    ///
    /// The services of that layer must respond with a `Response<B>` whose body has
    /// [`Bytes`](bytes::Bytes) as data and a [`BodyError`](crate::http::BodyError) as error, as a
    /// [`ResponseBody`](crate::http::ResponseBody) has. Their error must be
    /// [`Error<Infallible>`](crate::Error).
    pub fn around(layer: L) -> Self {
        Self::builder_around(layer).finish()
    }

    /// Returns a builder of a layer with any other layer around each handler. See
    /// [`around`](Self::around) for what its services must be.
    pub fn builder_around(layer: L) -> HttpServerBuilder<L> {
        HttpServerBuilder { stack: layer, config: Config::default() }
    }

    /// Returns how many header lines of requests were malformed, and therefore ignored.
    pub fn malformed_headers(&self) -> u64 {
        self.shared.malformed.load(Ordering::Relaxed)
    }
}

impl<L: fmt::Debug> fmt::Debug for HttpServerLayer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServerLayer")
            .field("stack", &self.stack)
            .field("config", &self.shared.config)
            .finish()
    }
}

impl<S, L> Layer<S> for HttpServerLayer<L>
where
    L: Layer<Handler<S>>,
{
    type Service = HttpServer<L::Service, S>;

    fn layer(&self, handler: S) -> Self::Service {
        let handler = Handler::new(handler, Arc::clone(&self.shared));
        HttpServer::new(self.stack.layer(handler), Arc::clone(&self.shared))
    }
}

/// Settings of an [`HttpServerLayer`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct HttpServerBuilder<L> {
    stack: L,
    config: Config,
}

impl<L> HttpServerBuilder<L> {
    /// Adds a layer between the server and its stack, such as an
    /// [idempotency guard](crate::idempotency).
    ///
    /// The request's deadline is ambient there, and the layer's rejections become responses. A
    /// guard therefore stands outside the bulkhead, and a duplicate takes no slot. Of several
    /// layers the last one added is the outermost.
    ///
    /// Its services must be what those of [`around`](HttpServerLayer::around) must be.
    pub fn outside<G>(self, layer: G) -> HttpServerBuilder<Layers<L, G>> {
        HttpServerBuilder { stack: Layers::new(self.stack, layer), config: self.config }
    }

    /// Sets what is believed of a request.
    ///
    /// Default: [`Trust::Inbound`].
    pub fn trust(mut self, trust: Trust) -> Self {
        self.config.trust = trust;
        self
    }

    /// Sets the server's own limit for a request, up to the head of its response, and for gRPC up
    /// to its last frame.
    ///
    /// Default: none.
    ///
    /// A limit of zero is an error, because every request would time out. `Duration::MAX` is no
    /// limit.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.config.limit = Some(limit);
        self
    }

    /// Sets the HTTP status of a request that finds the bulkhead full or waited too long in its
    /// queue.
    ///
    /// Default: 503, because 429 says that this caller has sent too much.
    ///
    /// A status that is not an error (4xx or 5xx) is an error.
    pub fn full_status(mut self, status: StatusCode) -> Self {
        self.config.full = Some(status);
        self
    }

    /// Writes `x-envoy-ratelimited` beside `x-should-retry: false`, so that an Envoy above does not
    /// retry either.
    ///
    /// Default: not written.
    pub fn for_envoy(mut self) -> Self {
        self.config.for_envoy = true;
        self
    }

    /// Applies the deadline of an HTTP request to the last frame of its response too.
    ///
    /// Default: it applies to the head only. For gRPC it always applies to the last frame.
    pub fn body_deadline(mut self) -> Self {
        self.config.body_deadline = true;
        self
    }

    /// Sets how long the connection waits for the next frame of a response.
    ///
    /// Default: no limit, because a stream of events may be silent for long.
    ///
    /// A time of zero is an error. `Duration::MAX` is no limit.
    pub fn body_idle(mut self, idle: Duration) -> Self {
        self.config.body_idle = Some(idle);
        self
    }

    /// Checks the settings, and creates the layer.
    ///
    /// # Errors
    ///
    /// A time of zero, or a [`full_status`](Self::full_status) that is not an error.
    pub fn build(self) -> Result<HttpServerLayer<L>, ConfigError> {
        self.config.check()?;
        Ok(self.finish())
    }

    fn finish(self) -> HttpServerLayer<L> {
        let shared = Shared { config: self.config, malformed: AtomicU64::new(0) };
        HttpServerLayer { stack: self.stack, shared: Arc::new(shared) }
    }
}
