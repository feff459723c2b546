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
    call::patience::limiting,
    error::Name,
    http::{reporters::HttpReporters, uploads::Uploads},
    stack::slots::{Empty, Fill, Filled, ServerTransport, SlotAt, position},
    telemetry::{Registry, Reporters},
};

/// A layer that puts a [`Stack`] around a handler and turns its rejections into responses.
///
/// See the [module docs](super) for an example.
///
/// It works in `axum::Router::layer`, in `tonic::transport::Server::layer`, and around a single
/// service. The clones of the layer, and all services that it creates, share the state of its
/// stack, such as the permits of a bulkhead.
#[derive(Clone)]
pub struct HttpServerLayer<L> {
    stack: L,
    shared: Arc<Shared>,
}

/// The stack of a server. It has no transport, and its calls end with their response.
type ServerStack<Slots, C> = Stack<Filled<Slots, position::TransportPosition, ServerTransport>, C>;

impl HttpServerLayer<()> {
    /// Creates a layer with a stack around each handler.
    ///
    /// It has the defaults of [`builder`](Self::builder).
    ///
    /// The stack usually has a bulkhead and a total timeout. It must not be one with `http()`,
    /// which is for clients. Its layers hold their permits until the body of the response has
    /// ended. Even with an empty stack, the layer enforces the caller's deadline and advises the
    /// caller when to stop retrying.
    ///
    /// Put a fallback or a cache around a handler, and not into the stack. In the stack, a fallback
    /// would hide that the server rejects, and a cache would be outside authentication.
    pub fn new<Slots, C>(stack: Stack<Slots, C>) -> HttpServerLayer<ServerStack<Slots, C>>
    where
        Slots: SlotAt<position::TransportPosition, Layer = Empty>
            + Fill<position::TransportPosition, ServerTransport>,
    {
        HttpServerLayer::builder(stack).finish()
    }

    /// Returns a builder of a layer with a stack around each handler.
    pub fn builder<Slots, C>(stack: Stack<Slots, C>) -> HttpServerBuilder<ServerStack<Slots, C>>
    where
        Slots: SlotAt<position::TransportPosition, Layer = Empty>
            + Fill<position::TransportPosition, ServerTransport>,
    {
        let within = Some(stack.reporters().clone());
        let (stack, config) = (stack.with(ServerTransport), Config::default());
        HttpServerBuilder { stack, within, config }
    }
}

impl<L> HttpServerLayer<L> {
    /// Creates a layer with any other layer around each handler.
    ///
    /// It has the defaults of [`builder_around`](Self::builder_around).
    ///
    /// The services of that layer must respond with a `Response<B>`. The data of the body `B` must
    /// be [`Bytes`](bytes::Bytes), and its error a [`BodyError`](crate::http::BodyError). A
    /// [`ResponseBody`](crate::http::ResponseBody) is such a body. The error of the services must
    /// be [`Error<Infallible>`](crate::Error).
    pub fn around(layer: L) -> Self {
        Self::builder_around(layer).finish()
    }

    /// Returns a builder of a layer with any other layer around each handler.
    ///
    /// See [`around`](Self::around) for the requirements on its services.
    pub fn builder_around(layer: L) -> HttpServerBuilder<L> {
        HttpServerBuilder { stack: layer, within: None, config: Config::default() }
    }

    /// Registers the server, which counts from now on. A registered stack registers it too.
    ///
    /// Default: none. Nothing is counted then. The server stays in the first registry.
    ///
    /// It counts its own rejections, which are those by the deadline or limit of a request, and
    /// those of its bodies. The layers of its stack count theirs. A layer
    /// [`outside`](HttpServerBuilder::outside) the stack is registered by itself.
    pub fn register(self, registry: &Registry) -> Self {
        self.shared.reporters.register(registry);
        self
    }

    /// Returns the number of malformed header lines in requests. Such lines are ignored.
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
        // The stack knows then that the limit is the server's and not a caller's.
        let _limit = limiting(self.shared.config.limit);
        HttpServer::new(self.stack.layer(handler), Arc::clone(&self.shared))
    }
}

/// A builder of an [`HttpServerLayer`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct HttpServerBuilder<L> {
    stack: L,
    /// The names and the registry of the stack.
    within: Option<Reporters>,
    config: Config,
}

impl<L> HttpServerBuilder<L> {
    /// Adds a layer between the server and its stack.
    ///
    /// Default: none.
    ///
    /// Use it for an [idempotency layer](crate::idempotency). That layer is then outside the
    /// bulkhead, and a duplicate that it rejects takes no permit.
    ///
    /// The request's deadline is ambient in the added layer, and its rejections become responses.
    /// The layer added last is the outermost.
    ///
    /// Its services must meet the requirements of [`around`](HttpServerLayer::around).
    pub fn outside<G>(self, layer: G) -> HttpServerBuilder<Layers<L, G>> {
        let Self { stack, within, config } = self;
        HttpServerBuilder { stack: Layers::new(stack, layer), within, config }
    }

    /// Sets the name of the server in errors and events.
    ///
    /// Default: the name of its stack, or `server`.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// Sets which of the caller's headers the server uses.
    ///
    /// Default: `Trust::Inbound`. These headers can only shorten the time of their own request.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.config.trust = trust;
        self
    }

    /// Sets the maximum time for a request.
    ///
    /// Default: none.
    ///
    /// The limit runs from the arrival of the request, which may have to wait until the handler is
    /// ready. It covers the time up to the head of the response, and for gRPC up to its last frame.
    /// [`body_deadline`](Self::body_deadline) extends it to the last frame for HTTP. The caller's
    /// deadline may shorten it. After this time the caller receives a 504, or `DEADLINE_EXCEEDED`.
    ///
    /// [`build`](Self::build) rejects zero, because every request would time out. `Duration::MAX`
    /// is no limit.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.config.limit = Some(limit);
        self
    }

    /// Sets the HTTP status of a request that the bulkhead rejects.
    ///
    /// Default: `503`.
    ///
    /// A 429 would say that this caller has sent too many requests. The status applies to
    /// `BulkheadFull` and `QueueTimedOut`. It does not change the gRPC status.
    ///
    /// It must be 4xx or 5xx. [`build`](Self::build) rejects any other status.
    pub fn full_status(mut self, status: StatusCode) -> Self {
        self.config.full = Some(status);
        self
    }

    /// Adds `x-envoy-ratelimited` to each response with `x-should-retry: false`.
    ///
    /// Default: off.
    ///
    /// An Envoy in front of the server then does not retry either. Only Envoy reads this header.
    pub fn for_envoy(mut self) -> Self {
        self.config.for_envoy = true;
        self
    }

    /// Applies the deadline of an HTTP request to the last frame of its response too.
    ///
    /// Default: off.
    ///
    /// Without it, the deadline covers only the head. For gRPC it always covers the last frame. The
    /// deadline ends the body even if the caller does not read it.
    pub fn body_deadline(mut self) -> Self {
        self.config.body_deadline = true;
        self
    }

    /// Sets the maximum time between two frames of a response.
    ///
    /// Default: none.
    ///
    /// There is no limit, because a stream of events may be silent for a long time. The limit ends
    /// the body if the handler sends no frame in time, and also if the caller does not read.
    /// A caller that needs longer than this for one frame does not read in time, even if it accepts
    /// data all the while. See [the module docs](super#permits-and-the-response-body).
    ///
    /// [`build`](Self::build) rejects zero. `Duration::MAX` is no limit.
    pub fn body_idle(mut self, idle: Duration) -> Self {
        self.config.body_idle = Some(idle);
        self
    }

    /// Sets the time after which a response that is not read releases its permits.
    ///
    /// Default: `30 s`.
    ///
    /// A caller that accepts no data stops the connection from reading the body. The response stays
    /// as it is, and the caller may still read it, but it no longer counts in the stack. A caller
    /// that waits for the handler is not affected. If the body has a deadline, or has
    /// [`body_idle`](Self::body_idle), that limit applies instead of this one, and also ends the
    /// body.
    ///
    /// [`build`](Self::build) rejects zero. `Duration::MAX` is no limit.
    pub fn body_unread(mut self, unread: Duration) -> Self {
        self.config.body_unread = unread;
        self
    }

    /// Drops the rest of a rejected request instead of [draining](super#draining) it.
    ///
    /// Default: off. Requests are drained.
    ///
    /// Without draining, an HTTP/1 server closes the connection with the response. A client that is
    /// still sending may then see the closed connection, and not the response.
    pub fn without_drain(mut self) -> Self {
        self.config.without_drain = true;
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] if [`limit`](Self::limit), [`body_idle`](Self::body_idle) or
    /// [`body_unread`](Self::body_unread) is zero, or if [`full_status`](Self::full_status) is not
    /// 4xx or 5xx.
    pub fn build(self) -> Result<HttpServerLayer<L>, ConfigError> {
        self.config.check()?;
        Ok(self.finish())
    }

    fn finish(self) -> HttpServerLayer<L> {
        let uploads = (!self.config.without_drain).then(Uploads::default);
        let reporters = HttpReporters::of_server(self.config.name.as_ref());
        if let Some(stack) = &self.within {
            reporters.inherit(stack);
        }
        let shared =
            Shared { config: self.config, malformed: AtomicU64::new(0), uploads, reporters };
        HttpServerLayer { stack: self.stack, shared: Arc::new(shared) }
    }
}
