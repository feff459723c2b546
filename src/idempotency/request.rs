//! The parts of a request that the layer reads: its key, its scope and its content.

use std::{any::type_name, fmt, future::Future};

use super::{Digests, InvalidKey, Key, Run};
use crate::error::IdempotencyReason;

/// Finds the key of a request.
pub trait FindKey<Req> {
    /// Returns the key of the request, or whether it needs one.
    ///
    /// # Errors
    ///
    /// Returns an [`InvalidKey`] if the request has an invalid key. The request is then rejected.
    fn find_key(&self, request: &Req) -> Result<RequestKey, InvalidKey>;

    /// Adds the parts that identify the operation besides the key, such as a method and a route.
    ///
    /// An implementation calls `add` once for each part. With other parts, the same key leads to
    /// another record. The default implementation adds no part.
    fn operation(&self, request: &Req, add: &mut dyn FnMut(&[u8])) {
        let _ = (request, add);
    }
}

/// The key of a request, or the reason why it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestKey {
    /// The request has a key.
    Key(Key),
    /// The request must have a key and has none. It is rejected.
    Missing,
    /// The request needs no key. It is passed to the service unguarded.
    Unguarded,
}

/// Finds the scope of a request. Each scope has its own keys.
///
/// The scope must come from facts that the server has verified, such as the authenticated
/// account. It must never come from anything that a caller can choose. Otherwise, a caller could
/// read the recorded responses of another.
pub trait FindScope<Req> {
    /// The type of the name of a scope.
    type Scope: AsRef<[u8]>;

    /// Returns the scope of the request, or `None` if it is not known.
    ///
    /// A guarded request without a scope is rejected before the store is asked.
    fn find_scope(&self, request: &Req) -> Option<Self::Scope>;

    /// Returns whether all requests have the same scope.
    ///
    /// The default implementation returns `false`. If it is `true`, a bounded store sets no share
    /// for the scope, which may then use the whole store.
    fn is_single_tenant(&self) -> bool {
        false
    }
}

/// A [`FindScope`] with one scope, in which all callers share their keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleTenant;

impl<Req> FindScope<Req> for SingleTenant {
    type Scope = [u8; 0];

    fn find_scope(&self, _: &Req) -> Option<[u8; 0]> {
        Some([])
    }

    fn is_single_tenant(&self) -> bool {
        true
    }
}

/// Reads the content of a request, to detect another request with the same key.
pub trait ReadRequest<Req> {
    /// The request that the service is called with.
    type Request;

    /// Reads the request, and adds to `digests` the content that a duplicate must share with it.
    ///
    /// # Errors
    ///
    /// Returns the reason if the request cannot be read. The call is then rejected with it.
    fn read(
        &self,
        request: Req,
        digests: Digests,
    ) -> impl Future<Output = Result<(Self::Request, Digests), IdempotencyReason>> + Send;

    /// Converts an unguarded request.
    fn pass(&self, request: Req) -> Self::Request;

    /// Attaches the [`Run`] to a request, so that the service can use its fence and its keys.
    ///
    /// The default implementation does nothing.
    fn hand_over(&self, request: &mut Self::Request, run: &Run) {
        let _ = (request, run);
    }

    /// Takes a request that the service will not be called with.
    ///
    /// The default implementation drops it.
    fn discard(&self, request: Self::Request) {
        drop(request);
    }
}

/// A [`FindKey`] made from a closure by [`find_key_fn`].
#[derive(Clone, Copy)]
pub struct FindKeyFn<F> {
    f: F,
}

/// Creates a [`FindKey`] from a closure.
pub fn find_key_fn<F, Req>(f: F) -> FindKeyFn<F>
where
    F: Fn(&Req) -> Result<RequestKey, InvalidKey>,
{
    FindKeyFn { f }
}

impl<F, Req> FindKey<Req> for FindKeyFn<F>
where
    F: Fn(&Req) -> Result<RequestKey, InvalidKey>,
{
    fn find_key(&self, request: &Req) -> Result<RequestKey, InvalidKey> {
        (self.f)(request)
    }
}

impl<F> fmt::Debug for FindKeyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FindKeyFn({})", type_name::<F>())
    }
}

/// A [`FindScope`] made from a closure by [`find_scope_fn`].
#[derive(Clone, Copy)]
pub struct FindScopeFn<F> {
    f: F,
}

/// Creates a [`FindScope`] from a closure.
///
/// The closure returns an owned name, such as a `String` or `[u8; 16]`.
pub fn find_scope_fn<F, Req, T>(f: F) -> FindScopeFn<F>
where
    F: Fn(&Req) -> Option<T>,
    T: AsRef<[u8]>,
{
    FindScopeFn { f }
}

impl<F, Req, T> FindScope<Req> for FindScopeFn<F>
where
    F: Fn(&Req) -> Option<T>,
    T: AsRef<[u8]>,
{
    type Scope = T;

    fn find_scope(&self, request: &Req) -> Option<T> {
        (self.f)(request)
    }
}

impl<F> fmt::Debug for FindScopeFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FindScopeFn({})", type_name::<F>())
    }
}

/// A [`ReadRequest`] made from a closure by [`read_request_fn`].
#[derive(Clone, Copy)]
pub struct ReadRequestFn<F> {
    f: F,
}

/// Creates a [`ReadRequest`] from a closure.
///
/// The closure adds to the [`Digests`] the content that a duplicate must share with the request.
pub fn read_request_fn<F, Req>(f: F) -> ReadRequestFn<F>
where
    F: Fn(&Req, &mut Digests),
{
    ReadRequestFn { f }
}

impl<F, Req> ReadRequest<Req> for ReadRequestFn<F>
where
    F: Fn(&Req, &mut Digests) + Sync,
    Req: Send,
{
    type Request = Req;

    async fn read(
        &self,
        request: Req,
        mut digests: Digests,
    ) -> Result<(Req, Digests), IdempotencyReason> {
        (self.f)(&request, &mut digests);
        Ok((request, digests))
    }

    fn pass(&self, request: Req) -> Req {
        request
    }
}

impl<F> fmt::Debug for ReadRequestFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadRequestFn({})", type_name::<F>())
    }
}
