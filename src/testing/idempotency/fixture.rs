//! The trait that makes stores for the checks.

use std::{future::Future, time::Duration};

use crate::idempotency::Store;

/// Makes stores for the checks, and converts their payloads.
///
/// Only [`unit`](Self::unit) and [`pass`](Self::pass) have defaults.
pub trait Fixture {
    /// The store under test.
    type Store: Store;

    /// Creates a store without any records, ready for use.
    ///
    /// The checks call it several times. Stores must not share records. Give each its own folder,
    /// schema or prefix.
    ///
    /// # Panics
    ///
    /// A panic here, or in any other method, fails the check in which it happens. The other checks
    /// go on. If the store that most checks share cannot be made, this is the only finding.
    fn fresh(&self) -> impl Future<Output = Self::Store>;

    /// Creates a payload from which [`bytes`](Self::bytes) returns these bytes.
    fn payload(&self, bytes: Vec<u8>) -> PayloadOf<Self>;

    /// Returns the bytes that [`payload`](Self::payload) was given.
    fn bytes(&self, payload: &PayloadOf<Self>) -> Vec<u8>;

    /// Returns the unit of time of the checks.
    ///
    /// Default: `100 ms`. It must be longer than the slowest step of the store, and longer than the
    /// error of its clock.
    ///
    /// A lease or a retention that a check lets end lasts 1 to 6 units. The check waits one unit
    /// longer. A check that found the store too slow starts again with a unit of twice the
    /// length, at most four times.
    fn unit(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Lets the time of the store pass.
    ///
    /// Default: `tokio::time::sleep`, on a paused clock too. Do not replace it by anything that
    /// moves the time of all checks at once, such as `tokio::time::advance`, because the checks
    /// run concurrently. If the clock of a store can only be moved by hand, run
    /// [`check_one`](super::check_one) for one name after the other.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> {
        tokio::time::sleep(time)
    }
}

/// The payload type of a fixture's store.
pub type PayloadOf<F> = <<F as Fixture>::Store as Store>::Payload;
