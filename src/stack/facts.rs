use std::time::Duration;

use crate::{backoff::Jitter, circuit_breaker::Facts as BreakerFacts};

/// What is known of a stack without a request.
#[derive(Debug, Default)]
pub struct Facts {
    pub(super) total: Option<Limit>,
    pub(super) retry: Option<RetryFacts>,
    pub(super) bulkhead: Option<BulkheadFacts>,
    pub(super) breaker: Option<BreakerFacts>,
    pub(super) attempt: Option<Limit>,
    /// How long a reader waits for a frame of a body, where a call ends with one.
    pub(super) body: Option<Limit>,
    pub(super) under_balancer: bool,
}

#[cfg(feature = "http")]
impl Facts {
    pub(crate) fn body_idle(&mut self, idle: Option<Duration>) {
        self.body = Some(Limit(idle));
    }
}

/// A time limit, unknown where it depends on the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit(pub(super) Option<Duration>);

#[derive(Debug)]
pub(super) struct RetryFacts {
    pub(super) retries: u32,
    /// The longest pauses, added up for each number of retries.
    pub(super) pauses: Vec<Duration>,
    pub(super) all_pauses: Duration,
    pub(super) readiness_wait: Duration,
    /// The longest pause that a server can ask for.
    pub(super) hinted_pause: Duration,
    pub(super) jitter: Jitter,
    pub(super) budget: Option<f64>,
}

#[derive(Debug)]
pub(super) struct BulkheadFacts {
    pub(super) limit: u32,
    pub(super) queue: Option<(u32, Duration)>,
    pub(super) backpressure: bool,
}

impl Facts {
    pub(super) fn most_calls(&self) -> u64 {
        1 + self.retry.as_ref().map_or(0, |retry| u64::from(retry.retries))
    }

    pub(super) fn total_limit(&self) -> Option<Duration> {
        self.total?.0
    }

    pub(super) fn attempt_limit(&self) -> Option<Duration> {
        self.attempt?.0
    }

    pub(super) fn worst_time(&self) -> Option<Duration> {
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
    pub(super) fn full_attempts(&self) -> Option<u64> {
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
}
