//! A layer that may be absent.
//!
//! The bounds are chosen for short compile times. Each bound on a service, and each mention of its
//! types, makes the compiler prove the stack beneath once more. The costs of nested optional slots
//! multiply. Therefore `Optional` has only the bound `KeepsTypesOfInner`, and `OptionalFuture` has
//! it on the struct. Plain bounds on both services, with the two futures as parameters, took 1 to
//! 2.5 s for five optional slots. These bounds take 0.1 s.

use std::{
    fmt,
    future::Future,
    hash::Hash,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::slot::{Slot, Within};
use crate::{
    CarryRejection, Classify,
    bulkhead::{Bulkhead, QueuedBulkhead},
    cache::{Cache, Rules},
    call::completion::{Completion, Discard},
    circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker},
    fallback::{Fallback, Respond},
    replay::Replay,
    retry::Retry,
    sealed::Sealed,
    timeout::{Limit, Timeout, TotalTimeout},
};

impl<S, C, M, L> Slot<S, C, M> for Option<L>
where
    L: Slot<S, C, M>,
    L::Service: Around<Inner = S>,
{
    type Service = Optional<L::Service, S>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        match self {
            Some(layer) => Optional::Present(layer.wrap(inner, classifier)),
            None => Optional::Absent(inner),
        }
    }

    fn wrap_in_stack(&self, inner: S, classifier: &Arc<C>, within: &Within<'_>) -> Self::Service {
        match self {
            Some(layer) => Optional::Present(layer.wrap_in_stack(inner, classifier, within)),
            None => Optional::Absent(inner),
        }
    }

    fn limit(&self) -> Option<Duration> {
        self.as_ref().and_then(L::limit)
    }

    fn total_limit(&self) -> Option<Duration> {
        self.as_ref().and_then(L::total_limit)
    }
}

/// A service that a layer of this crate puts around another service. This trait is sealed.
pub trait Around: Sealed {
    /// The wrapped service.
    type Inner;
}

/// A service with the response and error types of the wrapped service. This trait is sealed.
pub trait KeepsTypesOfInner<Req>:
    Service<Req>
    + Around<
        Inner: Service<
            Req,
            Response = <Self as Service<Req>>::Response,
            Error = <Self as Service<Req>>::Error,
        >,
    >
{
}

/// Implements the two traits for the services of layers, with the bounds of their `Service`.
macro_rules! around {
    ($([$($P:ident),*] $service:ty $(, $bounded:ident: $bound:path)*;)+) => {$(
        impl<S, $($P),*> Sealed for $service {}

        impl<S, $($P),*> Around for $service {
            type Inner = S;
        }

        impl<S, Req, $($P),*> KeepsTypesOfInner<Req> for $service
        where
            S: Service<Req, Error: CarryRejection>,
            $($bounded: $bound,)*
        {
        }
    )+};
}

around! {
    [L] Timeout<S, L>, L: Limit<Req>;
    [L] TotalTimeout<S, L>, S: Clone, L: Limit<Req>;
    [R, C, M] Fallback<S, R, C, M>,
        R: Respond<Req, S::Response>, C: Classify<S::Response, S::Error>,
        M: Completion<S::Response>, M: Discard<Req>;
    [P, C, M] Retry<S, P, C, M>,
        S: Clone, P: Replay<Req>, C: Classify<S::Response, S::Error>, M: Completion<S::Response>;
    [M] Bulkhead<S, M>, M: Completion<S::Response>, M: Discard<Req>;
    [M] QueuedBulkhead<S, M>, S: Clone, M: Completion<S::Response>, M: Discard<Req>;
    [C, M] CircuitBreaker<S, C, M>,
        C: Classify<S::Response, S::Error>, M: Completion<S::Response>, M: Discard<Req>;
}

impl<S, K, F, C, M> Sealed for KeyedCircuitBreaker<S, K, F, C, M> {}

impl<S, K, F, C, M> Around for KeyedCircuitBreaker<S, K, F, C, M> {
    type Inner = S;
}

impl<S, K, F, C, M, Req> KeepsTypesOfInner<Req> for KeyedCircuitBreaker<S, K, F, C, M>
where
    S: Service<Req, Error: CarryRejection> + Clone,
    K: Hash + Eq,
    F: Fn(&Req) -> K,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response> + Discard<Req>,
{
}

impl<S, K, V, R, C, M> Sealed for Cache<S, K, V, R, C, M> {}

impl<S, K, V, R, C, M> Around for Cache<S, K, V, R, C, M> {
    type Inner = S;
}

impl<S, K, V, R, C, M, Req> KeepsTypesOfInner<Req> for Cache<S, K, V, R, C, M>
where
    S: Service<Req, Error: CarryRejection + Send, Response: Send, Future: Send>
        + Clone
        + Send
        + 'static,
    S::Response: 'static,
    S::Error: 'static,
    Req: Send + 'static,
    K: Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    R: Rules<Req, S::Response, K, V> + Send + Sync + 'static,
    C: Classify<S::Response, S::Error> + Send + Sync + 'static,
    M: Completion<S::Response>,
{
}

/// The service of a slot that was set to an `Option` of a layer.
#[derive(Clone, Debug)]
pub enum Optional<L, S> {
    /// The service with the layer around it.
    Present(L),
    /// The service without the layer.
    Absent(S),
}

impl<L, S, Req> Service<Req> for Optional<L, S>
where
    L: KeepsTypesOfInner<Req> + Around<Inner = S>,
{
    type Response = <L as Service<Req>>::Response;
    type Error = <L as Service<Req>>::Error;
    type Future = OptionalFuture<L, Req>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Self::Present(layered) => layered.poll_ready(cx),
            Self::Absent(service) => service.poll_ready(cx),
        }
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let state = match self {
            Self::Present(layered) => State::Present { future: layered.call(request) },
            Self::Absent(service) => State::Absent { future: service.call(request) },
        };
        OptionalFuture { state }
    }
}

pin_project! {
    /// The future of an [`Optional`].
    #[must_use = "futures do nothing unless polled"]
    pub struct OptionalFuture<L, Req>
    where
        L: KeepsTypesOfInner<Req>,
    {
        #[pin]
        state: State<<L as Service<Req>>::Future, <<L as Around>::Inner as Service<Req>>::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<L, S> {
        Present { #[pin] future: L },
        Absent { #[pin] future: S },
    }
}

impl<L, Req> Future for OptionalFuture<L, Req>
where
    L: KeepsTypesOfInner<Req>,
{
    type Output = Result<<L as Service<Req>>::Response, <L as Service<Req>>::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Present { future } => future.poll(cx),
            StateProj::Absent { future } => future.poll(cx),
        }
    }
}

impl<L, Req> fmt::Debug for OptionalFuture<L, Req>
where
    L: KeepsTypesOfInner<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptionalFuture").finish_non_exhaustive()
    }
}
