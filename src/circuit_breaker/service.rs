use std::{
    any::type_name,
    fmt,
    marker::PhantomData,
    mem,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tower_service::Service;

use super::{
    admission::admitted,
    breaker::{Breaker, Decision, Phase, Rejected},
    future::ResponseFuture,
    half_open::LeaseId,
    shared::Shared,
    waiting::Waiting,
};
use crate::{
    CarryRejection, Classify,
    call::{
        admission::Admission,
        completion::{AtHead, Completion},
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
    Probe(Admission<Arc<Shared<C>>>),
    Rejected(Rejected),
    /// Not ready until the breaker lets something through.
    Pending(Waiting<C>),
}

impl<C> Readiness<C> {
    fn fresh(breaker: &Breaker) -> Self {
        if breaker.config().pend { Self::AskedAnew(None) } else { Self::Undecided }
    }
}

impl<S, C, M> CircuitBreaker<S, C, M> {
    pub(super) fn new(inner: S, shared: Arc<Shared<C>>) -> Self {
        let readiness = Readiness::fresh(&shared.breaker);
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
    type Future = ResponseFuture<S::Future, C, M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.admitted.is_none() {
            match self.readiness {
                Readiness::Undecided => self.admitted = self.shared.breaker.admit_closed(),
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
            if self.shared.breaker.phase() == phase {
                let mut admission = self.admitted(phase, None);
                let future = admission.run(|_| self.inner.call(request));
                return ResponseFuture::called(future, admission);
            }
        }
        match self.admit_call() {
            Ok(mut admission) => {
                let future = admission.run(|_| self.inner.call(request));
                ResponseFuture::called(future, admission)
            }
            Err(rejected) => ResponseFuture::rejected(Arc::clone(&self.shared), rejected),
        }
    }
}

impl<S, C, M> CircuitBreaker<S, C, M> {
    #[inline]
    fn admitted(&self, phase: Phase, lease: Option<LeaseId>) -> Admission<Arc<Shared<C>>> {
        admitted(Arc::clone(&self.shared), phase, lease)
    }

    fn admission(&self, decision: Decision) -> Result<Admission<Arc<Shared<C>>>, Rejected> {
        decision.admission().map(|(phase, lease)| self.admitted(phase, lease))
    }

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
        self.admitted(phase, None).settle(Err(error));
    }

    /// Readiness while the breaker is not closed, or was not when it was first asked.
    #[cold]
    fn poll_unless_closed<Req>(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
    where
        S: Service<Req>,
        S::Error: CarryRejection,
        C: Classify<S::Response, S::Error>,
    {
        let breaker = &self.shared.breaker;
        loop {
            let decision = match &mut self.readiness {
                // A breaker that pends takes back the readiness that it gave, if it has opened since:
                // a balancer asks once more before it calls, and takes another endpoint.
                Readiness::AskedAnew(Some(phase)) if breaker.phase() == *phase => {
                    let phase = *phase;
                    return self.poll_inner(phase, cx);
                }
                Readiness::AskedAnew(_) | Readiness::Undecided => breaker.admit(),
                Readiness::Probe(probe) => match probe.probe() {
                    Some((phase, lease)) if breaker.probe_holds(phase, lease) => {
                        let polled = ready!(probe.run(|_| self.inner.poll_ready(cx)));
                        match &polled {
                            Ok(()) => breaker.probe_is_ready(phase, lease),
                            Err(error) => probe.settle(Err(error)),
                        }
                        return Poll::Ready(polled);
                    }
                    // The lease ran out while the service would not become ready.
                    _ => breaker.admit(),
                },
                // A readiness error would be the end of the service, so `call` refuses. The inner
                // service is left alone: it may be what is stuck, and asking it may reserve.
                Readiness::Rejected(_) => return Poll::Ready(Ok(())),
                Readiness::Pending(waiting) => ready!(waiting.poll(cx)),
            };
            self.readiness = match decision {
                Decision::Admitted { phase } => {
                    if breaker.config().pend {
                        self.readiness = Readiness::AskedAnew(Some(phase));
                    } else {
                        self.readiness = Readiness::Undecided;
                        self.admitted = Some(phase);
                    }
                    return self.poll_inner(phase, cx);
                }
                Decision::Rejected(_) if breaker.config().pend => {
                    Readiness::Pending(Waiting::join(&self.shared, cx))
                }
                Decision::Rejected(rejected) => Readiness::Rejected(rejected),
                Decision::Probe { phase, lease } => {
                    Readiness::Probe(self.admitted(phase, Some(lease)))
                }
            }
        }
    }

    /// Admits a call that was not found admitted by a breaker which is still closed: what has changed
    /// since the service was ready is taken for the worse.
    #[cold]
    fn admit_call(&mut self) -> Result<Admission<Arc<Shared<C>>>, Rejected> {
        let breaker = &self.shared.breaker;
        match mem::replace(&mut self.readiness, Readiness::fresh(breaker)) {
            Readiness::AskedAnew(Some(phase)) if breaker.phase() == phase => {
                Ok(self.admitted(phase, None))
            }
            Readiness::Probe(mut probe) => match probe.probe() {
                Some((phase, lease)) => match breaker.begin_probe(phase, lease) {
                    Decision::Probe { lease: same, .. } if same == lease => Ok(probe),
                    // The caller took its time: the lease is gone, and this is another or none.
                    decision => self.admission(decision),
                },
                None => self.admission(breaker.begin(breaker.admit())),
            },
            Readiness::Rejected(rejected) => Err(rejected),
            // Called without having been ready, which no caller should.
            Readiness::Undecided | Readiness::AskedAnew(_) | Readiness::Pending(_) => {
                self.admission(breaker.begin(breaker.admit()))
            }
        }
    }
}

impl<S: fmt::Debug, C, M> fmt::Debug for CircuitBreaker<S, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("inner", &self.inner)
            .field("breaker", &self.shared.breaker)
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish_non_exhaustive()
    }
}
