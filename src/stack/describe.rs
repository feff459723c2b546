use std::time::Duration;

use super::{
    facts::{BulkheadFacts, Facts, Limit, RetryFacts},
    slot::Empty,
};
use crate::{
    bulkhead::{BulkheadLayer, QueuedBulkheadLayer},
    circuit_breaker::{CircuitBreakerLayer, KeyedCircuitBreakerLayer},
    retry::RetryLayer,
    timeout::{KnownLimit, TimeoutLayer, TotalTimeoutLayer},
};

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
