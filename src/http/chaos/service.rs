use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::Response;
use http_body::Body;
use tower_service::Service;

use super::{
    body::ChaosBody,
    future::{Admitted, ResponseFuture},
    shared::Shared,
};

/// A service whose bodies have faults while its layer is armed, created by a
/// [`BodyChaosLayer`](super::BodyChaosLayer). It forwards readiness.
///
/// See the [module docs](super).
#[derive(Clone, Debug)]
pub struct BodyChaos<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> BodyChaos<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }

    #[cold]
    fn admit(&self) -> Option<Box<Admitted>> {
        let ticket = self.shared.switch.admit()?;
        Some(Box::new(Admitted { shared: Arc::clone(&self.shared), ticket }))
    }
}

accessors!(BodyChaos<S>);

impl<S, Req, B> Service<Req> for BodyChaos<S>
where
    S: Service<Req, Response = Response<B>>,
    B: Body,
{
    type Response = Response<ChaosBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let admitted = if self.shared.switch.may_be_armed() { self.admit() } else { None };
        ResponseFuture::new(self.inner.call(request), admitted)
    }
}
