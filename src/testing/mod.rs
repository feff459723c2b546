//! A kit for testing services: their contract, their cancellation, and what a flaky dependency does to them.
//!
//! Everything here works by polling by hand and counting wakes. It needs no runtime, sleeps for nothing, and runs
//! on a paused clock where the service under test has timers of its own.
//!
//! - [`contract`] checks a service against the rules of [`tower_service::Service`] and of this crate, rule by rule.
//! - [`cancel`] drops a future at its first poll, its second, and so on, and lets it panic wherever it can.
//! - [`Flaky`] answers, fails, hangs, panics and refuses to be ready, as its script says, and counts what is done
//!   to it.
//! - [`idempotency`] checks a store of the idempotency guard against what its contract says.
//! - [`Reserving`] puts a fixed number of slots, reserved by `poll_ready`, in front of any service. It shows the
//!   permits that a layer hoards, which a plain mock cannot.
//! - [`task`] polls futures and services by hand.
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

/// The futures of the scripted services.
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

/// Compiles only for a service that can be shared as tower's servers and clients share theirs.
///
/// Write one line per service and a lost auto trait is found by the compiler.
///
/// # Example
///
/// ```
/// use buttress::testing::{Flaky, assert_service};
///
/// assert_service::<Flaky<&str, &str>>();
/// ```
pub const fn assert_service<S: Send + Sync + Clone + fmt::Debug>() {}

/// Compiles only for a future that can move between threads. It asks for no `Sync`, and nor should a layer.
pub const fn assert_future<F: Future + Send>() {}

/// Compiles only if `Outer`, a layer's service, fails with the very error type of `Inner`, the service it wraps.
pub const fn assert_same_error<Req, Inner, Outer>()
where
    Inner: Service<Req>,
    Outer: Service<Req, Error = Inner::Error>,
{
}
