//! recloser 1.4, which is not a tower layer.
//!
//! Its `AsyncRecloser` wraps a future (`recloser.call(future)`), so a small service here passes
//! it the future of the inner service. It has only a count window, and no slow calls.

use std::task::{Context, Poll};

use ::recloser::{AnyError, AsyncRecloser, Error, Recloser, RecloserFuture};
use tower::Service;

use super::{COUNT_WINDOW, OPEN_FOR};
use crate::backend::{Backend, Request, Subject, Unavailable};
use crate::measure::Harness;

#[derive(Clone)]
struct Guarded {
    breaker: AsyncRecloser,
    inner: Backend,
}

impl Service<Request> for Guarded {
    type Response = u64;
    type Error = Error<Unavailable>;
    type Future = RecloserFuture<<Backend as Service<Request>>::Future, AnyError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Error::Inner)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.breaker.call(self.inner.call(request))
    }
}

pub fn breaker() -> impl Subject {
    let recloser = Recloser::custom()
        .error_rate(0.5)
        .closed_len(COUNT_WINDOW)
        .half_open_len(10)
        .open_wait(OPEN_FOR)
        .build();
    Guarded { breaker: AsyncRecloser::from(recloser), inner: Backend::new() }
}

pub fn breaker_open(harness: &Harness) -> impl Subject {
    harness.opened(breaker())
}
