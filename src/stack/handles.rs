//! The search for the handles of layers.

use super::{open::Open, slot::Empty};
use crate::{
    bulkhead::{BulkheadHandle, BulkheadLayer, QueuedBulkheadLayer},
    cache::CacheLayer,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer, KeyedCircuitBreakerLayer},
    fallback::{FallbackHandle, FallbackLayer},
    retry::{Budget, RetryLayer},
    sealed::Sealed,
    timeout::{TimeoutLayer, TotalTimeoutLayer},
};

/// A stack, or a layer of one, whose handles can be found. This trait is sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Stack`",
    note = "the closure of `Stack::by_key` returns the stack of a key, such as `template.fresh()`"
)]
pub trait Handles: Sealed {
    /// Returns the handle of the circuit breaker, if there is one.
    fn find_circuit_breaker(&self) -> Option<CircuitBreakerHandle> {
        None
    }

    /// Returns the handle of the bulkhead, if there is one.
    fn find_bulkhead(&self) -> Option<BulkheadHandle> {
        None
    }

    /// Returns the handle of the fallback, if there is one.
    fn find_fallback(&self) -> Option<FallbackHandle> {
        None
    }

    /// Returns the budget of the retry, if there is one.
    fn find_budget(&self) -> Option<&Budget> {
        None
    }
}

/// Implements the trait for layers without a handle.
macro_rules! none {
    ($([$($parameter:ident),*] $layer:ty;)+) => {
        $(impl<$($parameter),*> Handles for $layer {})+
    };
}

none! {
    [] Empty;
    [L] Open<L>;
    [L] TimeoutLayer<L>;
    [L] TotalTimeoutLayer<L>;
    // It has a handle for each of its own keys.
    [K, F, C] KeyedCircuitBreakerLayer<K, F, C>;
    [K, V, R, C] CacheLayer<K, V, R, C>;
}

impl<R, C> Handles for FallbackLayer<R, C> {
    fn find_fallback(&self) -> Option<FallbackHandle> {
        Some(self.handle())
    }
}

impl<P, C> Handles for RetryLayer<P, C> {
    fn find_budget(&self) -> Option<&Budget> {
        self.budget()
    }
}

impl Handles for BulkheadLayer {
    fn find_bulkhead(&self) -> Option<BulkheadHandle> {
        Some(self.handle())
    }
}

impl Handles for QueuedBulkheadLayer {
    fn find_bulkhead(&self) -> Option<BulkheadHandle> {
        Some(self.handle())
    }
}

impl<C> Handles for CircuitBreakerLayer<C> {
    fn find_circuit_breaker(&self) -> Option<CircuitBreakerHandle> {
        Some(self.handle())
    }
}

impl<L: Handles> Handles for Option<L> {
    fn find_circuit_breaker(&self) -> Option<CircuitBreakerHandle> {
        self.as_ref().and_then(L::find_circuit_breaker)
    }

    fn find_bulkhead(&self) -> Option<BulkheadHandle> {
        self.as_ref().and_then(L::find_bulkhead)
    }

    fn find_fallback(&self) -> Option<FallbackHandle> {
        self.as_ref().and_then(L::find_fallback)
    }

    fn find_budget(&self) -> Option<&Budget> {
        self.as_ref().and_then(L::find_budget)
    }
}
