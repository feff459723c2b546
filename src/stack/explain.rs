use std::{fmt, time::Duration};

use super::{builder::Stack, slot::Empty};
use crate::{
    backoff::Jitter,
    bulkhead::{BulkheadLayer, QueuedBulkheadLayer},
    circuit_breaker::{CircuitBreakerLayer, Facts as BreakerFacts, KeyedCircuitBreakerLayer},
    retry::RetryLayer,
    timeout::{KnownLimit, TimeoutLayer, TotalTimeoutLayer},
};

/// What a stack will do, in numbers, and which of its settings contradict each other. Made by
/// [`Stack::explain`]; its `Display` is for people.
#[derive(Clone, Debug)]
pub struct Explanation {
    lines: Vec<String>,
    warnings: Vec<Warning>,
    worst_time: Option<Duration>,
    most_calls: u64,
}

impl Explanation {
    /// Which settings contradict each other; none, for a stack that makes sense.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The longest time that a call can take; `None` if it can take for ever, or if the limit depends
    /// on the request.
    pub fn worst_time(&self) -> Option<Duration> {
        self.worst_time
    }

    /// How many calls the dependency can see for one call.
    pub fn most_calls(&self) -> u64 {
        self.most_calls
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

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

/// What is known of a stack without a request.
#[derive(Debug, Default)]
pub struct Facts {
    total: Option<Limit>,
    retry: Option<RetryFacts>,
    bulkhead: Option<BulkheadFacts>,
    breaker: Option<BreakerFacts>,
    attempt: Option<Limit>,
    /// How long a reader waits for a frame of a body, where a call ends with one.
    body: Option<Limit>,
    under_balancer: bool,
}

#[cfg(feature = "http")]
impl Facts {
    pub(crate) fn body_idle(&mut self, idle: Option<Duration>) {
        self.body = Some(Limit(idle));
    }
}

/// A time limit, unknown where it depends on the request.
#[derive(Clone, Copy, Debug)]
struct Limit(Option<Duration>);

#[derive(Debug)]
struct RetryFacts {
    retries: u32,
    /// The longest pauses, added up for each number of retries.
    pauses: Vec<Duration>,
    all_pauses: Duration,
    readiness_wait: Duration,
    /// The longest pause that a server can ask for.
    hinted_pause: Duration,
    jitter: Jitter,
    budget: Option<f64>,
}

#[derive(Debug)]
struct BulkheadFacts {
    limit: u32,
    queue: Option<(u32, Duration)>,
    backpressure: bool,
}

/// A layer that can say what it will do.
pub trait Describe {
    /// Adds what is known to the facts.
    fn describe(&self, facts: &mut Facts);
}

impl Describe for Empty {
    fn describe(&self, _: &mut Facts) {}
}

impl<L: KnownLimit> Describe for TotalTimeoutLayer<L> {
    fn describe(&self, facts: &mut Facts) {
        facts.total = Some(Limit(self.known_limit()));
    }
}

impl<L: KnownLimit> Describe for TimeoutLayer<L> {
    fn describe(&self, facts: &mut Facts) {
        facts.attempt = Some(Limit(self.known_limit()));
    }
}

impl<P, C> Describe for RetryLayer<P, C> {
    fn describe(&self, facts: &mut Facts) {
        let backoff = self.backoff();
        let mut all_pauses = Duration::ZERO;
        let mut pauses = Vec::new();
        // However many retries are allowed, no more than these matter to a reader.
        for retry in 1..=self.retries().min(1_000) {
            all_pauses = all_pauses.saturating_add(backoff.longest(retry));
            pauses.push(all_pauses);
        }
        let rest = self.retries().saturating_sub(1_000);
        facts.retry = Some(RetryFacts {
            retries: self.retries(),
            pauses,
            all_pauses: all_pauses.saturating_add(backoff.cap().saturating_mul(rest)),
            readiness_wait: self.readiness_wait(),
            hinted_pause: self
                .hint_cap()
                .saturating_add(backoff.ceiling(1).max(self.hint_cap() / 5)),
            jitter: backoff.jitter(),
            budget: self.budget().map(|budget| budget.ratio()),
        });
    }
}

impl Describe for BulkheadLayer {
    fn describe(&self, facts: &mut Facts) {
        facts.bulkhead = Some(BulkheadFacts {
            limit: self.handle().limit(),
            queue: None,
            backpressure: self.is_backpressure(),
        });
    }
}

impl Describe for QueuedBulkheadLayer {
    fn describe(&self, facts: &mut Facts) {
        facts.bulkhead = Some(BulkheadFacts {
            limit: self.handle().limit(),
            queue: Some((self.capacity(), self.max_wait())),
            backpressure: false,
        });
    }
}

impl<C> Describe for CircuitBreakerLayer<C> {
    fn describe(&self, facts: &mut Facts) {
        facts.breaker = Some(self.facts());
    }
}

impl<K, F, C> Describe for KeyedCircuitBreakerLayer<K, F, C> {
    fn describe(&self, facts: &mut Facts) {
        facts.breaker = Some(self.facts());
    }
}

impl<T, R, B, K, A, H, C> Stack<T, R, B, K, A, H, C>
where
    T: Describe,
    R: Describe,
    B: Describe,
    K: Describe,
    A: Describe,
    H: Describe,
{
    /// What the stack will do, and which of its settings contradict each other.
    ///
    /// ```
    /// use buttress::{Stack, retry::ReplayClones};
    ///
    /// let explanation = Stack::standard(ReplayClones).explain();
    /// assert!(explanation.warnings().is_empty(), "{explanation}");
    /// ```
    pub fn explain(&self) -> Explanation {
        let mut facts = Facts { under_balancer: self.under_balancer, ..Facts::default() };
        self.total_timeout.describe(&mut facts);
        self.retry.describe(&mut facts);
        self.bulkhead.describe(&mut facts);
        self.circuit_breaker.describe(&mut facts);
        self.attempt_timeout.describe(&mut facts);
        self.edge.describe(&mut facts);
        facts.explain()
    }
}

impl Facts {
    fn explain(&self) -> Explanation {
        Explanation {
            lines: self.lines(),
            warnings: self.warnings(),
            worst_time: self.worst_time(),
            most_calls: self.most_calls(),
        }
    }

    fn most_calls(&self) -> u64 {
        1 + self.retry.as_ref().map_or(0, |retry| u64::from(retry.retries))
    }

    fn total_limit(&self) -> Option<Duration> {
        self.total?.0
    }

    fn attempt_limit(&self) -> Option<Duration> {
        self.attempt?.0
    }

    fn worst_time(&self) -> Option<Duration> {
        if self.total.is_some() {
            return self.total_limit();
        }
        if self.bulkhead.as_ref().is_some_and(|bulkhead| bulkhead.queue.is_some())
            || self.breaker.as_ref().is_some_and(|breaker| breaker.keyed)
        {
            // These wait in their future until the service is ready, however long that is.
            return None;
        }
        let attempt = self.attempt_limit()?;
        let Some(retry) = &self.retry else { return Some(attempt) };
        let attempts = attempt.saturating_mul(retry.retries.saturating_add(1));
        let waits = retry.readiness_wait.saturating_mul(retry.retries);
        let hinted = retry.hinted_pause.saturating_mul(retry.retries);
        Some(attempts.saturating_add(retry.all_pauses.max(hinted)).saturating_add(waits))
    }

    /// How many attempts fit into the total if each takes all the time it may.
    fn full_attempts(&self) -> Option<u64> {
        let (total, attempt) = (self.total_limit()?, self.attempt_limit()?);
        let none = Vec::new();
        let pauses = self.retry.as_ref().map_or(&none, |retry| &retry.pauses);
        let mut fit = u64::from(attempt <= total);
        for (pause, attempts) in pauses.iter().zip(2_u32..) {
            if attempt.saturating_mul(attempts).saturating_add(*pause) > total {
                break;
            }
            fit = u64::from(attempts);
        }
        Some(fit)
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec!["outermost first:".to_owned()];
        if let Some(Limit(limit)) = self.total {
            lines.push(format!("  total timeout    {}", shown(limit)));
        }
        if let Some(retry) = &self.retry {
            let budget = match retry.budget {
                Some(ratio) => format!("at most {:.0} % of the calls", ratio * 100.0),
                None => "no budget".to_owned(),
            };
            lines.push(format!(
                "  retry            up to {} times, pauses of up to {:?} in all, {budget}",
                retry.retries, retry.all_pauses,
            ));
        }
        if let Some(bulkhead) = &self.bulkhead {
            let then = match (bulkhead.queue, bulkhead.backpressure) {
                (Some((capacity, wait)), _) => format!("{capacity} more wait, up to {wait:?}"),
                (None, true) => "then not ready".to_owned(),
                (None, false) => "then refused".to_owned(),
            };
            lines.push(format!("  bulkhead         {} calls at once, {then}", bulkhead.limit));
        }
        if let Some(breaker) = &self.breaker {
            lines.push(format!("  circuit breaker  {}", breaker.summary));
        }
        if let Some(Limit(limit)) = self.attempt {
            lines.push(format!("  attempt timeout  {}", shown(limit)));
        }
        if let Some(Limit(idle)) = self.body {
            let wait = idle.map_or("for ever".to_owned(), |idle| format!("up to {idle:?}"));
            lines.push(format!("  http             writes the headers of the hop; waits {wait} for a frame of the body"));
        }
        let worst = self.worst_time().map_or("no bound is known".to_owned(), |t| format!("{t:?}"));
        lines.push(format!("longest call: {worst}"));
        if let Some(fit) = self.full_attempts() {
            lines.push(format!("full attempts that fit into the total: {fit}"));
        }
        let sustained = match self.retry.as_ref().and_then(|retry| retry.budget) {
            Some(ratio) => format!("; on average {:.2}, by the budget", 1.0 + ratio),
            None => String::new(),
        };
        lines.push(format!(
            "most calls of the service for one call: {}{sustained}",
            self.most_calls()
        ));
        lines
    }

    fn warnings(&self) -> Vec<Warning> {
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
                        "the attempt timeout of {attempt:?} never acts, for the total of {total:?} ends the call first"
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
                "a stack with a total timeout is always ready: nobody above sees its breaker pend or \
                 its bulkhead push back"
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
                "a breaker that pends makes callers wait while it is open, unless a balancer stands \
                 above it: let it reject, or say `under_balancer`"
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
                    "of attempts that take all their time, and the pauses between them, {fit} fits into \
                     the total: the retry cannot help against a dependency that hangs"
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
                    "the breaker's window of {:?} is shorter than the timeout of {limit:?}: calls that \
                     hang never add up in it",
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
                    "calls that hang are cut by the total after {limit:?}, which the breaker does not \
                     count before {:?}: set an attempt timeout",
                    breaker.abandoned_after
                ),
            );
        }
    }
}

fn shown(limit: Option<Duration>) -> String {
    limit.map_or("by request".to_owned(), |limit| format!("{limit:?}"))
}
