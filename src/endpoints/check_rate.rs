//! The rate at which checks begin.

use std::time::Duration;

use tokio::time::Instant;

/// The number of checks that may begin in each tenth of the interval, however few endpoints there
/// are.
const BURST: usize = 100;

/// Limits the rate at which checks begin.
///
/// Many checks are due at once if many endpoints are added at once, or if the runtime was not
/// driven for some time.
#[derive(Debug, Default)]
pub(super) struct CheckRate {
    /// The start of the current tenth of the interval.
    since: Option<Instant>,
    /// The number of checks that have begun in it.
    begun: usize,
}

impl CheckRate {
    /// Returns `true` if a check may begin now, and counts it. Otherwise, it must wait.
    ///
    /// In a tenth of the interval, a fifth of the endpoints and a [`BURST`] may be checked. A fifth
    /// is twice the mean.
    pub(super) fn admit(&mut self, now: Instant, interval: Duration, endpoints: usize) -> bool {
        let is_current = |since: Instant| now.saturating_duration_since(since) < interval / 10;
        if !self.since.is_some_and(is_current) {
            *self = Self { since: Some(now), begun: 0 };
        }
        let is_admitted = self.begun < BURST + endpoints / 5;
        self.begun += usize::from(is_admitted);
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_endpoints_and_a_burst_are_checked_in_each_tenth_of_the_interval() {
        let (mut rate, start) = (CheckRate::default(), Instant::now());
        for tenth in [0, 1, 5] {
            let now = start + tenth * Duration::from_secs(1);
            let begun = (0..1_000)
                .filter(|it| {
                    let now = now + *it * Duration::from_micros(900);
                    rate.admit(now, Duration::from_secs(10), 500)
                })
                .count();
            assert_eq!(begun, 200);
        }
        let more = (0..1_000).filter(|_| rate.admit(start, Duration::MAX, 0)).count();
        assert_eq!(more, 0, "the clock of another runtime may be behind");
    }
}
