//! Sends a call again when it failed for a reason that may pass.
//!
//! Put one around calls that are safe to repeat. It is not for calls whose effect must not happen
//! twice, unless what repeats them says so: nothing is sent again that the [`Replay`] policy does not
//! give a copy of. And one hop of a path of services should retry, not all: retries multiply.
//!
//! ```
//! use buttress::{Error, retry::{ReplayClones, RetryLayer}};
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Error<&'static str>> {
//! let service = ServiceBuilder::new()
//!     .layer(RetryLayer::new(ReplayClones))
//!     .service(service_fn(|x: u32| async move {
//!         match CALLS.fetch_add(1, Ordering::Relaxed) {
//!             0 => Err(Error::Service("broken pipe")),
//!             _ => Ok(x + 1),
//!         }
//!     }));
//!
//! assert_eq!(service.oneshot(1).await?, 2);
//! # Ok(())
//! # }
//! ```
//!
//! With other settings, and a policy that repeats reads only:
//!
//! ```
//! use buttress::retry::{Backoff, Budget, RetryLayer, replay_fn};
//! use std::time::Duration;
//!
//! #[derive(Clone)]
//! enum Query {
//!     Read(u64),
//!     Write(u64),
//! }
//!
//! let reads = replay_fn(|query: &Query| matches!(query, Query::Read(_)).then(|| query.clone()));
//! let layer = RetryLayer::builder(reads)
//!     .name("orders")
//!     .retries(2)
//!     .backoff(Backoff::exponential(Duration::from_millis(20)).cap(Duration::from_millis(500)).build()?)
//!     .budget(Budget::builder().ratio(0.2).floor(5).build()?)
//!     .build()?;
//! # let _ = layer;
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # What ends the retrying
//!
//! Success, a failure that will not pass, an answer that says nothing about the service, a request
//! that cannot be replayed, a server that says stop; the number of retries, the [budget], the
//! [deadline](crate::Deadline), or a hint to wait for longer than
//! [`hint_cap`](RetryBuilder::hint_cap). All of it is looked at before the pause, and then the last
//! answer is returned as it is: nobody waits for a retry that cannot come.
//!
//! Over the pause an error is kept, and a response dropped, since it may hold a connection or a
//! permit. When a later attempt is refused by a layer beneath, the error that was kept is returned:
//! why the call failed, and not that it could not be tried again.
//!
//! [budget]: crate::budget::Budget
//!
//! # Readiness
//!
//! Forwarded for the first attempt. Each later one waits, after its pause, until a clone of the
//! service is ready, no longer than [`readiness_wait`](RetryBuilder::readiness_wait).
//!
//! # Clone
//!
//! The budget belongs to the layer: every service that it makes, and every clone, shares it.
//!
//! # Cancellation
//!
//! The future drops the attempt that is under way. A retry that was paid for and not sent is paid
//! back to the budget.
//!
//! # Errors
//!
//! Those of the last attempt. [`NotReady`](crate::error::NotReady) if the service did not become ready again,
//! and the answer of the attempt before was a response.
//!
//! # Order
//!
//! Inside the total [timeout](crate::timeout), outside everything that each attempt must pass.
//!
//! # Telemetry
//!
//! A span for each attempt, with its number, the pause before it, its outcome and the type of its
//! error. A `WARN` event for each retry, and one when retrying is given up.

mod config;
mod decide;
pub(crate) mod describe;
mod events;
pub mod future;
mod layer;
mod replay;
mod replayable;
mod service;
mod session;
mod shared;

pub use self::{
    layer::{RetryBuilder, RetryLayer},
    replay::{DescribeReplay, HttpReplay, Replay, ReplayClones, ReplayFn, replay_fn},
    service::Retry,
};
pub use crate::{
    backoff::{Backoff, BackoffBuilder, Jitter},
    budget::{Budget, BudgetBuilder, ThrottleBuilder},
};
