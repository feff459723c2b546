use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::shared::Shared;
use crate::{
    Error,
    call::{clock, ended::polled_after_end},
    http::{ResponseBody, live_body::ServedLimits, pending_body::PendingBody, wire},
};

/// The innermost service of a server's stack, which calls the handler.
///
/// Created by [`HttpServerLayer`](crate::http::HttpServerLayer). The error of the handler must be
/// [`Infallible`]. It must be `Clone`, because a request may wait until it is ready. The call ends
/// with the body of the response. The body must be `Send` and `'static`, because a limit can drop
/// it on the thread that drives the timers.
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
    R: Body + Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error<Infallible>;
    type Future = HandlerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(|never| match never {})
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = PendingBody::new(request.method(), clock::now());
        // Over HTTP/2, hyper 1.6 does not poll a body until its caller grants a window. Newer
        // versions poll its first frame before.
        let from_head = request.version() >= Version::HTTP_2;
        let shared = Arc::clone(&self.shared);
        HandlerFuture { future: self.inner.call(request), shared: Some(shared), call, from_head }
    }
}

pin_project! {
    /// The future of a [`Handler`].
    #[must_use = "futures do nothing unless polled"]
    pub struct HandlerFuture<F> {
        #[pin]
        future: F,
        // `None` after the end.
        shared: Option<Arc<Shared>>,
        call: PendingBody,
        from_head: bool,
    }
}

impl<F, R> Future for HandlerFuture<F>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
    R: Body + Send + 'static,
{
    type Output = Result<Response<ResponseBody<R>>, Error<Infallible>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match ready!(this.future.poll(cx)) {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let grpc = wire::is_grpc(response.headers());
        let Some(shared) = this.shared.take() else { polled_after_end() };
        let config = &shared.config;
        let limits = ServedLimits {
            idle: config.body_idle,
            to_the_last: config.body_deadline,
            unread: config.body_unread,
            from_head: *this.from_head,
        };
        Poll::Ready(Ok(this.call.into_served(response, grpc, &limits, shared)))
    }
}

impl<F> fmt::Debug for HandlerFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerFuture").finish_non_exhaustive()
    }
}
