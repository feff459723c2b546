use std::{
    mem,
    task::{Context, Poll},
    time::Duration,
};

use tower_service::Service;

use super::{Limit, ResponseFuture};
use crate::{
    CarryRejection, Name,
    deadline::{self, narrow, share_now},
    oneshot::Oneshot,
};
use tokio::time::Instant;

/// Ends calls that take too long; readiness is forwarded. See the [module docs](super).
#[derive(Clone, Debug)]
pub struct Timeout<S, L> {
    inner: S,
    limit: L,
    name: Option<Name>,
}

impl<S, L> Timeout<S, L> {
    pub(super) fn new(inner: S, limit: L, name: Option<Name>) -> Self {
        Self { inner, limit, name }
    }
}

accessors!(Timeout<S, L>);

impl<S, L, Req> Service<Req> for Timeout<S, L>
where
    S: Service<Req>,
    S::Error: CarryRejection,
    L: Limit<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let Some(clock) = Clock::start(&self.limit, &request) else {
            return ResponseFuture::refused(self.name.clone());
        };
        let future = clock.run(|| self.inner.call(request));
        ResponseFuture::called(future, clock.end, clock.limit, self.name.clone())
    }
}

/// When a call began, and when it must end.
struct Clock {
    began: Instant,
    end: Option<Instant>,
    limit: Duration,
}

impl Clock {
    /// Starts with the call; `None` if the caller's time is over already.
    #[inline]
    fn start<L, Req>(limit: &L, request: &Req) -> Option<Self>
    where
        L: Limit<Req>,
    {
        let began = deadline::now();
        if deadline::deadline().is_some_and(|deadline| deadline <= began) {
            return None;
        }
        let limit = limit.limit(request);
        Some(Self { began, end: began.checked_add(limit), limit })
    }

    /// Makes the inner call under the deadline, and lets it use this reading of the clock.
    #[inline]
    fn run<T>(&self, call: impl FnOnce() -> T) -> T {
        let _now = share_now(self.began);
        let _deadline = narrow(self.end);
        call()
    }
}

/// Ends calls that take too long, the wait for readiness included. See the [module docs](super).
#[derive(Debug)]
pub struct TotalTimeout<S, L> {
    inner: S,
    limit: L,
    name: Option<Name>,
    /// Whether this instance of the service is ready. If so it is called as it is; if not, the
    /// future waits for it.
    inner_ready: bool,
}

impl<S, L> TotalTimeout<S, L> {
    pub(super) fn new(inner: S, limit: L, name: Option<Name>) -> Self {
        Self { inner, limit, name, inner_ready: false }
    }
}

accessors!(TotalTimeout<S, L>);

impl<S: Clone, L: Clone> Clone for TotalTimeout<S, L> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limit: self.limit.clone(),
            name: self.name.clone(),
            // Readiness belongs to the instance that was polled.
            inner_ready: false,
        }
    }
}

impl<S, L, Req> Service<Req> for TotalTimeout<S, L>
where
    S: Service<Req> + Clone,
    S::Error: CarryRejection,
    L: Limit<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<Oneshot<S, Req>>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if !self.inner_ready {
            // A service that is ready now saves the call a clone of the whole stack beneath.
            self.inner_ready = self.inner.poll_ready(cx)?.is_ready();
        }
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let Some(clock) = Clock::start(&self.limit, &request) else {
            return ResponseFuture::refused(self.name.clone());
        };
        let call = if mem::take(&mut self.inner_ready) {
            Oneshot::called(clock.run(|| self.inner.call(request)))
        } else {
            // The instance that began to wait goes on waiting, and keeps its place in any queue.
            let fresh = self.inner.clone();
            Oneshot::waiting(mem::replace(&mut self.inner, fresh), request)
        };
        ResponseFuture::called(call, clock.end, clock.limit, self.name.clone())
    }
}
