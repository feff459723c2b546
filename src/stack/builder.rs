use std::{any::type_name, fmt, sync::Arc, time::Duration};

use tower_layer::Layer;
use tower_service::Service;

use super::{
    lift::{ConvertError, PlainError},
    slot::{BulkheadSlot, CircuitBreakerSlot, Empty},
};
use crate::{
    BoxError, Error, Outcome,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    classify_fn,
    outcome::{
        ClassifyFn,
        choice::{Inherited, Own},
    },
    retry::RetryLayer,
    timeout::{TimeoutLayer, TotalTimeoutLayer},
};

/// The layers of a client, in the one right order whatever the order of the setters. See the
/// [module docs](super) for examples.
///
/// The type parameters are the slots, empty or filled, and the classifier; there is no need to write
/// them.
#[must_use = "a stack does nothing until it is put around a service"]
pub struct Stack<T = Empty, R = Empty, B = Empty, K = Empty, A = Empty, H = Empty, C = Inherited> {
    pub(super) total_timeout: T,
    pub(super) retry: R,
    pub(super) bulkhead: B,
    pub(super) circuit_breaker: K,
    pub(super) attempt_timeout: A,
    pub(super) edge: H,
    pub(super) classifier: Arc<C>,
    pub(super) under_balancer: bool,
}

/// A stack with every slot filled with its defaults.
pub type StandardStack<P> =
    Stack<TotalTimeoutLayer, RetryLayer<P>, BulkheadLayer, CircuitBreakerLayer, TimeoutLayer>;

impl Stack {
    /// A stack with every slot empty.
    pub fn new() -> Self {
        Self {
            total_timeout: Empty,
            retry: Empty,
            bulkhead: Empty,
            circuit_breaker: Empty,
            attempt_timeout: Empty,
            edge: Empty,
            classifier: Arc::new(Inherited),
            under_balancer: false,
        }
    }

    /// A stack with every slot filled as a service mesh would: 5 s in all and 2 s an attempt, up to
    /// three retries of what `replay` gives a copy of, within a budget of 10 %, 256 calls at once, and
    /// a breaker that opens for 30 s when half of at least 20 calls in 10 s failed.
    ///
    /// Any slot can be filled anew; a retry that is filled anew has its own policy, and `replay` is dropped.
    pub fn standard<P>(replay: P) -> StandardStack<P> {
        Stack::new()
            .total_timeout(Duration::from_secs(5))
            .retry(RetryLayer::new(replay))
            .bulkhead(BulkheadLayer::default())
            .circuit_breaker(CircuitBreakerLayer::new())
            .attempt_timeout(Duration::from_secs(2))
    }
}

impl Default for Stack {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, R, B, K, A, H, C> Stack<T, R, B, K, A, H, C> {
    /// Bounds the whole call: a `Duration`, or a [`TimeoutLayer`] for a name or a limit per request.
    /// The wait for readiness, the pauses and the queue count too.
    pub fn total_timeout<L>(
        self,
        limit: impl Into<TimeoutLayer<L>>,
    ) -> Stack<TotalTimeoutLayer<L>, R, B, K, A, H, C> {
        Stack {
            total_timeout: limit.into().including_readiness(),
            retry: self.retry,
            bulkhead: self.bulkhead,
            circuit_breaker: self.circuit_breaker,
            attempt_timeout: self.attempt_timeout,
            edge: self.edge,
            classifier: self.classifier,
            under_balancer: self.under_balancer,
        }
    }

    /// Retries, within the total and outside everything else.
    pub fn retry<P, D>(self, layer: RetryLayer<P, D>) -> Stack<T, RetryLayer<P, D>, B, K, A, H, C> {
        Stack {
            total_timeout: self.total_timeout,
            retry: layer,
            bulkhead: self.bulkhead,
            circuit_breaker: self.circuit_breaker,
            attempt_timeout: self.attempt_timeout,
            edge: self.edge,
            classifier: self.classifier,
            under_balancer: self.under_balancer,
        }
    }

    /// Limits the calls under way: a [`BulkheadLayer`] or a
    /// [`QueuedBulkheadLayer`](crate::bulkhead::QueuedBulkheadLayer).
    pub fn bulkhead<N: BulkheadSlot>(self, layer: N) -> Stack<T, R, N, K, A, H, C> {
        Stack {
            total_timeout: self.total_timeout,
            retry: self.retry,
            bulkhead: layer,
            circuit_breaker: self.circuit_breaker,
            attempt_timeout: self.attempt_timeout,
            edge: self.edge,
            classifier: self.classifier,
            under_balancer: self.under_balancer,
        }
    }

    /// Keeps calls from a dependency that fails: a [`CircuitBreakerLayer`], or one
    /// [by key](crate::circuit_breaker::KeyedCircuitBreakerLayer).
    pub fn circuit_breaker<N: CircuitBreakerSlot>(self, layer: N) -> Stack<T, R, B, N, A, H, C> {
        Stack {
            total_timeout: self.total_timeout,
            retry: self.retry,
            bulkhead: self.bulkhead,
            circuit_breaker: layer,
            attempt_timeout: self.attempt_timeout,
            edge: self.edge,
            classifier: self.classifier,
            under_balancer: self.under_balancer,
        }
    }

    /// Bounds each attempt: a `Duration`, or a [`TimeoutLayer`] for a name or a limit per request.
    pub fn attempt_timeout<L>(
        self,
        limit: impl Into<TimeoutLayer<L>>,
    ) -> Stack<T, R, B, K, TimeoutLayer<L>, H, C> {
        Stack {
            total_timeout: self.total_timeout,
            retry: self.retry,
            bulkhead: self.bulkhead,
            circuit_breaker: self.circuit_breaker,
            attempt_timeout: limit.into(),
            edge: self.edge,
            classifier: self.classifier,
            under_balancer: self.under_balancer,
        }
    }

    /// Who judges the results, for every layer that has no classifier of its own.
    pub fn classify<D>(self, classifier: D) -> Stack<T, R, B, K, A, H, Own<D>> {
        Stack {
            total_timeout: self.total_timeout,
            retry: self.retry,
            bulkhead: self.bulkhead,
            circuit_breaker: self.circuit_breaker,
            attempt_timeout: self.attempt_timeout,
            edge: self.edge,
            classifier: Arc::new(Own(classifier)),
            under_balancer: self.under_balancer,
        }
    }

    /// Judges the results by a function, for every layer that has no classifier of its own.
    ///
    /// The function sees what the service said, never a rejection of a layer. Under
    /// [`service`](Self::service) the service's own error is inside an [`Error`]:
    ///
    /// ```
    /// use buttress::{Error, Fault, Outcome, Stack};
    /// use std::io;
    ///
    /// let stack = Stack::new().classify_fn(|result: Result<&u16, &Error<io::Error>>| match result {
    ///     Ok(status) if *status < 500 => Outcome::Success,
    ///     Err(Error::Service(error)) if error.kind() == io::ErrorKind::InvalidInput => {
    ///         Outcome::Failure(Fault::Permanent)
    ///     }
    ///     _ => Outcome::Failure(Fault::Transient),
    /// });
    /// # let _ = stack;
    /// ```
    pub fn classify_fn<F, Res, E>(self, f: F) -> Stack<T, R, B, K, A, H, Own<ClassifyFn<F>>>
    where
        F: Fn(Result<&Res, &E>) -> Outcome,
    {
        self.classify(classify_fn(f))
    }

    /// Puts another layer next to the service.
    #[cfg(feature = "http")]
    pub(crate) fn with_edge<N>(self, edge: N) -> Stack<T, R, B, K, A, N, C> {
        Stack {
            total_timeout: self.total_timeout,
            retry: self.retry,
            bulkhead: self.bulkhead,
            circuit_breaker: self.circuit_breaker,
            attempt_timeout: self.attempt_timeout,
            edge,
            classifier: self.classifier,
            under_balancer: self.under_balancer,
        }
    }

    /// Says that the stack stands under a balancer, which takes another endpoint for one that is not
    /// ready. It changes nothing but what [`explain`](Self::explain) warns of.
    pub fn under_balancer(mut self) -> Self {
        self.under_balancer = true;
        self
    }

    /// Puts the stack around a service, whose error becomes [`Error<E>`](crate::Error).
    ///
    /// For a service that fails with a [`BoxError`], see [`boxed`](Self::boxed). For one that is in a
    /// stack already, use the stack as a [`Layer`]: its error can carry a rejection as it is, and put into
    /// another `Error` its rejections would look like errors of a service.
    pub fn service<S, Req>(
        self,
        service: S,
    ) -> <Self as Layer<ConvertError<S, Error<S::Error>>>>::Service
    where
        S: Service<Req>,
        S::Error: PlainError,
        Self: Layer<ConvertError<S, Error<S::Error>>>,
        <Self as Layer<ConvertError<S, Error<S::Error>>>>::Service:
            Service<Req, Error = Error<S::Error>>,
    {
        self.layer(ConvertError::new(service))
    }

    /// Puts the stack around a service, whose error becomes a [`BoxError`]: for services that fail
    /// with one, as tower's own layers do, and for those that are wrapped in layers that box.
    pub fn boxed<S, Req>(self, service: S) -> <Self as Layer<ConvertError<S, BoxError>>>::Service
    where
        S: Service<Req>,
        S::Error: Into<BoxError>,
        Self: Layer<ConvertError<S, BoxError>>,
        <Self as Layer<ConvertError<S, BoxError>>>::Service: Service<Req, Error = BoxError>,
    {
        self.layer(ConvertError::new(service))
    }
}

impl<T, R, B, K, A, H, C> Clone for Stack<T, R, B, K, A, H, C>
where
    T: Clone,
    R: Clone,
    B: Clone,
    K: Clone,
    A: Clone,
    H: Clone,
{
    fn clone(&self) -> Self {
        Self {
            total_timeout: self.total_timeout.clone(),
            retry: self.retry.clone(),
            bulkhead: self.bulkhead.clone(),
            circuit_breaker: self.circuit_breaker.clone(),
            attempt_timeout: self.attempt_timeout.clone(),
            edge: self.edge.clone(),
            classifier: Arc::clone(&self.classifier),
            under_balancer: self.under_balancer,
        }
    }
}

impl<T, R, B, K, A, H, C> fmt::Debug for Stack<T, R, B, K, A, H, C>
where
    T: fmt::Debug,
    R: fmt::Debug,
    B: fmt::Debug,
    K: fmt::Debug,
    A: fmt::Debug,
    H: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("total_timeout", &self.total_timeout)
            .field("retry", &self.retry)
            .field("bulkhead", &self.bulkhead)
            .field("circuit_breaker", &self.circuit_breaker)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("edge", &self.edge)
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish_non_exhaustive()
    }
}
