//! Timeouts for calls.
//!
//! Put one around every remote call. Without it, a dependency that hangs keeps the tasks, the
//! memory and the connections of all its callers. Around a [retry](crate::retry) use two
//! timeouts: one for the whole call and one for each attempt. A timeout is not for streams,
//! because the limit ends with the head of the response. In a stack that is
//! [`http()`](crate::Stack::http), the whole gRPC call must end within the limit.
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
//! A limit for each request, a name, and the wait for readiness within the limit:
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
//! [`Timeout`] forwards readiness, as tower's timeout does. Its limit does not cover the wait for
//! readiness.
//!
//! [`TotalTimeout`] covers it. It asks the service once whether it is ready, and reports `Ready`
//! in either case. The future then waits for readiness under the limit. A balancer above it
//! therefore cannot see that the service is busy.
//!
//! # Clone
//!
//! There is no shared state. A clone of a [`TotalTimeout`] starts without readiness.
//!
//! # Cancellation
//!
//! The inner future is dropped before the rejection is returned. Dropping the future drops the
//! inner future too. In both cases the inner future can still read its deadline while it is
//! dropped.
//!
//! # Errors
//!
//! - [`TimedOut`](crate::error::TimedOut) when the limit is reached. A result that is ready at
//!   the instant of the limit wins.
//! - [`DeadlineExceeded`](crate::error::DeadlineExceeded) when the caller's
//!   [deadline](crate::Deadline) had passed before the call. The service is then not called.
//!
//! # Order
//!
//! Put the timeout for the whole call outside all other layers, and the timeout for each attempt
//! next to the service. Put the latter inside a circuit breaker, so that a timeout counts against
//! the dependency. A limit that is not nearer than the ambient deadline arms no timer, because
//! the owner of that deadline ends the call.
//!
//! # Telemetry
//!
//! A `WARN` event "call timed out", with the layer's name and the limit, when the limit ends a
//! call. A `WARN` event "call rejected" when the caller's deadline had passed before the call.

mod config;
pub(crate) mod describe;
pub mod future;
mod layer;
mod service;

pub use self::{
    config::{Fixed, KnownLimit, Limit, PerRequest},
    layer::{TimeoutBuilder, TimeoutLayer, TotalTimeoutLayer},
    service::{Timeout, TotalTimeout},
};
