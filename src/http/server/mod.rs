//! A server layer that responds to every request in time, and turns rejections into responses.
//!
//! Put an [`HttpServerLayer`] around the routes of a server, or around one of its services. It is
//! not for clients.
//!
//! ```
//! use buttress::{Stack, bulkhead::BulkheadLayer, http::HttpServerLayer};
//! use http::{Request, Response, StatusCode};
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
//! let server = ServiceBuilder::new()
//!     .layer(HttpServerLayer::new(Stack::new().bulkhead(bulkhead)))
//!     .service(service_fn(|_: Request<String>| async {
//!         Ok::<_, Infallible>(Response::new("hello".to_owned()))
//!     }));
//!
//! // The body of the first response is still unread, and holds the only permit.
//! let unread = server.clone().oneshot(Request::default()).await.unwrap();
//! let rejected = server.oneshot(Request::default()).await.unwrap();
//! assert_eq!(rejected.status(), StatusCode::SERVICE_UNAVAILABLE);
//! assert_eq!(rejected.headers()["retry-after"], "1");
//! # drop(unread);
//! # }
//! ```
//!
//! With your own settings:
//!
//! ```
//! use buttress::{Stack, bulkhead::BulkheadLayer, http::{HttpServerLayer, Trust}};
//! use http::StatusCode;
//! use std::time::Duration;
//!
//! let bulkhead = BulkheadLayer::builder().max_concurrent(64).build()?;
//! let layer = HttpServerLayer::builder(Stack::new().bulkhead(bulkhead))
//!     .limit(Duration::from_secs(10))
//!     .full_status(StatusCode::TOO_MANY_REQUESTS)
//!     .trust(Trust::None)
//!     .build()?;
//! # let _ = layer;
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # Rejections as responses
//!
//! A gRPC request, recognised by its `content-type`, receives a trailers-only response with the
//! HTTP status 200. Any other request receives a problem document (RFC 9457). The last column is
//! the time in `Retry-After` or `grpc-retry-pushback-ms`.
//!
//! | rejection | HTTP | gRPC | retry after |
//! |---|---|---|---|
//! | `CircuitOpen` | 503 | 14 | the time until the circuit becomes half-open |
//! | `LoadShed` | 503 | 8 | 1 s |
//! | `BulkheadFull`, `QueueTimedOut` | 503, or [as set](super::HttpServerBuilder::full_status) | 8 | 1 s |
//! | `RateLimited` | 429 | 8 | the time until the next token |
//! | `NotReady`, `NoEndpoint`, `SwitchedOff` | 503 | 14 | |
//! | `TimedOut`, `DeadlineExceeded`, `Elapsed` | 504 | 4 | |
//! | `Idempotency`: `KeyMissing`, `KeyMalformed` | 400 | 3 | |
//! | `Idempotency`: `BodyTooLarge` | 413 | 8 | |
//! | `Idempotency`: `BodyIncomplete` | 408 | 4 | |
//! | `Idempotency`: `ScopeMissing` (the idempotency layer may be outside authentication) | 500 | 13 | |
//! | `Idempotency`: `Mismatch` | 422 | 3 | |
//! | `Idempotency`: `InFlight` | 409 | 10 | the time set on the idempotency layer |
//! | `Idempotency`: `NotReplayable`, `Unknown` | 409 | 9 | |
//! | `Idempotency`: `StoreUnavailable`, `Full` | 503 | 14 | 1 s |
//! | `Shared`, by its outcome: transient; permanent or ignored | 502 | 14; 13 | |
//! | `Shared`: timed out | 504 | 4 | |
//! | `Shared`: overloaded; in progress | 503; 409 | 14; 10 | the time that it carries |
//!
//! The `type` of a problem document is `about:blank`. Each reason of the
//! [idempotency layer](crate::idempotency) has its own URL instead, for example
//! `https://docs.rs/buttress/latest/buttress/error/enum.IdempotencyReason.html#variant.Unknown`.
//! There are two kinds of 409, and a client may retry only the one with a `Retry-After`.
//!
//! The layer responds to its own rejections and those of its stack. A rejection of a client that
//! the handler calls is a result like any other, and no function turns it into a response. Write
//! one of your own with this table, such as
//! [the `AppError` of the recipe](crate::guide::frameworks#how-do-i-keep-a-client-in-axums-state).
//!
//! If a rejection proves that the handler was not called, its response has the extension
//! [`NotStarted`](super::idempotency::NotStarted). An idempotency layer around the server then
//! frees the key.
//!
//! # Draining
//!
//! A rejection may meet a request whose body was not read. An HTTP/1 server that drops such a body
//! closes the connection, unless all of it has arrived. A client that is still sending would then
//! see a broken connection instead of the response. The layer therefore reads the rest of the
//! request and discards it, in a task of the tokio runtime. The response does not wait for that
//! task. The connection can be used again after the task has ended.
//!
//! The layer reads at most 16 MiB of a request, for at most 5 s, and at most 64 requests at a time.
//! For the 65th, it ends the oldest task. A request with a known length above 16 MiB is not read.
//! The connection is closed when its request is not read to the end. No permit of this crate is
//! held meanwhile. [`without_drain`](super::HttpServerBuilder::without_drain) switches this off.
//!
//! A client that stops sending keeps its connection for up to 5 s, and a graceful shutdown of the
//! server waits for it. The client sees the end of the response at once by its length, but the end
//! of the connection only then.
//!
//! The layer drains requests that were rejected
//!
//! - by this layer itself, before it called the handler;
//! - by a bulkhead or a circuit breaker of its [`Stack`](crate::Stack), and by a limit that ended
//!   in the queue of the bulkhead;
//! - by an [idempotency layer](crate::idempotency). It also drains if that layer replays a response
//!   without having read the request;
//! - by an idempotency layer or a server within the handler. This includes requests that the
//!   handler itself makes and passes to such a layer in the same process.
//!
//! The layer does not drain
//!
//! - requests with `Expect: 100-continue` whose body has not been polled, because their clients
//!   wait;
//! - requests over HTTP/2, where a rejected stream leaves the connection open;
//! - requests whose caller has left;
//! - requests that a handler or a layer of your own has, because the body is dropped with them. A
//!   handler that responds without reading its request, or runs until its limit, is an example;
//! - requests that wait beneath a total timeout until the stack is ready;
//! - requests outside a tokio runtime. In a runtime without timers nothing is drained either, and
//!   each task reports a panic, which the runtime catches. `without_drain` prevents that.
//!
//! Requests must therefore have a [`Body`](http_body::Body) that is `Send` and `'static`. In tests,
//! use a `Request<String>` instead of a `Request<()>`.
//!
//! # Reading the caller's headers
//!
//! The server reads the time that the caller has left. It subtracts 5 % (1 ms to 100 ms), because
//! the response must arrive in time. Set [`Trust::None`] to ignore the caller's headers.
//!
//! This layer enforces that deadline. A client that the handler calls sees it as
//! [`Deadline::current`](crate::Deadline::current).
//! [`Attempt::current`](crate::context::Attempt::current) is the caller's attempt, until a retry
//! makes its own. Beneath an idempotency layer the deadline is the limit of the run instead, and
//! there is no attempt.
//!
//! # Advice to the caller
//!
//! The server advises the caller not to retry in three cases:
//!
//! - while handling this request, a [retry](crate::retry) layer gave up on a retryable failure,
//!   unless it ran out of time before its first retry;
//! - while handling this request, a retry layer or an HTTP client was itself told not to retry;
//! - the response already carries the advice, as a recorded failure of an
//!   [idempotency layer](crate::idempotency) does.
//!
//! The advice is `x-should-retry: false`, or `grpc-retry-pushback-ms: -1` for gRPC. The server
//! sends it only with failures (5xx, 421, 425, 429, or a gRPC status in the head). A rejection by
//! the server's own stack does not carry it, because another instance may have room. A timeout of
//! the server does carry it.
//!
//! A request that hangs is retried by the first hop. The others have no time for that, because
//! their deadline is that of one attempt of their caller.
//!
//! # Readiness
//!
//! The service is always ready. Its limits run from `call`, and therefore include the time in which
//! a request waits for the stack and the handler to become ready. The request waits in its future,
//! for a clone of the stack and the handler. The handler must therefore be `Clone`.
//!
//! A service outside this layer cannot see that the stack is not ready, for example because of a
//! bulkhead with [`backpressure`](crate::bulkhead::BulkheadBuilder::backpressure). Let the bulkhead
//! reject or queue instead. Without a limit, requests wait for the stack as long as it takes.
//!
//! # Clone
//!
//! All clones share the state of the stack. The state belongs to the layer. It is therefore shared
//! even if a framework creates a service for each connection. A clone starts without readiness.
//!
//! # Cancellation
//!
//! When the deadline passes, the handler's future is dropped before the response is created.
//! Dropping the server's future drops the handler's future.
//!
//! # Errors
//!
//! None. The error is [`Infallible`](std::convert::Infallible), as axum and tonic require.
//!
//! # Order
//!
//! Put the layer around the routes, and outside authentication if authentication may take long. If
//! it contains an [idempotency layer](super::HttpServerBuilder::outside), put it inside
//! authentication, because the idempotency layer must know who owns a key.
//!
//! # Permits and the response body
//!
//! The stack holds its permits until the body of the response has ended. If a caller does not read
//! its response, the connection stops polling the body. The layer then ends the call by itself, on
//! the timer of the tokio runtime and without a task:
//!
//! | limit of the body | after | effect |
//! |---|---|---|
//! | none | 30 s without a read ([`body_unread`](super::HttpServerBuilder::body_unread)) | releases the permits; the caller may still read |
//! | a deadline: gRPC, or [`body_deadline`](super::HttpServerBuilder::body_deadline) | the deadline | releases the permits and drops the body |
//! | [`body_idle`](super::HttpServerBuilder::body_idle) | that time without a read | the same |
//!
//! The handler is not to blame. Its call counts as a success, or not at all if its gRPC status is
//! not known yet. A caller that waits for the handler is no slow reader.
//!
//! The time runs from the last frame that the connection took, and over HTTP/2 from the head,
//! because hyper 1.6 does not poll a body there before the caller grants a window. A read is a
//! frame that the connection takes, not a byte that the caller accepts. A large frame over a slow
//! link may take longer than the limit, although the caller reads on. With `body_idle`, let the
//! handler send frames that the slowest caller can accept in that time.
//!
//! A caller that reads very slowly takes a frame now and then, and keeps its permits. Only a
//! deadline bounds it.
//!
//! A limit drops the body on the thread that drives the timers. If its `Drop` blocks, the timers of
//! the runtime are late.
//!
//! Without a limit the body stays. If it is the response of another stack, as in a proxy, it keeps
//! the permits of that stack until it has ended or is dropped.
//!
//! The timer needs a tokio runtime with timers (`enable_time`). Without a runtime, nothing watches
//! the caller. In a runtime without timers nothing does either, and each such response reports a
//! panic, which is caught. A response that outlives its runtime may do so too. With
//! `panic = "abort"`, such a panic ends the process. In a runtime without timers, set
//! `body_unread(Duration::MAX)` and no limit of the body.
//!
//! Some responses end at their head, even if they have a body, because the server drops that body
//! unread: a response to `HEAD`, a 204, a 304, and an upgrade (101, or a successful `CONNECT`). The
//! stack releases its permits at the head, although an upgraded connection lives on.
//!
//! After the head, the status can no longer change. A gRPC response that reaches its deadline ends
//! with the status in its trailers. Any other response is cut off.
//!
//! # Telemetry
//!
//! The stack emits its events and spans. A request whose deadline passes emits a `WARN` event:
//! "call timed out", or "call rejected" if the stack and its handler were not called. A response
//! that is not read, or that reaches a limit, emits "call timed out" too. Its
//! [kind](crate::telemetry::field::KIND) is `unread_response_body`, `idle_response_body` or
//! `response_body`, and its layer is the name of the server.
//!
//! With [`Stack::register`](crate::Stack::register), or with
//! [`HttpServerLayer::register`](super::HttpServerLayer::register), these rejections are counted in
//! a [`Registry`](crate::telemetry::Registry). The rejections of the stack's layers are counted by
//! these layers.
//!
//! [`HttpServerLayer`]: super::HttpServerLayer
//! [`Trust::None`]: super::Trust::None

mod answer;
mod body;
pub(super) mod config;
pub(super) mod future;
pub(super) mod handler;
mod inbound;
pub(super) mod layer;
mod service;
mod shared;
mod status;

pub use self::{body::HttpServerBody, handler::Handler, service::HttpServer};
