use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tower_service::Service;

use super::{
    faults::{Fault, MakeError, MakeResponse, Partition, Unset},
    future::ResponseFuture,
    pause::Pause,
    shared::Shared,
};

/// A service that injects faults while its layer is armed, created by a
/// [`ChaosLayer`](super::ChaosLayer). It forwards readiness.
///
/// See the [module docs](super).
pub struct Chaos<S, E = Unset, R = Unset, P = Unset> {
    inner: S,
    shared: Arc<Shared<E, R, P>>,
}

impl<S, E, R, P> Chaos<S, E, R, P> {
    pub(super) fn new(inner: S, shared: Arc<Shared<E, R, P>>) -> Self {
        Self { inner, shared }
    }
}

accessors!(Chaos<S, E, R, P>);

impl<S: Clone, E, R, P> Clone for Chaos<S, E, R, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S: fmt::Debug, E, R, P> fmt::Debug for Chaos<S, E, R, P>
where
    Shared<E, R, P>: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (inner, shared) = (&self.inner, &self.shared);
        f.debug_struct("Chaos").field("inner", inner).field("shared", shared).finish()
    }
}

impl<S, E, R, P, Req> Service<Req> for Chaos<S, E, R, P>
where
    S: Service<Req> + Clone,
    E: MakeError<S::Error>,
    R: MakeResponse<Req, S::Response>,
    P: Partition<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, Req>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        if self.shared.switch.may_be_armed() {
            return self.call_armed(request);
        }
        ResponseFuture::untouched(self.inner.call(request))
    }
}

/// A fault that is ready to be injected.
enum Prepared<T> {
    /// The result, instead of that of the service.
    Made(T),
    /// A pause before the service is called.
    Before(Pause),
    /// A pause after the service has responded, or a delay that begins then.
    After(Pause, Option<Duration>),
}

impl<S, E, R, P> Chaos<S, E, R, P> {
    #[cold]
    #[inline(never)]
    fn call_armed<Req>(&mut self, request: Req) -> ResponseFuture<S, Req>
    where
        S: Service<Req> + Clone,
        E: MakeError<S::Error>,
        R: MakeResponse<Req, S::Response>,
        P: Partition<Req>,
    {
        let shared = Arc::clone(&self.shared);
        let Some((fault, number, ticket)) = shared.draw(&request) else {
            return ResponseFuture::untouched(self.inner.call(request));
        };
        let switch = &shared.switch;
        // Code of a user makes some of them, and may panic. Nothing has changed yet.
        let prepared = match fault {
            Fault::Error => shared.error.make_error().map(|error| Prepared::Made(Err(error))),
            Fault::Response => {
                let response = shared.response.make_response(&request);
                response.map(|response| Prepared::Made(Ok(response)))
            }
            Fault::Delay(delay) => Some(Prepared::Before(Pause::of(switch, ticket, delay))),
            Fault::Hang | Fault::Partition => Pause::hang(switch, ticket).map(Prepared::Before),
            Fault::LateResponse(delay) => {
                Some(Prepared::After(Pause::of(switch, ticket, delay), Some(delay)))
            }
            Fault::LostResponse => {
                Pause::hang(switch, ticket).map(|pause| Prepared::After(pause, None))
            }
        };
        // `None` if too many calls hang.
        let Some(prepared) = prepared else {
            return ResponseFuture::untouched(self.inner.call(request));
        };
        switch.inject(fault.as_str(), number);
        match prepared {
            Prepared::Made(result) => {
                self.free_reservation();
                ResponseFuture::made(result)
            }
            Prepared::Before(pause) => {
                self.free_reservation();
                ResponseFuture::late(pause, self.inner.clone(), request)
            }
            Prepared::After(pause, delay) => {
                ResponseFuture::held(pause, delay, self.inner.call(request))
            }
        }
    }

    /// Replaces the instance that was ready, because the request does not reach it now.
    ///
    /// Otherwise, its reservation would be held until the next call.
    fn free_reservation(&mut self)
    where
        S: Clone,
    {
        let unready = self.inner.clone();
        drop(mem::replace(&mut self.inner, unready));
    }
}
