//! Copies of layers that share no state with the original.

use std::hash::Hash;

use super::{open::Open, slot::Empty};
use crate::{
    bulkhead::{BulkheadLayer, QueuedBulkheadLayer},
    cache::CacheLayer,
    circuit_breaker::{CircuitBreakerLayer, KeyedCircuitBreakerLayer},
    fallback::FallbackLayer,
    retry::RetryLayer,
    sealed::Sealed,
    timeout::{TimeoutLayer, TotalTimeoutLayer},
};

/// A layer that can be copied without its state. This trait is sealed.
pub trait Fresh: Sealed {
    /// Returns a layer with the same settings and a state of its own.
    fn fresh(&self) -> Self;
}

/// Implements the trait for layers with a method of the same name.
macro_rules! with_state {
    ($([$($parameter:ident$(: $bound:path)?),*] $layer:ty;)+) => {
        $(impl<$($parameter$(: $bound)?),*> Fresh for $layer {
            fn fresh(&self) -> Self {
                <$layer>::fresh(self)
            }
        })+
    };
}

with_state! {
    [R, C] FallbackLayer<R, C>;
    [P, C] RetryLayer<P, C>;
    [] BulkheadLayer;
    [] QueuedBulkheadLayer;
    [C] CircuitBreakerLayer<C>;
    // Only the count of repeated events is their state.
    [L: Clone] TimeoutLayer<L>;
    [L: Clone] TotalTimeoutLayer<L>;
}

impl<K: Hash + Eq, F, C> Fresh for KeyedCircuitBreakerLayer<K, F, C> {
    fn fresh(&self) -> Self {
        Self::fresh(self)
    }
}

impl<K: Eq + Clone, V, R, C> Fresh for CacheLayer<K, V, R, C> {
    fn fresh(&self) -> Self {
        Self::fresh(self)
    }
}

/// Implements the trait for layers without a state.
macro_rules! stateless {
    ($([$($parameter:ident)?] $layer:ty;)+) => {
        $(impl$(<$parameter: Clone>)? Fresh for $layer {
            fn fresh(&self) -> Self {
                self.clone()
            }
        })+
    };
}

stateless! {
    [] Empty;
    // Only its author knows what it shares.
    [L] Open<L>;
}

impl<L: Fresh> Fresh for Option<L> {
    fn fresh(&self) -> Self {
        self.as_ref().map(L::fresh)
    }
}
