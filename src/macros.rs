/// Defines the methods of a layer's service that access the wrapped service.
macro_rules! accessors {
    ($service:ident<$inner:ident $(, $other:ident)*>) => {
        impl<$inner $(, $other)*> $service<$inner $(, $other)*> {
            /// Returns a reference to the wrapped service.
            pub fn get_ref(&self) -> &$inner {
                &self.inner
            }

            /// Returns a mutable reference to the wrapped service.
            pub fn get_mut(&mut self) -> &mut $inner {
                &mut self.inner
            }

            /// Consumes the layer's service and returns the wrapped service.
            pub fn into_inner(self) -> $inner {
                self.inner
            }
        }
    };
}
