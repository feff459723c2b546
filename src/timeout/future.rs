//! The future of the timeout services.

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
    CarryRejection,
    call::{
        deadline::{self, narrow},
        rejectable::Rejectable,
        timer::poll_timer,
    },
    error::{DeadlineExceeded, Name, TimedOut},
    telemetry,
};

pin_project! {
    /// The future of a [`Timeout`](super::Timeout) and of a [`TotalTimeout`](super::TotalTimeout).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        call: Rejectable<F>,
        // `None` if the limit is beyond what the clock can express.
        end: Option<Instant>,
        limit: Duration,
        name: Option<Name>,
        #[pin]
        timer: Option<Sleep>,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.call.is_running() {
                // The inner future can still read its deadline while it is dropped.
                let _deadline = narrow(*this.end);
                this.call.as_mut().end();
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
        Self { call: Rejectable::running(future, ()), end, limit, name, timer: None }
    }

    #[inline]
    pub(super) fn rejected(name: Option<Name>) -> Self {
        let limit = Duration::ZERO;
        Self { call: Rejectable::rejected(()), end: None, limit, name, timer: None }
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
        let Some((future, ())) = this.call.as_mut().as_running() else {
            return Poll::Ready(Err(this.call.reject(|()| reject(this.name))));
        };
        // Polls the future before the timer, because a result that is ready is returned even at the
        // deadline.
        // The result is inspected in place. Moving it once more costs as much as the rest of this
        // layer.
        let polled = future.poll(cx);
        if polled.is_ready() {
            this.call.end();
            return polled;
        }
        let Some(end) = *this.end else { return Poll::Pending };
        // If the ambient deadline is not later, its owner enforces it. No timer is needed here.
        if outer.is_some_and(|outer| outer <= end) {
            return Poll::Pending;
        }
        ready!(poll_timer(this.timer, end, cx));
        this.call.end();
        drop(narrowed);
        Poll::Ready(Err(time_out(this.name, *this.limit)))
    }
}

fn reject<E: CarryRejection>(name: &Option<Name>) -> E {
    telemetry::reject(DeadlineExceeded::by(name.clone()))
}

// Not inlined, so that the path of a successful call stays short enough to be inlined.
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
