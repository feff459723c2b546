use std::{
    any::type_name,
    fmt,
    marker::PhantomData,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use super::{
    ResponseFuture,
    admission::{Admitted, Breaker, admitted, guard},
    layer::Shared,
    state::{Core, Decision, Phase, Refusal},
};
use crate::{
    CarryRejection, Classify,
    call::{
        completion::{AtHead, Completion},
        waiters::Key,
    },
};

/// Keeps calls from a service that fails. See the [module docs](super).
pub struct CircuitBreaker<S, C, M = AtHead> {
    inner: S,
    shared: Arc<Shared<C>>,
    /// The phase of a closed breaker that lets the next call through. There is no guard yet:
    /// only a call is accounted for.
    admitted: Option<Phase>,
    /// What was decided when the breaker was not closed.
    readiness: Readiness<C>,
    completion: PhantomData<fn() -> M>,
}

/// Decided before the inner service is asked, and kept until `call` spends it.
enum Readiness<C> {
    Undecided,
    /// A breaker that pends is asked each time, and this is when it last let a call through: apart
    /// from `admitted`, so that a breaker which rejects does not have to ask what kind it is.
    AskedAnew(Option<Phase>),
    Probe(Admitted<Shared<C>>),
    Refused(Refusal),
    /// Not ready until the breaker lets something through.
    Pending(Waiting<C>),
}

impl<C> Readiness<C> {
    fn fresh(core: &Core) -> Self {
        if core.config().pend { Self::AskedAnew(None) } else { Self::Undecided }
    }
}

impl<S, C, M> CircuitBreaker<S, C, M> {
    pub(super) fn new(inner: S, shared: Arc<Shared<C>>) -> Self {
        let readiness = Readiness::fresh(shared.core());
        Self { inner, shared, admitted: None, readiness, completion: PhantomData }
    }
}

accessors!(CircuitBreaker<S, C, M>);

impl<S: Clone, C, M> Clone for CircuitBreaker<S, C, M> {
    fn clone(&self) -> Self {
        // A probe, and a place among those who wait, belong to the instance that was polled.
        Self::new(self.inner.clone(), Arc::clone(&self.shared))
    }
}

impl<S, C, M, Req> Service<Req> for CircuitBreaker<S, C, M>
where
    S: Service<Req>,
    S::Error: CarryRejection,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Shared<C>, (), M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.admitted.is_none() {
            match self.readiness {
                Readiness::Undecided => self.admitted = self.shared.core().admit_closed(),
                _ => return self.poll_unless_closed(cx),
            }
        }
        match self.admitted {
            Some(phase) => self.poll_inner(phase, cx),
            None => self.poll_unless_closed(cx),
        }
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        if let Some(phase) = self.admitted.take() {
            if self.shared.core().phase() == phase {
                let mut admission = admitted(&self.shared, phase, None);
                let future = admission.run(|| self.inner.call(request));
                return ResponseFuture::called(future, admission, ());
            }
        }
        match self.admit_call() {
            Ok(mut admission) => {
                let future = admission.run(|| self.inner.call(request));
                ResponseFuture::called(future, admission, ())
            }
            Err(refusal) => ResponseFuture::refused(Arc::clone(&self.shared), refusal, ()),
        }
    }
}

impl<S, C, M> CircuitBreaker<S, C, M> {
    /// Readiness of the service, for a call that is let through.
    #[inline]
    fn poll_inner<Req>(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
    where
        S: Service<Req>,
        S::Error: CarryRejection,
        C: Classify<S::Response, S::Error>,
    {
        // Arm by arm, for a result that is handed on as a whole is copied once more.
        match self.inner.poll_ready(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => {
                self.readiness_failed(phase, &error);
                Poll::Ready(Err(error))
            }
        }
    }

    /// A service that fails to become ready has failed as one does that fails a call.
    #[cold]
    fn readiness_failed<Req>(&self, phase: Phase, error: &S::Error)
    where
        S: Service<Req>,
        S::Error: CarryRejection,
        C: Classify<S::Response, S::Error>,
    {
        admitted(&self.shared, phase, None).settle(&(), Err(error));
    }

    /// Readiness while the breaker is not closed, or was not when it was first asked.
    #[cold]
    fn poll_unless_closed<Req>(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
    where
        S: Service<Req>,
        S::Error: CarryRejection,
        C: Classify<S::Response, S::Error>,
    {
        let core = self.shared.core();
        loop {
            let decision = match &mut self.readiness {
                // A breaker that pends takes back the readiness that it gave, if it has opened since:
                // a balancer asks once more before it calls, and takes another endpoint.
                Readiness::AskedAnew(Some(phase)) if core.phase() == *phase => {
                    let phase = *phase;
                    return self.poll_inner(phase, cx);
                }
                Readiness::AskedAnew(_) | Readiness::Undecided => core.admit(),
                Readiness::Probe(probe) => match probe.probe() {
                    Some((phase, lease)) if core.probe_holds(phase, lease) => {
                        let polled = ready!(probe.run(|| self.inner.poll_ready(cx)));
                        match &polled {
                            Ok(()) => core.probe_is_ready(phase, lease),
                            Err(error) => probe.settle(&(), Err(error)),
                        }
                        return Poll::Ready(polled);
                    }
                    // The lease ran out while the service would not become ready.
                    _ => core.admit(),
                },
                // A readiness error would be the end of the service, so `call` refuses. The inner
                // service is left alone: it may be what is stuck, and asking it may reserve.
                Readiness::Refused(_) => return Poll::Ready(Ok(())),
                Readiness::Pending(waiting) => ready!(waiting.poll(cx)),
            };
            self.readiness = match decision {
                Decision::Admitted { phase } => {
                    if core.config().pend {
                        self.readiness = Readiness::AskedAnew(Some(phase));
                    } else {
                        self.readiness = Readiness::Undecided;
                        self.admitted = Some(phase);
                    }
                    return self.poll_inner(phase, cx);
                }
                Decision::Refused(_) if core.config().pend => {
                    Readiness::Pending(Waiting::join(&self.shared, cx))
                }
                Decision::Refused(refusal) => Readiness::Refused(refusal),
                Decision::Probe { .. } => match guard(&self.shared, decision) {
                    Ok(probe) => Readiness::Probe(probe),
                    Err(refusal) => Readiness::Refused(refusal),
                },
            }
        }
    }

    /// Admits a call that was not found admitted by a breaker which is still closed: what has changed
    /// since the service was ready is taken for the worse.
    #[cold]
    fn admit_call(&mut self) -> Result<Admitted<Shared<C>>, Refusal> {
        let core = self.shared.core();
        match mem::replace(&mut self.readiness, Readiness::fresh(core)) {
            Readiness::AskedAnew(Some(phase)) if core.phase() == phase => {
                Ok(admitted(&self.shared, phase, None))
            }
            Readiness::Probe(mut probe) => match probe.probe() {
                Some((phase, lease)) => match core.begin_probe(phase, lease) {
                    Decision::Probe { lease: same, .. } if same == lease => Ok(probe),
                    // The caller took its time: the lease is gone, and this is another or none.
                    decision => guard(&self.shared, decision),
                },
                None => guard(&self.shared, core.begin(core.admit())),
            },
            Readiness::Refused(refusal) => Err(refusal),
            // Called without having been ready, which no caller should.
            Readiness::Undecided | Readiness::AskedAnew(_) | Readiness::Pending(_) => {
                guard(&self.shared, core.begin(core.admit()))
            }
        }
    }
}

impl<S: fmt::Debug, C, M> fmt::Debug for CircuitBreaker<S, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("inner", &self.inner)
            .field("breaker", self.shared.core())
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish_non_exhaustive()
    }
}

/// A caller that waits for the breaker: a place among those who are woken, and a timer for the
/// nearest instant at which it could go on although nothing happens.
struct Waiting<C> {
    shared: Arc<Shared<C>>,
    place: Option<Key>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<C> Waiting<C> {
    fn join(shared: &Arc<Shared<C>>, cx: &Context<'_>) -> Self {
        let place = shared.core().wait(None, cx.waker().clone());
        Self { shared: Arc::clone(shared), place: Some(place), timer: None }
    }

    fn core(&self) -> &Core {
        self.shared.core()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Decision> {
        loop {
            // On the list first, then asked: a change in between is not missed.
            self.place = Some(self.core().wait(self.place, cx.waker().clone()));
            match self.core().admit() {
                Decision::Refused(refusal) => ready!(self.poll_timer(refusal.ask_again, cx)),
                decision => {
                    self.leave(true);
                    return Poll::Ready(decision);
                }
            }
        }
    }

    fn poll_timer(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else {
            self.timer = None;
            return Poll::Pending;
        };
        match &mut self.timer {
            Some(timer) if timer.deadline() == at => {}
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(sleep_until(at))),
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn leave(&mut self, went_through: bool) {
        if let Some(place) = self.place.take() {
            self.core().stop_waiting(place, went_through);
        }
    }
}

impl<C> Drop for Waiting<C> {
    fn drop(&mut self) {
        self.leave(false);
    }
}
