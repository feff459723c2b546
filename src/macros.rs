/// Access to the wrapped service, the same for every layer.
macro_rules! accessors {
    ($service:ident<$inner:ident $(, $other:ident)*>) => {
        impl<$inner $(, $other)*> $service<$inner $(, $other)*> {
            /// A reference to the wrapped service.
            pub fn get_ref(&self) -> &$inner {
                &self.inner
            }

            /// A mutable reference to the wrapped service.
            pub fn get_mut(&mut self) -> &mut $inner {
                &mut self.inner
            }

            /// The wrapped service.
            pub fn into_inner(self) -> $inner {
                self.inner
            }
        }
    };
}
