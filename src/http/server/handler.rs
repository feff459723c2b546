use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::shared::Shared;
use crate::{
    Error,
    call::clock,
    http::{ResponseBody, body::PendingBody, wire},
};

/// The innermost service of a server's stack, which calls the handler.
///
/// Created by [`HttpServerLayer`](crate::http::HttpServerLayer). The error of the handler must be
/// [`Infallible`]. It must be `Clone`, because a request may wait until it is ready. The call ends
/// with the body of the response.
#[derive(Clone)]
pub struct Handler<S> {
    inner: S,
    shared: Arc<Shared>,
}

accessors!(Handler<S>);

impl<S> Handler<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S: fmt::Debug> fmt::Debug for Handler<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Handler<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error<Infallible>;
    type Future = HandlerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(|never| match never {})
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = PendingBody::new(request.method(), clock::now());
        HandlerFuture { future: self.inner.call(request), shared: Arc::clone(&self.shared), call }
    }
}

pin_project! {
    /// The future of a [`Handler`].
    #[must_use = "futures do nothing unless polled"]
    pub struct HandlerFuture<F> {
        #[pin]
        future: F,
        shared: Arc<Shared>,
        call: PendingBody,
    }
}

impl<F, R> Future for HandlerFuture<F>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, Error<Infallible>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match ready!(this.future.poll(cx)) {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let grpc = wire::is_grpc(response.headers());
        let config = &this.shared.config;
        let (idle, deadline) = (config.body_idle, config.body_deadline);
        Poll::Ready(Ok(this.call.into_response(response, grpc, idle, deadline, None)))
    }
}

impl<F> fmt::Debug for HandlerFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerFuture").finish_non_exhaustive()
    }
}
