//! The states of a builder before and after its scope is set.

use crate::sealed::Sealed;

/// The state of an [`IdempotencyBuilder`](super::IdempotencyBuilder) that has no scope yet.
#[derive(Clone, Copy, Debug)]
pub struct NoScope(pub(super) ());

/// The state of an [`IdempotencyBuilder`](super::IdempotencyBuilder) with the scope finder `C`.
#[derive(Clone, Copy, Debug)]
pub struct Scoped<C>(pub(super) C);

/// The state of a builder that has a scope and can build. This trait is sealed.
#[diagnostic::on_unimplemented(
    message = "an idempotency layer needs a scope: whose keys it guards",
    label = "no scope was set",
    note = "call `.scope_fn(|request| ..)`, `.scope(..)` or `.single_tenant()` before `.build()`",
    note = "there is no default: callers that share keys could read each other's responses"
)]
pub trait HasScope: Sealed {
    /// The type that finds the scope of a request.
    type FindScope;

    #[doc(hidden)]
    fn into_find_scope(self) -> Self::FindScope;
}

impl<C> HasScope for Scoped<C> {
    type FindScope = C;

    fn into_find_scope(self) -> C {
        self.0
    }
}

impl<C> Sealed for Scoped<C> {}
