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
//! A gRPC request, by its `content-type`, receives a trailers-only response whose HTTP status is
//! 200. Any other request receives a problem document (RFC 9457).
//!
//! | rejection | HTTP | gRPC | come back |
//! |---|---|---|---|
//! | `CircuitOpen` | 503 | 14 | when the circuit becomes half-open |
//! | `BulkheadFull`, `QueueTimedOut` | 503, or [as set](super::HttpServerBuilder::full_status) | 8 | after 1 s |
//! | `RateLimited` | 429 | 8 | with the next token |
//! | `NotReady` | 503 | 14 | |
//! | `TimedOut`, `DeadlineExceeded` | 504 | 4 | |
//! | `Idempotency`: `KeyMissing`, `KeyMalformed` | 400 | 3 | |
//! | `Idempotency`: `BodyTooLarge` | 413 | 8 | |
//! | `Idempotency`: `BodyIncomplete` | 408 | 4 | |
//! | `Idempotency`: `ScopeMissing`: the idempotency layer is outside authentication | 500 | 13 | |
//! | `Idempotency`: `Mismatch` | 422 | 3 | |
//! | `Idempotency`: `InFlight` | 409 | 10 | as the idempotency layer says |
//! | `Idempotency`: `NotReplayable`, `Unknown` | 409 | 9 | |
//! | `Idempotency`: `StoreUnavailable`, `Full` | 503 | 14 | after 1 s |
//!
//! The `type` of a problem document is `about:blank`. Each reason of the
//! [idempotency layer](crate::idempotency) has its own URL instead, for example
//! `https://docs.rs/buttress/latest/buttress/enum.IdempotencyReason.html#variant.Unknown`. There
//! are two kinds of 409, and a client may retry only the one with a `Retry-After`.
//!
//! A rejection that proves that the handler was not called has the extension
//! [`NotStarted`](super::idempotency::NotStarted). An idempotency layer around such a server then
//! frees the key.
//!
//! # Reading the caller's headers
//!
//! The server reads the time that the caller has left, and keeps back 5 % (1 ms to 100 ms) for the
//! response to travel. See [`Trust`] for the setting.
//!
//! This layer enforces that deadline. A client that the handler calls sees it as
//! [`Deadline::current`](crate::Deadline::current).
//! [`Attempt::current`](crate::context::Attempt::current) is the caller's attempt, until a retry
//! makes its own. Beneath an idempotency layer the deadline is the limit of the run instead, and
//! there is no attempt.
//!
//! # Advice to the caller
//!
//! The server advises the caller not to retry in two cases:
//!
//! - a [retry](crate::retry) gave up on a retryable failure while it handled this request;
//! - a retry or an HTTP client was itself told not to retry.
//!
//! It does so by `x-should-retry: false` or `grpc-retry-pushback-ms: -1`, and only on failures
//! (5xx, 429, or a gRPC status in the head). A rejection of its own stack is no reason, unless
//! the call timed out, because another instance may have room.
//!
//! # Readiness
//!
//! The layer is ready when its stack is.
//!
//! # Clone
//!
//! The state is the stack's. It belongs to the layer, even when a framework makes a service for
//! each connection.
//!
//! # Cancellation
//!
//! When the time is over, the handler's future is dropped before the response is made.
//!
//! # Errors
//!
//! None. The error is [`Infallible`](std::convert::Infallible), as axum and tonic require.
//!
//! # Order
//!
//! Put it around the routes, and outside authentication if that may take long. With an
//! [idempotency layer](super::HttpServerBuilder::outside) put it inside authentication, because
//! that layer must know who owns a key.
//!
//! # Permits and the response body
//!
//! The stack holds its permits until the body of the response has ended. A body can end only while
//! somebody polls it. A caller that does not read its response makes the server stop polling, and
//! then no limit of the body can act. To prevent that, limit the time that a connection may take to
//! accept a write.
//!
//! Some responses end at their head, whatever body they have, because the server drops that body
//! unread: a response to `HEAD`, a 204, a 304, and an upgrade (101, or a successful `CONNECT`). The
//! stack releases its permits at the head, although an upgraded connection lives on.
//!
//! After the head, the status can no longer change. A gRPC response that reaches its deadline ends
//! with the status in its trailers. Any other response is cut off.
//!
//! # Telemetry
//!
//! The events and spans of the stack, and a `WARN` event for a request whose time is over: "call
//! timed out", or "call rejected" if the handler was not called.
//!
//! [`HttpServerLayer`]: super::HttpServerLayer
//! [`Trust`]: super::Trust

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
