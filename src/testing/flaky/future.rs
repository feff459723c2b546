//! The future of a scripted service.

use std::{
    cell::Cell,
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::{script::Violation, state::Shared};
use crate::call::lock::lock;

/// A call in flight. Dropping it before its completion counts it as dropped.
pub(super) struct CallInFlight<Res, E> {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared<Res, E>>,
    pub(super) answered: bool,
}

impl<Res, E> CallInFlight<Res, E> {
    fn answer(&mut self) {
        self.answered = true;
        let mut state = lock(&self.shared.0);
        state.counts.in_flight -= 1;
        state.counts.completed += 1;
    }
}

impl<Res, E> Drop for CallInFlight<Res, E> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.0);
        state.call_waiters.leave(self.id);
        if !self.answered {
            state.counts.in_flight -= 1;
            state.counts.dropped += 1;
        }
    }
}

pin_project! {
    /// The response future of [`Flaky`](super::Flaky).
    pub struct FlakyFuture<Res, E> {
        #[pin]
        pub(super) wait: Wait,
        pub(super) answer: Option<Result<Res, E>>,
        pub(super) call: CallInFlight<Res, E>,
        pub(super) not_sync: PhantomData<Cell<()>>,
    }
}

pin_project! {
    #[project = WaitProj]
    pub(super) enum Wait {
        Nothing,
        Time { #[pin] sleep: Sleep },
        Polls { left: u32 },
        Release,
        Forever,
        Panic,
    }
}

impl<Res, E> Future for FlakyFuture<Res, E> {
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let shared = &this.call.shared;
        lock(&shared.0).counts.polls += 1;
        if this.call.answered {
            lock(&shared.0).violations.push(Violation::PolledAfterAnswer);
            panic!("the scripted future was polled after it had completed");
        }
        match this.wait.project() {
            WaitProj::Nothing => {}
            WaitProj::Time { sleep } => ready!(sleep.poll(cx)),
            WaitProj::Polls { left: 0 } => {}
            WaitProj::Polls { left } => {
                *left -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            WaitProj::Release => {
                let mut state = lock(&shared.0);
                if this.call.id >= state.released_below {
                    state.call_waiters.park(this.call.id, cx.waker());
                    return Poll::Pending;
                }
            }
            WaitProj::Forever => return Poll::Pending,
            WaitProj::Panic => panic!("scripted panic in poll"),
        }
        match this.answer.take() {
            Some(answer) => {
                this.call.answer();
                Poll::Ready(answer)
            }
            None => unreachable!("a call that completes has its result"),
        }
    }
}

impl<Res, E> fmt::Debug for FlakyFuture<Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlakyFuture")
            .field("id", &self.call.id)
            .field("answered", &self.call.answered)
            .finish_non_exhaustive()
    }
}
