//! Durations that take one word.

use std::{fmt, num::NonZeroU64, time::Duration};

/// A duration in one word. It is exact to the nanosecond, up to five hundred years.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nanos(NonZeroU64);

impl fmt::Debug for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Duration::from(*self).fmt(f)
    }
}

impl From<Duration> for Nanos {
    fn from(duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1);
        // Stored plus one, because a `NonZeroU64` cannot hold zero.
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }
}

impl From<Nanos> for Duration {
    fn from(nanos: Nanos) -> Self {
        Self::from_nanos(nanos.0.get() - 1)
    }
}

/// Returns a time in whole seconds, rounded up, because no caller must retry too early.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}
