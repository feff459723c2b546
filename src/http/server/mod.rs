//! Answers every request in time, and says why when it is not the handler that answers.
//!
//! Put an [`HttpServerLayer`] around the routes of a server, or around one service of it. It is not
//! for clients.
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
//! # What a rejection is answered with
//!
//! By the request's `content-type` a gRPC trailers-only answer, whose HTTP status is 200, or a problem
//! document (RFC 9457).
//!
//! | rejection | HTTP | gRPC | come back |
//! |---|---|---|---|
//! | `CircuitOpen` | 503 | 14 | when the circuit is half-open |
//! | `BulkheadFull`, `QueueTimedOut` | 503, or [as set](super::HttpServerBuilder::full_status) | 8 | after 1 s |
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
//! `https://docs.rs/buttress/latest/buttress/error/enum.IdempotencyReason.html#variant.Unknown` for example: of the two kinds of
//! 409 only the one with a `Retry-After` may be sent again.
//!
//! A refusal that means that the handler was not asked has the extension
//! [`NotStarted`](super::idempotency::NotStarted): an idempotency guard around such a server then frees the key.
//!
//! # What a caller is believed
//!
//! The time that it has left, less 5 % (1 to 100 ms) for the answer to reach it: see [`Trust`]. The layer is
//! the owner of that deadline. What a handler calls sees it as
//! [`Deadline::current`](crate::Deadline::current), and
//! [`Attempt::current`](crate::context::Attempt::current) is the caller's until a retry has its own. Beneath
//! an idempotency guard there is the limit of the run in their place, and no attempt.
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
//! None: the error is [`Infallible`](std::convert::Infallible), as axum and tonic ask.
//!
//! # Order
//!
//! Around the routes, and outside of authentication, if that may take long; but inside of it with
//! an [idempotency guard](super::HttpServerBuilder::outside), which has to know whose keys they
//! are. A response to `HEAD`, a 204, a 304 and an upgrade (101, or a successful `CONNECT`) end at
//! their head whatever body they have, for the server drops it unread: what the stack holds is
//! given back then, although an upgraded connection lives on.
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
