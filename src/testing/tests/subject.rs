//! Services under test: a rejecting bulkhead of one, a service that waits, and a retry.
//!
//! Each is correct, or has the fault that it is given.

use std::future::poll_fn;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Sleep;
use tower_service::Service;

use crate::call::lock::lock;
use crate::testing::contract::Inner;
use crate::testing::future::{FlakyFuture, ReservingFuture};

pub(super) type Text = &'static str;
pub(super) type TextInner = Inner<Text, Text>;
type Answer = Result<Text, Text>;
type InnerFuture = Pin<Box<ReservingFuture<FlakyFuture<Text, Text>>>>;

fn poll_inner(inner: &mut TextInner, cx: &mut Context<'_>) -> Poll<Result<(), Text>> {
    Service::<Text>::poll_ready(inner, cx)
}

/// The fault of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    CallsAClone,
    ReservesAtEveryPoll,
    CopiesReadiness,
    KeepsServices,
    KeepsFutures,
    KeepsPermits,
    KeepsWakers,
    PollsInCall,
    PollsReadinessInCall,
    WaitsOnePoll,
    TimerFirst,
    ArmsATimer,
    ChangesErrors,
    HidesReadinessErrors,
    UsesTheFailed,
    LosesReadiness,
    KeepsFirstWaker,
    LosesAnswers,
    WakesItself,
    HidesPanics,
    RejectsInReadiness,
    AsksInnerFirst,
    RejectsLate,
    // Faults of the service that waits in its future.
    PeeksAtInner,
    // Faults of the retry.
    HoldsOverSleep,
    RetriesUnready,
}

/// The state that all clones share: the permit, and the places where faulty services keep things.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) taken: AtomicBool,
    services: Mutex<Vec<TextInner>>,
    wakers: Mutex<Vec<Waker>>,
    futures: Mutex<Vec<InnerFuture>>,
}

#[derive(Debug)]
struct Permit {
    pool: Arc<Pool>,
    kept: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.kept {
            self.pool.taken.store(false, Ordering::SeqCst);
        }
    }
}

#[derive(Debug)]
pub(super) struct Subject {
    inner: TextInner,
    fault: Fault,
    pool: Arc<Pool>,
    permit: Option<Permit>,
    rejected: bool,
    ready: bool,
    waker: Option<Waker>,
}

impl Subject {
    pub(super) const fn new(inner: TextInner, fault: Fault, pool: Arc<Pool>) -> Self {
        Self { inner, fault, pool, permit: None, rejected: false, ready: false, waker: None }
    }

    fn admit(&mut self) {
        if self.permit.is_none() && !self.rejected {
            self.rejected = self.pool.taken.swap(true, Ordering::SeqCst);
            self.permit =
                (!self.rejected).then(|| Permit { pool: Arc::clone(&self.pool), kept: false });
        }
    }
}

impl Clone for Subject {
    fn clone(&self) -> Self {
        let mut clone = Self::new(self.inner.clone(), self.fault, Arc::clone(&self.pool));
        clone.ready = self.ready && self.fault == Fault::CopiesReadiness;
        clone
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if self.fault == Fault::KeepsServices {
            let fresh = self.inner.clone();
            lock(&self.pool.services).push(mem::replace(&mut self.inner, fresh));
        }
    }
}

impl Service<Text> for Subject {
    type Response = Text;
    type Error = Text;
    type Future = Run;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Text>> {
        match self.fault {
            Fault::CopiesReadiness if self.ready => return Poll::Ready(Ok(())),
            Fault::AsksInnerFirst if poll_inner(&mut self.inner, cx).is_pending() => {
                return Poll::Pending;
            }
            _ => {}
        }
        self.admit();
        if self.rejected {
            return Poll::Ready(match self.fault {
                Fault::RejectsInReadiness => Err("full"),
                _ => Ok(()),
            });
        }
        let polled = match self.fault {
            Fault::ReservesAtEveryPoll => {
                let mut other = self.inner.clone();
                let polled = poll_inner(&mut other, cx);
                lock(&self.pool.services).push(mem::replace(&mut self.inner, other));
                polled
            }
            Fault::LosesReadiness => {
                poll_inner(&mut self.inner, &mut Context::from_waker(Waker::noop()))
            }
            Fault::KeepsFirstWaker => {
                let waker = self.waker.get_or_insert_with(|| cx.waker().clone());
                poll_inner(&mut self.inner, &mut Context::from_waker(waker))
            }
            _ => poll_inner(&mut self.inner, cx),
        };
        match (polled, self.fault) {
            (Poll::Ready(Err(_)), Fault::HidesReadinessErrors) => Poll::Pending,
            (Poll::Ready(Err(error)), Fault::UsesTheFailed) => {
                let _ = poll_inner(&mut self.inner, cx);
                Poll::Ready(Err(error))
            }
            (Poll::Pending, Fault::WakesItself) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (polled, _) => {
                self.ready = polled.is_ready();
                polled
            }
        }
    }

    fn call(&mut self, request: Text) -> Run {
        self.ready = false;
        self.waker = None;
        let mut run = Run {
            inner: None,
            answer: None,
            fault: self.fault,
            pool: Arc::clone(&self.pool),
            permit: self.permit.take(),
            timer: None,
            polls: 0,
        };
        if mem::take(&mut self.rejected) {
            run.answer = Some(Err("full"));
            return run;
        }
        let mut called = match self.fault {
            Fault::CallsAClone => Box::pin(self.inner.clone().call(request)),
            _ => Box::pin(self.inner.call(request)),
        };
        let mut nobody = Context::from_waker(Waker::noop());
        match self.fault {
            Fault::PollsInCall => {
                if let Poll::Ready(answer) = called.as_mut().poll(&mut nobody) {
                    run.answer = Some(answer);
                }
            }
            Fault::PollsReadinessInCall => {
                let _ = poll_inner(&mut self.inner, &mut nobody);
            }
            Fault::ArmsATimer => {
                run.timer = Some(Box::pin(tokio::time::sleep(Duration::from_secs(1))));
            }
            _ => {}
        }
        if let Some(permit) = &mut run.permit {
            permit.kept = self.fault == Fault::KeepsPermits;
        }
        run.inner = Some(called);
        run
    }
}

#[derive(Debug)]
pub(super) struct Run {
    inner: Option<InnerFuture>,
    answer: Option<Answer>,
    fault: Fault,
    pool: Arc<Pool>,
    permit: Option<Permit>,
    timer: Option<Pin<Box<Sleep>>>,
    polls: usize,
}

impl Future for Run {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        self.polls += 1;
        let fault = self.fault;
        let first = self.polls == 1;
        if let Some(answer) = self.answer.take() {
            if answer == Err("full") && fault == Fault::RejectsLate && first {
                self.answer = Some(answer);
                return Poll::Pending;
            }
            return Poll::Ready(answer);
        }
        match fault {
            Fault::TimerFirst if !first => return Poll::Ready(Err("timed out")),
            Fault::WaitsOnePoll if first => return Poll::Pending,
            _ => {}
        }
        if fault == Fault::KeepsWakers {
            lock(&self.pool.wakers).push(cx.waker().clone());
        }
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Err("polled again"));
        };
        let polled = match fault {
            Fault::LosesAnswers => inner.as_mut().poll(&mut Context::from_waker(Waker::noop())),
            Fault::HidesPanics => catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx)))
                .unwrap_or(Poll::Ready(Err("panicked"))),
            _ => inner.as_mut().poll(cx),
        };
        if polled.is_ready() {
            self.inner = None;
            if let Some(permit) = &mut self.permit {
                permit.kept = false;
            }
        }
        match polled {
            Poll::Ready(Err(_)) if fault == Fault::ChangesErrors => Poll::Ready(Err("other")),
            polled => polled,
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.fault == Fault::KeepsFutures {
            lock(&self.pool.futures).extend(self.inner.take());
        }
    }
}

pub(super) type Waits = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A service that is always ready, and drives a clone of the inner service in its future.
#[derive(Clone, Debug)]
pub(super) struct Late {
    pub(super) inner: TextInner,
    pub(super) fault: Fault,
}

impl Service<Text> for Late {
    type Response = Text;
    type Error = Text;
    type Future = Waits;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Text>> {
        if self.fault == Fault::PeeksAtInner {
            let _ = poll_inner(&mut self.inner, cx);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Text) -> Waits {
        let fresh = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            poll_fn(|cx| poll_inner(&mut inner, cx)).await?;
            let called = inner.call(request);
            drop(inner);
            called.await
        })
    }
}

/// A service that retries once, after a sleep of one poll.
#[derive(Clone, Debug)]
pub(super) struct Again {
    pub(super) inner: TextInner,
    pub(super) fault: Fault,
}

impl Service<Text> for Again {
    type Response = Text;
    type Error = Text;
    type Future = Waits;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Text>> {
        poll_inner(&mut self.inner, cx)
    }

    fn call(&mut self, request: Text) -> Waits {
        let mut first = Some(Box::pin(self.inner.call(request)));
        let mut inner = self.inner.clone();
        let fault = self.fault;
        Box::pin(async move {
            if let Some(attempt) = &mut first {
                if let Ok(answer) = attempt.await {
                    return Ok(answer);
                }
            }
            if fault != Fault::HoldsOverSleep {
                first = None;
            }
            let mut slept = false;
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                match mem::replace(&mut slept, true) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
            drop(first);
            if fault != Fault::RetriesUnready {
                poll_fn(|cx| poll_inner(&mut inner, cx)).await?;
            }
            inner.call(request).await
        })
    }
}
