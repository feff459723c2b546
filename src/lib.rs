//! Tower layers that keep a service standing when what it calls does not.

#[macro_use]
mod macros;

mod admission;
pub mod backoff;
pub mod budget;
pub mod bulkhead;
pub mod circuit_breaker;
mod deadline;
mod error;
mod oneshot;
mod outcome;
pub mod retry;
pub mod stack;
pub mod telemetry;
#[cfg(feature = "test-util")]
pub mod testing;
pub mod timeout;
mod waiters;

pub use self::{
    deadline::{Attempt, Deadline, Detached, Hop, Observe, Scope},
    error::{
        BoxError, BulkheadFull, CarryRejection, CircuitOpen, ConfigError, DeadlineExceeded, Error,
        Name, NotReady, QueueTimedOut, Rejection, TimedOut,
    },
    outcome::{Classify, ClassifyFn, DefaultClassifier, Fault, Outcome, RetryHint, classify_fn},
    stack::Stack,
};
