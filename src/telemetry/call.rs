use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Span, field::Empty, info_span};

use super::field;
use crate::CarryRejection;

/// Opens a span for each logical call; the attempts of a retry beneath are its children.
///
/// A [`Stack`](crate::Stack) has one around all its layers. Layers that are put together by hand
/// want one outermost.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CallSpanLayer;

impl CallSpanLayer {
    /// A span named `call`.
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for CallSpanLayer {
    type Service = CallSpan<S>;

    fn layer(&self, inner: S) -> CallSpan<S> {
        CallSpan { inner }
    }
}

/// A service whose calls have a span each. Made by [`CallSpanLayer`].
#[derive(Clone, Debug)]
pub struct CallSpan<S> {
    inner: S,
}

accessors!(CallSpan<S>);

impl<S, Req> Service<Req> for CallSpan<S>
where
    S: Service<Req>,
    S::Error: CarryRejection,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CallFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let span = info_span!("call", { field::OUTCOME } = Empty, { field::ERROR_TYPE } = Empty);
        let future = span.in_scope(|| self.inner.call(request));
        CallFuture { future: Some(future), span }
    }
}

pin_project! {
    /// The future of a [`CallSpan`].
    #[must_use = "futures do nothing unless polled"]
    pub struct CallFuture<F> {
        #[pin]
        future: Option<F>,
        span: Span,
    }

    impl<F> PinnedDrop for CallFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                // What is dropped may have something to say, as a breaker that opens.
                let _entered = this.span.enter();
                this.future.set(None);
            }
        }
    }
}

impl<F, T, E> Future for CallFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: CarryRejection,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _entered = this.span.enter();
        let future = this.future.as_mut().as_pin_mut();
        let result = ready!(future.expect("a future was polled after it had ended").poll(cx));
        this.future.set(None);
        if !this.span.is_disabled() {
            // An answer is not judged here: that it is one is all this layer knows.
            match result.as_ref().err().map(CarryRejection::rejection) {
                None => this.span.record(field::OUTCOME, "answered"),
                Some(None) => this.span.record(field::OUTCOME, "error"),
                Some(Some(rejection)) => this
                    .span
                    .record(field::OUTCOME, "rejected")
                    .record(field::ERROR_TYPE, rejection.kind()),
            };
        }
        Poll::Ready(result)
    }
}

impl<F> fmt::Debug for CallFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture").field("span", &self.span).finish_non_exhaustive()
    }
}
