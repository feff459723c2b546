//! Waits until a service is ready, then calls it.

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
    /// A call that first waits, in its future, until the service is ready.
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
    /// A service that is still to become ready. This very instance is polled and called.
    #[inline]
    pub(crate) fn waiting(service: S, request: Req) -> Self {
        Self { state: State::Waiting { service, request: Some(request) } }
    }

    /// A service that was ready and has been called.
    #[inline]
    pub(crate) fn called(future: S::Future) -> Self {
        Self { state: State::Called { future } }
    }
}

impl<S: Service<Req>, Req> Future for Oneshot<S, Req> {
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let future = match state.as_mut().project() {
                StateProj::Called { future } => return future.poll(cx),
                StateProj::Waiting { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let Some(request) = request.take() else { polled_after_end() };
                    service.call(request)
                }
            };
            // The service goes before its response: what it reserved for a next call is nobody's.
            state.set(State::Called { future });
        }
    }
}

impl<S: Service<Req>, Req> fmt::Debug for Oneshot<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oneshot").finish_non_exhaustive()
    }
}
