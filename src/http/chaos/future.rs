//! The future of the [`BodyChaos`](super::BodyChaos) service.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::{ChaosBody, Drawn};

pin_project! {
    /// The future of a [`BodyChaos`](super::BodyChaos).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        future: F,
        fault: Option<Box<Drawn>>,
    }
}

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn new(future: F, fault: Option<Box<Drawn>>) -> Self {
        Self { future, fault }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ChaosBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        Poll::Ready(Ok(response.map(|body| match this.fault.take() {
            None => ChaosBody::untouched(body),
            Some(drawn) => ChaosBody::faulty(body, *drawn),
        })))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.fault.as_ref().map(|drawn| drawn.fault);
        f.debug_struct("BodyChaos::ResponseFuture").field("fault", &fault).finish_non_exhaustive()
    }
}
