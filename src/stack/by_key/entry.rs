//! The values that are kept for each key.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::{
    bulkhead::BulkheadHandle,
    call::lock::lock,
    circuit_breaker::CircuitBreakerHandle,
    fallback::FallbackHandle,
    keyed::{Kept, Rank},
    stack::handles::Handles,
};

/// The stack of a key.
///
/// A call keeps it until its future has ended, and so the stack is busy. The bulkhead also knows
/// the calls of which only the body is left.
pub(super) struct Entry<St> {
    /// The number of this stack, which no other stack of the layer ever has.
    pub(super) id: u64,
    pub(super) stack: St,
    /// Is `None` if another stack had the breaker first, as are the bulkhead and the fallback.
    ///
    /// The state of a layer that stacks share is not lost with this stack. It must not keep all of
    /// them in memory either.
    breaker: Option<CircuitBreakerHandle>,
    bulkhead: Option<BulkheadHandle>,
    fallback: Option<FallbackHandle>,
}

impl<St: Handles> Entry<St> {
    pub(super) fn new(id: u64, stack: St) -> Self {
        let breaker = stack.find_circuit_breaker().filter(CircuitBreakerHandle::claim);
        let bulkhead = stack.find_bulkhead().filter(BulkheadHandle::claim);
        let fallback = stack.find_fallback().filter(FallbackHandle::claim);
        Self { id, stack, breaker, bulkhead, fallback }
    }

    /// Shows the text of the key in the events of the breaker and in its rejections.
    pub(super) fn describe(&self, key: String) {
        if let Some(breaker) = &self.breaker {
            breaker.describe(key);
        }
    }
}

impl<St> Kept for Entry<St> {
    fn rank(&self) -> Rank {
        if self.fallback.as_ref().is_some_and(FallbackHandle::is_off) {
            return Rank::Pinned;
        }
        self.breaker.as_ref().map_or(Rank::Ordinary, Kept::rank)
    }

    fn outlasts(&self, now: Instant) -> bool {
        self.breaker.as_ref().is_some_and(|breaker| breaker.outlasts(now))
    }

    fn is_busy(self: &Arc<Self>) -> bool {
        // The map has one reference, and each call another one.
        Arc::strong_count(self) > 1
            || self.bulkhead.as_ref().is_some_and(|bulkhead| bulkhead.in_flight() > 0)
    }
}

/// The stack of a key around a clone of the client.
pub(super) struct Wrapped<Svc> {
    /// Is in a lock because it need not be `Sync`.
    service: Mutex<Svc>,
}

impl<Svc> Wrapped<Svc> {
    pub(super) fn new(service: Svc) -> Self {
        Self { service: Mutex::new(service) }
    }

    /// Returns a clone of the service, which is not ready yet.
    pub(super) fn service(&self) -> Svc
    where
        Svc: Clone,
    {
        // The client's `clone` runs under this lock. Only one that calls this service with the same
        // key could deadlock.
        lock(&self.service).clone()
    }
}

/// Nothing is lost with it. It is made again from the stack and the client.
impl<Svc> Kept for Wrapped<Svc> {
    fn rank(&self) -> Rank {
        Rank::Ordinary
    }

    fn outlasts(&self, _: Instant) -> bool {
        false
    }
}
