//! The service beneath every layer. It responds at once, and fails only if the request says so.

use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::task::{Context, Poll};

use tower::Service;

/// A request that is cheap to clone for a retry.
#[derive(Clone, Copy, Debug)]
pub struct Request(pub u64);

impl Request {
    /// The only request that [`Backend`] fails, used to open breakers.
    pub const FAILING: Self = Self(u64::MAX);
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the backend is unavailable")]
pub struct Unavailable;

/// A service with the error type `E` that the layers above require.
///
/// Tower's own layers and most peers accept [`Unavailable`].
pub struct Backend<E = Unavailable>(PhantomData<fn() -> E>);

impl<E> Backend<E> {
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<E> Clone for Backend<E> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<E: From<Unavailable>> Service<Request> for Backend<E> {
    type Response = u64;
    type Error = E;
    type Future = Ready<Result<u64, E>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ready(if request.0 == Request::FAILING.0 {
            Err(E::from(Unavailable))
        } else {
            Ok(request.0)
        })
    }
}

/// A service that fails every call at once, with the error type `E` of a [`Backend`].
pub struct Down<E = Unavailable>(PhantomData<fn() -> E>);

impl<E> Down<E> {
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<E> Clone for Down<E> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<E: From<Unavailable>> Service<Request> for Down<E> {
    type Response = u64;
    type Error = E;
    type Future = Ready<Result<u64, E>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request) -> Self::Future {
        ready(Err(E::from(Unavailable)))
    }
}

/// A side's service for the harness. Its clones share their state, as tower's users expect.
pub trait Subject: Service<Request, Response = u64> + Clone + Send + 'static {}

impl<S: Service<Request, Response = u64> + Clone + Send + 'static> Subject for S {}
