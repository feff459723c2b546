use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    admission::Handle,
    breaker::{Breaker, Rejected},
    shared::{OfKey, Shared},
};
use crate::{
    CarryRejection, CircuitOpen, Classify,
    call::{
        admission::Admission,
        completion::{AtHead, Completion},
        oneshot::Oneshot,
    },
    telemetry,
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

    pub(super) fn rejected(of_key: OfKey<C>, rejected: Rejected) -> Self {
        Self { call: Call::rejected(of_key, rejected) }
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
    /// A call of a breaker that is found through `H`.
    struct Call<F, H: Handle, M> {
        // `None` when the call was rejected, and when it has ended. It stands before its admission,
        // for what is dropped first must still be accounted for.
        #[pin]
        future: Option<F>,
        admission: Admission<H>,
        rejected: Option<Rejected>,
        completion: PhantomData<fn() -> M>,
    }
}

impl<F, H: Handle, M> Call<F, H, M> {
    #[inline]
    fn called(future: F, admission: Admission<H>) -> Self {
        Self { future: Some(future), admission, rejected: None, completion: PhantomData }
    }

    #[inline]
    fn rejected(handle: H, rejected: Rejected) -> Self {
        let admission = Admission::refused(handle);
        Self { future: None, admission, rejected: Some(rejected), completion: PhantomData }
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
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(reject(this.rejected, this.admission.ledger().breaker())));
        };
        let Poll::Ready(mut result) = this.admission.run(|| future.poll(cx)) else {
            this.admission.has_to_wait();
            return Poll::Pending;
        };
        this.admission.settle_or_hold::<M, _, _>(&mut result);
        this.future.set(None);
        Poll::Ready(result)
    }
}

// Out of line, so that the path of a call which goes well stays short enough to be inlined.
#[cold]
fn reject<E: CarryRejection>(rejected: &mut Option<Rejected>, breaker: &Breaker) -> E {
    let rejected = rejected.take().expect("a response future was polled after it had ended");
    telemetry::refuse(CircuitOpen::by(breaker.config().name.clone(), rejected.retry_after))
}
