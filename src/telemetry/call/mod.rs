use std::{
    any::type_name,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{field::Empty, info_span};

use super::{
    field,
    log::CALL,
    metrics::Meter,
    reporter::Reporters,
    tracked::{Call, Calls, Tracked},
};
use crate::{
    CarryRejection, Classify, Outcome,
    call::{
        clock,
        completion::{AtHead, Completion, end_of},
        deadline,
        degraded::{ResponseSource, listen},
        ended::polled_after_end,
        ended_call::EndedCall,
        route::{self, Beneath, Settling, Tried},
    },
    classify_fn,
    error::Name,
    outcome::{ClassifyFn, DefaultClassifier, judge},
};

/// A layer that opens a span for each logical call.
///
/// The spans of a retry's attempts are its children. A [`Stack`](crate::Stack) has one around all
/// its layers. If you compose layers by hand, make this the outermost one.
pub struct CallSpanLayer<C = DefaultClassifier> {
    stack: Option<Name>,
    /// The numbers of the calls of a stack that is registered.
    meter: Option<Arc<Meter>>,
    /// Code of the user runs between the layers of the stack and the span.
    reads_end: bool,
    /// There is no retry, whose attempts settle the calls of endpoints.
    settles: bool,
    /// The limit of the stack for each call or attempt.
    own_limit: Option<Duration>,
    classifier: Arc<C>,
}

impl CallSpanLayer {
    /// Creates the layer. Its spans are named `call`.
    pub fn new() -> Self {
        let classifier = Arc::new(DefaultClassifier);
        let (reads_end, settles) = (false, false);
        Self { stack: None, meter: None, reads_end, settles, own_limit: None, classifier }
    }
}

impl Default for CallSpanLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> CallSpanLayer<C> {
    /// Creates the layer of a stack with these reporters and this classifier.
    ///
    /// `reads_end` says that its calls do not share the reading of the clock at their end.
    /// `settles` says that no retry settles the calls of endpoints. `own_limit` is the limit of the
    /// stack for each call or attempt.
    pub(crate) fn of(
        stack: &Reporters,
        classifier: Arc<C>,
        reads_end: bool,
        settles: bool,
        own_limit: Option<Duration>,
    ) -> Self {
        let (stack, meter) = (stack.stack().cloned(), stack.calls().cloned());
        Self { stack, meter, reads_end, settles, own_limit, classifier }
    }

    /// Sets the classifier, which tells a failed call from a successful one.
    ///
    /// Default: none. `Ok` is a success and `Err` is a failure. In a stack, the span has the
    /// stack's classifier.
    pub fn classify<D>(self, classifier: D) -> CallSpanLayer<D> {
        let Self { stack, meter, reads_end, settles, own_limit, .. } = self;
        let classifier = Arc::new(classifier);
        CallSpanLayer { stack, meter, reads_end, settles, own_limit, classifier }
    }

    /// Sets a function as the classifier.
    ///
    /// Default: none, as for [`classify`](Self::classify).
    pub fn classify_fn<F, Res, E>(self, f: F) -> CallSpanLayer<ClassifyFn<F>>
    where
        F: Fn(Result<&Res, &E>) -> Outcome,
    {
        self.classify(classify_fn(f))
    }

    /// Wraps a service. `M` decides when a call is complete.
    pub(crate) fn completing<S, M>(&self, inner: S) -> CallSpan<S, C, M> {
        let Self { stack, meter, reads_end, settles, own_limit, classifier } = self.clone();
        let calls = Calls { stack, meter, reads_end, settles, own_limit, classifier };
        CallSpan { inner, calls: Arc::new(calls), completion: PhantomData }
    }
}

impl<C> Clone for CallSpanLayer<C> {
    fn clone(&self) -> Self {
        Self {
            stack: self.stack.clone(),
            meter: self.meter.clone(),
            classifier: Arc::clone(&self.classifier),
            ..*self
        }
    }
}

impl<C> fmt::Debug for CallSpanLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallSpanLayer")
            .field("stack", &self.stack)
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish()
    }
}

impl<S, C> Layer<S> for CallSpanLayer<C> {
    type Service = CallSpan<S, C>;

    fn layer(&self, inner: S) -> CallSpan<S, C> {
        self.completing(inner)
    }
}

/// A service that opens a span for each call, created by [`CallSpanLayer`].
pub struct CallSpan<S, C = DefaultClassifier, M = AtHead> {
    inner: S,
    calls: Arc<Calls<C>>,
    completion: PhantomData<fn() -> M>,
}

accessors!(CallSpan<S, C, M>);

impl<S: Clone, C, M> Clone for CallSpan<S, C, M> {
    fn clone(&self) -> Self {
        let calls = Arc::clone(&self.calls);
        Self { inner: self.inner.clone(), calls, completion: PhantomData }
    }
}

impl<S: fmt::Debug, C, M> fmt::Debug for CallSpan<S, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallSpan").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, C, M, Req> Service<Req> for CallSpan<S, C, M>
where
    S: Service<Req>,
    S::Error: CarryRejection,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CallFuture<S::Future, C, M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let span = info_span!(
            target: CALL,
            "call",
            { field::STACK } = self.calls.stack.as_ref().map(Name::as_str),
            { field::OUTCOME } = Empty,
            { field::ERROR_TYPE } = Empty,
            { field::STATUS } = Empty,
            { field::ATTEMPTS } = Empty,
            { field::SOURCE } = Empty,
            { field::SERVER_ADDRESS } = Empty,
        );
        // The layers beneath begin at the same instant.
        let _now = self.calls.meter.as_ref().map(|meter| {
            meter.begin();
            clock::share_now(clock::now())
        });
        let mut tracked = Tracked::begin_call(span, &self.calls);
        let future = tracked.run(|| self.inner.call(request));
        CallFuture { future: Some(future), tracked, completion: PhantomData }
    }
}

pin_project! {
    /// The future of a [`CallSpan`].
    #[must_use = "futures do nothing unless polled"]
    pub struct CallFuture<F, C = DefaultClassifier, M = AtHead> {
        #[pin]
        future: Option<F>,
        tracked: Tracked<Call<C>>,
        completion: PhantomData<fn() -> M>,
    }

    impl<F, C, M> PinnedDrop for CallFuture<F, C, M> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                // Dropping the future can emit events, for example of a call that is rejected.
                this.tracked.run(|| this.future.set(None));
            }
        }
    }
}

impl<F, C, M, T, E> Future for CallFuture<F, C, M>
where
    F: Future<Output = Result<T, E>>,
    C: Classify<T, E>,
    E: CarryRejection,
    M: Completion<T>,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (source, settles) = match this.tracked.told() {
            Some(call) => (call.source, call.calls.settles),
            None => (None, false),
        };
        let _listening = listen(source);
        let mut place = this.future;
        let settling = settles.then(|| route::settling::<_, ()>(this.tracked, None));
        // The result is inspected in place, because each move of a large one costs.
        let mut polled = this.tracked.run(|| {
            let Some(future) = place.as_mut().as_pin_mut() else { polled_after_end() };
            let polled = future.poll(cx);
            if polled.is_ready() {
                place.set(None);
            }
            polled
        });
        if let Some(Call { calls, source }) = this.tracked.told() {
            *source = ResponseSource::reported();
            if let Some(settling) = settling {
                settle_endpoint::<C, M, T, E>(this.tracked, settling, &mut polled);
            } else {
                if polled.is_pending() || calls.reads_end {
                    // An attempt beneath may have ended, but the call around it has not ended
                    // with it.
                    clock::forget_end();
                }
                if let Poll::Ready(result) = &mut polled {
                    let (calls, source) = (Arc::clone(calls), *source);
                    settle::<C, M, T, E>(this.tracked, None, Tried::NONE, source, &calls, result);
                }
            }
        }
        polled
    }
}

/// Ends a call that also settles the calls of endpoints, because it has no retry.
#[inline(never)]
fn settle_endpoint<C, M, T, E>(
    tracked: &mut Tracked<Call<C>>,
    settling: Settling,
    polled: &mut Poll<Result<T, E>>,
) where
    C: Classify<T, E>,
    M: Completion<T>,
    E: CarryRejection,
{
    let Poll::Ready(result) = polled else { return clock::forget_end() };
    let Some(Call { calls, source }) = tracked.told() else { return };
    if calls.reads_end {
        clock::forget_end();
    }
    let (calls, source) = (Arc::clone(calls), *source);
    let (call, tried) = match settling.ended() {
        None => (None, Tried::NONE),
        Some(Beneath { call, tried, .. }) => (call, tried),
    };
    if call.is_some() || !tried.is_empty() || tracked.is_told_of() {
        settle::<C, M, T, E>(tracked, call, tried, source, &calls, result);
    }
}

/// Records the source of a response, and ends the call if the response is degraded.
///
/// Returns `true` if it is, and no failure.
#[cold]
#[inline(never)]
fn settle_given<C, M, T>(
    tracked: &mut Tracked<Call<C>>,
    source: ResponseSource,
    outcome: Outcome,
    response: &mut T,
) -> bool
where
    M: Completion<T>,
{
    tracked.record_source(source);
    let is_degraded = matches!(source, ResponseSource::Degraded(_));
    let is_degraded = is_degraded && !matches!(outcome, Outcome::Failure(_));
    if is_degraded {
        tracked.end_degraded(M::end(response));
    }
    is_degraded
}

/// Ends a call with its result, or lets it end with the body of the response.
///
/// `call` is the call to an endpoint that the result is of, `tried` are the endpoints that were
/// called, and `source` is the source of a response.
#[inline(always)]
fn settle<C, M, T, E>(
    tracked: &mut Tracked<Call<C>>,
    call: Option<EndedCall>,
    tried: Tried,
    source: Option<ResponseSource>,
    calls: &Calls<C>,
    result: &mut Result<T, E>,
) where
    C: Classify<T, E>,
    M: Completion<T>,
    E: CarryRejection,
{
    let classifier = &*calls.classifier;
    let outcome = tracked.classify(|| judge(classifier, result.as_ref()));
    let mut call = call;
    if let (Some(source), Ok(response)) = (source, &mut *result) {
        // A degraded response says nothing about the endpoint that was called before.
        call = None;
        if settle_given::<C, M, T>(tracked, source, outcome, response) {
            return;
        }
    }
    // A head that is a failure is final. Any other is followed by the end of its body.
    if !matches!(outcome, Outcome::Failure(_)) {
        if let Some(end) = end_of::<M, _, _>(result) {
            if let Some(call) = call {
                call.hold(end, deadline::deadline(), calls.own_limit);
            }
            return tracked.hold(end);
        }
    }
    if let Some(call) = call {
        call.settle(outcome, result.as_ref(), deadline::deadline(), calls.own_limit);
    }
    if matches!(outcome, Outcome::Failure(_)) && !tried.is_empty() {
        // For a retry around the stack.
        tried.report();
    }
    tracked.end_with(classifier, outcome, None, result.as_ref());
}

impl<F, C, M> fmt::Debug for CallFuture<F, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture").field("tracked", &self.tracked).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
