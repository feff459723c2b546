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

use super::{body::ServerBody, future::ServerFuture, shared::Shared};
use crate::{Error, http::BodyError};

/// Answers every request: with what the handler says, or with why it was not asked. Made by
/// [`ServerLayer`](super::ServerLayer).
pub struct Server<S, H> {
    inner: S,
    shared: Arc<Shared>,
    handler: PhantomData<fn() -> H>,
}

accessors!(Server<S, H>);

impl<S, H> Server<S, H> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared, handler: PhantomData }
    }
}

impl<S: Clone, H> Clone for Server<S, H> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.shared))
    }
}

impl<S: fmt::Debug, H> fmt::Debug for Server<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("inner", &self.inner)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "tonic")]
impl<S, H: tonic::server::NamedService> tonic::server::NamedService for Server<S, H> {
    const NAME: &'static str = H::NAME;
}

impl<S, H, B, R, E> Service<Request<B>> for Server<S, H>
where
    S: Service<Request<B>, Response = Response<R>, Error = Error<Infallible>>,
    R: Body<Data = Bytes, Error = BodyError<E>>,
{
    type Response = Response<ServerBody<R>>;
    type Error = Infallible;
    type Future = ServerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // What a layer has to refuse it refuses in `call`, where there is somebody to answer; a handler
        // cannot fail.
        self.inner.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inbound = self.shared.read(request.headers());
        let inner = &mut self.inner;
        ServerFuture::begin(Arc::clone(&self.shared), inbound, || inner.call(request))
    }
}
