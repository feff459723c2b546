//! The body of a response, with which the call ends.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{AutoClassifier, wire};
use crate::{
    BoxError, CarryRejection, Fault, Outcome, Rejection, TimedOut,
    completion::{CallEnd, Lasting},
    deadline::Ambient,
    telemetry,
};

/// Why the body of a response ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError<E> {
    /// A limit of this crate ended it.
    Rejected(Rejection),
    /// The body itself failed.
    Service(E),
}

impl<E> BodyError<E> {
    /// The rejection, if it is one.
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Service(_) => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for BodyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::Service(error) => error.fmt(f),
        }
    }
}

impl<E: Into<BoxError>> From<BodyError<E>> for BoxError {
    // In place of `std::error::Error`, which an error that is boxed already could not have.
    fn from(error: BodyError<E>) -> Self {
        match error {
            BodyError::Rejected(rejection) => Self::from_rejection(rejection),
            BodyError::Service(error) => error.into(),
        }
    }
}

/// For how long the body of a response may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    /// How long a reader waits for a frame.
    pub(super) idle: Option<Duration>,
    /// When the last frame must be there.
    pub(super) deadline: Option<Instant>,
    /// When the call began, for the message.
    pub(super) began: Instant,
}

pin_project! {
    /// The body of a response, with which the call ends: slots, verdicts and spans are held until it has
    /// ended, failed, run into a limit, or was dropped.
    ///
    /// Frames, trailers and size hints pass through as they are. It is `Unpin` when the inner body is.
    pub struct ResponseBody<B> {
        // `None` once a limit has ended it. It stands before what it holds, for what is dropped first must
        // still be accounted for.
        #[pin]
        inner: Option<B>,
        // `None` once the response has ended.
        end: Option<CallEnd>,
        ambient: Ambient,
        limits: BodyLimits,
        // Since when a reader has been waiting for a frame.
        waiting_since: Option<Instant>,
        timer: Option<Pin<Box<Sleep>>>,
        awaits_status: bool,
        classifier: Option<Arc<AutoClassifier>>,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let Some(mut end) = this.end.take() else { return };
            let _ambient = this.ambient.enter();
            this.inner.set(None);
            let waited = this.waiting_since.map(|since| Instant::now().saturating_duration_since(since));
            end.abandon(waited.unwrap_or_default());
        }
    }
}

impl<B: Body> ResponseBody<B> {
    /// A body that is still to be read; with `ended`, one that nobody will read.
    pub(super) fn new(
        inner: B,
        awaits_status: bool,
        ended: bool,
        ambient: Ambient,
        limits: BodyLimits,
        classifier: Option<Arc<AutoClassifier>>,
    ) -> Self {
        let end = if ended || inner.is_end_stream() { None } else { Some(CallEnd::new()) };
        Self {
            inner: Some(inner),
            end,
            ambient,
            limits,
            waiting_since: None,
            timer: None,
            awaits_status,
            classifier,
        }
    }
}

/// Whether the end of a response is still to say how the call went: a gRPC answer without a status in
/// its head. What a proxy answers has none, and is judged by its HTTP status.
pub(super) fn awaits_status<B>(response: &Response<B>, grpc: bool) -> bool {
    grpc && response.status() == StatusCode::OK && wire::grpc_status(response.headers()).is_none()
}

impl<B> Lasting for Response<ResponseBody<B>> {
    #[inline]
    fn call_end(&mut self) -> Option<&mut CallEnd> {
        self.body_mut().end.as_mut()
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = BodyError<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let mut this = self.project();
        let Some(mut inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let _ambient = this.ambient.enter();
        let polled = {
            let mut panicking = Panicking { end: this.end, armed: true };
            let polled = inner.as_mut().poll_frame(cx);
            panicking.armed = false;
            polled
        };
        let (outcome, ready) = match polled {
            Poll::Pending => {
                let Some(late) = poll_limits(this.limits, this.waiting_since, this.timer, cx)
                else {
                    return Poll::Pending;
                };
                this.inner.set(None);
                (Some(TIMED_OUT), Some(Err(BodyError::Rejected(late))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                *this.waiting_since = None;
                let outcome = match frame.trailers_ref() {
                    _ if this.end.is_none() => None,
                    None if !inner.is_end_stream() => {
                        // A peer that is never late with a frame, and never ends, is late with its last.
                        if let Some(late) = late_for_the_last(this.limits) {
                            this.inner.set(None);
                            finish(this.end, TIMED_OUT);
                            return Poll::Ready(Some(Err(BodyError::Rejected(late))));
                        }
                        None
                    }
                    trailers => Some(at_end(*this.awaits_status, this.classifier, trailers)),
                };
                (outcome, Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                (Some(Outcome::Failure(Fault::Transient)), Some(Err(BodyError::Service(error))))
            }
            Poll::Ready(None) => (Some(at_end(*this.awaits_status, this.classifier, None)), None),
        };
        if let Some(outcome) = outcome {
            finish(this.end, outcome);
        }
        Poll::Ready(ready)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

const TIMED_OUT: Outcome = Outcome::Failure(Fault::TimedOut);

/// Ends what ends with the response, the first time.
fn finish(end: &mut Option<CallEnd>, outcome: Outcome) {
    if let Some(mut end) = end.take() {
        end.finish(outcome);
    }
}

/// What a response says of the service that began well and ran to its end.
fn at_end(
    awaits_status: bool,
    classifier: &Option<Arc<AutoClassifier>>,
    trailers: Option<&HeaderMap>,
) -> Outcome {
    match classifier {
        _ if !awaits_status => Outcome::Success,
        Some(classifier) => classifier.grpc_end(trailers),
        None => AutoClassifier::new().grpc_end(trailers),
    }
}

/// Why a reader need not wait any longer; `None` as long as it may.
fn poll_limits(
    limits: &BodyLimits,
    waiting_since: &mut Option<Instant>,
    timer: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) -> Option<Rejection> {
    let since = *waiting_since.get_or_insert_with(Instant::now);
    let idle_end = limits.idle.and_then(|idle| since.checked_add(idle));
    let end = match (idle_end, limits.deadline) {
        (Some(idle), Some(deadline)) => idle.min(deadline),
        (idle, deadline) => idle.or(deadline)?,
    };
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
    if timer.deadline() != end {
        timer.as_mut().reset(end);
    }
    // A timer is also pending when what was polled before it has used up the task's budget.
    if timer.as_mut().poll(cx).is_pending() && Instant::now() < end {
        return None;
    }
    Some(match limits.idle {
        Some(idle) if idle_end == Some(end) => late("idle response body", idle),
        _ => late_since(limits, end),
    })
}

fn late_for_the_last(limits: &BodyLimits) -> Option<Rejection> {
    let deadline = limits.deadline.filter(|deadline| *deadline <= Instant::now())?;
    Some(late_since(limits, deadline))
}

fn late_since(limits: &BodyLimits, deadline: Instant) -> Rejection {
    late("response body", deadline.saturating_duration_since(limits.began))
}

fn late(name: &'static str, limit: Duration) -> Rejection {
    telemetry::timed_out(name, limit);
    TimedOut::new(name, limit).into()
}

/// Notes a panic of the body as it passes.
struct Panicking<'a> {
    end: &'a mut Option<CallEnd>,
    armed: bool,
}

impl Drop for Panicking<'_> {
    fn drop(&mut self) {
        if self.armed {
            if let Some(mut end) = self.end.take() {
                end.panicked();
            }
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("end", &self.end)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
