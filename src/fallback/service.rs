use std::{
    fmt,
    marker::PhantomData,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use tower_service::Service;

use super::{future::ResponseFuture, shared::Shared, source::Respond};
use crate::{
    CarryRejection, Classify,
    call::completion::{AtHead, Completion, Discard},
};

/// A service that gives a response when the service cannot. See the [module docs](super).
pub struct Fallback<S, R, C, M = AtHead> {
    inner: S,
    shared: Arc<Shared<R, C>>,
    decision: Decision,
    completion: PhantomData<fn() -> M>,
}

/// The decision made before the inner service is polled, kept until `call` takes it.
#[derive(Clone, Copy, Debug, Default)]
enum Decision {
    #[default]
    Undecided,
    On,
    /// The call does not reach the inner service.
    Off,
}

impl<S, R, C, M> Fallback<S, R, C, M> {
    pub(super) fn new(inner: S, shared: Arc<Shared<R, C>>) -> Self {
        Self { inner, shared, decision: Decision::Undecided, completion: PhantomData }
    }
}

accessors!(Fallback<S, R, C, M>);

impl<S: Clone, R, C, M> Clone for Fallback<S, R, C, M> {
    fn clone(&self) -> Self {
        // A decision belongs to the instance that was polled.
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
        if let Decision::Undecided = self.decision {
            let is_off = self.shared.state.is_off();
            self.decision = if is_off { Decision::Off } else { Decision::On };
        }
        match self.decision {
            // Polling the service may reserve something in it.
            Decision::Off => Poll::Ready(Ok(())),
            _ => self.inner.poll_ready(cx),
        }
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let kept = self.shared.source.keep(&request);
        let shared = Arc::clone(&self.shared);
        let decision = mem::take(&mut self.decision);
        if matches!(decision, Decision::Off) || shared.state.is_off() {
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
