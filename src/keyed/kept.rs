//! The rank of a value, which decides how long it is kept.

use std::sync::Arc;

use tokio::time::Instant;

/// A value that is kept by key.
pub(crate) trait Kept {
    /// Returns how much the value is worth keeping. Must be cheap.
    fn rank(&self) -> Rank;

    /// Returns `true` if the value must not be evicted now, even if it is unused.
    fn outlasts(&self, now: Instant) -> bool;

    /// Returns `true` while the value is in use, even if its key is not. Must be cheap.
    ///
    /// It is then kept like a preferred value. It is filed as one only when it is the oldest of its
    /// list, because most values in use belong to keys that were used lately.
    fn is_busy(self: &Arc<Self>) -> bool {
        false
    }

    /// Notes that a map keeps the value from now on. Must be cheap.
    fn kept(&self) {}

    /// Notes that the map no longer keeps the value.
    fn forgotten(&self) {}

    /// Notes that the map forgets the value to make room for another one.
    fn evicted(&self) {}
}

/// The worth of keeping a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Ordinary,
    /// Outlives ordinary values, up to half of all values.
    ///
    /// Otherwise a caller that sends enough other keys could reset it.
    Preferred,
    /// Is never evicted.
    Pinned,
}

/// A time, also in nanoseconds from the origin.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) at: Instant,
    pub(super) nanos: u64,
}
