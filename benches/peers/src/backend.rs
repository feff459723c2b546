//! The service under every layer: it answers at once, and fails only when the request says so.

use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::task::{Context, Poll};

use tower::Service;

/// A request small enough that cloning it costs a retry nothing.
#[derive(Clone, Copy, Debug)]
pub struct Request(pub u64);

impl Request {
    /// The one request that [`Backend`] fails; used to open breakers.
    pub const FAILING: Self = Self(u64::MAX);
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the backend is unavailable")]
pub struct Unavailable;

/// `E` is the error type the layers above want; tower's own and most peers take [`Unavailable`] as
/// it is.
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

/// What a side hands to the harness: a service whose clones share their state, as tower's users
/// hold it.
pub trait Subject: Service<Request, Response = u64> + Clone + Send + 'static {}

impl<S: Service<Request, Response = u64> + Clone + Send + 'static> Subject for S {}
