//! The futures of the bulkhead services.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::{
    config::Queue,
    queue::{Entry, Permit, Place, Slots},
};
use crate::{
    CarryRejection,
    call::{
        account::Stamp,
        completion::{AtHead, Completion, Discard, end_of},
        deadline,
        ended::polled_after_end,
        oneshot::Oneshot,
        rejectable::Rejectable,
        rejected_by::RejectedBy,
        timer::poll_timer,
        waiters::Key,
    },
    telemetry::Event,
};

pin_project! {
    /// The future of a [`Bulkhead`](super::Bulkhead).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, M = AtHead> {
        #[pin]
        call: Rejectable<F, Permit, Arc<Slots>>,
        completion: PhantomData<fn() -> M>,
    }
}

impl<F, M> ResponseFuture<F, M> {
    #[inline]
    pub(super) fn called(future: F, permit: Permit) -> Self {
        Self { call: Rejectable::running(future, permit), completion: PhantomData }
    }

    #[inline]
    pub(super) fn rejected(slots: Arc<Slots>) -> Self {
        Self { call: Rejectable::rejected(slots), completion: PhantomData }
    }
}

impl<F, M, T, E> Future for ResponseFuture<F, M>
where
    F: Future<Output = Result<T, E>>,
    E: CarryRejection,
    M: Completion<T>,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some((future, permit)) = this.call.as_mut().as_running() else {
            return Poll::Ready(Err(this.call.reject(reject)));
        };
        match future.poll(cx) {
            Poll::Ready(mut result) => {
                leave_to_body::<M, _, _>(permit, &mut result);
                // Releases the slot now, even if the caller drops the future much later.
                this.call.end();
                Poll::Ready(result)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Hands the permit to the response if the call ends with the response body.
///
/// Otherwise the permit is dropped with the future of the call, which releases the slot.
#[inline]
fn leave_to_body<M, T, E>(permit: &mut Permit, result: &mut Result<T, E>)
where
    M: Completion<T>,
{
    if let Some(end) = end_of::<M, _, _>(result) {
        if permit.take().is_some() {
            end.hold(Arc::clone(permit.ledger()) as _, Stamp::default());
        }
    }
}

impl<F, M> fmt::Debug for ResponseFuture<F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("bulkhead::ResponseFuture").finish_non_exhaustive()
    }
}

/// The future of [`BulkheadHandle::drained`](super::BulkheadHandle::drained).
#[must_use = "futures do nothing unless polled"]
pub struct Drained {
    slots: Arc<Slots>,
    place: Option<Key>,
}

impl Drained {
    pub(super) fn new(slots: Arc<Slots>) -> Self {
        Self { slots, place: None }
    }
}

impl Future for Drained {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { slots, place } = &mut *self;
        slots.poll_drained(place, cx.waker().clone())
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.slots.stop_waiting(place);
        }
    }
}

impl fmt::Debug for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drained").field("slots", &self.slots).finish_non_exhaustive()
    }
}

fn reject<E: CarryRejection>(slots: Arc<Slots>) -> E {
    RejectedBy::note(&*slots);
    slots.reporter().reject(slots.rejection())
}

pin_project! {
    /// The future of a [`QueuedBulkhead`](super::QueuedBulkhead).
    #[must_use = "futures do nothing unless polled"]
    pub struct QueuedResponseFuture<S: Service<Req>, Req, M = AtHead> {
        #[pin]
        state: QueuedState<S, Req>,
        completion: PhantomData<fn() -> M>,
    }
}

pin_project! {
    #[project = QueuedStateProj]
    enum QueuedState<S: Service<Req>, Req> {
        Queued { waiting: Waiting<S, Req>, place: Place, wait: Wait, #[pin] timer: Option<Sleep> },
        // Fields are dropped in order. The future is first, because the call must hold its slot
        // while it is dropped.
        Called { #[pin] future: Oneshot<S, Req>, permit: Permit },
        Rejected { slots: Arc<Slots> },
        Done,
    }
}

/// A call that waits in the queue. Its request is discarded if it leaves the queue without a slot.
struct Waiting<S, Req> {
    /// `None` after the call has got its slot.
    call: Option<(S, Req)>,
    discard: fn(Req),
}

impl<S, Req> Drop for Waiting<S, Req> {
    fn drop(&mut self) {
        if let Some((_, request)) = self.call.take() {
            (self.discard)(request);
        }
    }
}

/// The longest time that a call may wait in the queue.
struct Wait {
    longest: Duration,
    /// `None` if the end is beyond what the clock can express.
    end: Option<Instant>,
}

impl<S: Service<Req>, Req, M> QueuedResponseFuture<S, Req, M> {
    #[inline]
    pub(super) fn called(future: Oneshot<S, Req>, permit: Permit) -> Self {
        Self { state: QueuedState::Called { future, permit }, completion: PhantomData }
    }

    pub(super) fn enter(service: S, request: Req, slots: &Arc<Slots>, queue: Queue) -> Self
    where
        M: Discard<Req>,
    {
        let longest = queue.max_wait;
        let state = match slots.enter(Some(longest), Waker::noop().clone()) {
            Entry::Granted(permit) => {
                QueuedState::Called { future: Oneshot::waiting(service, request), permit }
            }
            Entry::Queued { place, end } => {
                let event = Event::CallQueued { queued: slots.queued() };
                slots.reporter().emit(event);
                QueuedState::Queued {
                    waiting: Waiting { call: Some((service, request)), discard: M::discard },
                    place,
                    wait: Wait { longest, end },
                    timer: None,
                }
            }
            Entry::Full => {
                M::discard(request);
                QueuedState::Rejected { slots: Arc::clone(slots) }
            }
        };
        Self { state, completion: PhantomData }
    }
}

impl<S, Req, M> Future for QueuedResponseFuture<S, Req, M>
where
    S: Service<Req>,
    S::Error: CarryRejection,
    M: Completion<S::Response>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let result = loop {
            let next = match state.as_mut().project() {
                QueuedStateProj::Called { future, permit } => {
                    let mut result = ready!(future.poll(cx));
                    leave_to_body::<M, _, _>(permit, &mut result);
                    break result;
                }
                QueuedStateProj::Rejected { slots } => break Err(reject(Arc::clone(slots))),
                QueuedStateProj::Queued { waiting, place, wait, timer } => match place.poll(cx) {
                    // Polls the slot before the timer, because a call that has a slot has not
                    // timed out.
                    Poll::Ready(permit) => {
                        let waiting = waiting.call.take();
                        let (service, request) = waiting.expect("a place is left only once");
                        QueuedState::Called { future: Oneshot::waiting(service, request), permit }
                    }
                    Poll::Pending => {
                        ready!(wait.poll_end(timer, cx));
                        place.time_out();
                        let slots = place.slots();
                        let late = slots.queue_timed_out(wait.longest);
                        RejectedBy::note(slots);
                        break Err(slots.reporter().reject(late));
                    }
                },
                QueuedStateProj::Done => polled_after_end(),
            };
            state.set(next);
        };
        state.set(QueuedState::Done);
        Poll::Ready(result)
    }
}

impl Wait {
    /// Waits until the maximum wait has elapsed.
    ///
    /// Creates no timer if an ambient deadline is nearer, because the owner of that deadline ends
    /// the call.
    fn poll_end(&self, timer: Pin<&mut Option<Sleep>>, cx: &mut Context<'_>) -> Poll<()> {
        match self.end {
            Some(end) if deadline::deadline().is_none_or(|outer| end < outer) => {
                poll_timer(timer, end, cx)
            }
            _ => Poll::Pending,
        }
    }
}

impl<S: Service<Req>, Req, M> fmt::Debug for QueuedResponseFuture<S, Req, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuedResponseFuture").finish_non_exhaustive()
    }
}
