//! Resilience middleware for tower: timeouts, retries with a budget, circuit breakers, bulkheads,
//! fallbacks, caches, endpoints, idempotency.
//!
//! The layers wrap any [`tower::Service`], most often an HTTP or gRPC client. [`Stack`] nests
//! [fallback], [cache], [timeout], [retry] with a [budget](retry::Budget), [bulkhead] and
//! [circuit breaker](circuit_breaker) in the right order. Beneath it, [endpoints] call one of
//! several instances, and a [chaos] layer injects faults, to try all this before an outage does.
//! [`http`] has what clients and servers of HTTP and gRPC need. In front of a handler, the
//! [idempotency] layer runs an operation once, however often it is requested.
//!
//! [`tower::Service`]: tower_service::Service
//!
//! # Example
//!
//! A stack around hyper's client. It also needs the crates `http-body-util`, `hyper`, `hyper-util`
//! (features `client-legacy`, `http1`, `tokio`), `tokio` (features `macros`, `rt-multi-thread`) and
//! `tower` (feature `util`):
//!
#![cfg_attr(feature = "http", doc = "```no_run")]
#![cfg_attr(not(feature = "http"), doc = "```text")]
//! use buttress::{BoxError, Stack};
//! use http_body_util::{BodyExt, Full};
//! use hyper::{Request, body::Bytes};
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::ServiceExt;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
//!     let client = Stack::standard_http().service(client);
//!
//!     let request = Request::get("http://127.0.0.1:8080/").body(Full::default())?;
//!     let response = client.clone().oneshot(request).await?;
//!     println!("{}", response.status());
//!     // The timeouts cover the head. The call ends with its body, so read it, or drop it.
//!     let body = response.into_body().collect().await?.to_bytes();
//!     println!("{} bytes", body.len());
//!     Ok(())
//! }
//! ```
//!
//! A stack around a service that is not HTTP. The replay policy says which requests may be sent
//! again. Here these are all requests:
//!
//! ```
//! use buttress::{Error, Stack, retry::ReplayClones};
//! use std::io;
//! use tower::{ServiceExt, service_fn};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Error<io::Error>> {
//!     let client = service_fn(|name: &'static str| async move {
//!         Ok::<_, io::Error>(format!("hello {name}"))
//!     });
//!     let client = Stack::standard(ReplayClones).service(client);
//!
//!     assert_eq!(client.oneshot("world").await?, "hello world");
//!     Ok(())
//! }
//! ```
//!
//! # Main items
//!
//! | item | use |
//! |---|---|
//! | [`Stack`] | Puts the layers around a client in the right order. Start here. |
//! | [`TimeoutLayer`] | Limits the time of a call, or of each attempt. |
//! | [`RetryLayer`] | Retries with backoff, jitter and a budget. |
//! | [`BulkheadLayer`] | Limits concurrent calls, with or without a queue. |
//! | [`CircuitBreakerLayer`] | Stops calling a dependency that fails. |
//! | [`Endpoints`] | Calls one of several instances, and avoids those that fail. |
//! | [`FallbackLayer`] | Responds when the service cannot, and switches it off by hand. |
//! | [`CacheLayer`] | Keeps responses, shares calls, and gives older responses when a call fails. |
//! | [`IdempotencyLayer`] | Runs an operation once, however often it is requested. |
//! | [`ChaosLayer`] | Injects faults while it is armed, to try what a stack does about them. |
//! | [`ReplaySafe`] | Replays only the HTTP requests that are safe to replay. |
//! | [`HttpServerLayer`] | Turns rejections into responses, and enforces the caller's deadline. |
//! | [`Error`] | The error of a stack: a rejection, or the service's own error. |
//! | [`Rejection`] | Says which layer rejected a call, why, and when to try again. |
//! | [`Outcome`], [`Classify`] | Say whether a result is a success, and what kind of failure it is. |
//! | [`Deadline`] | The time that the current call has left. |
//! | [`Registry`](telemetry::Registry) | Counts what the stacks do, and waits for their calls. |
//!
//! [`TimeoutLayer`]: timeout::TimeoutLayer
//! [`RetryLayer`]: retry::RetryLayer
//! [`CircuitBreakerLayer`]: circuit_breaker::CircuitBreakerLayer
//! [`BulkheadLayer`]: bulkhead::BulkheadLayer
//! [`Endpoints`]: endpoints::Endpoints
//! [`FallbackLayer`]: fallback::FallbackLayer
//! [`CacheLayer`]: cache::CacheLayer
//! [`IdempotencyLayer`]: idempotency::IdempotencyLayer
//! [`ChaosLayer`]: chaos::ChaosLayer
//! [`ReplaySafe`]: http::ReplaySafe
//! [`HttpServerLayer`]: http::HttpServerLayer
//!
//! # Guides
//!
//! | guide | content |
//! |---|---|
//! | [HTTP and gRPC](guide::http) | hyper, reqwest, tonic, axum; replay, bodies, deadlines across services |
//! | [Idempotency](guide::idempotency) | server, client, stores, duplicates, unknown outcomes |
//! | [Recipes](guide::recipes) | short answers to common tasks |
//! | [Frameworks](guide::frameworks) | the same with axum, reqwest, tonic and Redis |
//! | [Troubleshooting](guide::troubleshooting) | compile errors, calls that are not retried or cached, breakers that stay open |
//! | [Coming from](guide::coming_from) | names for users of tower, tower-resilience, Polly, resilience4j and moka |
//!
//! # Order
//!
//! Outermost first. [`stack`] gives the reasons.
//!
//! ```text
//! around_call > fallback > cache > total timeout > retry > bulkhead > circuit breaker
//!     > attempt timeout > around_attempt > http > service
//! ```
//!
//! # Rules of every layer
//!
//! - A layer does not change the error type. The type must be able to carry a [`Rejection`], see
//!   [`CarryRejection`].
//! - State lives in the layer. Its clones, and all services made from it, share it.
//! - Each admitted call is counted exactly once, whether it finishes, is dropped or panics.
//! - Rejections come from `call`, never from `poll_ready`.
//! - A call that succeeds allocates nothing, and arms no timer until it must wait. There are four
//!   exceptions. A stack with [`http()`](Stack::http) adds headers and copies requests that it may
//!   replay. The [`idempotency`] layer runs each operation in a task of its own, and so does the
//!   [`cache`] with each call that callers can share. A cache for HTTP copies the headers of a
//!   response that it gives.
//! - All times are measured by tokio's clock. In tests, a paused clock controls all layers.
//!
//! # Features
//!
//! | feature | content |
//! |---|---|
//! | `http` (default) | [`http`]: classifiers, `Retry-After`, replayed bodies, calls that end with their body, deadlines and attempts in headers, and a layer for servers |
//! | `hyper` | For hyper's client: recognises requests that were provably not processed, which are then retried whatever their method. |
//! | `tonic` | [`http::grpc`]: a stack around a channel, and a `tonic::Status` for a rejection; enables `hyper` |
//! | `reqwest` | `http::reqwest`: a stack around a `reqwest::Client`; enables `hyper` |
//! | `test-util` | [`testing`](https://docs.rs/buttress/latest/buttress/testing/): contract checks, a cancellation harness, a scripted service |
//!
//! For idempotency records that outlive the process, there are the crates
//! [`buttress-redb`](https://docs.rs/buttress-redb),
//! [`buttress-redis`](https://docs.rs/buttress-redis) and
//! [`buttress-postgres`](https://docs.rs/buttress-postgres).

#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use]
mod macros;

mod backoff;
mod budget;
pub mod bulkhead;
pub mod cache;
mod call;
pub mod chaos;
pub mod circuit_breaker;
pub mod context;
mod describe;
pub mod endpoints;
pub mod error;
pub mod fallback;
pub mod guide;
#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub mod http;
pub mod idempotency;
pub mod keep;
mod keyed;
pub mod outcome;
mod replay;
pub mod retry;
mod sealed;
pub mod stack;
pub mod telemetry;
#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub mod testing;
pub mod timeout;
mod window;

pub use self::call::completion;
#[doc(inline)]
pub use self::{
    context::Deadline,
    error::{BoxError, CarryRejection, ConfigError, Error, Rejection},
    outcome::{Classify, Fault, Outcome, RetryHint, classify_fn},
    stack::Stack,
};

/// Tests the examples of the README.
#[cfg(all(doctest, feature = "http"))]
#[doc = include_str!("../README.md")]
mod readme {}
