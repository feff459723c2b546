use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_service::Service;

use crate::Error;

/// A service that converts the error of the wrapped service into one that can carry a rejection.
pub struct ConvertError<S, E> {
    inner: S,
    error: PhantomData<fn() -> E>,
}

impl<S, E> ConvertError<S, E> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, error: PhantomData }
    }
}

accessors!(ConvertError<S, E>);

impl<S: CloneableClient, E> Clone for ConvertError<S, E> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone())
    }
}

impl<S: fmt::Debug, E> fmt::Debug for ConvertError<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConvertError").field("inner", &self.inner).finish()
    }
}

impl<S, E, Req> Service<Req> for ConvertError<S, E>
where
    S: Service<Req>,
    S::Error: Into<E>,
{
    type Response = S::Response;
    type Error = E;
    type Future = ConvertErrorFuture<S::Future, E>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        ConvertErrorFuture { future: self.inner.call(request), error: PhantomData }
    }
}

pin_project! {
    /// The future of a [`ConvertError`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ConvertErrorFuture<F, E> {
        #[pin]
        future: F,
        error: PhantomData<fn() -> E>,
    }
}

impl<F, E, T, D> Future for ConvertErrorFuture<F, E>
where
    F: Future<Output = Result<T, D>>,
    D: Into<E>,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().future.poll(cx).map_err(Into::into)
    }
}

impl<F, E> fmt::Debug for ConvertErrorFuture<F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConvertErrorFuture").finish_non_exhaustive()
    }
}

/// A service that the layers of a stack can clone. Every service that is `Clone` implements it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not `Clone`, and a layer of the stack needs clones of it",
    label = "this client is not `Clone`",
    note = "retries, a total timeout, a cache, a queue and breakers by key call clones of it",
    note = "write `#[derive(Clone)]` at the client",
    note = "where it cannot be `Clone`, give the stack a buffer in front of it: \
            `.boxed(tower::buffer::Buffer::new(client, 64))`"
)]
pub trait CloneableClient: Clone {}

#[diagnostic::do_not_recommend]
impl<S: Clone> CloneableClient for S {}

/// An error that stays a [`std::error::Error`] inside [`Error<E>`](crate::Error).
///
/// [`Stack::service`](super::Stack::service) requires it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `std::error::Error`, which `Stack::service` asks for",
    label = "this service fails with `{Self}`",
    note = "for a boxed error, as tower's own layers have it, call `Stack::boxed(service)`"
)]
pub trait PlainError: StdError {}

#[diagnostic::do_not_recommend]
impl<E: StdError> PlainError for E {}

/// The error of a service that is not in a stack yet.
///
/// Every error implements it through a private marker. [`Error`](crate::Error) also implements it
/// through [`InAStackAlreadyUseLayerInsteadOfService`]. For an `Error`, the compiler therefore
/// cannot infer `Why`. It rejects the call and names both markers.
pub trait NotInAStack<Why> {}

/// The marker for the error of a service without a stack.
///
/// It is not exported, because a turbofish with it would silence the compiler.
#[derive(Clone, Copy, Debug)]
#[expect(unnameable_types, reason = "it is only inferred")]
pub enum Plain {}

/// The marker for the error of a service that is already in a stack.
///
/// Use the outer stack as a [`Layer`](tower_layer::Layer), `stack.layer(service)`, which does not
/// change the error.
#[derive(Clone, Copy, Debug)]
pub enum InAStackAlreadyUseLayerInsteadOfService {}

impl<E> NotInAStack<Plain> for E {}
impl<E> NotInAStack<InAStackAlreadyUseLayerInsteadOfService> for Error<E> {}
