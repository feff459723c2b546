//! Limits on the number of concurrent calls.
//!
//! Put one around every dependency. A dependency that hangs then blocks only a limited number of
//! tasks and connections, and the rest of the program continues. A bulkhead is not a rate limit.
//! It admits any number of calls per second, if they are fast enough.
//!
//! ```
//! use buttress::{Error, bulkhead::BulkheadLayer};
//! use std::io;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Error<io::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(BulkheadLayer::new())
//!     .map_err(Error::Service) // `Error` holds the service's error or a rejection.
//!     .service(service_fn(|x: u32| async move { Ok::<_, io::Error>(x + 1) }));
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
//! A call occupies its slot until its result is ready or the call is dropped. In a stack with
//! [`http()`](crate::Stack::http), and on a server, it occupies the slot until the end of the
//! response body.
//!
//! # Readiness
//!
//! In every mode, `poll_ready` takes a free slot if no caller is queued for it. It then polls the
//! service, and keeps the slot while the service is not ready. Without a free slot, the mode
//! decides:
//!
//! - By default the bulkhead is ready, and the call is rejected.
//! - With a [`queue`](BulkheadBuilder::queue) the bulkhead is ready. The call waits in its
//!   future up to a maximum time, in the [order](#the-order-of-the-queue) below. It reserves
//!   nothing in the service while it waits.
//! - With [`backpressure`](BulkheadBuilder::backpressure) the bulkhead is not ready until a slot
//!   is free, like tower's `ConcurrencyLimit`. A caller that stops polling but keeps the service
//!   keeps its place in the queue. If a slot is handed to this place, it stays reserved until the
//!   caller calls or drops the service.
//!
//! # The order of the queue
//!
//! The queue is first in, first out until it has stood for `max_wait`, which means that it was not
//! empty for that time, and its oldest call has waited for half of `max_wait`. While both are so,
//! the newest call is served first.
//!
//! Such a queue receives more calls than the bulkhead can serve. First in, first out, each call
//! would get its slot just before its caller gives up. The dependency would be busy, and nobody
//! would get a response in time. Newest first, the calls that begin have most of their time left.
//! The others end with [`QueueTimedOut`](crate::error::QueueTimedOut) and never begin. A burst
//! does not change the order if the queue is empty again in time. A queue that is never empty but
//! moves, such as in front of a pool of workers, stays first in, first out.
//!
//! If the deadlines of all queued callers are nearer than `max_wait`, the order changes after the
//! longest time that one of them had. A caller in a hurry does not change it for the others. With
//! backpressure there is no maximum wait, and the queue is always first in, first out.
//!
//! # Clone
//!
//! The slots belong to the layer. Every service that it creates, and every clone, shares them. A
//! clone starts without a slot.
//!
//! # Cancellation
//!
//! A slot is released when the future is dropped, when the service that reserved it is dropped,
//! and when the service panics. If a queued caller is dropped after a slot was handed to it, the
//! slot goes to the next caller.
//!
//! # Errors
//!
//! - [`BulkheadFull`](crate::error::BulkheadFull) if there is no free slot, and no free place in
//!   the queue.
//! - [`QueueTimedOut`](crate::error::QueueTimedOut) after the maximum wait in the queue.
//!
//! If a deadline ends the wait earlier, the bulkhead returns neither error. The owner of the
//! deadline ends the call and reports the error.
//!
//! # Order
//!
//! Put it inside a [retry](crate::retry), so that a call occupies no slot during a pause between
//! attempts. Put it outside a [circuit breaker](crate::circuit_breaker). When the breaker opens,
//! the queue then empties at once, and time in the queue does not count against the dependency.
//!
//! # Telemetry
//!
//! | event | level |
//! |---|---|
//! | "call rejected", for each rejection | `WARN` |
//! | "call queued", for each queued call | `DEBUG` |
//! | "bulkhead resized", for each call of [`resize`](BulkheadHandle::resize) | `DEBUG` |
//!
//! A [registered](BulkheadLayer::register) bulkhead shows its calls, its limits, and how long calls
//! waited in its queue. A wait ends with a slot (`admitted`), after the maximum wait (`timed_out`),
//! or when its caller is dropped (`left`). A full bulkhead is not named by
//! [`Registry::ready`](crate::telemetry::Registry::ready), because load is no failure.

mod config;
pub(crate) mod describe;
pub mod future;
mod layer;
mod layer_state;
mod line;
mod queue;
mod service;

pub use self::{
    layer::{
        BulkheadBuilder, BulkheadHandle, BulkheadLayer, QueuedBulkheadBuilder, QueuedBulkheadLayer,
    },
    service::{Bulkhead, QueuedBulkhead},
};
