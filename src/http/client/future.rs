use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::config::Config;
use crate::{
    CarryRejection,
    call::rejectable::Rejectable,
    error::DeadlineExceeded,
    http::{ResponseBody, body::PendingBody, wire},
    telemetry,
};

pin_project! {
    /// The future of an [`HttpClient`](super::HttpClient).
    #[must_use = "futures do nothing unless polled"]
    pub struct HttpClientFuture<F> {
        #[pin]
        inner: Rejectable<F>,
        config: Arc<Config>,
        call: PendingBody,
    }
}

impl<F> HttpClientFuture<F> {
    /// Creates the future of a call. Without an inner future the call is rejected.
    pub(super) fn new(future: Option<F>, config: Arc<Config>, call: PendingBody) -> Self {
        let inner = match future {
            Some(future) => Rejectable::running(future, ()),
            None => Rejectable::rejected(()),
        };
        Self { inner, config, call }
    }
}

impl<F, R, E> Future for HttpClientFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
    E: CarryRejection,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some((future, ())) = this.inner.as_mut().as_running() else {
            return Poll::Ready(Err(this.inner.reject(reject)));
        };
        let result = ready!(future.poll(cx));
        this.inner.end();
        Poll::Ready(result.map(|response| {
            let grpc = wire::is_grpc(response.headers());
            this.config.read(&response, grpc);
            let config = this.config;
            let at_end = config.at_end.clone();
            this.call.into_response(response, grpc, config.idle, config.body_deadline, at_end)
        }))
    }
}

fn reject<E: CarryRejection>((): ()) -> E {
    telemetry::reject(DeadlineExceeded::by(None))
}

impl<F> fmt::Debug for HttpClientFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClientFuture").finish_non_exhaustive()
    }
}
