use std::{
    fmt,
    marker::PhantomData,
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

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
    fn wait<E>(&mut self, waker: &Waker) -> Poll<Result<(), E>> {
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
        Poll::Ready(Ok(()))
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
        self.is_off |= self.shared.state.is_off();
        // Polling the service may reserve something in it.
        let polled = if self.is_off { Poll::Ready(Ok(())) } else { self.inner.poll_ready(cx) };
        if polled.is_pending() {
            return self.wait(cx.waker());
        }
        if self.waiting.is_some() {
            self.waiting = None;
        }
        polled
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let kept = self.shared.source.keep(&request);
        let shared = Arc::clone(&self.shared);
        if mem::take(&mut self.is_off) || shared.state.is_off() {
            M::discard(request);
            return ResponseFuture::off(kept, shared);
        }
        let call = shared.state.reserve.call(|| self.inner.call(request));
        ResponseFuture::called(call, kept, shared)
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
