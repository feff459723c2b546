use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tower_service::Service;

use super::{config::Config, future::ResponseFuture, shared::Shared};
use crate::{
    CarryRejection, Classify,
    call::completion::{AtHead, Completion},
    replay::Replay,
};

/// A service that retries calls that failed for a transient reason.
///
/// Retries use clones of the service as it was when the layer wrapped it. A change through
/// [`get_mut`](Self::get_mut) affects first attempts only. See the [module docs](super) for an
/// example.
pub struct Retry<S, P, C, M = AtHead> {
    inner: S,
    shared: Arc<Shared<S, P, C>>,
    completion: PhantomData<fn() -> M>,
}

impl<S: Clone, P, C, M> Retry<S, P, C, M> {
    pub(super) fn new(
        inner: S,
        config: Arc<Config>,
        replay: Arc<P>,
        classifier: Arc<C>,
        own_limit: Option<Duration>,
    ) -> Self {
        let shared = Shared::new(config, replay, classifier, inner.clone(), own_limit);
        Self { inner, shared, completion: PhantomData }
    }
}

accessors!(Retry<S, P, C, M>);

impl<S: Clone, P, C, M> Clone for Retry<S, P, C, M> {
    fn clone(&self) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { inner: self.inner.clone(), shared, completion: PhantomData }
    }
}

impl<S, P, C, M, Req> Service<Req> for Retry<S, P, C, M>
where
    S: Service<Req> + Clone,
    S::Error: CarryRejection,
    P: Replay<Req>,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, Req, P, C, M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        ResponseFuture::begin(&mut self.inner, request, &self.shared)
    }
}

impl<S: fmt::Debug, P, C, M> fmt::Debug for Retry<S, P, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("inner", &self.inner).field("shared", &self.shared).finish()
    }
}
