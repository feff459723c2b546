//! The future of the [`BodyChaos`](super::BodyChaos) service.

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

use super::{body::ChaosBody, shared::Shared};
use crate::chaos::switch::Ticket;

pin_project! {
    /// The future of a [`BodyChaos`](super::BodyChaos).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        future: F,
        // Boxed, so that a call of a disarmed layer does not make room for it.
        admitted: Option<Box<Admitted>>,
    }
}

/// A call that began while the layer was armed. Its fault is drawn when there is a body.
pub(super) struct Admitted {
    pub(super) shared: Arc<Shared>,
    pub(super) ticket: Ticket,
}

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn new(future: F, admitted: Option<Box<Admitted>>) -> Self {
        Self { future, admitted }
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
        Poll::Ready(Ok(response.map(|body| match this.admitted.take() {
            None => ChaosBody::untouched(body),
            Some(call) => ChaosBody::draw(body, &call.shared, call.ticket),
        })))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyChaos::ResponseFuture").finish_non_exhaustive()
    }
}
