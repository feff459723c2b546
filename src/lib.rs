//! Resilience middleware for tower: timeouts, retries with a budget, circuit breakers, bulkheads,
//! idempotency.
//!
//! The layers wrap any [`tower::Service`], most often an HTTP or gRPC client. [`Stack`] nests
//! [timeout], [retry] with a [budget](retry::Budget), [bulkhead] and
//! [circuit breaker](circuit_breaker) in the right order. [`http`] has what clients and servers of
//! HTTP and gRPC need. In front of a handler, an [idempotency] guard makes a repeated request have
//! the effect of one.
//!
//! [`tower::Service`]: tower_service::Service
//!
//! # Example
//!
//! A stack around hyper's client. Beside buttress it needs `http-body-util`, `hyper`, `hyper-util`
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
//!     let client = Client::builder(TokioExecutor::new())
//!         // hyper's own retries would bypass the budget of the stack.
//!         .retry_canceled_requests(false)
//!         .build_http::<Full<Bytes>>();
//!     let client = Stack::standard_http().service(client);
//!
//!     let request = Request::get("http://127.0.0.1:8080/").body(Full::default())?;
//!     let response = client.clone().oneshot(request).await?;
//!     println!("{}", response.status());
//!     // The call ends with its body.
//!     let body = response.into_body().collect().await?.to_bytes();
//!     println!("{} bytes", body.len());
//!     Ok(())
//! }
//! ```
//!
//! Around a service that is not HTTP. The replay policy says which requests may be sent again, here
//! all of them:
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
//! # The main items
//!
//! | item | use |
//! |---|---|
//! | [`Stack`] | Puts the layers around a client, in the right order. Start here. |
//! | [`TimeoutLayer`] | Limits the time of a call, or of each attempt. |
//! | [`RetryLayer`] | Retries with backoff, jitter and a budget. |
//! | [`BulkheadLayer`] | Limits concurrent calls, with or without a queue. |
//! | [`CircuitBreakerLayer`] | Stops calling a dependency that fails. |
//! | [`IdempotencyLayer`] | Runs an operation once, however often it is requested. |
//! | [`ReplaySafe`] | Replays only the HTTP requests that are safe to replay. |
//! | [`HttpServerLayer`] | Turns rejections into responses, and enforces the caller's deadline. |
//! | [`Error`] | The error of a stack: a rejection, or the service's own error. |
//! | [`Rejection`] | Says which layer rejected a call, why, and when to try again. |
//! | [`Outcome`], [`Classify`] | Say whether a result is a success, and what kind of failure it is. |
//! | [`Deadline`] | The time that the current call has left. |
//!
//! [`TimeoutLayer`]: timeout::TimeoutLayer
//! [`RetryLayer`]: retry::RetryLayer
//! [`CircuitBreakerLayer`]: circuit_breaker::CircuitBreakerLayer
//! [`BulkheadLayer`]: bulkhead::BulkheadLayer
//! [`IdempotencyLayer`]: idempotency::IdempotencyLayer
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
//! | [Troubleshooting](guide::troubleshooting) | compile errors, calls that are not retried, breakers that stay open |
//! | [Coming from](guide::coming_from) | names for users of tower, tower-resilience, Polly and resilience4j |
//!
//! # Order
//!
//! Outermost first. [`stack`] gives the reasons.
//!
//! ```text
//! around_call > total timeout > retry > bulkhead > circuit breaker > attempt timeout
//!     > around_attempt > http > service
//! ```
//!
//! # Rules of every layer
//!
//! - The error type does not change. It only must be able to carry a [`Rejection`], see
//!   [`CarryRejection`].
//! - State lives in the layer. Its clones, and all services made from it, share it.
//! - Each admitted call is accounted for once, however it ends: finished, dropped or panicked.
//! - A rejection is returned by `call`, never by `poll_ready`.
//! - A call that succeeds allocates nothing, and arms no timer until it must wait. One exception:
//!   each run of the [`idempotency`] guard is a task of its own.
//! - There is one clock, tokio's. In tests, a paused clock moves everything.
//!
//! # Features
//!
//! | feature | content |
//! |---|---|
//! | `http` (default) | [`http`]: classifiers, hints of the server, replayed bodies, calls that end with their body, deadlines and attempts in headers, servers |
//! | `hyper` | Recognises requests that hyper's client is proven not to have had processed. |
//! | `tonic` | [`http::grpc`]: a stack around a channel, and a `tonic::Status` for a rejection |
//! | `reqwest` | `http::reqwest`: the adapter for `reqwest::Client` |
//! | `test-util` | [`testing`](https://docs.rs/buttress/latest/buttress/testing/): contract checks, a cancellation harness, a scripted service |
//!
//! Records of the idempotency guard that outlive the process are kept by crates of their own:
//! [`buttress-redb`](https://docs.rs/buttress-redb),
//! [`buttress-redis`](https://docs.rs/buttress-redis) and
//! [`buttress-postgres`](https://docs.rs/buttress-postgres).

#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use]
mod macros;

mod backoff;
mod budget;
pub mod bulkhead;
mod call;
pub mod circuit_breaker;
pub mod context;
mod describe;
pub mod error;
pub mod guide;
#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub mod http;
pub mod idempotency;
mod keyed;
pub mod outcome;
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

/// The examples of the README, as tests.
#[cfg(all(doctest, feature = "http"))]
#[doc = include_str!("../README.md")]
mod readme {}
