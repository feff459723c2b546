//! Puts the layers together in the one right order.
//!
//! Use it around every client of a remote service. Slots may be filled in any order; the layers nest
//! as they must. A slot that is not filled costs nothing. Where the order must be another, put the
//! layers together by hand.
//!
//! ```
//! use buttress::{Stack, retry::ReplayClones};
//! use tower::{ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress::Error<std::io::Error>> {
//! let client = service_fn(|path: String| async move { Ok::<_, std::io::Error>(path.len()) });
//! let client = Stack::standard(ReplayClones).service(client);
//!
//! assert_eq!(client.oneshot("/orders".to_owned()).await?, 7);
//! # Ok(())
//! # }
//! ```
//!
//! With a breaker and a bulkhead of one's own, and one verdict for all layers:
//!
//! ```
//! use buttress::{
//!     Fault, Outcome, Stack,
//!     bulkhead::BulkheadLayer,
//!     circuit_breaker::CircuitBreakerLayer,
//!     retry::{RetryLayer, replay_fn},
//! };
//! use std::time::Duration;
//! use tower::service_fn;
//!
//! let breaker = CircuitBreakerLayer::builder().name("orders").build()?;
//! let operator = breaker.handle();
//! let client = service_fn(|path: &'static str| async move { Ok::<_, std::io::Error>(path.len()) });
//!
//! let client = Stack::new()
//!     .total_timeout(Duration::from_secs(3))
//!     .retry(RetryLayer::new(replay_fn(|path: &&'static str| Some(*path))))
//!     .circuit_breaker(breaker)
//!     .bulkhead(BulkheadLayer::builder().max_concurrent(64).build()?)
//!     .attempt_timeout(Duration::from_secs(1))
//!     .classify_fn(|result: Result<&usize, &_>| match result {
//!         Ok(length) if *length > 0 => Outcome::Success,
//!         _ => Outcome::Failure(Fault::Transient),
//!     })
//!     .service(client);
//! # let _ = (client, operator);
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # Order
//!
//! Outermost first, and why each stands where it stands:
//!
//! ```text
//! call span         one span for what the caller calls one call
//! total timeout     bounds everything beneath, pauses and queues included
//! retry             each attempt passes all that is beneath, and sleeps holding none of it
//! bulkhead          time in its queue is not held against the dependency
//! circuit breaker   asked after the queue: a trip empties the queue at once
//! attempt timeout   what it ends counts as a failure of the dependency
//! http              with `http()`: headers of the hop, with the time that this attempt has left
//! service
//! ```
//!
//! # Readiness
//!
//! A stack with a total timeout is always ready, and waits in its future. So a balancer above it cannot
//! see that a breaker in it is open or a bulkhead full: there, put the total timeout and the retry above
//! the balancer, and give each endpoint a stack of the others.
//!
//! # Clone
//!
//! The service is `Clone` when the one that it wraps is. What the layers count is shared by all clones,
//! and by all services made from clones of the same layers.
//!
//! # Cancellation
//!
//! Dropping the future drops what is under way, and every layer gives back what it held.
//!
//! # Errors
//!
//! Three ways in. [`Stack::service`] makes the error [`Error<E>`](crate::Error). [`Stack::boxed`] makes
//! it a [`BoxError`]. As a [`Layer`] the stack leaves the error alone, which must then
//! be able to carry a rejection.
//!
//! # Telemetry
//!
//! A span for each call around all that the layers emit.
//!
//! # When a call has ended
//!
//! With its response; with [`http`](Stack::http), with the end of the body of its response.

mod explain;
mod lift;
mod slot;

use std::{any::type_name, error::Error as StdError, fmt, sync::Arc, time::Duration};

use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "http")]
pub use self::slot::ServerEdge;
pub use self::{
    explain::{Describe, Explanation, Facts, Warning},
    lift::{Lift, LiftFuture},
    slot::{BulkheadSlot, CircuitBreakerSlot, Edge, Empty, Slot},
};
use crate::{
    BoxError, ClassifyFn, Error, Outcome,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    classify_fn,
    outcome::choice::{Choice, Inherited, Own},
    retry::RetryLayer,
    telemetry::{CallSpan, CallSpanLayer},
    timeout::{TimeoutLayer, TotalTimeoutLayer},
};

/// The layers of a client, in the one right order whatever the order of the setters. See the
/// [module docs](self) for examples.
///
/// The type parameters are the slots, empty or filled, and the classifier; there is no need to write
/// them.
#[must_use = "a stack does nothing until it is put around a service"]
pub struct Stack<T = Empty, R = Empty, B = Empty, K = Empty, A = Empty, H = Empty, C = Inherited> {
    total_timeout: T,
    retry: R,
    bulkhead: B,
    circuit_breaker: K,
    attempt_timeout: A,
    edge: H,
    classifier: Arc<C>,
    under_balancer: bool,
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

    /// For an HTTP or gRPC client: answers are judged by their status, hints of the server are heeded,
    /// deadlines and attempts are written into the headers, and a call ends with the body of its
    /// response. See [`http`](crate::http).
    ///
    /// The service answers with a `Response<ResponseBody<B>>`. A classifier that was set stays, and judges; what
    /// it has no hint for is still looked for in the answer. An error of your own has to be a
    /// [`Cause`](crate::http::Cause) too.
    ///
    /// ```
    /// use buttress::{Fault, Outcome, Stack, http::ReplaySafe};
    /// use http::{Request, Response};
    /// # use tower::service_fn;
    ///
    /// # let client = service_fn(|_: Request<String>| async {
    /// #     Ok::<_, std::io::Error>(Response::new(String::new()))
    /// # });
    /// let client = Stack::standard(ReplaySafe::new())
    ///     .http()
    ///     .classify_fn(|result: Result<&Response<_>, &_>| match result {
    ///         Ok(response) if !response.status().is_server_error() => Outcome::Success,
    ///         _ => Outcome::Failure(Fault::Transient),
    ///     })
    ///     .service(client);
    /// # let _ = client;
    /// ```
    #[cfg(feature = "http")]
    pub fn http(self) -> Stack<T, R, B, K, A, crate::http::ClientLayer, C> {
        self.http_client(crate::http::ClientLayer::new())
    }

    /// The same, with settings of one's own.
    #[cfg(feature = "http")]
    pub fn http_client(
        self,
        client: crate::http::ClientLayer,
    ) -> Stack<T, R, B, K, A, crate::http::ClientLayer, C> {
        self.with_edge(client)
    }

    /// For the handlers of a server.
    #[cfg(feature = "http")]
    pub(crate) fn on_server(self) -> Stack<T, R, B, K, A, ServerEdge, C> {
        self.with_edge(ServerEdge)
    }

    #[cfg(feature = "http")]
    fn with_edge<N>(self, edge: N) -> Stack<T, R, B, K, A, N, C> {
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
    pub fn service<S, Req>(self, service: S) -> <Self as Layer<Lift<S, Error<S::Error>>>>::Service
    where
        S: Service<Req>,
        S::Error: PlainError,
        Self: Layer<Lift<S, Error<S::Error>>>,
        <Self as Layer<Lift<S, Error<S::Error>>>>::Service: Service<Req, Error = Error<S::Error>>,
    {
        self.layer(Lift::new(service))
    }

    /// Puts the stack around a service, whose error becomes a [`BoxError`]: for services that fail
    /// with one, as tower's own layers do, and for those that are wrapped in layers that box.
    pub fn boxed<S, Req>(self, service: S) -> <Self as Layer<Lift<S, BoxError>>>::Service
    where
        S: Service<Req>,
        S::Error: Into<BoxError>,
        Self: Layer<Lift<S, BoxError>>,
        <Self as Layer<Lift<S, BoxError>>>::Service: Service<Req, Error = BoxError>,
    {
        self.layer(Lift::new(service))
    }
}

/// An error that [`Stack::service`] can put into an [`Error<E>`](crate::Error), and that stays a
/// [`std::error::Error`] there.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `std::error::Error`, which `Stack::service` asks for",
    label = "this service fails with `{Self}`",
    note = "for a boxed error, as tower's own layers have it, call `Stack::boxed(service)`"
)]
pub trait PlainError: StdError {}

#[diagnostic::do_not_recommend]
impl<E: StdError> PlainError for E {}

/// The classifier that the layers of a stack inherit.
type Chosen<C, H> = <C as Choice<<H as Edge>::Classifier>>::Chosen;

impl<S, T, R, B, K, A, H, C> Layer<S> for Stack<T, R, B, K, A, H, C>
where
    H: Edge + Slot<S, Chosen<C, H>, H::Completion>,
    C: Choice<H::Classifier>,
    A: Slot<H::Service, Chosen<C, H>, H::Completion>,
    K: Slot<A::Service, Chosen<C, H>, H::Completion>,
    B: Slot<K::Service, Chosen<C, H>, H::Completion>,
    R: Slot<B::Service, Chosen<C, H>, H::Completion>,
    T: Slot<R::Service, Chosen<C, H>, H::Completion>,
{
    type Service = CallSpan<T::Service, H::Completion>;

    fn layer(&self, service: S) -> Self::Service {
        let classifier = C::choose(&self.classifier, &self.edge.classifier());
        let service = self.edge.wrap(service, &classifier);
        let service = self.attempt_timeout.wrap(service, &classifier);
        let service = self.circuit_breaker.wrap(service, &classifier);
        let service = self.bulkhead.wrap(service, &classifier);
        let service = self.retry.wrap(service, &classifier);
        let service = self.total_timeout.wrap(service, &classifier);
        CallSpanLayer::new().completing(service)
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
