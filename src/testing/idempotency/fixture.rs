//! How a store is made and handled for its checks.

use std::{future::Future, time::Duration};

use crate::idempotency::Store;

/// How to check a store.
pub trait Fixture {
    /// The store.
    type Store: Store;

    /// A store without any records, ready for use. It is asked for a dozen times, and what one store is told
    /// must not be seen in another: give each a folder, a schema or a prefix of its own.
    ///
    /// A panic here, or in any other method, fails the check that it happens in.
    fn fresh(&self) -> impl Future<Output = Self::Store>;

    /// A payload that these bytes can be had from again.
    fn payload(&self, bytes: Vec<u8>) -> PayloadOf<Self>;

    /// What [`payload`](Self::payload) was given.
    fn bytes(&self, payload: &PayloadOf<Self>) -> Vec<u8>;

    /// What the checks count time in. The leases that they let end last 1 to 6 of it, and each end is waited for
    /// with one to spare: longer than the store ever takes to answer, and than its clock errs. 100 ms by
    /// default.
    fn unit(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Lets the store's time pass. It sleeps by default, on a paused clock too.
    ///
    /// What moves the time of all checks at once, such as `tokio::time::advance`, must not be put in its
    /// place: they run at the same time. A store whose clock can only be moved is checked with
    /// [`check_one`](super::check_one), one name after the other.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> {
        tokio::time::sleep(time)
    }
}

/// The payload of a fixture's store.
pub type PayloadOf<F> = <<F as Fixture>::Store as Store>::Payload;
