//! The failures that are overloads of a dependency which names a time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::effects::Hint;
use crate::call::clock::nanos;

/// The kinds of the latest failures.
///
/// The failures that open a breaker are the latest ones, whatever its window is.
#[derive(Debug, Default)]
pub(super) struct Overloads {
    /// One bit for each of the last 64 failures, the latest in the lowest. It is set for an
    /// overload that named a time.
    kinds: AtomicU64,
    /// The time that the last of them named, in nanoseconds.
    named: AtomicU64,
}

impl Overloads {
    /// Notes a failure.
    pub(super) fn note(&self, hint: Option<Hint>) {
        let overload = hint.filter(|hint| hint.overload);
        if let Some(hint) = overload {
            self.named.store(nanos(hint.time), Ordering::Relaxed);
        }
        let noted = |kinds: u64| Some(kinds << 1 | u64::from(overload.is_some()));
        let _ = self.kinds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, noted);
    }

    /// Returns the time that was named last, if most of this many failures are overloads.
    pub(super) fn most_of(&self, failures: u64) -> Option<Hint> {
        let failures = u32::try_from(failures).unwrap_or(64).min(64);
        let latest = 1_u64.checked_shl(failures).map_or(u64::MAX, |above| above - 1);
        let overloads = (self.kinds.load(Ordering::Relaxed) & latest).count_ones();
        let time = Duration::from_nanos(self.named.load(Ordering::Relaxed));
        (overloads * 2 > failures).then_some(Hint { time, overload: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_failures_of_the_trip_count_and_most_of_them_must_be_overloads() {
        let hint = |seconds| Hint { time: Duration::from_secs(seconds), overload: true };
        let overloads = Overloads::default();
        assert_eq!(overloads.most_of(0), None);
        for seconds in 1..=100 {
            overloads.note(Some(hint(seconds)));
        }
        assert_eq!(overloads.most_of(u64::MAX), Some(hint(100)));
        overloads.note(None);
        overloads.note(Some(Hint { overload: false, ..hint(7) }));
        let most = [1, 2, 3, 4, 5, 64, 1_000].map(|failures| overloads.most_of(failures).is_some());
        assert_eq!(most, [false, false, false, false, true, true, true]);
        for _ in 0..31 {
            overloads.note(None);
        }
        // Of the last 64 it was half.
        assert_eq!(overloads.most_of(64), None);
    }
}
