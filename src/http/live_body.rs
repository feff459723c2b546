//! The body of a response that arrives, whose end is the end of the call.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::{
    body_end::{BODY, EndingBody, at_end, call_outcome, count, finish, give_up, run},
    body_error::BodyError,
    body_limits::{BodyLimits, BodyTimeout, TIMED_OUT},
    drain,
    kept::Inner,
    reporters::BodyOwner,
    unread::{Unread, Watched},
};
use crate::{
    Fault, Outcome,
    call::{ambient::Ambient, completion::CallEnd},
    error::Nanos,
    telemetry::CallOutcome,
};

pin_project! {
    #[project = LiveBodyProj]
    /// The body of a response that arrives, whose end is the end of the call.
    pub(super) struct LiveBody<B: Body> {
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

    impl<B: Body> PinnedDrop for LiveBody<B> {
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

/// The end of a call whose response has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Here,
    WithBody,
    WithStatus,
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

impl<B: Body> LiveBody<B> {
    /// Wraps the body of a call with these ambient values, which began at this instant.
    #[inline(always)]
    pub(super) fn new(
        inner: Inner<B>,
        (ambient, began): (Ambient, Instant),
        ends: Ends,
        bounded: bool,
        measured: Option<Nanos>,
        owner: Arc<dyn BodyOwner>,
    ) -> Self {
        Self {
            end: if ends == Ends::Here { None } else { Some(CallEnd::new()) },
            inner,
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
        }
    }

    /// Ends the call as a failure, because the body has failed before its reader gets it.
    pub(super) fn fail(&mut self) {
        self.end = Some(CallEnd::failed(Fault::Transient, BODY));
    }

    /// Watches the reader of a response that a server sends. `limited` bodies can be dropped early.
    pub(super) fn watch(&mut self, limits: &ServedLimits, limited: bool) {
        if self.end.is_none() || (!limited && self.began.checked_add(limits.unread).is_none()) {
            return;
        }
        self.unread = Unread::After(limits.unread);
        if let (Some(end), true) = (&mut self.end, limits.from_head) {
            let head = end.head();
            let watched = Watched {
                limits: self.limits(),
                ambient: self.ambient,
                awaits_status: self.awaits_status,
                body: self.inner.cut(),
                owner: Arc::clone(&self.owner),
            };
            self.unread.left(head, &mut self.end, || watched);
        }
    }

    /// Reads and discards the rest, as `StreamingResponse::poll_drain` does.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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

    fn limits(&self) -> BodyLimits {
        limits(&self.ambient, self.owner.idle(), self.began, self.bounded)
    }
}

impl<B: Body> LiveBodyProj<'_, B> {
    fn limits(&self) -> BodyLimits {
        limits(self.ambient, self.owner.idle(), *self.began, *self.bounded)
    }
}

fn limits(ambient: &Ambient, idle: Option<Duration>, began: Instant, bounded: bool) -> BodyLimits {
    BodyLimits { idle, deadline: ambient.deadline().filter(|_| bounded), began }
}

impl<B: Body> EndingBody for LiveBody<B> {
    #[inline]
    fn call_end(&mut self) -> Option<&mut CallEnd> {
        self.end.as_mut()
    }

    fn pinned_call_end(self: Pin<&mut Self>) -> Option<&mut CallEnd> {
        self.project().end.as_mut()
    }
}

impl<B: Body> Body for LiveBody<B> {
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

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: Body> fmt::Debug for LiveBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveBody")
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
    fn watched(idle: Option<Duration>) -> (LiveBody<TestBody>, Arc<Watch>, Arc<()>) {
        let owned = Arc::new(());
        let owner = Arc::clone(&owned);
        let mut frames = vec![Frame::data(Bytes::from_static(b"a"))];
        let body = StreamBody::new(futures::stream::iter(std::iter::from_fn(move || {
            let _owner = &owner;
            frames.pop().map(Ok)
        })));
        let unread = Duration::from_secs(30);
        let limits = ServedLimits { idle, to_the_last: false, unread, from_head: true };
        let owner = TestOwner::new(idle);
        let call = (Ambient::capture(), Instant::now());
        let inner = match idle {
            Some(_) => Inner::keep(body.boxed_unsync()),
            None => Inner::Own { body: body.boxed_unsync() },
        };
        let mut body = LiveBody::new(inner, call, Ends::WithBody, false, None, owner);
        body.watch(&limits, idle.is_some());
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
        let (mut body, watch, owned) = watched(Some(Duration::from_secs(10)));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(body.poll_drain(&mut cx).is_ready());
        assert_eq!(Arc::strong_count(&owned), 1);
        drop(watch);
    }
}
