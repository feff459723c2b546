//! failsafe 1.3, which is not a tower layer.
//!
//! Its breaker wraps a future (`breaker.call(future)`), so a small service here passes it the
//! future of the inner service. `breaker` has its default policy. It has no count window, only
//! consecutive failures and a moving average over 30 s.

use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use ::failsafe::failure_policy::FailurePolicy;
use ::failsafe::futures::CircuitBreaker;
use ::failsafe::{Config, StateMachine, backoff, failure_policy};
use tower::Service;

use super::{MINIMUM_CALLS, OPEN_FOR, small};
use crate::backend::{Backend, Request, Subject, Unavailable};
use crate::measure::Harness;

#[derive(Clone)]
struct Guarded<B> {
    breaker: B,
    inner: Backend,
}

impl<P> Service<Request> for Guarded<StateMachine<P, ()>>
where
    P: FailurePolicy + fmt::Debug + Send + Sync + 'static,
{
    type Response = u64;
    type Error = ::failsafe::Error<Unavailable>;
    type Future = ::failsafe::futures::ResponseFuture<
        <Backend as Service<Request>>::Future,
        P,
        (),
        fn(&Unavailable) -> bool,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(::failsafe::Error::Inner)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The default predicate of `call`, by which every error counts, has no public name to use
        // in `Future` above.
        self.breaker.call_with(|_| true, self.inner.call(request))
    }
}

pub fn breaker() -> impl Subject {
    Guarded { breaker: Config::new().build(), inner: Backend::new() }
}

pub fn breaker_time_window(window: Duration) -> impl Subject {
    let policy = failure_policy::success_rate_over_time_window(
        0.5,
        small(MINIMUM_CALLS),
        window,
        backoff::constant(OPEN_FOR),
    );
    Guarded { breaker: Config::new().failure_policy(policy).build(), inner: Backend::new() }
}

pub fn breaker_open(harness: &Harness) -> impl Subject {
    let policy = failure_policy::consecutive_failures(3, backoff::constant(OPEN_FOR));
    harness.opened(Guarded {
        breaker: Config::new().failure_policy(policy).build(),
        inner: Backend::new(),
    })
}
