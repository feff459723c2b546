//! What the guard has to know of a request: its key, whose it is, and what it says.

use std::{any::type_name, fmt, future::Future};

use super::{Digests, InvalidKey, Key, Run};
use crate::error::IdempotencyReason;

/// Finds the key of a request.
pub trait FindKey<Req> {
    /// What the request says of its key.
    ///
    /// # Errors
    ///
    /// If what it says cannot be a key.
    fn find_key(&self, request: &Req) -> Result<RequestKey, InvalidKey>;

    /// What is done, apart from the key: a method and a route. The same key for another operation is another
    /// record. `add` is called with each part of it.
    fn operation(&self, request: &Req, add: &mut dyn FnMut(&[u8])) {
        let _ = (request, add);
    }
}

/// What a request says of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestKey {
    /// It has one.
    Key(Key),
    /// It must have one, and has none: it is refused.
    Missing,
    /// It needs none: it goes to the service unguarded.
    Unguarded,
}

/// Finds whose keys those of a request are.
///
/// What it returns must come from what the server knows for certain of the caller, such as the account
/// that it was authenticated for, and never from what a caller can choose.
pub trait FindScope<Req> {
    /// The name of the scope.
    type Scope: AsRef<[u8]>;

    /// The scope of a request; `None` if nobody knows whose it is: then it is refused before anything is
    /// looked up.
    fn find_scope(&self, request: &Req) -> Option<Self::Scope>;
}

/// All callers share their keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleTenant;

impl<Req> FindScope<Req> for SingleTenant {
    type Scope = [u8; 0];

    fn find_scope(&self, _: &Req) -> Option<[u8; 0]> {
        Some([])
    }
}

/// Reads a request, so that it can be told from another with the same key.
pub trait ReadRequest<Req> {
    /// What the service is called with.
    type Request;

    /// Adds all that makes it the same request to the digests.
    ///
    /// # Errors
    ///
    /// If it cannot be read: with what the caller is told.
    fn read(
        &self,
        request: Req,
        digests: Digests,
    ) -> impl Future<Output = Result<(Self::Request, Digests), IdempotencyReason>> + Send;

    /// The request as it is, for one that is not guarded.
    fn pass(&self, request: Req) -> Self::Request;

    /// Hands the service what it needs to have its effect once.
    fn hand_over(&self, request: &mut Self::Request, run: &Run) {
        let _ = (request, run);
    }
}

/// A closure as a [`FindKey`]; made by [`find_key_fn`].
#[derive(Clone, Copy)]
pub struct FindKeyFn<F> {
    f: F,
}

/// Finds the keys of requests with a closure.
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

/// A closure as a [`FindScope`]; made by [`find_scope_fn`].
#[derive(Clone, Copy)]
pub struct FindScopeFn<F> {
    f: F,
}

/// Finds the scopes of requests with a closure. It returns an owned name: a `String`, or `[u8;
/// 16]`.
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

/// A closure as a [`ReadRequest`]; made by [`read_request_fn`].
#[derive(Clone, Copy)]
pub struct ReadRequestFn<F> {
    f: F,
}

/// Tells requests apart with a closure, which adds the parts that make it the same request.
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
