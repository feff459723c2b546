use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_service::Service;

use super::{config::Limit, future::ResponseFuture};
use crate::{
    CarryRejection,
    call::{
        clock::{self, share_now},
        deadline::{self, narrow},
        oneshot::Oneshot,
        readiness::Readiness,
    },
    telemetry::Reporter,
};

/// A service that ends calls that take too long. It forwards readiness.
///
/// See the [module docs](super).
#[derive(Clone, Debug)]
pub struct Timeout<S, L> {
    inner: S,
    limit: L,
    reporter: Option<Arc<Reporter>>,
}

impl<S, L> Timeout<S, L> {
    pub(crate) fn new(inner: S, limit: L, reporter: Option<Arc<Reporter>>) -> Self {
        Self { inner, limit, reporter }
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
    type Future = ResponseFuture<S::Future, L>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let Some(clock) = Clock::start(&self.limit, &request) else {
            return ResponseFuture::rejected(self.reporter.clone());
        };
        let future = clock.run(|| self.inner.call(request));
        ResponseFuture::called(future, clock.end, clock.limit, self.reporter.clone())
    }
}

/// The times of one call.
struct Clock {
    began: Instant,
    end: Option<Instant>,
    limit: Duration,
}

impl Clock {
    /// Reads the clock as the call starts. Returns `None` if the caller's deadline has passed.
    #[inline]
    fn start<L, Req>(limit: &L, request: &Req) -> Option<Self>
    where
        L: Limit<Req>,
    {
        let began = clock::now();
        if deadline::deadline().is_some_and(|deadline| deadline <= began) {
            return None;
        }
        let limit = limit.limit(request);
        Some(Self { began, end: began.checked_add(limit), limit })
    }

    /// Makes the inner call under the deadline, and shares this clock reading with it.
    #[inline]
    fn run<T>(&self, call: impl FnOnce() -> T) -> T {
        let _now = share_now(self.began);
        let _deadline = narrow(self.end);
        call()
    }
}

/// A service that ends calls that take too long, including the wait for readiness.
///
/// See the [module docs](super).
#[derive(Debug)]
pub struct TotalTimeout<S, L> {
    inner: S,
    limit: L,
    reporter: Option<Arc<Reporter>>,
    readiness: Readiness,
}

impl<S, L> TotalTimeout<S, L> {
    pub(crate) fn new(inner: S, limit: L, reporter: Option<Arc<Reporter>>) -> Self {
        Self { inner, limit, reporter, readiness: Readiness::NotAsked }
    }
}

accessors!(TotalTimeout<S, L>);

impl<S: Clone, L: Clone> Clone for TotalTimeout<S, L> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limit: self.limit.clone(),
            reporter: self.reporter.clone(),
            // Readiness belongs to the instance that was polled.
            readiness: Readiness::NotAsked,
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
    type Future = ResponseFuture<Oneshot<S, Req>, L>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.readiness.ask(&mut self.inner, cx)?;
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let Some(clock) = Clock::start(&self.limit, &request) else {
            return ResponseFuture::rejected(self.reporter.clone());
        };
        let call = self
            .readiness
            .call(&mut self.inner, request, |inner, request| clock.run(|| inner.call(request)));
        ResponseFuture::called(call, clock.end, clock.limit, self.reporter.clone())
    }
}
