use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{config::Config, future::HttpClientFuture};
use crate::{
    CarryRejection,
    call::clock,
    http::{ResponseBody, pending_body::PendingBody, wire},
};

/// A client service that writes and reads the headers of the hop.
///
/// Created by [`HttpClientLayer`](super::HttpClientLayer).
#[derive(Clone)]
pub struct HttpClient<S> {
    inner: S,
    config: Arc<Config>,
}

accessors!(HttpClient<S>);

impl<S> HttpClient<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S: fmt::Debug> fmt::Debug for HttpClient<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for HttpClient<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: CarryRejection,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = HttpClientFuture<S::Future, R>;

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
        if let Some(on_send) = self.config.on_send.as_ref().filter(|_| in_time) {
            on_send(request.headers_mut());
        }
        let ahead = self.config.buffer.as_ref().is_some_and(|buffer| buffer.selects(&request));
        let call = PendingBody::new(request.method(), began).ahead(ahead);
        let future = in_time.then(|| self.inner.call(request));
        HttpClientFuture::new(future, Arc::clone(&self.config), call)
    }
}
