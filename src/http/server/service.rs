use std::{
    convert::Infallible,
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{body::HttpServerBody, future::HttpServerFuture, shared::Shared};
use crate::{
    Error,
    call::{hop::Hop, oneshot::Oneshot, readiness::Readiness},
    http::{BodyError, uploads::Uploads},
};

/// A service that responds to every request, even when the call is rejected.
///
/// Created by [`HttpServerLayer`](crate::http::HttpServerLayer).
pub struct HttpServer<S, H> {
    inner: S,
    shared: Arc<Shared>,
    readiness: Readiness,
    handler: PhantomData<fn() -> H>,
}

accessors!(HttpServer<S, H>);

impl<S, H> HttpServer<S, H> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared, readiness: Readiness::NotAsked, handler: PhantomData }
    }
}

impl<S: Clone, H> Clone for HttpServer<S, H> {
    fn clone(&self) -> Self {
        // The clone starts without readiness, which belongs to the instance that was polled.
        Self::new(self.inner.clone(), Arc::clone(&self.shared))
    }
}

impl<S: fmt::Debug, H> fmt::Debug for HttpServer<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer")
            .field("inner", &self.inner)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "tonic")]
impl<S, H: tonic::server::NamedService> tonic::server::NamedService for HttpServer<S, H> {
    const NAME: &'static str = H::NAME;
}

impl<S, H, B, R, E> Service<Request<B>> for HttpServer<S, H>
where
    S: Service<Request<B>, Response = Response<R>, Error = Error<Infallible>> + Clone,
    B: Body + Send + 'static,
    R: Body<Data = Bytes, Error = BodyError<E>>,
{
    type Response = Response<HttpServerBody<R>>;
    type Error = Infallible;
    type Future = HttpServerFuture<Oneshot<S, Request<B>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The error can be ignored. A handler cannot fail, and a layer rejects in `call`, where the
        // caller receives a response.
        let _ = self.readiness.ask(&mut self.inner, cx);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // A server around this one may have left it there.
        request.extensions_mut().remove::<Uploads>();
        let inbound = self.shared.read(request.headers());
        let uploads = self.shared.uploads.as_ref().and_then(|uploads| uploads.of(&request));
        let (inner, readiness) = (&mut self.inner, &mut self.readiness);
        let call = |hop: &mut Hop, request| {
            readiness
                .call(inner, request, |inner, request| inbound.enter(hop, || inner.call(request)))
        };
        HttpServerFuture::begin(Arc::clone(&self.shared), inbound, uploads, request, call)
    }
}
