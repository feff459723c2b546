use std::time::Duration;

use crate::{
    call::patience::FLOOR,
    circuit_breaker::describe as breaker,
    describe::{Facts, fact},
    fallback::describe::FALLBACK_LIMIT,
    retry::describe as retry,
    timeout::describe::{ATTEMPT_LIMIT, TOTAL_LIMIT},
};

/// The facts that the layers of a stack noted. The methods derive bounds of the stack from them.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) facts: Facts,
    pub(super) under_balancer: bool,
}

impl Known {
    /// Returns the maximum number of attempts for one call of the stack.
    pub(super) fn most_calls(&self) -> u64 {
        1 + self.retries()
    }

    pub(super) fn retries(&self) -> u64 {
        self.facts.get(retry::RETRIES).unwrap_or(0)
    }

    pub(super) fn total_limit(&self) -> Option<Duration> {
        self.facts.get(TOTAL_LIMIT)
    }

    pub(super) fn attempt_limit(&self) -> Option<Duration> {
        self.facts.get(ATTEMPT_LIMIT)
    }

    /// Returns `true` if the breaker counts no call that is cut.
    pub(super) fn ignores_cuts(&self) -> bool {
        self.facts.get(breaker::ABANDONED_AFTER) == Some(Duration::MAX)
    }

    /// Returns the lines about what a breaker does not see.
    pub(super) fn blind_spots(&self) -> Vec<String> {
        let Some(silence) = self.facts.get(breaker::SILENCE) else { return Vec::new() };
        if self.ignores_cuts() {
            return vec!["the breaker counts no call that its caller cuts".to_owned()];
        }
        let limits = [self.attempt_limit(), self.total_limit()].into_iter().flatten();
        let floor = limits.filter(|limit| *limit < Duration::MAX).min().unwrap_or(FLOOR);
        // The limit of a server is not known here. It may be shorter, and it replaces `FLOOR`.
        let floor = format!("{floor:?}, or a server's limit");
        let at_once = match self.facts.get(breaker::ABANDONED_AFTER) {
            Some(after) => format!("at once after {after:?}, and sooner "),
            None => String::new(),
        };
        let mut lines = vec![
            format!(
                "a call that its caller cuts is a failure {at_once}if nobody had a response for \
                 {silence:?} and it ran longer than responses take"
            ),
            format!("  (before the first response, if it ran for {floor})"),
            "the breaker does not see (nothing to set):".to_owned(),
            "  a hang of some calls, if only callers in a hurry meet it".to_owned(),
            "  a hang after the head of a response, if readers leave before a limit of the body"
                .to_owned(),
            "  a hang whose callers all leave before a call runs long (4 mean deviations above the \
             mean time of a response)"
                .to_owned(),
            format!("  a hang from the start whose callers all leave within {floor}"),
        ];
        if !self.facts.has(breaker::WAITS_FOR_READINESS) {
            lines.push("  a dependency that never becomes ready".to_owned());
        }
        let in_window = self.facts.get(breaker::NEEDED_IN_WINDOW);
        let in_window = in_window.map(|calls| format!("fewer than {calls} calls in its window"));
        let in_a_row = self.facts.get(breaker::NEEDED_IN_A_ROW);
        let in_a_row = in_a_row.map(|calls| format!("fewer than {calls} in a row"));
        let few: Vec<_> = in_window.into_iter().chain(in_a_row).collect();
        let few = few.join(" and ");
        lines.push(format!("  a hang with {few}, or pauses of {silence:?} between calls"));
        lines.push(format!(
            "the breaker takes for a hang: a slow route that only callers in a hurry call for \
             {silence:?}"
        ));
        lines
    }

    /// Returns the longest time of a call, or `None` if no bound is known.
    pub(super) fn worst_time(&self) -> Option<Duration> {
        // The sum of a time without a limit saturates.
        self.longest_sum().filter(|time| *time < Duration::MAX)
    }

    fn longest_sum(&self) -> Option<Duration> {
        let fallback = self.facts.get(FALLBACK_LIMIT).unwrap_or_default();
        Some(self.longest_within()?.saturating_add(fallback))
    }

    /// Returns the longest time of a call without its fallback.
    fn longest_within(&self) -> Option<Duration> {
        let facts = &self.facts;
        if facts.has(fact::OUTSIDE_THE_TOTAL) {
            return None;
        }
        if facts.has(TOTAL_LIMIT) {
            return self.total_limit();
        }
        if facts.has(fact::WAITS_FOR_READINESS) {
            return None;
        }
        let attempt = self.attempt_limit()?;
        let retries = u32::try_from(self.retries()).unwrap_or(u32::MAX);
        let time = |fact| facts.get(fact).unwrap_or_default();
        let attempts = attempt.saturating_mul(retries.saturating_add(1));
        let waits = time(retry::READINESS_WAIT).saturating_mul(retries);
        let hinted = time(retry::HINTED_PAUSE).saturating_mul(retries);
        let pauses = time(retry::ALL_PAUSES).max(hinted);
        Some(attempts.saturating_add(pauses).saturating_add(waits))
    }

    /// Returns the number of attempts that fit into the total if each takes its maximum time.
    pub(super) fn full_attempts(&self) -> Option<u64> {
        let (total, attempt) = (self.total_limit()?, self.attempt_limit()?);
        let mut fit = u64::from(attempt <= total);
        for (pause, attempts) in self.facts.all(retry::PAUSES).zip(2_u32..) {
            if attempt.saturating_mul(attempts).saturating_add(pause) > total {
                break;
            }
            fit = u64::from(attempts);
        }
        Some(fit)
    }
}
