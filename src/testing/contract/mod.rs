//! The contract of a tower service, as checks that run on any service.
//!
//! [`Contract`] is given a way to build the service under test over an inner service of the kit's own, and finds out
//! what it does to it: which instance it calls, what it reserves and when it lets go, whom it wakes. Each [`Rule`]
//! is checked on services built afresh, over two inner services. The *mock* is always free; the *reserving* one has
//! a single slot, which is what shows a permit hoarded.
//!
//! # The service under test
//!
//! - Give a layer that limits something a limit of one. What it leaks then shows at once.
//! - Build the layer inside the closure if it keeps a score: the checks make calls fail and panic.
//! - Over an inner service that is ready the service must become ready, and its calls succeed.
//! - Errors are recognised by their `Debug` text, which must contain the inner error's.
//!
//! # Time
//!
//! [`check`](Contract::check) needs no runtime. A service that arms a timer when its inner service is slow needs one
//! for that: there use [`check_with`](Contract::check_with), inside a runtime with a paused clock.
//!
//! # What it cannot check
//!
//! From outside nobody can see when the clock of a timeout starts, or whether user code runs under a lock. Such
//! rules are for tests of one's own, which [`also`](Contract::also) adds to the report.

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
