//! Retries calls that failed for a transient reason.
//!
//! Use it for calls that are safe to repeat. The [`Replay`] policy decides which requests are
//! safe, and the layer retries only these. The policy must exclude calls whose effect must not
//! happen twice. In a chain of services, retry at one hop only, because retries multiply.
//!
//! ```
//! use buttress::{Error, retry::{ReplayClones, RetryLayer}};
//! use std::{io, sync::atomic::{AtomicU32, Ordering}};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Error<io::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(RetryLayer::new(ReplayClones))
//!     .map_err(Error::Service)
//!     .service(service_fn(|x: u32| async move {
//!         match CALLS.fetch_add(1, Ordering::Relaxed) {
//!             // The first attempt fails.
//!             0 => Err(io::Error::other("broken pipe")),
//!             _ => Ok(x + 1),
//!         }
//!     }));
//!
//! assert_eq!(service.oneshot(1).await?, 2);
//! # Ok(())
//! # }
//! ```
//!
//! With other settings, and a policy that replays only reads:
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
//! let backoff = Backoff::exponential(Duration::from_millis(20))
//!     .cap(Duration::from_millis(500))
//!     .build()?;
//! let layer = RetryLayer::builder(reads)
//!     .name("orders")
//!     .retries(2)
//!     .backoff(backoff)
//!     .budget(Budget::builder().ratio(0.2).floor(5).build()?)
//!     .build()?;
//! # let _ = layer;
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # When the retries end
//!
//! The layer stops retrying a call when:
//!
//! - an attempt succeeds or fails permanently;
//! - its result says nothing about the service, and does not prove that the request is unprocessed;
//! - the request cannot be replayed;
//! - the server says that the request must not be retried;
//! - the number of retries, the [budget] or the [deadline](crate::Deadline) is exhausted;
//! - the server asks for a pause longer than [`hint_cap`](RetryBuilder::hint_cap).
//!
//! The layer checks these conditions before the pause, so no caller waits for a retry that cannot
//! happen. The call returns the last result unchanged.
//!
//! During the pause the layer keeps an error, but drops a response. If an inner layer rejects a
//! later attempt, the call returns the kept error. This error says why the call failed, instead of
//! why it could not be retried. An attempt that timed out was not rejected. It failed, and its
//! error is returned.
//!
//! A connection of HTTP/1.1 can be reused only after its response was read to the end. Such a
//! response first returns its permits. It is then read during the pause, up to 64 KiB, and dropped
//! at the end of the pause. See
//! [`StreamingResponse::poll_drain`](crate::completion::StreamingResponse::poll_drain).
//!
//! [budget]: crate::budget::Budget
//!
//! # Unprocessed requests
//!
//! The layer resends a request at once, and outside the budget, if nothing can have happened to it:
//!
//! - once per call, if the service says that it has not processed the request
//!   ([`RetryHint::Unprocessed`](crate::RetryHint::Unprocessed));
//! - once per call, if the client gave the request back
//!   ([`RetryHint::Unsent`](crate::RetryHint::Unsent) with
//!   [`Outcome::Ignored`](crate::Outcome::Ignored)).
//!
//! These are two resends, because the connection on which the service has said so may give back the
//! next request too. A resend does not count as an attempt, and may follow the last attempt.
//! Further results of this kind are retried in the ordinary way.
//!
//! With [`retries(0)`](RetryBuilder::retries), nothing is resent, because the layer then keeps no
//! copies.
//!
//! A permanent failure with the hint `Unprocessed`, such as a 421 or a 425, is retried once per
//! call. This retry is an ordinary one. Otherwise a server that always responds so would double its
//! load.
//!
//! # Readiness
//!
//! For the first attempt, the layer forwards the readiness of the service. After its pause, each
//! retry waits until a clone of the service is ready, for at most
//! [`readiness_wait`](RetryBuilder::readiness_wait).
//!
//! # Clone
//!
//! The budget belongs to the layer. All services that the layer creates, and all their clones,
//! share it.
//!
//! # Cancellation
//!
//! Dropping the future drops the current attempt. If a retry was taken out of the budget but not
//! yet sent, its token is paid back.
//!
//! # Errors
//!
//! - The error of the last attempt. If an inner layer rejected that attempt, the kept error of the
//!   attempt before it, if there is one.
//! - [`NotReady`](crate::error::NotReady) if the service did not become ready again and the
//!   previous result was a response.
//!
//! # Order
//!
//! Inside the total [timeout](crate::timeout), and outside every layer that each attempt must
//! pass.
//!
//! # Telemetry
//!
//! - A span `attempt` for each attempt, with its number, the pause before it, its outcome and the
//!   type of its error.
//! - A `WARN` event "retrying call" for each retry.
//! - A `WARN` event "retries exhausted", with the reason, when a failed call could have been
//!   retried but is not.
//! - A `DEBUG` event "call not retried", with the reason, for any other failure that is not
//!   retried, except a rejection by an inner layer.

mod config;
mod decide;
pub(crate) mod describe;
pub mod future;
mod layer;
mod layer_state;
mod replayable;
mod service;
mod session;
mod shared;
mod span;

pub use self::{
    layer::{RetryBuilder, RetryLayer},
    service::Retry,
};
pub use crate::{
    backoff::{Backoff, BackoffBuilder, Jitter},
    budget::{Budget, BudgetBuilder, ThrottleBuilder},
    replay::{DescribeReplay, HttpReplay, Replay, ReplayClones, ReplayFn, replay_fn},
};
