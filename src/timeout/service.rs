use std::{
    mem,
    task::{Context, Poll},
    time::Duration,
};

use tower_service::Service;

use super::{Limit, ResponseFuture, future::Clock};
use crate::{CarryRejection, DeadlineExceeded, Name, deadline, oneshot::Oneshot};
use tokio::time::Instant;

/// Ends calls that take too long; readiness is forwarded. See the [module docs](super).
#[derive(Clone, Debug)]
pub struct Timeout<S, L> {
    inner: S,
    limit: L,
    name: Name,
}

impl<S, L> Timeout<S, L> {
    pub(super) fn new(inner: S, limit: L, name: Name) -> Self {
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

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        match start(&self.limit, &self.name, &request) {
            Ok((began, clock)) => {
                let future = clock.run_call(began, || self.inner.call(request));
                ResponseFuture::called(future, clock)
            }
            Err(refusal) => ResponseFuture::refused(refusal),
        }
    }
}

/// Starts the clock of a call, unless the caller's time is over already.
fn start<L, Req>(
    limit: &L,
    name: &Name,
    request: &Req,
) -> Result<(Instant, Clock), DeadlineExceeded>
where
    L: Limit<Req>,
{
    let began = deadline::now();
    if deadline::deadline().is_some_and(|deadline| deadline <= began) {
        return Err(DeadlineExceeded::new(name.clone()));
    }
    let limit: Duration = limit.limit(request);
    Ok((began, Clock::start(began, limit, name.clone())))
}

/// Ends calls that take too long, the wait for readiness included. See the [module docs](super).
#[derive(Debug)]
pub struct TotalTimeout<S, L> {
    inner: S,
    limit: L,
    name: Name,
    /// Whether this instance of the service is ready. If so it is called as it is; if not, the
    /// future waits for it.
    inner_ready: bool,
}

impl<S, L> TotalTimeout<S, L> {
    pub(super) fn new(inner: S, limit: L, name: Name) -> Self {
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

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if !self.inner_ready {
            // A service that is ready now saves the call a clone of the whole stack beneath.
            self.inner_ready = self.inner.poll_ready(cx)?.is_ready();
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let (began, clock) = match start(&self.limit, &self.name, &request) {
            Ok(started) => started,
            Err(refusal) => return ResponseFuture::refused(refusal),
        };
        if mem::take(&mut self.inner_ready) {
            let future = clock.run_call(began, || self.inner.call(request));
            return ResponseFuture::called(Oneshot::called(future), clock);
        }
        // The instance that began to wait goes on waiting, and keeps its place in any queue.
        let fresh = self.inner.clone();
        let waiting = mem::replace(&mut self.inner, fresh);
        ResponseFuture::called(Oneshot::waiting(waiting, request), clock)
    }
}
