//! Tower layers that keep a service standing when what it calls does not.
//!
//! Remote calls hang, fail, half-succeed and fail together. These layers wrap any [`tower::Service`],
//! an HTTP or gRPC client above all, and contain that: [timeout], [retry] with a
//! [budget](retry::Budget), [circuit breaker](circuit_breaker) and [bulkhead]. [`Stack`] puts them
//! together in the one right order, and [`http`] makes them at home around HTTP and gRPC clients and
//! servers. In front of a handler an [idempotency] guard makes a repeated request have the effect of
//! one.
//!
//! [`tower::Service`]: tower_service::Service
//!
//! # A dozen things that matter
//!
//! | item | use |
//! |---|---|
//! | [`Stack`] | Puts the layers around a client, in the right order. Start here. |
//! | [`TimeoutLayer`] | Bounds a call, or each of its attempts. |
//! | [`RetryLayer`] | Tries again, with backoff, jitter and a budget. |
//! | [`CircuitBreakerLayer`] | Stops calling a dependency that fails. |
//! | [`BulkheadLayer`] | Limits concurrent calls, with or without a queue. |
//! | [`IdempotencyLayer`] | Runs an operation once, however often it is requested. |
//! | [`ReplaySafe`] | Replays only the HTTP requests that are safe to replay. |
//! | [`HttpServerLayer`] | Turns rejections into responses, and keeps the caller's deadline. |
//! | [`Error`] | The error of a stack: a rejection, or the service's own error. |
//! | [`Rejection`] | Says which layer stopped a call, why, and when to come back. |
//! | [`Outcome`], [`Classify`] | Say whether a result is a success, and whose fault a failure is. |
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
//! # Example
//!
//! Around any service:
//!
//! ```
//! use buttress::{Stack, retry::ReplayClones};
//! use tower::{ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress::Error<std::io::Error>> {
//! let client = service_fn(|name: &'static str| async move {
//!     Ok::<_, std::io::Error>(format!("hello {name}"))
//! });
//! let client = Stack::standard(ReplayClones).service(client);
//!
//! assert_eq!(client.oneshot("world").await?, "hello world");
//! # Ok(())
//! # }
//! ```
//!
//! # The order
//!
//! Outermost first; [`stack`] says why.
//!
//! ```text
//! around_call > total timeout > retry > bulkhead > circuit breaker > attempt timeout
//!     > around_attempt > http > service
//! ```
//!
//! # What holds for every layer
//!
//! - The error type does not change. It only has to be able to carry a [`Rejection`]; see
//!   [`CarryRejection`].
//! - The state lives in the layer. Its clones, and all services that it makes, share it.
//! - What is let through is accounted for once, however it ends: finished, dropped, panicked.
//! - A rejection comes out of `call`, never out of `poll_ready`.
//! - A call that goes well allocates nothing, and arms no timer until it has to wait; but each run of the
//!   [`idempotency`] guard is a task of its own.
//! - There is one clock, tokio's: a paused one moves everything.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `http` (default) | [`http`]: classifiers, hints of the server, bodies that are sent again, calls that end with their body, deadlines and hops on the wire, servers |
//! | `hyper` | recognises requests that hyper's client is proven not to have had processed |
//! | `tonic` | [`http::grpc`]: a stack around a channel, and `tonic::Status` for a rejection |
//! | `reqwest` | `http::reqwest`: the adapter for `reqwest::Client` |
//! | `test-util` | [`testing`](https://docs.rs/buttress/latest/buttress/testing/): the contract kit, the cancel harness, a scripted service |
//!
//! Records of the guard that outlive the process are kept by crates of their own, each on a database:
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

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
