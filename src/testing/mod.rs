//! Tools for testing your own layers, services and stores.
//!
//! # Where to start
//!
//! 1. To test a layer, call [`Contract::new`](contract::Contract::new), then
//!    [`check`](contract::Contract::check), then [`assert`](Report::assert), as in the example
//!    below.
//! 2. If the layer rejects calls, also call
//!    [`check_rejecting`](contract::Contract::check_rejecting).
//! 3. Cancel a call at every poll with [`CancelHarness`](cancel::CancelHarness), and make it panic
//!    at every point with [`PanicHarness`](cancel::PanicHarness).
//! 4. To test a store of the idempotency layer, call [`idempotency::check`].
//!
//! # Contents
//!
//! - [`contract`] checks a service against the rules of [`tower_service::Service`] and of this
//!   crate, rule by rule.
//! - [`cancel`] drops a future after each of its polls, and makes it panic at every point.
//! - [`Flaky`] is a scripted service. It responds, fails, hangs, panics or stays unready, and
//!   counts its calls and polls.
//! - [`idempotency`] checks a store of the idempotency layer against the contract of
//!   [`Store`](crate::idempotency::Store).
//! - [`Reserving`] adds a fixed number of slots, reserved by `poll_ready`, to any service. It shows
//!   the permits that a layer keeps too long, which a plain mock cannot show.
//! - [`task`] polls futures and services by hand.
//!
//! These tools poll by hand and count wakes. They need no runtime and do not sleep, except
//! [`idempotency`], which needs a tokio runtime. If the service under test has timers, use a paused
//! clock.
//!
//! # Example
//!
//! ```
//! use buttress::testing::contract::Contract;
//! use tower::{Layer, limit::ConcurrencyLimitLayer};
//!
//! Contract::new(|| "request", || "response", || "error")
//!     .check(|inner| ConcurrencyLimitLayer::new(1).layer(inner))
//!     .assert();
//! ```

pub mod cancel;
pub mod contract;
mod flaky;
pub mod idempotency;
mod panics;
mod report;
mod reserving;
pub mod task;

/// The response futures of [`Flaky`] and [`Reserving`].
pub mod future {
    pub use super::{flaky::FlakyFuture, reserving::ReservingFuture};
}

pub use self::{
    flaky::{Flaky, FlakyHandle, PanicPoint, Step, Violation},
    report::{CheckOutcome, Finding, Report},
    reserving::{Reserving, ReservingHandle},
};

#[cfg(test)]
mod tests;

use std::fmt;

use tower_service::Service;

/// Checks at compile time that a service is `Send`, `Sync`, `Clone` and `Debug`.
///
/// Servers and clients of tower need these traits to share a service. Write one line per service,
/// and the compiler reports a lost auto trait.
///
/// # Example
///
/// ```
/// use buttress::testing::{Flaky, assert_service};
///
/// assert_service::<Flaky<&str, &str>>();
/// ```
pub const fn assert_service<S: Send + Sync + Clone + fmt::Debug>() {}

/// Checks at compile time that a future is `Send`.
///
/// It does not require `Sync`. A layer should not require it either.
pub const fn assert_future<F: Future + Send>() {}

/// Checks at compile time that `Outer` has the same error type as `Inner`, which it wraps.
pub const fn assert_same_error<Req, Inner, Outer>()
where
    Inner: Service<Req>,
    Outer: Service<Req, Error = Inner::Error>,
{
}
