//! The futures of the circuit breaker services.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    breaker::Rejected,
    shared::{Handle, OfKey, Shared},
};
use crate::{
    CarryRejection, Classify,
    call::{
        admission::Admission,
        completion::{AtHead, Completion},
        oneshot::Oneshot,
        rejectable::Rejectable,
        rejected_by::RejectedBy,
    },
    error::CircuitOpen,
};

pin_project! {
    /// The future of a [`CircuitBreaker`](super::CircuitBreaker).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, C, M = AtHead> {
        #[pin]
        call: Call<F, Arc<Shared<C>>, M>,
    }
}

impl<F, C, M> ResponseFuture<F, C, M> {
    #[inline]
    pub(super) fn called(future: F, admission: Admission<Arc<Shared<C>>>) -> Self {
        Self { call: Call::called(future, admission) }
    }

    #[inline]
    pub(super) fn rejected(shared: Arc<Shared<C>>, rejected: Rejected) -> Self {
        Self { call: Call::rejected(shared, rejected) }
    }
}

impl<F, C, M, T, E> Future for ResponseFuture<F, C, M>
where
    F: Future<Output = Result<T, E>>,
    C: Classify<T, E>,
    E: CarryRejection,
    M: Completion<T>,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().call.poll(cx)
    }
}

impl<F, C, M> fmt::Debug for ResponseFuture<F, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("circuit_breaker::ResponseFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of a [`KeyedCircuitBreaker`](super::KeyedCircuitBreaker).
    #[must_use = "futures do nothing unless polled"]
    pub struct KeyedResponseFuture<S: Service<Req>, Req, C, M = AtHead> {
        #[pin]
        call: Call<Oneshot<S, Req>, OfKey<C>, M>,
    }
}

impl<S: Service<Req>, Req, C, M> KeyedResponseFuture<S, Req, C, M> {
    pub(super) fn called(future: Oneshot<S, Req>, admission: Admission<OfKey<C>>) -> Self {
        Self { call: Call::called(future, admission) }
    }

    pub(super) fn rejected(shared: OfKey<C>, rejected: Rejected) -> Self {
        Self { call: Call::rejected(shared, rejected) }
    }
}

impl<S, Req, C, M> Future for KeyedResponseFuture<S, Req, C, M>
where
    S: Service<Req>,
    S::Error: CarryRejection,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().call.poll(cx)
    }
}

impl<S: Service<Req>, Req, C, M> fmt::Debug for KeyedResponseFuture<S, Req, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedResponseFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// A call of a breaker that is reached through `H`.
    struct Call<F, H: Handle, M> {
        #[pin]
        inner: Rejectable<F, Admission<H>, Open<H>>,
        completion: PhantomData<fn() -> M>,
    }
}

/// A rejection by a breaker that was not closed.
struct Open<H> {
    handle: H,
    retry_after: Option<Duration>,
}

impl<F, H: Handle, M> Call<F, H, M> {
    #[inline]
    fn called(future: F, admission: Admission<H>) -> Self {
        Self { inner: Rejectable::running(future, admission), completion: PhantomData }
    }

    #[inline]
    fn rejected(handle: H, Rejected { retry_after, .. }: Rejected) -> Self {
        let inner = Rejectable::rejected(Open { handle, retry_after });
        Self { inner, completion: PhantomData }
    }
}

impl<F, H, M, T, E> Future for Call<F, H, M>
where
    F: Future<Output = Result<T, E>>,
    H: Handle<Classifier: Classify<T, E>>,
    E: CarryRejection,
    M: Completion<T>,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some((future, admission)) = this.inner.as_mut().as_running() else {
            return Poll::Ready(Err(this.inner.reject(Open::report)));
        };
        let Poll::Ready(mut result) = admission.run(|_| future.poll(cx)) else {
            admission.has_to_wait();
            return Poll::Pending;
        };
        admission.settle_or_hold::<M, _, _>(&mut result);
        this.inner.end();
        Poll::Ready(result)
    }
}

impl<H: Handle> Open<H> {
    fn report<E: CarryRejection>(self) -> E {
        let breaker = self.handle.breaker();
        breaker.cold().rejected.fetch_add(1, Ordering::Relaxed);
        RejectedBy::note(breaker);
        breaker.config().reporter().reject(CircuitOpen::by(breaker.name(), self.retry_after))
    }
}
