use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use tower_service::Service;

use super::config::Config;

/// A service that gives each call an idempotency key, the same for all its attempts.
///
/// [`SetIdempotencyKeyLayer`](crate::http::SetIdempotencyKeyLayer) creates it.
#[derive(Clone, Debug)]
pub struct SetIdempotencyKey<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> SetIdempotencyKey<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

accessors!(SetIdempotencyKey<S>);

impl<S, B> Service<Request<B>> for SetIdempotencyKey<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        self.config.prepare(&mut request);
        self.inner.call(request)
    }
}
