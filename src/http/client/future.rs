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
    CarryRejection, DeadlineExceeded,
    http::{ResponseBody, body::PendingBody, wire},
    telemetry,
};

pin_project! {
    /// The future of a [`Client`](super::Client).
    #[must_use = "futures do nothing unless polled"]
    pub struct ClientFuture<F> {
        // `None` when the call was refused, and when it has ended.
        #[pin]
        future: Option<F>,
        config: Arc<Config>,
        call: PendingBody,
        refused: bool,
    }
}

impl<F> ClientFuture<F> {
    /// Without a future the call is refused.
    pub(super) fn new(future: Option<F>, config: Arc<Config>, call: PendingBody) -> Self {
        let refused = future.is_none();
        Self { future, config, call, refused }
    }
}

impl<F, R, E> Future for ClientFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
    E: CarryRejection,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(refuse(this.refused)));
        };
        let result = ready!(future.poll(cx));
        this.future.set(None);
        Poll::Ready(result.map(|response| {
            let grpc = wire::is_grpc(response.headers());
            this.config.read(&response, grpc);
            let config = this.config;
            let at_end = config.at_end.clone();
            this.call.into_response(response, grpc, config.idle, config.body_deadline, at_end)
        }))
    }
}

// Out of line, so that the path of a call which goes well stays short.
#[cold]
fn refuse<E: CarryRejection>(refused: &mut bool) -> E {
    assert!(*refused, "a response future was polled after it had ended");
    *refused = false;
    telemetry::refuse(DeadlineExceeded::by(None))
}

impl<F> fmt::Debug for ClientFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFuture").finish_non_exhaustive()
    }
}
