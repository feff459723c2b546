use std::{
    any::type_name,
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tower_service::Service;

use super::{Replay, config::Config, future::ResponseFuture, layer::Core};
use crate::{
    CarryRejection, Classify,
    call::{
        completion::{AtHead, Completion},
        lock::lock,
    },
};

/// Sends calls again that failed for a reason that may pass. See the [module docs](super).
///
/// Retries go to clones of the service as it was given to the layer: what is changed through
/// [`get_mut`](Self::get_mut) is seen by first attempts only.
pub struct Retry<S, P, C, M = AtHead> {
    inner: S,
    parts: Arc<Parts<S, P, C>>,
    completion: PhantomData<fn() -> M>,
}

/// What a call may need later: shared, so that a call which is not retried pays one reference count
/// and not a clone of everything beneath.
pub(super) struct Parts<S, P, C> {
    core: Arc<Core<P>>,
    classifier: Arc<C>,
    /// Cloned for each retry. Behind a lock because it need not be `Sync`.
    spare: Mutex<S>,
}

impl<S, P, C> Parts<S, P, C> {
    pub(super) fn config(&self) -> &Config {
        &self.core.config
    }

    pub(super) fn replay(&self) -> &P {
        &self.core.replay
    }

    pub(super) fn classifier(&self) -> &C {
        &self.classifier
    }

    /// A clone of the service, not yet ready.
    pub(super) fn service(&self) -> S
    where
        S: Clone,
    {
        // The clone of a service runs under this lock and cannot come back to it: nobody else has it.
        lock(&self.spare).clone()
    }
}

impl<S, P, C> fmt::Debug for Parts<S, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("config", self.config())
            .field("replay", &format_args!("{}", type_name::<P>()))
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish_non_exhaustive()
    }
}

impl<S: Clone, P, C, M> Retry<S, P, C, M> {
    pub(super) fn new(inner: S, core: Arc<Core<P>>, classifier: Arc<C>) -> Self {
        let spare = Mutex::new(inner.clone());
        let parts = Arc::new(Parts { core, classifier, spare });
        Self { inner, parts, completion: PhantomData }
    }
}

accessors!(Retry<S, P, C, M>);

impl<S: Clone, P, C, M> Clone for Retry<S, P, C, M> {
    fn clone(&self) -> Self {
        let parts = Arc::clone(&self.parts);
        Self { inner: self.inner.clone(), parts, completion: PhantomData }
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
        ResponseFuture::begin(&mut self.inner, request, &self.parts)
    }
}

impl<S: fmt::Debug, P, C, M> fmt::Debug for Retry<S, P, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("inner", &self.inner).field("parts", &self.parts).finish()
    }
}
