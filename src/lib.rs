//! Tower layers that keep a service standing when what it calls does not.
//!
//! Remote calls hang, fail, half-succeed and fail together. These layers wrap any [`tower::Service`],
//! an HTTP or gRPC client above all, and contain that: [timeout], [retry] with a [budget],
//! [circuit breaker](circuit_breaker) and [bulkhead]. [`Stack`] puts them together in the one right
//! order, and [`http`] makes them at home around HTTP and gRPC clients and servers. In front of a
//! handler an [idempotency] guard makes a repeated request have the effect of one.
//!
//! [`tower::Service`]: tower_service::Service
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
//! total timeout > retry > bulkhead > circuit breaker > attempt timeout > http > service
//! ```
//!
//! # What holds for every layer
//!
//! - The error type does not change. It only has to be able to carry a [`Rejection`]; see
//!   [`CarryRejection`].
//! - The state lives in the layer. Its clones, and all services that it makes, share it.
//! - What is let through is accounted for once, however it ends: finished, dropped, panicked.
//! - A refusal comes out of `call`, never out of `poll_ready`.
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
//! | `redb`, `redis`, `postgres` | [`idempotency::store`]: records that outlive the process; `redb` needs Rust 1.90, `redis` 1.88 |
//! | `test-util` | [`testing`](https://docs.rs/buttress/latest/buttress/testing/): the contract kit, the cancel harness, a scripted service |

#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use]
mod macros;

pub mod backoff;
pub mod budget;
pub mod bulkhead;
mod call;
pub mod circuit_breaker;
mod error;
#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub mod http;
pub mod idempotency;
mod keyed;
mod outcome;
pub mod retry;
pub mod stack;
pub mod telemetry;
#[cfg(feature = "test-util")]
pub mod testing;
pub mod timeout;
mod window;

pub use self::{
    call::{
        attempt::Attempt,
        completion,
        deadline::{Deadline, DeadlineElapsed, Detached, Scope},
        hop::{Hop, Observe},
    },
    error::{
        BoxError, BulkheadFull, CarryRejection, CircuitOpen, ConfigError, DeadlineExceeded, Error,
        IdempotencyReason, IdempotencyRefused, Name, NotReady, QueueTimedOut, RateLimited,
        Rejection, TimedOut,
    },
    outcome::choice::{Inherited, Own},
    outcome::{Classify, ClassifyFn, DefaultClassifier, Fault, Outcome, RetryHint, classify_fn},
    stack::Stack,
};

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
