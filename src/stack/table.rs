//! The table of slots, and the struct and traits that are generated from it.

use std::{sync::Arc, time::Duration};

use super::{
    fresh::Fresh,
    handles::Handles,
    slot::{Empty, Slot, Within},
    untimed::Untimed,
};
use crate::{
    bulkhead::{BulkheadHandle, BulkheadLayer},
    call::patience::limit_around,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
    describe::{Describe, Facts},
    fallback::FallbackHandle,
    retry::{Budget, RetryLayer},
    sealed::Sealed,
    timeout::{TimeoutLayer, TotalTimeoutLayer},
};

/// Access to one slot of the table. This trait is sealed.
pub trait SlotAt<Position>: Sealed {
    /// The layer in the slot, or [`Empty`].
    type Layer;

    /// Returns the layer in the slot.
    fn at(&self) -> &Self::Layer;
}

/// A table whose slot at `Position` can be filled with `New`. This trait is sealed.
pub trait Fill<Position, New>: Sealed {
    /// The table with the slot filled.
    type Filled;

    /// Fills the slot and drops the previous layer.
    fn fill(self, layer: New) -> Self::Filled;
}

/// The slots `S` with `New` at `Position`.
pub type Filled<S, Position, New> = <S as Fill<Position, New>>::Filled;

/// A table whose layers can be put around the service `S`. This trait is sealed.
///
/// `C` is the stack's classifier, and `M` decides [when a call is complete](crate::completion).
pub trait Wrap<S, C, M>: Sealed {
    /// The service with all layers around it.
    type Service;

    /// Returns the smaller of the limits for a call and for an attempt, and the limit for a call.
    #[doc(hidden)]
    fn limits(&self) -> (Option<Duration>, Option<Duration>);

    /// Puts the layers around a service.
    fn wrap(&self, inner: S, classifier: &Arc<C>, within: Within<'_>) -> Self::Service;
}

/// Defines the struct of the slots, and the implementations that go through each of them.
///
/// A row is `field: Position = Layer;`, outermost first. `Position` is the name of the slot in
/// [`position`] and of its type parameter. `Layer` is the layer of the slot in
/// [`Stack::standard`](crate::Stack::standard), where `P` is the replay policy.
macro_rules! slots {
    ($($field:ident: $Position:ident = $standard:ty;)+) => {
        /// The slots of a stack, outermost first.
        ///
        /// You do not have to write this type. Use [`StandardStack`](super::StandardStack) and the
        /// other aliases.
        #[derive(Clone, Debug)]
        pub struct Slots<$($Position = Empty),+> {
            $($field: $Position,)+
        }

        /// The names of the slots.
        pub mod position {
            $(
                /// The name of one slot.
                #[derive(Clone, Copy, Debug)]
                pub struct $Position;
            )+
        }

        /// The slots of [`Stack::standard`](crate::Stack::standard).
        pub type StandardSlots<P> = Slots<$($standard),+>;

        impl Default for Slots {
            fn default() -> Self {
                Self { $($field: Empty,)+ }
            }
        }

        impl<$($Position),+> Sealed for Slots<$($Position),+> {}

        impl<$($Position: Describe),+> Describe for Slots<$($Position),+> {
            fn describe(&self, facts: &mut Facts) {
                $(self.$field.describe(facts);)+
            }
        }

        impl<$($Position: Fresh),+> Fresh for Slots<$($Position),+> {
            fn fresh(&self) -> Self {
                Self { $($field: self.$field.fresh(),)+ }
            }
        }

        impl<$($Position: Handles),+> Handles for Slots<$($Position),+> {
            fn find_circuit_breaker(&self) -> Option<CircuitBreakerHandle> {
                None$(.or_else(|| self.$field.find_circuit_breaker()))+
            }

            fn find_bulkhead(&self) -> Option<BulkheadHandle> {
                None$(.or_else(|| self.$field.find_bulkhead()))+
            }

            fn find_fallback(&self) -> Option<FallbackHandle> {
                None$(.or_else(|| self.$field.find_fallback()))+
            }

            fn find_budget(&self) -> Option<&Budget> {
                None$(.or_else(|| self.$field.find_budget()))+
            }
        }

        impl<$($Position: Untimed),+> Untimed for Slots<$($Position),+> {
            fn untimed(&self) -> Self {
                Self { $($field: self.$field.untimed(),)+ }
            }
        }

        slots!(@each [] [$($field: $Position;)+]);
        slots!(@reverse [] [$($field: $Position;)+]);
    };

    // Goes through the slots one by one, with the slots before and after each.
    (@each [$($before:ident: $Before:ident;)*] []) => {};
    (@each [$($before:ident: $Before:ident;)*]
        [$field:ident: $Position:ident; $($after:ident: $After:ident;)*]
    ) => {
        impl<$($Before,)* $Position, $($After,)*> SlotAt<position::$Position>
            for Slots<$($Before,)* $Position, $($After,)*>
        {
            type Layer = $Position;

            fn at(&self) -> &$Position {
                &self.$field
            }
        }

        impl<$($Before,)* $Position, $($After,)* New> Fill<position::$Position, New>
            for Slots<$($Before,)* $Position, $($After,)*>
        {
            type Filled = Slots<$($Before,)* New, $($After,)*>;

            fn fill(self, layer: New) -> Self::Filled {
                Slots {
                    $($before: self.$before,)*
                    $field: layer,
                    $($after: self.$after,)*
                }
            }
        }

        slots!(@each [$($before: $Before;)* $field: $Position;] [$($after: $After;)*]);
    };

    // Services are made from the inside out.
    (@reverse [$($inner:tt)*] [$field:ident: $Position:ident; $($outer:tt)*]) => {
        slots!(@reverse [$field: $Position; $($inner)*] [$($outer)*]);
    };
    (@reverse [$($field:ident: $Position:ident;)+] []) => {
        slots!(@wrap [$($field: $Position;)+] [] (S) [$($Position)+]);
    };

    // Adds one bound for each slot, whose layer must wrap the service of the slot beneath.
    (@wrap $slots:tt [$($bound:tt)*] ($inner:ty) [$Position:ident $($outer:ident)*]) => {
        slots!(@wrap $slots [$($bound)* $Position: Slot<$inner, C, M>,]
            (<$Position as Slot<$inner, C, M>>::Service) [$($outer)*]);
    };
    (@wrap [$($field:ident: $Position:ident;)+] [$($bound:tt)*] ($outermost:ty) []) => {
        impl<S, C, M, $($Position),+> Wrap<S, C, M> for slots!(@type [] [$($Position)+])
        where
            $($bound)*
        {
            type Service = $outermost;

            fn limits(&self) -> (Option<Duration>, Option<Duration>) {
                let totals = [$(self.$field.total_limit()),+];
                let limits = [$(self.$field.limit()),+];
                let own_limit = limits.into_iter().flatten().chain(limit_around()).min();
                (own_limit, totals.into_iter().flatten().min())
            }

            fn wrap(&self, inner: S, classifier: &Arc<C>, within: Within<'_>) -> Self::Service {
                $(let inner = self.$field.wrap_in_stack(inner, classifier, &within);)+
                inner
            }
        }
    };
    (@type [$($outer:ident)*] [$Position:ident $($inner:ident)*]) => {
        slots!(@type [$Position $($outer)*] [$($inner)*])
    };
    (@type [$($Position:ident)+] []) => {
        Slots<$($Position),+>
    };
}

// The order in which the layers nest, outermost first, inside the span of the call. The comments
// between the rows are the places of planned layers.
slots! {
    around_call: AroundCallPosition = Empty;
    fallback: FallbackPosition = Empty;
    cache: CachePosition = Empty;
    total_timeout: TotalTimeoutPosition = TotalTimeoutLayer;
    retry: RetryPosition = RetryLayer<P>;
    // hedge
    // throttle
    // rate_limit
    bulkhead: BulkheadPosition = BulkheadLayer;
    circuit_breaker: CircuitBreakerPosition = CircuitBreakerLayer;
    attempt_timeout: AttemptTimeoutPosition = TimeoutLayer;
    around_attempt: AroundAttemptPosition = Empty;
    transport: TransportPosition = Empty;
}
