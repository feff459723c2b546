//! The body of a response, whose end is the end of the call.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::{
    ahead::{Ahead, Read},
    body_end::{BODY, at_end, call_outcome, count, finish, give_up, run, since},
    body_error::BodyError,
    body_limits::{BodyLimits, BodyTimeout, TIMED_OUT},
    drain,
    head::{ResponseShape, awaits_status},
    kept::Inner,
    reporters::BodyOwner,
    unread::{Unread, Watched},
};
use crate::{
    Fault, Outcome,
    call::{
        ambient::Ambient,
        completion::{CallEnd, StreamingResponse},
    },
    error::Nanos,
    telemetry::CallOutcome,
};

pin_project! {
    #[project = ResponseBodyProj]
    /// The body of a response, whose end is the end of the call.
    ///
    /// It holds permits, admissions and spans until it ends, fails, reaches a limit or is dropped.
    /// Read it to its end, or drop it.
    ///
    /// Frames, trailers and size hints pass through unchanged. It is `Unpin` when the inner body
    /// is.
    pub struct ResponseBody<B: Body> {
        // This field comes before `end`, because the call must still be open while the inner body
        // is dropped.
        #[pin]
        inner: Inner<B>,
        // `None` after the response has ended.
        end: Option<CallEnd>,
        ambient: Ambient,
        began: Instant,
        // The instant since which a read has been waiting for a frame.
        waiting_since: Option<Instant>,
        // The total time that earlier reads have waited.
        waited: Duration,
        timer: Option<Pin<Box<Sleep>>>,
        unread: Unread,
        awaits_status: bool,
        // Whether the ambient deadline covers the body.
        bounded: bool,
        // The time from the beginning of the call to the head, until the body is counted.
        measured: Option<Nanos>,
        owner: Arc<dyn BodyOwner>,
    }

    impl<B: Body> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            this.unread.close();
            // A body that panicked has no end any more.
            if this.measured.is_some() {
                let outcome = match this.end {
                    Some(_) => CallOutcome::Cancelled,
                    None => CallOutcome::Failure,
                };
                count(this.measured, outcome, *this.began, this.owner);
            }
            if this.end.is_none() && !this.inner.needs_end() {
                return;
            }
            let end = this.end.take();
            let _ambient = this.ambient.enter();
            this.inner.as_mut().end();
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
    ahead: bool,
}

/// The end of a call whose response has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Here,
    WithBody,
    WithStatus,
}

impl PendingBody {
    /// Captures the ambient deadline and attempt, for a call with this method.
    pub(super) fn new(method: &Method, began: Instant) -> Self {
        let shape = ResponseShape::of(method);
        Self { ambient: Ambient::capture(), began, shape, ahead: false }
    }

    /// Wraps the body of a response, so that the call ends with it.
    ///
    /// For gRPC the deadline covers the body up to its last frame. For HTTP it does so only if
    /// `to_the_last` is set.
    pub(super) fn into_response<B: Body>(
        self,
        response: Response<B>,
        grpc: bool,
        to_the_last: bool,
        measured: Option<Nanos>,
        owner: Arc<dyn BodyOwner>,
    ) -> Response<ResponseBody<B>> {
        let bounded = grpc || to_the_last;
        let ends = self.ends(&response, grpc);
        self.wrap(response, ends, bounded, measured, owner, |body| Inner::Own { body })
    }

    /// Does the same for an HTTP response whose body was read ahead.
    pub(super) fn into_read<B: Body>(
        self,
        response: Response<Pin<Box<Ahead<B>>>>,
        read: Read,
        to_the_last: bool,
        owner: Arc<dyn BodyOwner>,
    ) -> Response<ResponseBody<B>> {
        let ends = if read == Read::Whole { Ends::Here } else { Ends::WithBody };
        let keep = |body| Inner::Ahead { body };
        // No deadline covers what has arrived already.
        let bounded = to_the_last && read == Read::TooLong;
        // The beginning is not measured, or was measured already.
        let rest = owner.bodies().filter(|_| read == Read::TooLong);
        let measured = rest.map(|_| since(self.began));
        let mut response = self.wrap(response, ends, bounded, measured, owner, keep);
        if read == Read::Failed {
            response.body_mut().end = Some(CallEnd::failed(Fault::Transient, BODY));
        }
        response
    }

    /// Returns the instant at which the call began.
    #[inline]
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Lets the body be read ahead.
    pub(super) fn ahead(self, ahead: bool) -> Self {
        Self { ahead, ..self }
    }

    /// Returns whether a body of this response may be read ahead.
    pub(super) fn may_read<B: Body>(&self, response: &Response<B>, grpc: bool) -> bool {
        self.ahead && !grpc && matches!(self.ends(response, grpc), Ends::WithBody)
    }

    /// Returns the limit of the time in which a body is read ahead.
    ///
    /// A deadline ends the call itself.
    pub(super) fn limits_ahead(&self, idle: Option<Duration>) -> BodyLimits {
        BodyLimits { idle, deadline: None, began: self.began }
    }

    #[inline(always)]
    fn ends<B: Body>(&self, response: &Response<B>, grpc: bool) -> Ends {
        let at_head = self.shape.ends_at_head(response.status());
        if at_head || response.body().is_end_stream() {
            Ends::Here
        } else if awaits_status(response, grpc) {
            Ends::WithStatus
        } else {
            Ends::WithBody
        }
    }

    /// Does the same at a server, whose caller may never read the response.
    pub(super) fn into_served<B: Body + Send + 'static>(
        self,
        response: Response<B>,
        grpc: bool,
        limits: &ServedLimits,
        owner: Arc<dyn BodyOwner>,
    ) -> Response<ResponseBody<B>> {
        let bounded = grpc || limits.to_the_last;
        let limited = limits.idle.is_some() || (bounded && self.ambient.deadline().is_some());
        let ends = self.ends(&response, grpc);
        let keep = |body| match limited && ends != Ends::Here {
            true => Inner::keep(body),
            false => Inner::Own { body },
        };
        let mut response = self.wrap(response, ends, bounded, None, owner, keep);
        let body = response.body_mut();
        if body.end.is_some() && (limited || self.began.checked_add(limits.unread).is_some()) {
            body.unread = Unread::After(limits.unread);
            if let (Some(end), true) = (&mut body.end, limits.from_head) {
                let head = end.head();
                let watched = Watched {
                    limits: body.limits(),
                    ambient: body.ambient,
                    awaits_status: body.awaits_status,
                    body: body.inner.cut(),
                    owner: Arc::clone(&body.owner),
                };
                body.unread.left(head, &mut body.end, || watched);
            }
        }
        response
    }

    #[inline(always)]
    fn wrap<T, B: Body>(
        self,
        response: Response<T>,
        ends: Ends,
        bounded: bool,
        measured: Option<Nanos>,
        owner: Arc<dyn BodyOwner>,
        keep: impl FnOnce(T) -> Inner<B>,
    ) -> Response<ResponseBody<B>> {
        let Self { ambient, began, .. } = self;
        response.map(|inner| ResponseBody {
            end: if ends == Ends::Here { None } else { Some(CallEnd::new()) },
            inner: keep(inner),
            ambient,
            began,
            waiting_since: None,
            waited: Duration::ZERO,
            timer: None,
            unread: Unread::Off,
            awaits_status: ends == Ends::WithStatus,
            bounded,
            measured: if ends == Ends::Here { None } else { measured },
            owner,
        })
    }
}

impl<B: Body> ResponseBody<B> {
    fn limits(&self) -> BodyLimits {
        limits(&self.ambient, self.owner.idle(), self.began, self.bounded)
    }
}

impl<B: Body> ResponseBodyProj<'_, B> {
    fn limits(&self) -> BodyLimits {
        limits(self.ambient, self.owner.idle(), *self.began, *self.bounded)
    }
}

fn limits(ambient: &Ambient, idle: Option<Duration>, began: Instant, bounded: bool) -> BodyLimits {
    BodyLimits { idle, deadline: ambient.deadline().filter(|_| bounded), began }
}

/// The limits of a response that a server sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServedLimits {
    /// The longest time that a read waits for a frame.
    pub(super) idle: Option<Duration>,
    /// The deadline covers the body too.
    pub(super) to_the_last: bool,
    /// The longest time without a read, if no other limit applies.
    pub(super) unread: Duration,
    /// The body may never be polled, and its reader is watched from the head on.
    pub(super) from_head: bool,
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
        let _ambient = self.ambient.enter();
        if drain::is_worth_reading(&self.inner) {
            self.unread.close();
            count(&mut self.measured, CallOutcome::Cancelled, self.began, &self.owner);
            if let Some(mut end) = self.end.take() {
                give_up(&mut end, self.waiting_since, self.awaits_status);
            }
            drain::begin(&mut self.inner);
        }
        drain::poll(&mut self.inner, cx)
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
        if let Some(late) = this.unread.begin_read() {
            this.inner.as_mut().end();
            *this.end = None;
            return Poll::Ready(Some(Err(BodyError::Rejected(late))));
        }
        let _ambient = this.ambient.enter();
        let polled = run(this.end, || this.inner.as_mut().poll_frame(cx));
        if polled.is_pending() && drain::is_draining() {
            // The call of a stack within another one must not hold a permit over a pause either.
            this.unread.close();
            count(this.measured, CallOutcome::Cancelled, *this.began, this.owner);
            if let Some(mut end) = this.end.take() {
                give_up(&mut end, *this.waiting_since, *this.awaits_status);
            }
            return Poll::Pending;
        }
        let reached = match &polled {
            Poll::Pending => match this.limits().poll(this.waiting_since, this.timer, cx) {
                None => {
                    this.unread.waits(*this.waiting_since, *this.waited);
                    return Poll::Pending;
                }
                reached => reached,
            },
            // A peer may send every frame within the idle limit and still never end.
            Poll::Ready(Some(Ok(frame))) if this.end.is_some() && !frame.is_trailers() => {
                let late = !this.inner.is_end_stream() && this.limits().are_over();
                late.then_some(BodyTimeout::Deadline)
            }
            Poll::Ready(_) => None,
        };
        let read = this.waiting_since.take().map(|since| (since, Instant::now()));
        *this.waited += read.map_or(Duration::ZERO, |(since, now)| now - since);
        if let Some(reached) = reached {
            if let (BodyTimeout::Idle, Some(end)) = (reached, &mut this.end) {
                end.ignore_deadline();
            }
            let late = this.limits().late(reached, &**this.owner);
            this.unread.close();
            this.inner.as_mut().end();
            count(this.measured, CallOutcome::Failure, *this.began, this.owner);
            finish(this.end, (TIMED_OUT, None), *this.waited);
            return Poll::Ready(Some(Err(BodyError::Rejected(late))));
        }
        let Poll::Ready(ready) = polled else { return Poll::Pending };
        let completed = match &ready {
            _ if this.end.is_none() => None,
            Some(Ok(frame)) if !frame.is_trailers() && !this.inner.is_end_stream() => {
                if this.unread.is_on() {
                    let now = read.map_or_else(Instant::now, |(_, now)| now);
                    let limits = this.limits();
                    this.unread.left(now, this.end, || Watched {
                        limits,
                        ambient: *this.ambient,
                        awaits_status: *this.awaits_status,
                        body: this.inner.cut(),
                        owner: Arc::clone(this.owner),
                    });
                }
                None
            }
            Some(Err(_)) => Some((Outcome::Failure(Fault::Transient), Some(BODY))),
            last => {
                let trailers = last.as_ref().and_then(|frame| frame.as_ref().ok()?.trailers_ref());
                Some(run(this.end, || at_end(*this.awaits_status, this.owner, trailers)))
            }
        };
        if let Some(completed) = completed {
            this.unread.close();
            count(this.measured, call_outcome(completed.0), *this.began, this.owner);
            finish(this.end, completed, *this.waited);
        }
        Poll::Ready(ready.map(|frame| frame.map_err(BodyError::Service)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: Body> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("end", &self.end)
            .field("limits", &self.limits())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
    use tokio_test::task;

    use super::*;
    use crate::{
        BoxError,
        http::{reporters::TestOwner, unread::Watch},
    };

    type TestBody = UnsyncBoxBody<Bytes, BoxError>;

    /// Returns a response of one frame that was read, its watch, and an owner of its body's data.
    fn watched(idle: Option<Duration>) -> (ResponseBody<TestBody>, Arc<Watch>, Arc<()>) {
        let owned = Arc::new(());
        let owner = Arc::clone(&owned);
        let mut frames = vec![Frame::data(Bytes::from_static(b"a"))];
        let body = StreamBody::new(futures::stream::iter(std::iter::from_fn(move || {
            let _owner = &owner;
            frames.pop().map(Ok)
        })));
        let call = PendingBody::new(&Method::GET, Instant::now());
        let unread = Duration::from_secs(30);
        let limits = ServedLimits { idle, to_the_last: false, unread, from_head: true };
        let owner = TestOwner::new(idle);
        let response = Response::new(body.boxed_unsync());
        let response = call.into_served(response, false, &limits, owner);
        let body = response.into_body();
        let Unread::Watching(watch) = &body.unread else { panic!("from the head") };
        let watch = Arc::clone(watch);
        (body, watch, owned)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_dropped_with_its_response_and_not_by_the_last_owner_of_its_watch() {
        for idle in [None, Some(Duration::from_secs(10))] {
            for reads in 0..3 {
                let (body, watch, owned) = watched(idle);
                let mut reader = task::spawn(body);
                for _ in 0..reads {
                    assert!(reader.enter(|cx, body| body.poll_frame(cx)).is_ready());
                }
                assert_eq!(reader.end.is_some(), reads < 2);
                drop(reader);
                assert_eq!(Arc::strong_count(&owned), 1, "{idle:?}, {reads}");
                drop(watch);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_drained_is_dropped_at_its_end() {
        let (body, watch, owned) = watched(Some(Duration::from_secs(10)));
        let mut response = Response::new(body);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(response.poll_drain(&mut cx).is_ready());
        assert_eq!(Arc::strong_count(&owned), 1);
        drop(watch);
    }
}
