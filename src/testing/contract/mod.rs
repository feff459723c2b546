//! Checks of the contract of a tower service, for any layer.
//!
//! Start with [`Contract::new`], which takes closures that make a request, a response and an error.
//! Then call the check that fits the service:
//!
//! | the service | call |
//! |---|---|
//! | has no timers | [`check`](Contract::check) |
//! | has timers, or a retry with a backoff | [`check_with`](Contract::check_with), on a paused clock |
//! | always reports `Ready` and waits in its future | [`always_ready`](Contract::always_ready) first |
//! | rejects calls | also [`check_rejecting`](Contract::check_rejecting) |
//!
//! At the end, call [`assert`](super::Report::assert) on the report.
//!
//! Each check takes a closure that wraps an inner service in your layer. The inner service belongs
//! to this module. It records which instance is called, which slots are reserved and freed, and
//! which tasks are woken. Each [`Rule`] is checked on new services, with two inner services. The
//! *mock* is always free. The *reserving* one has a single slot, which shows a permit that is kept
//! too long.
//!
//! # The service under test
//!
//! - If the layer limits something, set the limit to one. A leak then shows at once.
//! - If the layer keeps statistics of results, build it inside the closure. The checks make calls
//!   fail and panic.
//! - If the inner service is ready, the service must become ready, and its calls must succeed.
//! - Errors are recognised by their `Debug` text, which must contain the `Debug` text of the inner
//!   error.
//!
//! # Time
//!
//! [`check`](Contract::check) needs no runtime. A service that arms a timer while its inner service
//! is slow needs a runtime. Check it with [`check_with`](Contract::check_with), inside a runtime
//! with a paused clock.
//!
//! # Limits
//!
//! Some rules cannot be checked from outside. Examples are the moment when the clock of a timeout
//! starts, and that no user code runs under a lock. Write your own tests for them, and add these to
//! the report with [`also`](Contract::also).

mod bench;
mod checks;
mod declared;
mod rejecting;
mod rule;
mod run;

pub use self::{
    declared::{Contract, Inner},
    rule::Rule,
};
