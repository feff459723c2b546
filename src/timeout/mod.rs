//! Ends a call that takes too long.
//!
//! Put one around every remote call: without it a dependency that hangs keeps the tasks, the memory
//! and the connections of all its callers. Use two around a [retry](crate::retry): one for the whole
//! call, one for each attempt. It is not for streams: the limit ends with the head of
//! the response, and in a stack that is [`http()`](crate::Stack::http) a gRPC call has to end within it.
//!
//! ```
//! use buttress::{Error, timeout::TimeoutLayer};
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let service = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new(Duration::from_secs(2)))
//!     .service(service_fn(|_: ()| std::future::pending::<Result<(), Error<Infallible>>>()));
//!
//! let error = service.oneshot(()).await.unwrap_err();
//! assert!(matches!(error, Error::Rejected(_)));
//! # }
//! ```
//!
//! Per request, with a name, and with the wait for readiness inside the limit:
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
//! [`Timeout`] forwards readiness, as tower's does, and its limit does not cover it. [`TotalTimeout`]
//! covers it: it asks the service once whether it is ready and reports `Ready` either way, and what
//! waiting is left happens in its future, under the limit. A balancer above it therefore cannot see
//! that the service is busy.
//!
//! # Clone
//!
//! There is no state to share. A clone of a [`TotalTimeout`] begins un-ready.
//!
//! # Cancellation
//!
//! The inner future is dropped before the rejection is returned. Dropped from outside, the future
//! drops it too. Both times what is dropped can still read its deadline.
//!
//! # Errors
//!
//! [`TimedOut`](crate::error::TimedOut) when the limit is reached. [`DeadlineExceeded`](crate::error::DeadlineExceeded)
//! when the caller's [deadline](crate::Deadline) had passed before the call; the service is then not
//! called. An answer that is ready at the instant of the limit wins.
//!
//! # Order
//!
//! Outside everything for the total, next to the service for each attempt. A limit that is not nearer
//! than the ambient deadline arms no timer, for the owner of that deadline ends the call. Within a
//! breaker, so that a time-out counts against the dependency.
//!
//! # Telemetry
//!
//! A `WARN` event when a call is ended, with the layer's name and the limit.

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
