//! The body of a response, whose end is the end of the call.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    AutoClassifier,
    drain::{self, Drain},
    head::ResponseShape,
    wire,
};
use crate::{
    BoxError, CarryRejection, Fault, Outcome, Rejection,
    call::{
        ambient::Ambient,
        catch_panic::Unwinding,
        completion::{CallEnd, StreamingResponse},
    },
    error::TimedOut,
    telemetry,
};

/// The error of a response body that ended early.
///
/// It converts to a [`BoxError`] by `?` or `BoxError::from`. It does not implement
/// `std::error::Error`, because its inner error may be a [`BoxError`], which does not either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError<E> {
    /// A limit of this crate ended the body.
    Rejected(Rejection),
    /// The body itself failed.
    Service(E),
}

impl<E> BodyError<E> {
    /// Returns the rejection, or `None` if the body itself failed.
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
    // Replaces an implementation of `std::error::Error`, which boxed errors would not allow.
    fn from(error: BodyError<E>) -> Self {
        match error {
            BodyError::Rejected(rejection) => Self::from_rejection(rejection),
            BodyError::Service(error) => error.into(),
        }
    }
}

/// The limits of the body of a response.
#[derive(Clone, Copy, Debug)]
struct BodyLimits {
    /// The longest time that a read waits for a frame.
    idle: Option<Duration>,
    ambient: Ambient,
    /// `true` if the ambient deadline is the deadline of the last frame.
    to_the_last: bool,
    /// The instant at which the call began, for the message of the error.
    began: Instant,
}

pin_project! {
    /// The body of a response, whose end is the end of the call.
    ///
    /// It holds permits, admissions and spans until it ends, fails, reaches a limit or is dropped.
    /// Read it to its end, or drop it.
    ///
    /// Frames, trailers and size hints pass through unchanged. It is `Unpin` when the inner body
    /// is.
    pub struct ResponseBody<B> {
        // `None` after a limit has ended it. This field comes before `end`, because the call must
        // still be open while the inner body is dropped.
        #[pin]
        inner: Option<B>,
        // `None` after the response has ended.
        end: Option<CallEnd>,
        limits: BodyLimits,
        // The instant since which a read has been waiting for a frame.
        waiting_since: Option<Instant>,
        // The total time that earlier reads have waited.
        waited: Duration,
        timer: Option<Pin<Box<Sleep>>>,
        // The inner body, while it is drained. It is boxed because it need not be `Unpin`.
        drain: Option<Pin<Box<Drain<B>>>>,
        awaits_status: bool,
        classifier: Option<Arc<AutoClassifier>>,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let end = this.end.take();
            if end.is_none() && this.drain.is_none() {
                return;
            }
            let _ambient = this.limits.ambient.enter();
            *this.drain = None;
            this.inner.set(None);
            if let Some(mut end) = end {
                give_up(&mut end, *this.waiting_since, *this.awaits_status);
            }
        }
    }
}

/// The call data that a response body needs, kept until the response arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingBody {
    ambient: Ambient,
    began: Instant,
    shape: ResponseShape,
}

impl PendingBody {
    /// Captures the ambient deadline and attempt, for a call with this method.
    pub(super) fn new(method: &Method, began: Instant) -> Self {
        Self { ambient: Ambient::capture(), began, shape: ResponseShape::of(method) }
    }

    /// Wraps the body of a response, so that the call ends with it.
    ///
    /// For gRPC the deadline covers the body up to its last frame. For HTTP it does so only if
    /// `to_the_last` is set.
    pub(super) fn into_response<B: Body>(
        self,
        response: Response<B>,
        grpc: bool,
        idle: Option<Duration>,
        to_the_last: bool,
        classifier: Option<Arc<AutoClassifier>>,
    ) -> Response<ResponseBody<B>> {
        let Self { ambient, began, shape } = self;
        let ended = shape.ends_at_head(response.status());
        let awaits_status = awaits_status(&response, grpc);
        response.map(|inner| ResponseBody {
            end: if ended || inner.is_end_stream() { None } else { Some(CallEnd::new()) },
            inner: Some(inner),
            limits: BodyLimits { idle, ambient, to_the_last: grpc || to_the_last, began },
            waiting_since: None,
            waited: Duration::ZERO,
            timer: None,
            drain: None,
            awaits_status,
            classifier,
        })
    }
}

/// Returns whether the outcome is known only at the end of the response.
///
/// This is the case for a gRPC response without a status in its head. The response of a proxy never
/// has a gRPC status, and is classified by its HTTP status.
fn awaits_status<B>(response: &Response<B>, grpc: bool) -> bool {
    grpc && response.status() == StatusCode::OK && wire::grpc_status(response.headers()).is_none()
}

impl<B: Body> StreamingResponse for Response<ResponseBody<B>> {
    #[inline]
    fn call_end(&mut self) -> Option<&mut CallEnd> {
        self.body_mut().end.as_mut()
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match drain::must_be_read(self) {
            true => self.body_mut().poll_drain(cx),
            false => Poll::Ready(()),
        }
    }
}

impl<B: Body> ResponseBody<B> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ambient = self.limits.ambient.enter();
        if self.inner.as_ref().is_some_and(drain::is_worth_reading) {
            if let Some(mut end) = self.end.take() {
                give_up(&mut end, self.waiting_since, self.awaits_status);
            }
            self.drain = self.inner.take().map(|inner| Box::pin(Drain::new(inner)));
        }
        // Taken out, so that a body that panics is not polled again.
        let Some(mut drain) = self.drain.take() else { return Poll::Ready(()) };
        let polled = drain.as_mut().poll(cx);
        if polled.is_pending() {
            self.drain = Some(drain);
        }
        polled
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
        let _ambient = this.limits.ambient.enter();
        let polled = run(this.end, || inner.as_mut().poll_frame(cx));
        if polled.is_pending() && drain::is_draining() {
            // The call of a stack within another one must not hold a permit over a pause either.
            if let Some(mut end) = this.end.take() {
                give_up(&mut end, *this.waiting_since, *this.awaits_status);
            }
        }
        let reached = match &polled {
            Poll::Pending => match poll_limits(this.limits, this.waiting_since, this.timer, cx) {
                None => return Poll::Pending,
                reached => reached,
            },
            // A peer may send every frame within the idle limit and still never end.
            Poll::Ready(Some(Ok(frame))) if this.end.is_some() && !frame.is_trailers() => {
                let late = !inner.is_end_stream() && this.limits.are_over();
                late.then_some(BodyTimeout::Deadline)
            }
            Poll::Ready(_) => None,
        };
        *this.waited += this.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        if let Some(reached) = reached {
            if let (BodyTimeout::Idle, Some(end)) = (reached, &mut this.end) {
                end.ignore_deadline();
            }
            let late = this.limits.late(reached);
            this.inner.set(None);
            finish(this.end, TIMED_OUT, *this.waited);
            return Poll::Ready(Some(Err(BodyError::Rejected(late))));
        }
        let Poll::Ready(ready) = polled else { return Poll::Pending };
        let outcome = match &ready {
            _ if this.end.is_none() => None,
            Some(Ok(frame)) if !frame.is_trailers() && !inner.is_end_stream() => None,
            Some(Err(_)) => Some(Outcome::Failure(Fault::Transient)),
            last => {
                let trailers = last.as_ref().and_then(|frame| frame.as_ref().ok()?.trailers_ref());
                Some(run(this.end, || at_end(*this.awaits_status, this.classifier, trailers)))
            }
        };
        if let Some(outcome) = outcome {
            finish(this.end, outcome, *this.waited);
        }
        Poll::Ready(ready.map(|frame| frame.map_err(BodyError::Service)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The longest time between the wake-up of a reader and its next poll.
const PROMPTLY: Duration = Duration::from_secs(1);

const TIMED_OUT: Outcome = Outcome::Failure(Fault::TimedOut);

/// Ends the call of a body that its reader gives up.
fn give_up(end: &mut CallEnd, waiting_since: Option<Instant>, awaits_status: bool) {
    match waiting_since.map(|since| since.elapsed()) {
        // No read is pending, and the head has decided the outcome.
        None if !awaits_status => end.dropped_between_reads(),
        waited => end.dropped_while_reading(waited.unwrap_or_default()),
    }
}

/// Completes the call, the first time that it is called.
fn finish(end: &mut Option<CallEnd>, outcome: Outcome, waited: Duration) {
    if let Some(mut end) = end.take() {
        end.complete(outcome, waited);
    }
}

/// Returns the outcome of a response whose head was successful and whose body has ended.
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

/// Returns the limit that a waiting reader has reached, or `None` if it may wait longer.
fn poll_limits(
    limits: &BodyLimits,
    waiting_since: &mut Option<Instant>,
    pinned: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) -> Option<BodyTimeout> {
    let since = *waiting_since.get_or_insert_with(Instant::now);
    let idle_end = limits.idle.and_then(|idle| since.checked_add(idle));
    let deadline = limits.deadline();
    let end = match (idle_end, deadline) {
        (Some(idle), Some(deadline)) => idle.min(deadline),
        (idle, deadline) => idle.or(deadline)?,
    };
    let timer = pinned.get_or_insert_with(|| Box::pin(sleep_until(end)));
    if timer.deadline() != end {
        timer.as_mut().reset(end);
    }
    // A timer is also pending if an earlier poll has used up the task's coop budget.
    let pending = timer.as_mut().poll(cx).is_pending();
    let now = Instant::now();
    if pending && now < end {
        return None;
    }
    // The timer woke the reader, but the reader did not poll promptly. It was not waiting, and its
    // wait begins again.
    let awake = end.checked_add(PROMPTLY).is_none_or(|end| now <= end);
    if !awake && deadline.is_none_or(|deadline| now < deadline) {
        *waiting_since = None;
        return poll_limits(limits, waiting_since, pinned, cx);
    }
    Some(if idle_end == Some(end) { BodyTimeout::Idle } else { BodyTimeout::Deadline })
}

/// The limit that a body has reached.
#[derive(Clone, Copy)]
enum BodyTimeout {
    Idle,
    Deadline,
}

impl BodyLimits {
    /// Returns the deadline of the last frame.
    fn deadline(&self) -> Option<Instant> {
        self.ambient.deadline().filter(|_| self.to_the_last)
    }

    fn late(&self, reached: BodyTimeout) -> Rejection {
        let (name, limit) = match (reached, self.deadline()) {
            (BodyTimeout::Deadline, Some(deadline)) => {
                ("response body", deadline.saturating_duration_since(self.began))
            }
            _ => ("idle response body", self.idle.unwrap_or_default()),
        };
        telemetry::timed_out(name, limit);
        TimedOut::new(name, limit).into()
    }

    /// Returns whether the deadline of the last frame has passed.
    fn are_over(&self) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// Runs a part of the response, and reports a panic to the call.
fn run<T>(end: &mut Option<CallEnd>, piece: impl FnOnce() -> T) -> T {
    let mut unwinding = Unwinding::noting(|| {
        if let Some(mut end) = end.take() {
            end.panicked();
        }
    });
    let value = piece();
    unwinding.disarm();
    value
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("end", &self.end)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
