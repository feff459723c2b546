//! Layers for the tests of stacks.

use std::{io, time::Duration};

use buttress::{
    CarryRejection, Error, Rejection,
    circuit_breaker::CircuitBreakerLayer,
    retry::{Backoff, Jitter, ReplayClones, RetryLayer},
};

pub(crate) type Failure = Error<io::Error>;

pub(crate) const TOTAL: Duration = Duration::from_millis(100);
pub(crate) const ATTEMPT: Duration = Duration::from_millis(30);

pub(crate) fn broken() -> io::Error {
    io::Error::other("broken")
}

/// Returns a retry with short pauses, and without a budget.
pub(crate) fn retry() -> RetryLayer<ReplayClones> {
    let backoff =
        Backoff::constant(Duration::from_millis(10)).jitter(Jitter::None).build().unwrap();
    RetryLayer::builder(ReplayClones).backoff(backoff).without_budget().build().unwrap()
}

pub(crate) fn breaker(failures: u32) -> CircuitBreakerLayer {
    CircuitBreakerLayer::builder().consecutive_failures(failures).build().unwrap()
}

/// Returns the kind of the rejection that a result has.
pub(crate) fn kind<T: std::fmt::Debug, E: CarryRejection + std::fmt::Debug>(
    result: Result<T, E>,
) -> &'static str {
    result.unwrap_err().rejection().map_or("no rejection", Rejection::kind)
}
