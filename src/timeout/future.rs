//! The future of the timeout services.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::config::{Fixed, KnownLimit};
use crate::{
    CarryRejection,
    call::{
        deadline::{self, narrow},
        patience::{ending, not_ending},
        rejectable::Rejectable,
        timer::poll_timer,
    },
    error::{DeadlineExceeded, TimedOut},
    telemetry::{self, Reporter},
};

pin_project! {
    /// The future of a [`Timeout`](super::Timeout) and of a [`TotalTimeout`](super::TotalTimeout).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, L = Fixed> {
        #[pin]
        call: Rejectable<F>,
        // `None` if the limit is beyond what the clock can express.
        end: Option<Instant>,
        limit: Duration,
        reporter: Option<Arc<Reporter>>,
        #[pin]
        timer: Option<Sleep>,
        kind: PhantomData<fn() -> L>,
    }

    impl<F, L> PinnedDrop for ResponseFuture<F, L> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.call.is_running() {
                // The inner future can still read its deadline while it is dropped.
                let _deadline = narrow(*this.end);
                let _not_ended_by = not_ending(*this.limit, *this.end);
                this.call.as_mut().end();
            }
        }
    }
}

impl<F, L> ResponseFuture<F, L> {
    #[inline]
    pub(super) fn called(
        future: F,
        end: Option<Instant>,
        limit: Duration,
        reporter: Option<Arc<Reporter>>,
    ) -> Self {
        let call = Rejectable::running(future, ());
        Self { call, end, limit, reporter, timer: None, kind: PhantomData }
    }

    #[inline]
    pub(super) fn rejected(reporter: Option<Arc<Reporter>>) -> Self {
        let (call, limit) = (Rejectable::rejected(()), Duration::ZERO);
        Self { call, end: None, limit, reporter, timer: None, kind: PhantomData }
    }
}

impl<F, L, T, E> Future for ResponseFuture<F, L>
where
    F: Future<Output = Result<T, E>>,
    L: KnownLimit,
    E: CarryRejection,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let outer = deadline::deadline();
        let narrowed = narrow(*this.end);
        let Some((future, ())) = this.call.as_mut().as_running() else {
            return Poll::Ready(Err(this.call.reject(|()| reject(this.reporter.as_deref()))));
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
        // A limit that depends on the request may be the caller's.
        let ended_by = ending(L::IS_FIXED.then_some(*this.limit));
        this.call.end();
        drop((ended_by, narrowed));
        Poll::Ready(Err(time_out(this.reporter.as_deref(), *this.limit)))
    }
}

fn reject<E: CarryRejection>(reporter: Option<&Reporter>) -> E {
    let name = reporter.and_then(Reporter::given_name);
    telemetry::reject(reporter, DeadlineExceeded::by(name))
}

// Not inlined, so that the path of a successful call stays short enough to be inlined.
#[cold]
fn time_out<E: CarryRejection>(reporter: Option<&Reporter>, limit: Duration) -> E {
    let name = reporter.and_then(Reporter::given_name);
    telemetry::reject(reporter, TimedOut::by(name, limit))
}

impl<F, L> fmt::Debug for ResponseFuture<F, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("timeout::ResponseFuture").field("end", &self.end).finish_non_exhaustive()
    }
}
