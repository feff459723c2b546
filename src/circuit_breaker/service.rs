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
        completion::{AtHead, Completion, Discard},
    },
};

/// A service that rejects calls while the circuit is open. See the [module docs](super).
pub struct CircuitBreaker<S, C, M = AtHead> {
    inner: S,
    shared: Arc<Shared<C>>,
    /// The phase of a closed breaker that admits the next call.
    ///
    /// There is no admission yet, because only calls are counted.
    admitted: Option<Phase>,
    /// The decision that was made when the breaker was not closed.
    readiness: Readiness<C>,
    completion: PhantomData<fn() -> M>,
}

/// The decision made before the inner service is polled, kept until `call` takes it.
enum Readiness<C> {
    Undecided,
    /// The phase in which a breaker that pends last admitted a call.
    ///
    /// Such a breaker is asked again on each poll. The phase is separate from `admitted`, so that
    /// a breaker that rejects does not have to check its kind.
    AskedAnew(Option<Phase>),
    Probe(Admission<Arc<Shared<C>>>),
    Rejected(Rejected),
    /// Not ready until the breaker admits a call.
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
        // A probe and a place among the waiting callers belong to the instance that was polled.
        Self::new(self.inner.clone(), Arc::clone(&self.shared))
    }
}

impl<S, C, M, Req> Service<Req> for CircuitBreaker<S, C, M>
where
    S: Service<Req>,
    S::Error: CarryRejection,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response> + Discard<Req>,
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
            Err(rejected) => {
                M::discard(request);
                ResponseFuture::rejected(Arc::clone(&self.shared), rejected)
            }
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

    /// Polls the readiness of the service, for an admitted call.
    #[inline]
    fn poll_inner<Req>(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
    where
        S: Service<Req>,
        S::Error: CarryRejection,
        C: Classify<S::Response, S::Error>,
    {
        // Matched arm by arm, because passing on the whole result would copy it once more.
        match self.inner.poll_ready(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => {
                self.readiness_failed(phase, &error);
                Poll::Ready(Err(error))
            }
        }
    }

    /// Counts a failure to become ready as a failed call.
    #[cold]
    fn readiness_failed<Req>(&self, phase: Phase, error: &S::Error)
    where
        S: Service<Req>,
        S::Error: CarryRejection,
        C: Classify<S::Response, S::Error>,
    {
        self.admitted(phase, None).settle(Err(error));
    }

    /// Polls readiness while the breaker is not closed, or was not closed at the first poll.
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
                // A breaker that pends takes back its readiness if it has opened since. A
                // balancer polls once more before it calls, and then picks another endpoint.
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
                    // The lease expired before the service became ready.
                    _ => breaker.admit(),
                },
                // A readiness error would mean that the service is dead. Therefore `call` rejects
                // instead. The inner service is not polled, because it may hang, and because
                // polling it may reserve something.
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

    /// Admits a call without an admission that is still valid.
    ///
    /// A rejection stays valid even if the breaker has closed since. Any other decision is made
    /// again if the state has changed.
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
                    // The caller took too long. The lease has expired, and the call has a new
                    // decision.
                    decision => self.admission(decision),
                },
                None => self.admission(breaker.begin(breaker.admit())),
            },
            Readiness::Rejected(rejected) => Err(rejected),
            // `call` without readiness, which breaks the contract of `Service`.
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
