//! Copies of layers that do not limit the time of a call.

use super::{open::Open, slot::Empty};
use crate::{
    bulkhead::{BulkheadLayer, QueuedBulkheadLayer},
    cache::CacheLayer,
    circuit_breaker::{CircuitBreakerLayer, KeyedCircuitBreakerLayer},
    fallback::FallbackLayer,
    retry::RetryLayer,
    sealed::Sealed,
    timeout::{Endless, TimeoutLayer, TotalTimeoutLayer},
};

/// A stack, or a layer of one, whose time limits can be lifted. This trait is sealed.
pub trait Untimed: Sealed {
    /// Returns a clone without time limits. It shares the state.
    fn untimed(&self) -> Self;
}

impl<L: Endless> Untimed for TimeoutLayer<L> {
    fn untimed(&self) -> Self {
        self.endless()
    }
}

impl<L: Endless> Untimed for TotalTimeoutLayer<L> {
    fn untimed(&self) -> Self {
        self.endless()
    }
}

impl<L: Untimed> Untimed for Option<L> {
    fn untimed(&self) -> Self {
        self.as_ref().map(L::untimed)
    }
}

/// Implements the trait for layers without a time limit.
macro_rules! cloned {
    ($([$($parameter:ident),*] $layer:ty;)+) => {
        $(impl<$($parameter),*> Untimed for $layer
        where
            Self: Clone,
        {
            fn untimed(&self) -> Self {
                self.clone()
            }
        })+
    };
}

cloned! {
    [] Empty;
    [L] Open<L>;
    [R, C] FallbackLayer<R, C>;
    [P, C] RetryLayer<P, C>;
    [] BulkheadLayer;
    [] QueuedBulkheadLayer;
    [C] CircuitBreakerLayer<C>;
    [K, F, C] KeyedCircuitBreakerLayer<K, F, C>;
    [K, V, R, C] CacheLayer<K, V, R, C>;
}
