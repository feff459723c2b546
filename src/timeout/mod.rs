//! Timeouts for calls.
//!
//! Put one around every remote call. Without a timeout, a dependency that hangs blocks the tasks,
//! the memory and the connections of all its callers. With a [retry](crate::retry), use two
//! timeouts: one for the whole call and one for each attempt.
//!
//! The limit covers the time until the response arrives, which for a stream is its head. In a
//! stack with [`http()`](crate::Stack::http), it also covers the response body of a gRPC call, and
//! of an HTTP call with [`body_deadline`](crate::http::HttpClientBuilder::body_deadline).
//!
//! ```
//! use buttress::{Error, timeout::TimeoutLayer};
//! use std::{io, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let hangs = service_fn(|_: ()| std::future::pending::<Result<(), io::Error>>());
//! let service = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new(Duration::from_secs(2)))
//!     .map_err(Error::Service) // `Error` holds the service's error or a rejection.
//!     .service(hangs);
//!
//! let error = service.oneshot(()).await.unwrap_err();
//! assert!(matches!(error, Error::Rejected(_)));
//! # }
//! ```
//!
//! With a limit for each request, a name, and the wait for readiness within the limit:
//!
//! ```
//! use buttress::timeout::TimeoutLayer;
//! use std::time::Duration;
//!
//! struct Query {
//!     rows: u64,
//! }
//!
//! let limit = |query: &Query| Duration::from_millis(100 + query.rows);
//! let layer = TimeoutLayer::builder_fn(limit).name("orders").build()?.including_readiness();
//! # let _ = layer;
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # Readiness
//!
//! [`Timeout`] forwards readiness, like tower's timeout. Its limit does not cover the wait for
//! readiness.
//!
//! The limit of [`TotalTimeout`] covers this wait. Its `poll_ready` polls the service once, and
//! reports `Ready` even if the service is not ready. The future then waits for readiness within
//! the limit. Therefore a balancer above it cannot see that the service is busy.
//!
//! # Clone
//!
//! There is no shared state. A clone of a [`TotalTimeout`] starts without readiness.
//!
//! # Cancellation
//!
//! When the limit ends a call, the inner future is dropped before the rejection is returned.
//! Dropping the future drops the inner future too. In both cases the inner future can still read
//! its deadline while it is dropped.
//!
//! # Errors
//!
//! - [`TimedOut`](crate::error::TimedOut) when the limit is reached. If the result is ready at
//!   the same time, it is returned instead.
//! - [`DeadlineExceeded`](crate::error::DeadlineExceeded) when the caller's
//!   [deadline](crate::Deadline) had passed before the call. The service is then not called.
//!
//! # Order
//!
//! Put the timeout for the whole call outside all other layers, and the timeout for each attempt
//! next to the service. The attempt timeout must be inside a circuit breaker, so that it counts
//! against the dependency. If the caller's deadline is nearer than the limit, its owner ends the
//! call, and this layer creates no timer.
//!
//! # Telemetry
//!
//! | event | level |
//! |---|---|
//! | "call timed out", when the limit ends a call, with the layer's name and the limit | `WARN` |
//! | "call rejected", when the caller's deadline had passed before the call | `WARN` |

mod config;
pub(crate) mod describe;
pub mod future;
mod layer;
mod service;

pub use self::{
    config::{Endless, Fixed, KnownLimit, Limit, PerRequest},
    layer::{TimeoutBuilder, TimeoutLayer, TotalTimeoutLayer},
    service::{Timeout, TotalTimeout},
};
