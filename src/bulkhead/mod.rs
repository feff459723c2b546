//! Limits how many calls are under way at once.
//!
//! Put one around every dependency, so that one which hangs holds a bounded number of tasks and
//! connections, and the rest of the program goes on. It is not a rate limit: fast calls pass in any
//! number.
//!
//! ```
//! use buttress::{Error, bulkhead::BulkheadLayer};
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Error<Infallible>> {
//! let service = ServiceBuilder::new()
//!     .layer(BulkheadLayer::new())
//!     .service(service_fn(|x: u32| async move { Ok::<_, Error<Infallible>>(x + 1) }));
//!
//! assert_eq!(service.oneshot(1).await?, 2);
//! # Ok(())
//! # }
//! ```
//!
//! With a queue, a name and a handle:
//!
//! ```
//! use buttress::bulkhead::BulkheadLayer;
//! use std::time::Duration;
//!
//! let layer = BulkheadLayer::builder()
//!     .name("payments")
//!     .max_concurrent(64)
//!     .queue(128, Duration::from_millis(500))
//!     .build()?;
//! let handle = layer.handle();
//! handle.resize(32)?;
//! assert_eq!((handle.in_flight(), handle.queued(), handle.limit()), (0, 0, 32));
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! A call holds its slot until its response is there, or it is dropped; in a stack that is
//! [`http()`](crate::Stack::http), and on a server, until the body of the response has ended.
//!
//! # Readiness
//!
//! A free slot that nobody queues for is taken in `poll_ready`, in every mode, and then readiness is
//! the service's: a slot is held while the service is not ready. Without a free slot
//!
//! - by default the bulkhead is ready and the call is refused;
//! - with [`queue`](BulkheadBuilder::queue) it is ready and the call waits in its future, in order of
//!   arrival, a bounded time, and holds nothing of the service while it waits;
//! - with [`backpressure`](BulkheadBuilder::backpressure) it is not ready until a slot comes free, as
//!   tower's `ConcurrencyLimit`. A caller that stops polling but keeps the service keeps its place in
//!   the queue, and a slot that is then handed to it stays with it until it calls or drops the
//!   service.
//!
//! # Clone
//!
//! The slots belong to the layer: every service that it makes, and every clone, shares them. A clone
//! begins without a slot.
//!
//! # Cancellation
//!
//! A slot comes back when the future, or the service that reserved it, is dropped, and when the
//! service panics. A slot that was handed to a waiter who is gone goes to the next one.
//!
//! # Errors
//!
//! [`BulkheadFull`](crate::error::BulkheadFull) without a free slot, or without a free place in the queue;
//! [`QueueTimedOut`](crate::error::QueueTimedOut) after the longest wait. A wait that a deadline cuts short
//! is neither: the owner of the deadline ends it and says so.
//!
//! # Order
//!
//! Inside a [retry](crate::retry), so that no slot is held over a pause; outside a
//! [circuit breaker](crate::circuit_breaker), so that a trip empties the queue at once and time in
//! the queue is not held against the dependency.
//!
//! # Telemetry
//!
//! A `WARN` event for each refusal; `DEBUG` when a call is queued and when the bulkhead is resized.

mod config;
pub(crate) mod describe;
mod events;
pub mod future;
mod layer;
mod queue;
mod service;

pub use self::{
    layer::{
        BulkheadBuilder, BulkheadHandle, BulkheadLayer, QueuedBulkheadBuilder, QueuedBulkheadLayer,
    },
    service::{Bulkhead, QueuedBulkhead},
};
