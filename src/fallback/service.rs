use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::time::Instant;
use tower_service::Service;

use super::{future::ResponseFuture, shared::Shared, source::Respond, waiting::Waiting};
use crate::{
    CarryRejection, Classify,
    call::completion::{AtHead, Completion, Discard},
};

/// A service that gives a response when the service cannot. See the [module docs](super).
pub struct Fallback<S, R, C, M = AtHead> {
    inner: S,
    shared: Arc<Shared<R, C>>,
    /// It was switched off when this instance was polled. The call skips the inner service.
    is_off: bool,
    /// The place of the caller, if the inner service is not ready.
    waiting: Option<Waiting>,
    completion: PhantomData<fn() -> M>,
}

impl<S, R, C, M> Fallback<S, R, C, M> {
    pub(super) fn new(inner: S, shared: Arc<Shared<R, C>>) -> Self {
        Self { inner, shared, is_off: false, waiting: None, completion: PhantomData }
    }
}

accessors!(Fallback<S, R, C, M>);

impl<S, R, C, M> Fallback<S, R, C, M> {
    /// Waits until the inner service is ready or is switched off.
    #[cold]
    fn wait(&mut self, waker: &Waker) -> Poll<()> {
        let state = &self.shared.state;
        match &mut self.waiting {
            Some(waiting) => waiting.join_again(waker),
            None => self.waiting = Some(Waiting::join(state, waker)),
        }
        // Read after it has joined, so that it cannot miss the switch.
        if !state.is_off() {
            return Poll::Pending;
        }
        self.is_off = true;
        self.waiting = None;
        Poll::Ready(())
    }

    /// Begins a call that must end earlier than the caller's deadline, by the reserve.
    fn call_reserved<Req>(
        &mut self,
        deadline: Instant,
        request: Req,
        kept: R::Kept,
        shared: Arc<Shared<R, C>>,
    ) -> ResponseFuture<S, Req, R, C, M>
    where
        S: Service<Req>,
        R: Respond<Req, S::Response>,
    {
        let call = shared.state.reserve.call(deadline, || self.inner.call(request));
        ResponseFuture::reserved(call, kept, shared)
    }

    /// Begins a call that skips the inner service.
    #[cold]
    fn call_off<Req>(&mut self, request: Req) -> ResponseFuture<S, Req, R, C, M>
    where
        S: Service<Req>,
        R: Respond<Req, S::Response>,
        M: Discard<Req>,
    {
        let kept = self.shared.source.keep(&request);
        self.is_off = false;
        M::discard(request);
        ResponseFuture::off(kept, Arc::clone(&self.shared))
    }
}

impl<S: Clone, R, C, M> Clone for Fallback<S, R, C, M> {
    fn clone(&self) -> Self {
        // What was decided belongs to the instance that was polled.
        Self::new(self.inner.clone(), Arc::clone(&self.shared))
    }
}

impl<S, R, C, M, Req> Service<Req> for Fallback<S, R, C, M>
where
    S: Service<Req>,
    S::Error: CarryRejection,
    R: Respond<Req, S::Response>,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response> + Discard<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, Req, R, C, M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.is_off || self.shared.state.is_off() {
            self.is_off = true;
            self.waiting = None;
            return Poll::Ready(Ok(()));
        }
        // Polling the service may reserve something in it.
        match self.inner.poll_ready(cx) {
            Poll::Ready(result) => {
                if self.waiting.is_some() {
                    self.waiting = None;
                }
                Poll::Ready(result)
            }
            Poll::Pending => self.wait(cx.waker()).map(Ok),
        }
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        if self.is_off || self.shared.state.is_off() {
            return self.call_off(request);
        }
        let kept = self.shared.source.keep(&request);
        let shared = Arc::clone(&self.shared);
        if let Some(deadline) = shared.state.reserve.deadline() {
            return self.call_reserved(deadline, request, kept, shared);
        }
        ResponseFuture::calling(self.inner.call(request), kept, shared)
    }
}

impl<S: fmt::Debug, R, C, M> fmt::Debug for Fallback<S, R, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback")
            .field("inner", &self.inner)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}
