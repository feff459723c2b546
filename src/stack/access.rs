//! The handles of the layers of a stack.

use super::{builder::Stack, handles::Handles};
use crate::{
    bulkhead::BulkheadHandle, circuit_breaker::CircuitBreakerHandle, fallback::FallbackHandle,
    retry::Budget,
};

impl<Slots: Handles, C> Handles for Stack<Slots, C> {
    fn find_circuit_breaker(&self) -> Option<CircuitBreakerHandle> {
        // Events of the handle have the names of the stack, even before it is around a service.
        self.slots.find_circuit_breaker().inspect(|handle| handle.inherit(&self.reporters))
    }

    fn find_bulkhead(&self) -> Option<BulkheadHandle> {
        self.slots.find_bulkhead().inspect(|handle| handle.inherit(&self.reporters))
    }

    fn find_fallback(&self) -> Option<FallbackHandle> {
        self.slots.find_fallback().inspect(|handle| handle.inherit(&self.reporters))
    }

    fn find_budget(&self) -> Option<&Budget> {
        self.slots.find_budget()
    }
}

impl<Slots: Handles, C> Stack<Slots, C> {
    /// Returns the handle of the circuit breaker.
    ///
    /// It is `None` if the stack has no breaker, or a
    /// [breaker by key](crate::circuit_breaker::KeyedCircuitBreakerLayer).
    ///
    /// ```
    /// use buttress::{Stack, circuit_breaker::State, retry::ReplayClones};
    ///
    /// let stack = Stack::standard(ReplayClones);
    /// let breaker = stack.circuit_breaker_handle();
    /// assert_eq!(breaker.map(|breaker| breaker.state()), Some(State::Closed));
    /// assert!(Stack::new().circuit_breaker_handle().is_none());
    /// ```
    pub fn circuit_breaker_handle(&self) -> Option<CircuitBreakerHandle> {
        self.find_circuit_breaker()
    }

    /// Returns the handle of the bulkhead, or `None` if the stack has none.
    pub fn bulkhead_handle(&self) -> Option<BulkheadHandle> {
        self.find_bulkhead()
    }

    /// Returns the handle of the fallback, or `None` if the stack has none.
    pub fn fallback_handle(&self) -> Option<FallbackHandle> {
        self.find_fallback()
    }

    /// Returns the budget of the retry, or `None` if the stack has no retry or the retry has no
    /// budget.
    pub fn retry_budget(&self) -> Option<&Budget> {
        self.find_budget()
    }
}
