use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::StatusCode;
use tower_layer::{Layer, Stack as Layers};

use super::{
    config::{Config, Trust},
    handler::Handler,
    service::Server,
};
use crate::{
    Stack,
    stack::{Empty, ServerEdge},
};

/// Puts a [`Stack`] around a handler, and turns its rejections into responses. See the
/// [module docs](super) for an example.
///
/// One type for `axum::Router::layer`, for `tonic::transport::Server::layer`, and around a single
/// service. The layer has the state of its stack: its clones, and all services that it makes, share it.
#[derive(Clone)]
pub struct ServerLayer<L> {
    stack: L,
    config: Arc<Config>,
}

type ServerStack<T, R, B, K, A, C> = Stack<T, R, B, K, A, ServerEdge, C>;

impl<T, R, B, K, A, C> ServerLayer<ServerStack<T, R, B, K, A, C>> {
    /// A stack around each handler: a bulkhead as a rule, and a total timeout. What its layers hold is
    /// held until the body of the response has ended. An empty stack is fine: the caller's deadline is
    /// still kept, and its retries are told when to stop.
    pub fn new(stack: Stack<T, R, B, K, A, Empty, C>) -> Self {
        Self::around(stack.on_server())
    }
}

impl<L> ServerLayer<L> {
    /// Any other layer around each handler. Its services are asked for a `Response<B>` with a body
    /// of [`Bytes`](bytes::Bytes) whose error is a [`BodyError`](crate::http::BodyError), as that
    /// of a [`ResponseBody`](crate::http::ResponseBody) is, and for an error of
    /// [`Error<Infallible>`](crate::Error).
    pub fn around(layer: L) -> Self {
        let config = Config {
            trust: Trust::Inbound,
            limit: None,
            full: None,
            for_envoy: false,
            body_deadline: false,
            body_idle: None,
            malformed: Arc::default(),
        };
        Self { stack: layer, config: Arc::new(config) }
    }

    /// Puts a layer around the stack, and inside of what the server does itself: the request's deadline is ambient
    /// there, and its rejections are answered. So an idempotency guard stands outside of the bulkhead, and a
    /// duplicate takes no slot. Said again, the last one stands outermost.
    ///
    /// Its services are asked for what those of [`around`](Self::around) are.
    pub fn outside<G>(self, layer: G) -> ServerLayer<Layers<L, G>> {
        ServerLayer { stack: Layers::new(self.stack, layer), config: self.config }
    }

    fn set(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(Arc::make_mut(&mut self.config));
        self
    }

    /// What is believed of a request; [`Trust::Inbound`] until it is set.
    pub fn trust(self, trust: Trust) -> Self {
        self.set(|config| config.trust = trust)
    }

    /// The server's own limit for a request, to the head of its response and for gRPC to its last frame;
    /// none until it is set.
    pub fn limit(self, limit: Duration) -> Self {
        self.set(|config| config.limit = Some(limit))
    }

    /// The HTTP status of a request that finds the bulkhead full or waited too long in its queue. The
    /// default is 503, for 429 says that this caller has sent too much.
    pub fn full_status(self, status: StatusCode) -> Self {
        self.set(|config| config.full = Some(status))
    }

    /// Writes `x-envoy-ratelimited` where it writes `x-should-retry: false`: an Envoy above then does
    /// not retry either.
    pub fn for_envoy(self) -> Self {
        self.set(|config| config.for_envoy = true)
    }

    /// Applies the deadline of an HTTP request to the last frame of its response too. For gRPC it
    /// always applies.
    pub fn body_deadline(self) -> Self {
        self.set(|config| config.body_deadline = true)
    }

    /// How long the connection waits for the next frame of a response. There is no limit until it is
    /// set: a stream of events may be silent for long.
    pub fn body_idle(self, idle: Duration) -> Self {
        self.set(|config| config.body_idle = Some(idle))
    }

    /// How many header lines of requests were malformed, and therefore ignored.
    pub fn malformed_headers(&self) -> u64 {
        self.config.malformed.load(Ordering::Relaxed)
    }
}

impl<L: fmt::Debug> fmt::Debug for ServerLayer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerLayer")
            .field("stack", &self.stack)
            .field("config", &self.config)
            .finish()
    }
}

impl<S, L> Layer<S> for ServerLayer<L>
where
    L: Layer<Handler<S>>,
{
    type Service = Server<L::Service, S>;

    fn layer(&self, handler: S) -> Self::Service {
        let handler = Handler::new(handler, Arc::clone(&self.config));
        Server::new(self.stack.layer(handler), Arc::clone(&self.config))
    }
}
