//! The clock of a store. Nothing else reads the wall clock.
//!
//! Records outlive the process, so a monotonic clock alone is not enough.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time since 1970, which never goes back.
///
/// The wall clock is read once. If it were set while the process runs, leases and results would
/// end too early, or ended ones would become valid again.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Duration,
    started: Instant,
}

impl Clock {
    /// Starts at the wall clock's time, or at `seen` if the wall clock was set back behind it.
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
