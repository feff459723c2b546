use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use crate::{
    CarryRejection, DeadlineExceeded, Name, TimedOut,
    call::{
        deadline::{self, narrow},
        timer::poll_timer,
    },
    telemetry,
};

pin_project! {
    /// The future of a [`Timeout`](super::Timeout) and of a [`TotalTimeout`](super::TotalTimeout).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        // `None` when the call was refused, and when it has ended.
        #[pin]
        future: Option<F>,
        // `None` if the limit is beyond what the clock can express.
        end: Option<Instant>,
        limit: Duration,
        name: Option<Name>,
        #[pin]
        timer: Option<Sleep>,
        refused: bool,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                // What is dropped can still read how much time it had.
                let _deadline = narrow(*this.end);
                this.future.set(None);
            }
        }
    }
}

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn called(
        future: F,
        end: Option<Instant>,
        limit: Duration,
        name: Option<Name>,
    ) -> Self {
        Self { future: Some(future), end, limit, name, timer: None, refused: false }
    }

    #[inline]
    pub(super) fn refused(name: Option<Name>) -> Self {
        let limit = Duration::ZERO;
        Self { future: None, end: None, limit, name, timer: None, refused: true }
    }
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: CarryRejection,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let outer = deadline::deadline();
        let narrowed = narrow(*this.end);
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(refuse(this.refused, this.name)));
        };
        // The future before the timer: an answer that is there beats its deadline.
        // Looked at and handed on where it is: a result that is moved once more costs as much as the
        // rest of this layer.
        let polled = future.poll(cx);
        if polled.is_ready() {
            this.future.set(None);
            return polled;
        }
        let Some(end) = *this.end else { return Poll::Pending };
        // An ambient deadline as near or nearer is enforced by its owner, without a timer here.
        if outer.is_some_and(|outer| outer <= end) {
            return Poll::Pending;
        }
        ready!(poll_timer(this.timer, end, cx));
        this.future.set(None);
        drop(narrowed);
        Poll::Ready(Err(time_out(this.name, *this.limit)))
    }
}

// Out of line, so that the path of a call which goes well stays short enough to be inlined.
#[cold]
fn refuse<E: CarryRejection>(refused: &mut bool, name: &Option<Name>) -> E {
    assert!(*refused, "a response future was polled after it had ended");
    *refused = false;
    telemetry::refuse(DeadlineExceeded::by(name.clone()))
}

#[cold]
fn time_out<E: CarryRejection>(name: &Option<Name>, limit: Duration) -> E {
    let timed_out = TimedOut::by(name.clone(), limit);
    telemetry::timed_out(timed_out.name(), limit);
    E::from_rejection(timed_out.into())
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("timeout::ResponseFuture").field("end", &self.end).finish_non_exhaustive()
    }
}
