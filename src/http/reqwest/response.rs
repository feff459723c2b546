//! The response of a stack, as reqwest's own type.

use std::{
    future::Future,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use reqwest::{ResponseBuilderExt, Url};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{BoxError, CarryRejection, Rejection, error::TimedOut, telemetry::Reporter};

/// The limit of a request's own timeout, and its end.
pub(super) struct End {
    pub(super) limit: Duration,
    pub(super) at: Instant,
    pub(super) reporter: Arc<Reporter>,
}

/// Converts the response to a request to `url`. Its body ends at `end`.
pub(super) fn to_reqwest<R>(
    mut response: Response<R>,
    url: Url,
    end: Option<End>,
) -> reqwest::Response
where
    R: Body<Data = Bytes> + Send + Sync + 'static,
    R::Error: Into<BoxError>,
{
    // The response of a cache or a fallback has no URL.
    let mut with_url = Response::builder().url(url);
    if let Some(extensions) = with_url.extensions_mut() {
        extensions.extend(mem::take(response.extensions_mut()));
        *response.extensions_mut() = mem::take(extensions);
    }
    response
        .map(|inner| {
            let body = LimitedBody { inner: Some(inner), end, timer: None };
            reqwest::Body::wrap(body)
        })
        .into()
}

/// Boxes an error so that reqwest's `is_timeout` recognises a timeout of this crate.
fn boxed(error: impl Into<BoxError>) -> BoxError {
    let error = error.into();
    match error.rejection() {
        Some(Rejection::TimedOut(_) | Rejection::DeadlineExceeded(_)) => {
            io::Error::new(io::ErrorKind::TimedOut, error).into()
        }
        _ => error,
    }
}

pin_project! {
    /// The body of a response, up to the end of the request's own timeout.
    struct LimitedBody<R> {
        // `None` after the timeout. Dropping the inner body ends the call.
        #[pin]
        inner: Option<R>,
        end: Option<End>,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<R> Body for LimitedBody<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        // The body before the timer, because a frame that is ready is returned even at the end.
        if let Poll::Ready(frame) = inner.poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(boxed)));
        }
        let Some(End { limit, at, reporter }) = this.end else { return Poll::Pending };
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(*at)));
        ready!(timer.as_mut().poll(cx));
        this.inner.set(None);
        let timed_out = TimedOut::by(Some(reporter.name().clone()), *limit);
        Poll::Ready(Some(Err(boxed(reporter.reject::<BoxError>(timed_out)))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
