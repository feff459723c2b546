use std::fmt;

/// A service that runs each operation once. See the [module docs](super).
pub struct Idempotency<S, L> {
    pub(super) inner: S,
    pub(super) layer: L,
}

impl<S, L> Idempotency<S, L> {
    pub(super) fn new(inner: S, layer: L) -> Self {
        Self { inner, layer }
    }
}

accessors!(Idempotency<S, L>);

impl<S: Clone, L: Clone> Clone for Idempotency<S, L> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S: fmt::Debug, L: fmt::Debug> fmt::Debug for Idempotency<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}
