//! The table of slots, and what is made of it: one struct, and how each slot is filled.

use std::sync::Arc;

use super::slot::{Empty, Slot};
use crate::{
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    describe::{Describe, Facts},
    retry::RetryLayer,
    sealed::Sealed,
    timeout::{TimeoutLayer, TotalTimeoutLayer},
};

/// One slot of the table: what is in it, and the same table with something else in it.
///
/// This trait is sealed.
pub trait SlotAt<Position>: Sealed {
    /// The layer in the slot; [`Empty`] where there is none.
    type Layer;

    /// Returns the layer in the slot.
    fn at(&self) -> &Self::Layer;
}

/// A table whose slot at `Position` can be filled with `New`. This trait is sealed.
pub trait Fill<Position, New>: Sealed {
    /// The table with the slot filled.
    type Filled;

    /// Fills the slot. What was in it is dropped.
    fn fill(self, layer: New) -> Self::Filled;
}

/// The slots `S`, with `New` at `Position`.
pub type Filled<S, Position, New> = <S as Fill<Position, New>>::Filled;

/// Puts the layers of all slots around a service, with the stack's classifier `C`, and `M`, which says
/// [when a call has ended](crate::completion). This trait is sealed.
pub trait Wrap<S, C, M>: Sealed {
    /// The service with all layers around it.
    type Service;

    /// Puts the layers around a service.
    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service;
}

/// Makes the struct of the slots, and all that goes through each of them.
///
/// A row is `field: Position = Layer;`, outermost first. `Position` names the slot in [`position`],
/// and its type parameter; `Layer` fills it in [`Stack::standard`](crate::Stack::standard), whose
/// replay policy is `P`.
macro_rules! slots {
    ($($field:ident: $Position:ident = $standard:ty;)+) => {
        /// The slots of a stack, outermost first. There is no need to write this type: see
        /// [`StandardStack`](super::StandardStack) and the other aliases.
        #[derive(Clone, Debug)]
        pub struct Slots<$($Position = Empty),+> {
            $($field: $Position,)+
        }

        /// The names of the slots.
        pub mod position {
            $(
                /// One of the slots.
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

        slots!(@each [] [$($field: $Position;)+]);
        slots!(@reverse [] [$($field: $Position;)+]);
    };

    // Goes through the slots one by one, with those before it and those after it.
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

    // Adds one bound for each slot: that its layer goes around the service of the slot beneath.
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

            fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
                $(let inner = self.$field.wrap(inner, classifier);)+
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

// The order in which the layers nest, outermost first, inside the span of the call. Rows in comments
// are the places of layers to come.
slots! {
    around_call: AroundCallPosition = Empty;
    // fallback
    // cache
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
