use std::{fmt, time::Duration};

use super::facts::{Facts, RetryFacts};
use crate::{backoff::Jitter, circuit_breaker::Facts as BreakerFacts};

/// Two settings that contradict each other, or one that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    rule: &'static str,
    text: String,
}

impl Warning {
    /// A short name of the rule, which stays the same.
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Facts {
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |rule, text: String| warnings.push(Warning { rule, text });
        let (total, attempt) = (self.total_limit(), self.attempt_limit());

        if self.total.is_none() && self.attempt.is_none() {
            warn(
                "no_timeout",
                "nothing ends a call that hangs: set a total or an attempt timeout".into(),
            );
        }
        if [total, attempt].contains(&Some(Duration::ZERO)) {
            warn(
                "zero_timeout",
                "a timeout of zero lets through only what is ready at once".into(),
            );
        }
        if let (Some(total), Some(attempt)) = (total, attempt) {
            if attempt >= total {
                warn(
                    "attempt_not_within_total",
                    format!(
                        "the attempt timeout of {attempt:?} never acts, for the total of {total:?} \
                         ends the call first"
                    ),
                );
            }
        }
        if let Some(retry) = self.retry.as_ref().filter(|retry| retry.retries > 0) {
            self.retry_warnings(retry, &mut warn);
        }
        if let Some(breaker) = &self.breaker {
            self.breaker_warnings(breaker, &mut warn);
        }
        if let Some((_, wait)) = self.bulkhead.as_ref().and_then(|bulkhead| bulkhead.queue) {
            if total.is_some_and(|total| wait >= total) {
                warn(
                    "queue_longer_than_total",
                    format!("a call may wait in the queue for {wait:?}, which is all of its time"),
                );
            }
        }
        let pends = self.breaker.as_ref().is_some_and(|breaker| breaker.pend);
        let waits = self.bulkhead.as_ref().is_some_and(|bulkhead| bulkhead.backpressure);
        if self.total.is_some() && (pends || waits) {
            warn(
                "unseen_readiness",
                "a stack with a total timeout is always ready: nobody above sees its breaker pend \
                 or its bulkhead push back"
                    .into(),
            );
        }
        if self.under_balancer {
            if self.breaker.as_ref().is_some_and(|breaker| !breaker.pend) {
                warn(
                    "reject_under_balancer",
                    "under a balancer a breaker that rejects is the fastest endpoint and draws all \
                     calls: let it `pend`"
                        .into(),
                );
            }
            if self.total.is_some() || self.retry.is_some() {
                warn(
                    "total_under_balancer",
                    "the total timeout and the retry belong above the balancer: a retry could then \
                     take another endpoint"
                        .into(),
                );
            }
        } else if pends {
            warn(
                "pend_without_balancer",
                "a breaker that pends makes callers wait while it is open, unless a balancer \
                 stands above it: let it reject, or say `under_balancer`"
                    .into(),
            );
        }
        warnings
    }

    fn retry_warnings(&self, retry: &RetryFacts, warn: &mut impl FnMut(&'static str, String)) {
        if retry.budget.is_none() {
            warn(
                "no_budget",
                format!(
                    "without a budget a dependency that is down gets {} times its load",
                    self.most_calls()
                ),
            );
        }
        if self.attempt.is_none() {
            warn(
                "no_attempt_timeout",
                "without an attempt timeout one attempt that hangs takes up the whole call".into(),
            );
        }
        if let Some(fit) = self.full_attempts().filter(|fit| *fit < 2) {
            warn(
                "attempts_do_not_fit",
                format!(
                    "of attempts that take all their time, and the pauses between them, {fit} fits \
                     into the total: the retry cannot help against a dependency that hangs"
                ),
            );
        }
        if retry.jitter == Jitter::None {
            warn(
                "no_jitter",
                "without jitter clients that failed together come back together".into(),
            );
        }
    }

    fn breaker_warnings(
        &self,
        breaker: &BreakerFacts,
        warn: &mut impl FnMut(&'static str, String),
    ) {
        let limit = self.attempt_limit().or(self.total_limit());
        let Some(limit) = limit else { return };
        if breaker.window.is_some_and(|window| window < limit) {
            warn(
                "window_shorter_than_timeout",
                format!(
                    "the breaker's window of {:?} is shorter than the timeout of {limit:?}: calls \
                     that hang never add up in it",
                    breaker.window.unwrap_or_default()
                ),
            );
        }
        if breaker.slow_after.is_some_and(|slow| slow >= limit) {
            warn(
                "slow_after_timeout",
                format!(
                    "a call is slow after {:?}, but the timeout of {limit:?} ends it before",
                    breaker.slow_after.unwrap_or_default()
                ),
            );
        }
        if breaker.probe_lease < limit {
            warn(
                "lease_shorter_than_timeout",
                format!(
                    "a probe has failed after {:?}, before its timeout of {limit:?}",
                    breaker.probe_lease
                ),
            );
        }
        if self.attempt.is_none() && limit < breaker.abandoned_after {
            warn(
                "hangs_are_not_counted",
                format!(
                    "calls that hang are cut by the total after {limit:?}, which the breaker does \
                     not count before {:?}: set an attempt timeout",
                    breaker.abandoned_after
                ),
            );
        }
    }
}
