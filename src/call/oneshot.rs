//! A call that waits until the service is ready.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::ended::polled_after_end;

pin_project! {
    /// A call that waits in its future until the service is ready.
    #[must_use = "futures do nothing unless polled"]
    pub struct Oneshot<S: Service<Req>, Req> {
        #[pin]
        state: State<S, S::Future, Req>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, Req> {
        Waiting { service: S, request: Option<Req> },
        Called { #[pin] future: F },
    }
}

impl<S: Service<Req>, Req> Oneshot<S, Req> {
    /// Creates a call of a service that is not ready yet. This same instance is polled and called.
    #[inline]
    pub(crate) fn waiting(service: S, request: Req) -> Self {
        Self { state: State::Waiting { service, request: Some(request) } }
    }

    /// Creates a call of a service that was ready and has been called.
    #[inline]
    pub(crate) fn called(future: S::Future) -> Self {
        Self { state: State::Called { future } }
    }

    /// Waits until the service is ready, and calls it, unless it has been called.
    #[inline]
    pub(crate) fn poll_call(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), S::Error>> {
        let mut state = self.project().state;
        if let StateProj::Waiting { service, request } = state.as_mut().project() {
            ready!(service.poll_ready(cx))?;
            let Some(request) = request.take() else { polled_after_end() };
            let future = service.call(request);
            // Drops the service before its response arrives. The service may have reserved
            // something for a next call, which will not come.
            state.set(State::Called { future });
        }
        Poll::Ready(Ok(()))
    }

    /// Returns `true` if the service has not been called yet.
    #[cfg(feature = "http")]
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Returns the request of a service that has not been called. The call then has ended.
    #[cfg(feature = "http")]
    pub(crate) fn take_waiting(self: Pin<&mut Self>) -> Option<Req> {
        match self.project().state.project() {
            StateProj::Waiting { request, .. } => request.take(),
            StateProj::Called { .. } => None,
        }
    }
}

impl<S: Service<Req>, Req> Future for Oneshot<S, Req> {
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let StateProj::Called { future } = self.as_mut().project().state.project() {
                return future.poll(cx);
            }
            ready!(self.as_mut().poll_call(cx))?;
        }
    }
}

impl<S: Service<Req>, Req> fmt::Debug for Oneshot<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oneshot").finish_non_exhaustive()
    }
}
