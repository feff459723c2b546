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
    CarryRejection, DeadlineExceeded, Name, Rejection, TimedOut,
    deadline::{self, narrow, poll_timer, share_now},
    telemetry,
};

/// When a call must end, and what is said when it does not.
#[derive(Debug)]
pub(super) struct Clock {
    /// `None` if the limit is beyond what the clock can express.
    end: Option<Instant>,
    limit: Duration,
    name: Name,
}

impl Clock {
    pub(super) fn start(began: Instant, limit: Duration, name: Name) -> Self {
        Self { end: began.checked_add(limit), limit, name }
    }

    /// Makes the inner call under the deadline, and with this clock's reading.
    pub(super) fn run_call<T>(&self, began: Instant, call: impl FnOnce() -> T) -> T {
        let _now = share_now(began);
        let _deadline = narrow(self.end);
        call()
    }

    /// The end, if it is this clock that has to enforce it: an ambient deadline as near or nearer is
    /// enforced by its owner.
    fn own_end(&self) -> Option<Instant> {
        let end = self.end?;
        deadline::deadline().is_none_or(|outer| end < outer).then_some(end)
    }

    fn timed_out(&self) -> Rejection {
        telemetry::timed_out(&self.name, self.limit);
        TimedOut::new(self.name.clone(), self.limit).into()
    }
}

pin_project! {
    /// The future of a [`Timeout`](super::Timeout) and of a [`TotalTimeout`](super::TotalTimeout).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        #[pin]
        timer: Option<Sleep>,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            this.project().state.end();
        }
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Called { #[pin] future: F, clock: Clock },
        Refused { refusal: DeadlineExceeded },
        Done,
    }
}

impl<F> State<F> {
    /// Drops the inner future under its deadline, which it may want to read.
    fn end(mut self: Pin<&mut Self>) {
        let end = match self.as_mut().project() {
            StateProj::Called { clock, .. } => clock.end,
            StateProj::Refused { .. } | StateProj::Done => None,
        };
        let _deadline = narrow(end);
        self.set(Self::Done);
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn called(future: F, clock: Clock) -> Self {
        Self { state: State::Called { future, clock }, timer: None }
    }

    pub(super) fn refused(refusal: DeadlineExceeded) -> Self {
        Self { state: State::Refused { refusal }, timer: None }
    }
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: CarryRejection,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let rejection = match this.state.as_mut().project() {
            StateProj::Called { future, clock } => {
                let own_end = clock.own_end();
                let polled = {
                    let _deadline = narrow(clock.end);
                    future.poll(cx)
                };
                // The future before the timer: an answer that is there beats its deadline.
                match (polled, own_end) {
                    (Poll::Ready(result), _) => return Poll::Ready(result),
                    (Poll::Pending, None) => return Poll::Pending,
                    (Poll::Pending, Some(end)) => ready!(poll_timer(this.timer, end, cx)),
                }
                clock.timed_out()
            }
            StateProj::Refused { refusal } => refusal.clone().into(),
            StateProj::Done => panic!("a response future was polled after it had ended"),
        };
        this.state.as_mut().end();
        Poll::Ready(Err(E::from_rejection(rejection)))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("timeout::ResponseFuture").finish_non_exhaustive()
    }
}
