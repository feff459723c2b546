//! The one place where a clock on the wall is read: records outlive the process, so their times must too.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time since 1970, which never goes back.
///
/// The wall clock is read once. A step of it while the process runs would end leases and forget results
/// too early, or bring back what has ended.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Duration,
    started: Instant,
}

impl Clock {
    /// Goes on from the wall clock, or from `seen` if the wall clock has been set back behind it.
    pub(crate) fn not_before(seen: Duration) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: wall.max(seen), started: Instant::now() }
    }

    pub(crate) fn now(&self) -> Duration {
        self.start.saturating_add(self.started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_was_set_back_is_not_believed() {
        let far = Duration::from_secs(1 << 40);

        let clock = Clock::not_before(far);

        assert!(clock.now() >= far);
        assert!(Clock::not_before(Duration::ZERO).now() < far);
    }
}
