//! Answers every request in time, and says why when it is not the handler that answers.
//!
//! Put a [`ServerLayer`] around the routes of a server, or around one service of it. It is not for clients.
//!
//! ```
//! use buttress::{Stack, bulkhead::BulkheadLayer, http::ServerLayer};
//! use http::{Request, Response, StatusCode};
//! use std::{convert::Infallible, num::NonZeroU32};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let bulkhead = BulkheadLayer::new(NonZeroU32::MIN);
//! let server = ServiceBuilder::new()
//!     .layer(ServerLayer::new(Stack::new().bulkhead(bulkhead)))
//!     .service(service_fn(|_: Request<String>| async {
//!         Ok::<_, Infallible>(Response::new("hello".to_owned()))
//!     }));
//!
//! let held = server.clone().oneshot(Request::default()).await.unwrap();
//! let refused = server.oneshot(Request::default()).await.unwrap();
//! assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
//! assert_eq!(refused.headers()["retry-after"], "1");
//! # drop(held);
//! # }
//! ```
//!
//! With settings of one's own:
//!
//! ```
//! use buttress::{Stack, bulkhead::BulkheadLayer, http::{ServerLayer, Trust}};
//! use http::StatusCode;
//! use std::time::Duration;
//!
//! let bulkhead = BulkheadLayer::builder().max_concurrent(64).build()?;
//! let layer = ServerLayer::new(Stack::new().bulkhead(bulkhead))
//!     .limit(Duration::from_secs(10))
//!     .full_status(StatusCode::TOO_MANY_REQUESTS)
//!     .trust(Trust::None);
//! # let _ = layer;
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # What a rejection is answered with
//!
//! By the request's `content-type` a gRPC trailers-only answer, whose HTTP status is 200, or a problem
//! document (RFC 9457).
//!
//! | rejection | HTTP | gRPC | come back |
//! |---|---|---|---|
//! | `CircuitOpen` | 503 | 14 | when the circuit is half-open |
//! | `BulkheadFull`, `QueueTimedOut` | 503, or [as set](ServerLayer::full_status) | 8 | after 1 s |
//! | `RateLimited` | 429 | 8 | with the next token |
//! | `NotReady` | 503 | 14 | |
//! | `TimedOut`, `DeadlineExceeded` | 504 | 4 | |
//! | `Idempotency`: `KeyMissing`, `KeyMalformed` | 400 | 3 | |
//! | `Idempotency`: `BodyTooLarge` | 413 | 8 | |
//! | `Idempotency`: `BodyIncomplete` | 408 | 4 | |
//! | `Idempotency`: `ScopeMissing`: the guard stands outside authentication | 500 | 13 | |
//! | `Idempotency`: `Mismatch` | 422 | 3 | |
//! | `Idempotency`: `InFlight` | 409 | 10 | as the guard says |
//! | `Idempotency`: `NotReplayable`, `Unknown` | 409 | 9 | |
//! | `Idempotency`: `StoreUnavailable`, `Full` | 503 | 14 | after 1 s |
//!
//! The `type` of a problem document is `about:blank`, and for each reason of the
//! [idempotency guard](crate::idempotency) a URL of its own,
//! `https://docs.rs/buttress/latest/buttress/enum.IdempotencyReason.html#variant.Unknown` for example: of the two kinds of
//! 409 only the one with a `Retry-After` may be sent again.
//!
//! A refusal that means that the handler was not asked has the extension
//! [`NotStarted`](super::idempotency::NotStarted): an idempotency guard around such a server then frees the key.
//!
//! # What a caller is believed
//!
//! The time that it has left, less 5 % (1 to 100 ms) for the answer to reach it: see [`Trust`]. The layer is
//! the owner of that deadline. What a handler calls sees it as
//! [`Deadline::current`](crate::Deadline::current), and [`Attempt::current`] is the caller's
//! until a retry has its own. Beneath an idempotency guard there is the limit of the run in their place, and
//! no attempt.
//!
//! # What a caller is told
//!
//! Not to retry, when a [retry](crate::retry) gave up on a retryable failure while its request was handled, or
//! was itself told not to: by `x-should-retry: false`, or `grpc-retry-pushback-ms: -1`, on failures only
//! (5xx, 429, a gRPC status in the head). A refusal of the stack is no reason: another instance may have room.
//!
//! # Readiness
//!
//! That of the stack.
//!
//! # Clone
//!
//! The state is that of the stack: it belongs to the layer, whatever a framework does for each connection.
//!
//! # Cancellation
//!
//! When the time is over, the handler's future is dropped before the answer is made.
//!
//! # Errors
//!
//! None: the error is [`Infallible`], as axum and tonic ask.
//!
//! # Order
//!
//! Around the routes, and outside of authentication, if that may take long; but inside of it with an
//! [idempotency guard](ServerLayer::outside), which has to know whose keys they are. A response to `HEAD`, a 204, a 304
//! and an upgrade (101, or a successful `CONNECT`) end at their head whatever body they have, for the
//! server drops it unread: what the stack holds is given back then, although an upgraded connection lives on.
//!
//! # What is held for how long
//!
//! Until the body has ended, which it can only while somebody polls it. A caller that asks and then does not
//! read makes the server stop polling, and no limit of the body can act: against that, limit the time
//! that a connection may take to accept what is written. After the head no status can be answered any more:
//! a gRPC response that runs into its deadline ends with the status in its trailers, any other is broken off.
//!
//! # Telemetry
//!
//! That of the stack; a `WARN` event for a request whose time is over.

mod answer;
mod body;
mod future;
mod handler;

use std::{
    convert::Infallible,
    fmt,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;
use tower_layer::{Layer, Stack as Layers};
use tower_service::Service;

use super::{BodyError, wire};
use crate::{
    Attempt, Error, Stack,
    stack::{Empty, ServerEdge},
};

#[cfg(feature = "tonic")]
pub(super) use self::answer::statuses;
pub use self::{
    body::ServerBody,
    future::ServerFuture,
    handler::{Handler, HandlerFuture},
};

/// What is believed of that which a caller says about its call.
///
/// Whatever it says, it can only have less time: nothing in a request lengthens a limit, forces or
/// forbids a retry, or makes a request replayable, and no header moves state that callers share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The time that the caller has left narrows the server's own limit, and the number of its attempt
    /// is recorded. The default.
    #[default]
    Inbound,
    /// Nothing is read.
    None,
}

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

/// Settings of a server, and its counter.
#[derive(Clone, Debug)]
struct Config {
    trust: Trust,
    limit: Option<Duration>,
    full: StatusCode,
    for_envoy: bool,
    body_deadline: bool,
    body_idle: Option<Duration>,
    malformed: Arc<AtomicU64>,
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
    /// Any other layer around each handler. Its services are asked for a `Response<B>` with a body of [`Bytes`] whose
    /// error is a [`BodyError`], as that of a [`ResponseBody`](super::ResponseBody) is, and for an error
    /// of [`Error<Infallible>`].
    pub fn around(layer: L) -> Self {
        let config = Config {
            trust: Trust::Inbound,
            limit: None,
            full: StatusCode::SERVICE_UNAVAILABLE,
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
        self.set(|config| config.full = status)
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
        Server {
            inner: self.stack.layer(handler),
            config: Arc::clone(&self.config),
            handler: PhantomData,
        }
    }
}

/// Answers every request: with what the handler says, or with why it was not asked. Made by
/// [`ServerLayer`].
pub struct Server<S, H> {
    inner: S,
    config: Arc<Config>,
    handler: PhantomData<fn() -> H>,
}

accessors!(Server<S, H>);

impl<S: Clone, H> Clone for Server<S, H> {
    fn clone(&self) -> Self {
        let config = Arc::clone(&self.config);
        Self { inner: self.inner.clone(), config, handler: PhantomData }
    }
}

impl<S: fmt::Debug, H> fmt::Debug for Server<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("inner", &self.inner)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "tonic")]
impl<S, H: tonic::server::NamedService> tonic::server::NamedService for Server<S, H> {
    const NAME: &'static str = H::NAME;
}

impl<S, H, B, R, E> Service<Request<B>> for Server<S, H>
where
    S: Service<Request<B>, Response = Response<R>, Error = Error<Infallible>>,
    R: Body<Data = Bytes, Error = BodyError<E>>,
{
    type Response = Response<ServerBody<R>>;
    type Error = Infallible;
    type Future = ServerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // What a layer has to refuse it refuses in `call`, where there is somebody to answer; a handler
        // cannot fail.
        self.inner.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inbound = self.config.read(request.headers());
        let inner = &mut self.inner;
        ServerFuture::begin(Arc::clone(&self.config), inbound, || inner.call(request))
    }
}

/// What a request says about its call.
#[derive(Clone, Copy, Debug)]
struct Inbound {
    grpc: bool,
    began: Instant,
    /// When the answer must be there; `None` if the request may take for ever.
    end: Option<Instant>,
    attempt: Option<Attempt>,
}

impl Config {
    fn read(&self, headers: &HeaderMap) -> Inbound {
        let began = Instant::now();
        let grpc = wire::is_grpc(headers);
        let (time, attempt) = match self.trust {
            Trust::Inbound => self.inbound(headers, grpc),
            Trust::None => (None, None),
        };
        let end = [self.limit, time].into_iter().flatten().min();
        Inbound { grpc, began, end: end.and_then(|limit| began.checked_add(limit)), attempt }
    }

    /// The time that the caller leaves for an answer, and its attempt.
    fn inbound(&self, headers: &HeaderMap, grpc: bool) -> (Option<Duration>, Option<Attempt>) {
        let (time, attempt, malformed);
        if grpc {
            let (timeout, previous) =
                (wire::grpc_timeout(headers), wire::previous_attempts(headers));
            time = timeout.value;
            attempt = previous.value.map(|previous| previous.saturating_add(1));
            malformed = timeout.malformed.saturating_add(previous.malformed);
        } else {
            let (envoy, connect) =
                (wire::expected_timeout(headers), wire::connect_timeout(headers));
            let count = wire::attempt_count(headers);
            time = [envoy.value, connect.value].into_iter().flatten().min();
            attempt = count.value;
            malformed =
                envoy.malformed.saturating_add(connect.malformed).saturating_add(count.malformed);
        }
        if malformed > 0 {
            self.malformed.fetch_add(malformed.into(), Ordering::Relaxed);
        }
        (time.map(without_margin), attempt.map(Attempt::received))
    }
}

/// What is left of the caller's time when enough is kept back for the answer to reach it.
fn without_margin(time: Duration) -> Duration {
    let margin = (time / 20).clamp(Duration::from_millis(1), Duration::from_millis(100));
    time.saturating_sub(margin)
}
