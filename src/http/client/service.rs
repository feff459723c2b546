use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{config::Config, future::ClientFuture};
use crate::{
    CarryRejection,
    call::clock,
    http::{ResponseBody, body::PendingBody, wire},
};

/// Speaks the hop protocol with a server. Made by [`ClientLayer`](super::ClientLayer).
#[derive(Clone)]
pub struct Client<S> {
    inner: S,
    config: Arc<Config>,
}

accessors!(Client<S>);

impl<S> Client<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S: fmt::Debug> fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Client<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: CarryRejection,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ClientFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let began = clock::now();
        let grpc = wire::is_grpc(request.headers());
        let in_time = match self.config.write {
            Some(write) => write.headers(request.headers_mut(), grpc, began),
            None => true,
        };
        let call = PendingBody::new(request.method(), began);
        let future = in_time.then(|| self.inner.call(request));
        ClientFuture::new(future, Arc::clone(&self.config), call)
    }
}
