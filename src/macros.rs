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

/// Implements the method `register` of a layer that is used by hand, by its method `count_in`.
macro_rules! register {
    ($layer:ident$(<$($parameter:ident),+>)?) => {
        impl$(<$($parameter),+>)? $layer$(<$($parameter),+>)? {
            /// Registers the layer, which counts from now on, and returns it.
            ///
            /// Default: none. Nothing is counted then.
            ///
            /// It is for a layer outside of a stack. In a stack, use
            /// [`Stack::register`](crate::Stack::register). All clones of the layer and all
            /// services that it creates are registered with it. The first registry that a layer is
            /// registered in keeps it.
            pub fn register(self, registry: &Registry) -> Self {
                self.count_in(registry);
                self
            }
        }
    };
}
