use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Span, field::Empty, info_span};

use super::{field, log::CALL};
use crate::{
    CarryRejection, Outcome,
    call::{
        account::How,
        completion::{AtHead, Completion, end_of},
        ended::polled_after_end,
    },
    error::Name,
};

/// A layer that opens a span for each logical call.
///
/// The spans of a retry's attempts are its children. A [`Stack`](crate::Stack) has one around all
/// its layers. If you compose layers by hand, make this the outermost one.
#[derive(Clone, Debug, Default)]
pub struct CallSpanLayer {
    stack: Option<Name>,
}

impl CallSpanLayer {
    /// Creates the layer. Its spans are named `call`.
    pub const fn new() -> Self {
        Self { stack: None }
    }

    /// Creates the layer of a stack with this name.
    pub(crate) fn of(stack: Option<&Name>) -> Self {
        Self { stack: stack.cloned() }
    }

    /// Wraps a service. `M` decides when a call is complete.
    pub(crate) fn completing<S, M>(&self, inner: S) -> CallSpan<S, M> {
        CallSpan { inner, stack: self.stack.clone(), completion: PhantomData }
    }
}

impl<S> Layer<S> for CallSpanLayer {
    type Service = CallSpan<S>;

    fn layer(&self, inner: S) -> CallSpan<S> {
        self.completing(inner)
    }
}

/// A service that opens a span for each call, created by [`CallSpanLayer`].
pub struct CallSpan<S, M = AtHead> {
    inner: S,
    stack: Option<Name>,
    completion: PhantomData<fn() -> M>,
}

accessors!(CallSpan<S, M>);

impl<S: Clone, M> Clone for CallSpan<S, M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), stack: self.stack.clone(), completion: PhantomData }
    }
}

impl<S: fmt::Debug, M> fmt::Debug for CallSpan<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallSpan").field("inner", &self.inner).finish()
    }
}

impl<S, M, Req> Service<Req> for CallSpan<S, M>
where
    S: Service<Req>,
    S::Error: CarryRejection,
    M: Completion<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CallFuture<S::Future, M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let span = info_span!(
            target: CALL,
            "call",
            { field::STACK } = self.stack.as_ref().map(Name::as_str),
            { field::OUTCOME } = Empty,
            { field::ERROR_TYPE } = Empty,
        );
        let future = span.in_scope(|| self.inner.call(request));
        CallFuture { future: Some(future), span, completion: PhantomData }
    }
}

pin_project! {
    /// The future of a [`CallSpan`].
    #[must_use = "futures do nothing unless polled"]
    pub struct CallFuture<F, M = AtHead> {
        #[pin]
        future: Option<F>,
        span: Span,
        completion: PhantomData<fn() -> M>,
    }

    impl<F, M> PinnedDrop for CallFuture<F, M> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                // Dropping the future can emit events, for example of a breaker that opens.
                let _entered = this.span.enter();
                this.future.set(None);
            }
        }
    }
}

impl<F, M, T, E> Future for CallFuture<F, M>
where
    F: Future<Output = Result<T, E>>,
    E: CarryRejection,
    M: Completion<T>,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _entered = this.span.enter();
        let Some(future) = this.future.as_mut().as_pin_mut() else { polled_after_end() };
        let mut result = ready!(future.poll(cx));
        this.future.set(None);
        if !this.span.is_disabled() {
            if let Some(end) = end_of::<M, _, _>(&mut result) {
                end.hold_span(this.span.clone(), record_end);
                return Poll::Ready(result);
            }
            // The response is not classified here. This layer knows only that one has arrived.
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

impl<F, M> fmt::Debug for CallFuture<F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture").field("span", &self.span).finish_non_exhaustive()
    }
}

/// Records the end of a response in the span of its call.
///
/// A response that did not fail is recorded as `answered`, without its outcome.
fn record_end(span: &Span, how: How) {
    match how {
        How::Complete(outcome @ Outcome::Failure(_)) => {
            span.record(field::OUTCOME, "error").record(field::ERROR_TYPE, outcome.as_str());
        }
        How::Complete(_) => {
            span.record(field::OUTCOME, "answered");
        }
        How::DroppedBetweenReads | How::DroppedWhileReading => super::record_cancelled(span),
        How::Panicked => {}
    }
}
