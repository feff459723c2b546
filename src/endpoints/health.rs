//! The health of an endpoint: its checks, its ejections, and whether it is drained.

use std::{mem, time::Duration};

use tokio::time::Instant;

use super::config::Config;
use crate::call::clock;

/// The health of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Health {
    draining: bool,
    /// The last checks with the same result: passed if positive, failed if negative.
    checks: i32,
    /// `true` from a failed check until enough have passed in a row.
    is_doubtful: bool,
    check_failed: bool,
    /// The end of the ejection.
    out_until: Option<Instant>,
    /// The number of ejections, which falls with the time served well.
    ejections: u32,
    /// The last instant at which the number fell, or at which an ejection ended.
    served_since: Option<Instant>,
}

/// The status of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndpointStatus {
    /// It gets calls.
    Usable,
    /// It failed too often in a row, and gets no calls for some time.
    Ejected,
    /// Its checks fail. It gets no calls until they pass.
    CheckFailed,
    /// It is drained, and gets no new calls.
    Draining,
}

impl EndpointStatus {
    /// All values.
    pub(super) const ALL: [Self; 4] =
        [Self::Usable, Self::Ejected, Self::CheckFailed, Self::Draining];

    /// Returns the status as one word, such as `check_failed`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::Ejected => "ejected",
            Self::CheckFailed => "check_failed",
            Self::Draining => "draining",
        }
    }
}

impl Health {
    pub(super) fn status(&self) -> EndpointStatus {
        if self.draining {
            EndpointStatus::Draining
        } else if self.check_failed {
            EndpointStatus::CheckFailed
        } else if self.out_until.is_some() {
            EndpointStatus::Ejected
        } else {
            EndpointStatus::Usable
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    pub(super) fn is_check_failed(&self) -> bool {
        self.check_failed
    }

    /// Begins or ends the drain. Returns `false` if nothing has changed.
    pub(super) fn drain(&mut self, draining: bool) -> bool {
        mem::replace(&mut self.draining, draining) != draining
    }

    /// Returns the end of the ejection, if there is one.
    pub(super) fn out_until(&self) -> Option<Instant> {
        self.out_until
    }

    #[cfg(test)]
    pub(super) fn ejections(&self) -> u32 {
        self.ejections
    }

    /// Ejects the endpoint, and returns for how long.
    pub(super) fn eject(&mut self, config: &Config, now: Instant) -> Duration {
        self.ejections = self.ejections.saturating_add(1);
        let time = out_time(config, self.ejections);
        if time == out_time(config, self.ejections - 1) {
            // The number would otherwise take ever longer to fall.
            self.ejections -= 1;
        }
        self.out_until = Some(clock::after(now, time));
        // Only checks from now on can end the ejection.
        self.checks = self.checks.min(0);
        time
    }

    /// Ends an ejection whose time is over. Returns `true` if there was one.
    pub(super) fn come_back(&mut self, now: Instant) -> bool {
        let over = self.out_until.is_some_and(|until| until <= now);
        if over {
            (self.out_until, self.served_since) = (None, Some(now));
        }
        over
    }

    /// Returns the instant from which a success forgets an ejection, if there is one.
    pub(super) fn forgets_at(&self, config: &Config) -> Option<Instant> {
        let since = self.served_since.filter(|_| self.ejections > 0 && self.out_until.is_none());
        since.map(|since| clock::after(since, out_time(config, self.ejections)))
    }

    /// Notes a success. One ejection is forgotten after the time of the last one.
    pub(super) fn succeeded(&mut self, config: &Config, now: Instant) {
        let Some(since) = self.served_since else { return };
        if now.saturating_duration_since(since) >= out_time(config, self.ejections) {
            self.ejections = self.ejections.saturating_sub(1);
            self.served_since = Some(now);
        }
    }

    /// Notes a check. Returns `true` if the endpoint is now out or back because of it.
    ///
    /// Checks that pass also end an ejection, because its time is only a guess.
    pub(super) fn checked(&mut self, passed: bool, config: &Config, now: Instant) -> bool {
        self.checks = match passed {
            true => self.checks.max(0).saturating_add(1),
            false => self.checks.min(0).saturating_sub(1),
        };
        let run = self.checks.unsigned_abs();
        self.is_doubtful |= !passed;
        if passed {
            let was_out = self.check_failed || self.out_until.is_some();
            let is_back = was_out && run >= config.back_after;
            if is_back {
                (self.check_failed, self.out_until, self.served_since) = (false, None, Some(now));
                self.is_doubtful = false;
            }
            is_back
        } else {
            let is_out = !self.check_failed && run >= config.out_after;
            self.check_failed |= is_out;
            is_out
        }
    }

    /// Returns `true` once if checks have failed, and enough have passed in a row since.
    pub(super) fn take_recovery(&mut self, config: &Config) -> bool {
        let has_passed = self.checks > 0 && self.checks.unsigned_abs() >= config.back_after;
        has_passed && mem::take(&mut self.is_doubtful)
    }
}

/// Returns the time of ejection number `n`.
fn out_time(config: &Config, n: u32) -> Duration {
    config.eject_for.saturating_mul(n).min(config.max_eject_for)
}

/// The endpoints that get calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// The usable ones of this group.
    Group(u8),
    /// All that are not drained, because too few are usable.
    All,
}

impl Pool {
    /// Chooses by the group of each endpoint that is not drained, and whether it is usable.
    ///
    /// The first group with enough usable endpoints is chosen.
    pub(super) fn of(
        endpoints: impl Iterator<Item = (u8, bool)> + Clone,
        panic_below: f64,
    ) -> Self {
        let mut group = endpoints.clone().map(|(group, _)| group).min();
        while let Some(this) = group {
            let members = endpoints.clone().filter(|(group, _)| *group == this);
            let (total, usable) = members
                .fold((0_u32, 0_u32), |(total, usable), (_, is_usable)| {
                    (total + 1, usable + u32::from(is_usable))
                });
            // The product would be rounded, for example that of 0.28 and 25.
            if usable > 0 && f64::from(usable) / f64::from(total) >= panic_below {
                return Self::Group(this);
            }
            group = endpoints.clone().map(|(group, _)| group).filter(|it| *it > this).min();
        }
        Self::All
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn ejections_become_longer_up_to_a_limit_and_decay() {
        let (config, mut health, start) = (Config::default(), Health::default(), Instant::now());
        let mut now = start;
        let mut times = Vec::new();
        for _ in 0..12 {
            let time = health.eject(&config, now);
            assert_eq!(health.status(), EndpointStatus::Ejected);
            assert!(!health.come_back(now + time - SECOND));
            now += time;
            assert!(health.come_back(now));
            times.push(time.as_secs());
        }
        assert_eq!(times, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]);
        // Each is forgotten after the time that it took.
        for left in (0..10).rev() {
            let time = SECOND * 30 * (left + 1);
            health.succeeded(&config, now + time - SECOND);
            assert_eq!(health.ejections(), left + 1);
            now += time;
            health.succeeded(&config, now);
            assert_eq!(health.ejections(), left);
        }
        assert_eq!(health.eject(&config, now), 30 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn checks_that_pass_end_an_ejection() {
        let (config, mut health, now) = (Config::default(), Health::default(), Instant::now());
        assert!(!health.checked(true, &config, now) && !health.checked(true, &config, now));
        health.eject(&config, now);
        assert!(!health.checked(true, &config, now), "the two before it do not count");
        assert!(health.checked(true, &config, now));
        assert_eq!((health.status(), health.ejections()), (EndpointStatus::Usable, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn three_checks_in_a_row_take_out_and_two_bring_back() {
        let (config, now) = (Config::default(), Instant::now());
        let run = |checks: &str| {
            let mut health = Health::default();
            let changes = checks.chars().map(|it| health.checked(it == '+', &config, now));
            let changes =
                changes.map(|changed| if changed { '!' } else { '.' }).collect::<String>();
            (changes, health.status())
        };
        let (usable, out) = (EndpointStatus::Usable, EndpointStatus::CheckFailed);
        assert_eq!(run("--+--+"), ("......".to_owned(), usable));
        assert_eq!(run("+++---"), (".....!".to_owned(), out));
        assert_eq!(run("---+-+-"), ("..!....".to_owned(), out));
        assert_eq!(run("----++"), ("..!..!".to_owned(), usable));
    }

    #[test]
    fn the_first_group_with_enough_usable_endpoints_is_used() {
        let pool = |endpoints: &[(u8, bool)]| Pool::of(endpoints.iter().copied(), 0.5);
        let (up, down) = (true, false);
        assert_eq!(pool(&[]), Pool::All);
        assert_eq!(pool(&[(0, down)]), Pool::All);
        assert_eq!(pool(&[(0, down), (0, up)]), Pool::Group(0));
        assert_eq!(pool(&[(0, down), (0, down), (0, up)]), Pool::All);
        assert_eq!(pool(&[(7, up), (0, down), (0, down), (0, up)]), Pool::Group(7));
        assert_eq!(pool(&[(255, up), (7, down), (0, down)]), Pool::Group(255));
        assert_eq!(pool(&[(1, down), (0, down)]), Pool::All);
        assert_eq!(Pool::of([(0, down)].into_iter(), 0.0), Pool::All, "none is not enough");
        let states = (0..25).map(|it| (0, it < 7));
        assert_eq!(Pool::of(states.clone(), 0.28), Pool::Group(0), "7 of 25 are not below it");
        assert_eq!(Pool::of(states, 0.29), Pool::All);
    }
}
