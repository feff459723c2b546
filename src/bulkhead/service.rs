use std::{
    fmt,
    marker::PhantomData,
    mem,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tower_service::Service;

use super::{
    config::{Queue, WhenFull},
    future::{QueuedResponseFuture, ResponseFuture},
    queue::{Entry, Permit, Place, Slots},
};
use crate::{
    CarryRejection,
    call::{
        completion::{AtHead, Completion, Discard},
        oneshot::Oneshot,
    },
};

/// A service that limits concurrent calls. See the [module docs](super).
pub struct Bulkhead<S, M = AtHead> {
    inner: S,
    slots: Arc<Slots>,
    when_full: WhenFull,
    /// The slot for the next call, kept until `call` takes it.
    permit: Option<Permit>,
    /// The decision that was made when no slot was free.
    otherwise: Otherwise,
    completion: PhantomData<fn() -> M>,
}

#[derive(Default)]
enum Otherwise {
    #[default]
    Undecided,
    Waiting(Place),
    Rejected,
}

impl<S, M> Bulkhead<S, M> {
    pub(super) fn new(inner: S, slots: Arc<Slots>, when_full: WhenFull) -> Self {
        let otherwise = Otherwise::Undecided;
        Self { inner, slots, when_full, permit: None, otherwise, completion: PhantomData }
    }

    /// Polls readiness when no slot is free.
    #[cold]
    fn poll_when_full(&mut self, cx: &Context<'_>) -> Poll<()> {
        if let Otherwise::Undecided = self.otherwise {
            self.otherwise = match self.when_full {
                WhenFull::Reject => Otherwise::Rejected,
                WhenFull::Wait => match self.slots.enter(None, cx.waker().clone()) {
                    Entry::Granted(permit) => {
                        self.permit = Some(permit);
                        return Poll::Ready(());
                    }
                    Entry::Queued { place, .. } => Otherwise::Waiting(place),
                    Entry::Full => Otherwise::Rejected,
                },
            };
        }
        if let Otherwise::Waiting(place) = &mut self.otherwise {
            self.permit = Some(ready!(place.poll(cx)));
            self.otherwise = Otherwise::Undecided;
        }
        Poll::Ready(())
    }
}

accessors!(Bulkhead<S, M>);

impl<S: Clone, M> Clone for Bulkhead<S, M> {
    fn clone(&self) -> Self {
        // A slot and a place in the queue belong to the instance that was polled.
        Self::new(self.inner.clone(), Arc::clone(&self.slots), self.when_full)
    }
}

impl<S, M, Req> Service<Req> for Bulkhead<S, M>
where
    S: Service<Req>,
    S::Error: CarryRejection,
    M: Completion<S::Response> + Discard<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.permit.is_none() {
            if let Otherwise::Undecided = self.otherwise {
                self.permit = self.slots.try_take();
            }
            if self.permit.is_none() {
                ready!(self.poll_when_full(cx));
            }
        }
        match self.permit {
            Some(_) => self.inner.poll_ready(cx),
            // A readiness error would mean that the service is dead. Therefore `call` rejects
            // instead. The inner service is not polled, because it may hang, and because polling
            // it may reserve something.
            None => Poll::Ready(Ok(())),
        }
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let permit = match (self.permit.take(), mem::take(&mut self.otherwise)) {
            (Some(permit), _) => Some(permit),
            // `call` without readiness, which breaks the contract of `Service`.
            (None, Otherwise::Undecided) => self.slots.try_take(),
            (None, Otherwise::Waiting(_) | Otherwise::Rejected) => None,
        };
        match permit {
            Some(permit) => ResponseFuture::called(self.inner.call(request), permit),
            None => {
                M::discard(request);
                ResponseFuture::rejected(Arc::clone(&self.slots))
            }
        }
    }
}

impl<S: fmt::Debug, M> fmt::Debug for Bulkhead<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulkhead")
            .field("inner", &self.inner)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// A service that limits concurrent calls and queues the others. See the [module docs](super).
pub struct QueuedBulkhead<S, M = AtHead> {
    inner: S,
    slots: Arc<Slots>,
    queue: Queue,
    admission: QueuedAdmission,
    completion: PhantomData<fn() -> M>,
}

/// The decision of the first `poll_ready`, kept until `call` takes it.
#[derive(Default)]
enum QueuedAdmission {
    #[default]
    Undecided,
    Granted(Permit),
    /// No slot was free. The call takes a place in the queue.
    ToBeQueued,
}

impl<S, M> QueuedBulkhead<S, M> {
    pub(super) fn new(inner: S, slots: Arc<Slots>, queue: Queue) -> Self {
        let admission = QueuedAdmission::Undecided;
        Self { inner, slots, queue, admission, completion: PhantomData }
    }
}

accessors!(QueuedBulkhead<S, M>);

impl<S: Clone, M> Clone for QueuedBulkhead<S, M> {
    fn clone(&self) -> Self {
        // A slot belongs to the instance that was polled.
        Self::new(self.inner.clone(), Arc::clone(&self.slots), self.queue)
    }
}

impl<S, M, Req> Service<Req> for QueuedBulkhead<S, M>
where
    S: Service<Req> + Clone,
    S::Error: CarryRejection,
    M: Completion<S::Response> + Discard<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = QueuedResponseFuture<S, Req, M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if let QueuedAdmission::Undecided = self.admission {
            self.admission = match self.slots.try_take() {
                Some(permit) => QueuedAdmission::Granted(permit),
                None => QueuedAdmission::ToBeQueued,
            };
        }
        match self.admission {
            QueuedAdmission::Granted(_) => self.inner.poll_ready(cx),
            // The service is not polled, because a queued call must not hold a reservation in it.
            _ => Poll::Ready(Ok(())),
        }
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        if let QueuedAdmission::Granted(permit) = mem::take(&mut self.admission) {
            let future = self.inner.call(request);
            return QueuedResponseFuture::called(Oneshot::called(future), permit);
        }
        let service = self.inner.clone();
        QueuedResponseFuture::enter(service, request, &self.slots, self.queue)
    }
}

impl<S: fmt::Debug, M> fmt::Debug for QueuedBulkhead<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuedBulkhead")
            .field("inner", &self.inner)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}
