//! Warnings that concern several layers. A warning about one layer is in its `describe.rs`.

use std::time::Duration;

use super::facts::Known;
use crate::{
    bulkhead::describe::QUEUE_WAIT,
    cache::describe::CACHE,
    circuit_breaker::describe as breaker,
    describe::{Warning, fact},
    fallback::describe::{FALLBACK, FALLBACK_LIMIT},
    retry::describe::RETRIES,
    timeout::describe::{ATTEMPT_LIMIT, TOTAL_LIMIT},
};

impl Known {
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let mut found = Vec::new();
        let mut warn = |rule, text: String| found.push(Warning::new(rule, text));
        self.warn_of_timeouts(&mut warn);
        self.warn_of_fallback(&mut warn);
        if self.retries() > 0 {
            self.warn_of_retries(&mut warn);
        }
        if self.facts.has(fact::NEEDS_HTTP) && !self.facts.has(fact::HTTP) {
            warn(
                "replay_without_http",
                "the retry policy is for HTTP, but the stack does not read statuses or hints: call \
                 `http()`"
                    .into(),
            );
        }
        if let Some(limit) = self.attempt_limit().or(self.total_limit()) {
            self.warn_of_breaker(limit, &mut warn);
        }
        self.warn_of_readiness(&mut warn);
        if self.facts.has(CACHE) {
            self.warn_of_cache(&mut warn);
        }
        found
    }

    fn warn_of_timeouts(&self, warn: &mut impl FnMut(&'static str, String)) {
        if !self.facts.has(TOTAL_LIMIT) && !self.facts.has(ATTEMPT_LIMIT) {
            warn(
                "no_timeout",
                "nothing ends a call that hangs: set a total or an attempt timeout".into(),
            );
        }
        let Some(total) = self.total_limit() else { return };
        if let Some(attempt) = self.attempt_limit().filter(|attempt| *attempt >= total) {
            warn(
                "attempt_not_within_total",
                format!(
                    "the attempt timeout of {attempt:?} has no effect, because the total \
                     timeout of {total:?} ends the call first"
                ),
            );
        }
        if let Some(wait) = self.facts.get(QUEUE_WAIT).filter(|wait| *wait >= total) {
            warn(
                "queue_longer_than_total",
                format!(
                    "a call may use up its total timeout in the queue, which holds it {wait:?}"
                ),
            );
        }
    }

    fn warn_of_fallback(&self, warn: &mut impl FnMut(&'static str, String)) {
        if !self.facts.has(FALLBACK) {
            return;
        }
        if !self.facts.has(TOTAL_LIMIT) {
            warn(
                "fallback_without_total",
                "without a total timeout, a call that hangs never falls back, unless its caller \
                 has a deadline"
                    .into(),
            );
        }
        let (total, limit) = (self.total_limit(), self.facts.get(FALLBACK_LIMIT));
        if let Some((total, limit)) = total.zip(limit).filter(|(total, limit)| limit >= total) {
            warn(
                "fallback_longer_than_total",
                format!(
                    "the fallback may take {limit:?}, which is as long as the total timeout of \
                     {total:?}: callers will have left"
                ),
            );
        }
    }

    fn warn_of_retries(&self, warn: &mut impl FnMut(&'static str, String)) {
        if !self.facts.has(ATTEMPT_LIMIT) {
            warn(
                "no_attempt_timeout",
                "without an attempt timeout, one attempt that hangs uses up the whole call".into(),
            );
        }
        if let Some(fit) = self.full_attempts().filter(|fit| *fit < 2) {
            warn(
                "attempts_do_not_fit",
                format!(
                    "{fit} full-length attempts fit into the total timeout, pauses included: the \
                     retry cannot help against a dependency that hangs"
                ),
            );
        }
    }

    /// Compares the breaker with the limit that ends a call that hangs.
    fn warn_of_breaker(&self, limit: Duration, warn: &mut impl FnMut(&'static str, String)) {
        if let Some(window) = self.facts.get(breaker::WINDOW).filter(|window| *window < limit) {
            warn(
                "window_shorter_than_timeout",
                format!(
                    "the breaker's window of {window:?} is shorter than the timeout of {limit:?}: \
                     calls that hang never accumulate in it"
                ),
            );
        }
        if let Some(slow) = self.facts.get(breaker::SLOW_AFTER).filter(|slow| *slow >= limit) {
            warn(
                "slow_after_timeout",
                format!(
                    "a call counts as slow after {slow:?}, but the timeout of {limit:?} ends it \
                     earlier"
                ),
            );
        }
        if let Some(lease) = self.facts.get(breaker::PROBE_LEASE).filter(|lease| *lease < limit) {
            warn(
                "lease_shorter_than_timeout",
                format!(
                    "a probe counts as failed after {lease:?}, within its timeout of {limit:?}"
                ),
            );
        }
        if self.ignores_cuts() && !self.facts.has(ATTEMPT_LIMIT) {
            warn(
                "hangs_are_not_counted",
                format!(
                    "the total timeout ends calls that hang after {limit:?}, and the breaker \
                     counts no call that is cut (`abandoned_after`): set an attempt timeout"
                ),
            );
        }
    }

    fn warn_of_cache(&self, warn: &mut impl FnMut(&'static str, String)) {
        let Some(total) = self.total_limit() else {
            let text = match self.facts.has(TOTAL_LIMIT) {
                true => {
                    "the total timeout depends on the request, so a caller that asks for itself \
                     after a shared call gave it nothing can take twice as long"
                }
                false => "no total timeout ends a call that callers share: all of them wait for it",
            };
            return warn("shared_call_without_limit", text.into());
        };
        if let Some(patience) = self.facts.get(CACHE).filter(|patience| *patience >= total) {
            warn(
                "patience_longer_than_total",
                format!(
                    "the patience of {patience:?} has no effect, because the total timeout of \
                     {total:?} ends the call first"
                ),
            );
        }
    }

    fn warn_of_readiness(&self, warn: &mut impl FnMut(&'static str, String)) {
        let total = self.facts.has(TOTAL_LIMIT);
        if total && self.facts.has(fact::PUSHES_BACK) {
            warn(
                "unseen_readiness",
                "a stack with a total timeout is always ready: callers cannot see its breaker \
                 pend or its bulkhead push back"
                    .into(),
            );
        }
        if self.under_balancer {
            if self.facts.has(breaker::REJECTS) {
                warn(
                    "reject_under_balancer",
                    "under a balancer, a breaker that rejects looks like the fastest endpoint and \
                     attracts all calls: let it `pend`"
                        .into(),
                );
            }
            if total || self.facts.has(RETRIES) {
                warn(
                    "total_under_balancer",
                    "the total timeout and the retry belong above the balancer, where a retry can \
                     take another endpoint"
                        .into(),
                );
            }
        } else if self.facts.has(breaker::PENDS) {
            warn(
                "pend_without_balancer",
                "a breaker that pends makes callers wait while it is open, unless a balancer \
                 stands above it: let it reject, call `under_balancer`, or ignore this if \
                 the callers can wait"
                    .into(),
            );
        }
    }
}
