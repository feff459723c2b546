//! The pace at which checks begin.

use std::time::Duration;

use tokio::time::Instant;

/// The number of checks that may always begin in a tenth of the interval.
const SOME: usize = 100;

/// Counts the checks that begin, so that those that are due at once can be spread.
///
/// They are if many endpoints are added at once, and if the runtime was not driven for some time.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The begin of a tenth of the interval.
    since: Option<Instant>,
    begun: usize,
}

impl Pace {
    /// Notes that a check of one of so many endpoints is due. Returns `false` if it must wait.
    ///
    /// Twice as many may begin as in the mean.
    pub(super) fn begins(&mut self, now: Instant, interval: Duration, endpoints: usize) -> bool {
        let is_current = |since: Instant| now.saturating_duration_since(since) < interval / 10;
        if !self.since.is_some_and(is_current) {
            *self = Self { since: Some(now), begun: 0 };
        }
        let begins = self.begun < SOME + endpoints / 5;
        self.begun += usize::from(begins);
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_begin_in_each_tenth_of_the_interval_as_two_tenths_of_all_and_some() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for tenth in [0, 1, 5] {
            let now = start + tenth * Duration::from_secs(1);
            let begun = (0..1_000)
                .filter(|it| {
                    let now = now + *it * Duration::from_micros(900);
                    pace.begins(now, Duration::from_secs(10), 500)
                })
                .count();
            assert_eq!(begun, 200);
        }
        let most = (0..1_000).filter(|_| pace.begins(start, Duration::MAX, 0)).count();
        assert_eq!(most, 0, "the clock of another runtime may be behind");
    }
}
