use std::{any::type_name, fmt, sync::Arc, time::Duration};

use tower_layer::Layer;
use tower_service::Service;

use super::{
    convert_error::{ConvertError, NotInAStack, PlainError},
    fits::GoesAround,
    fresh::Fresh,
    open::{AROUND_ATTEMPT, AROUND_CALL, Open},
    slot::{BulkheadSlot, CacheSlot, CircuitBreakerSlot, FallbackSlot, IntoTimeout, RetrySlot},
    table::{Fill, Filled, SlotAt, Slots as Table, StandardSlots, position},
    untimed::Untimed,
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
    telemetry::Reporters,
};

/// A stack of layers around a client, in the correct order.
///
/// The order of the setters does not matter. See the [module docs](super) for examples.
///
/// A clone shares the state of the layers. For another upstream, use [`fresh`](Self::fresh).
///
/// You do not have to write the type parameters. For a field of a struct, use [`StandardStack`] and
/// the other aliases of [`stack`](super).
#[must_use = "a stack does nothing until it is put around a service"]
pub struct Stack<Slots = Table, C = Inherited> {
    pub(super) slots: Slots,
    pub(super) classifier: Arc<C>,
    pub(super) under_balancer: bool,
    pub(super) reporters: Reporters,
}

/// The stack that [`Stack::standard`] returns.
pub type StandardStack<P> = Stack<StandardSlots<P>>;

/// The service that [`Stack::service`] returns.
///
/// `St` is the stack, `S` is the wrapped service, and `E` is the error of `S`. Use it for the field
/// of a struct:
///
/// ```
/// use buttress::{
///     Stack,
///     retry::ReplayClones,
///     stack::{ServiceOf, StandardStack},
/// };
/// # use std::{convert::Infallible, future::{Ready, ready}, task::{Context, Poll}};
/// # #[derive(Clone)]
/// # struct Client;
/// # impl tower::Service<u32> for Client {
/// #     type Response = u32;
/// #     type Error = Infallible;
/// #     type Future = Ready<Result<u32, Infallible>>;
/// #     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
/// #         Poll::Ready(Ok(()))
/// #     }
/// #     fn call(&mut self, n: u32) -> Self::Future {
/// #         ready(Ok(n))
/// #     }
/// # }
///
/// struct Orders {
///     client: ServiceOf<StandardStack<ReplayClones>, Client, Infallible>,
/// }
///
/// let orders = Orders { client: Stack::standard(ReplayClones).service(Client) };
/// # let _ = orders.client;
/// ```
pub type ServiceOf<St, S, E> = <St as Layer<ConvertError<S, Error<E>>>>::Service;

/// The service that [`Stack::boxed`] returns. `St` is the stack, and `S` is the wrapped service.
pub type BoxedServiceOf<St, S> = <St as Layer<ConvertError<S, BoxError>>>::Service;

impl Stack {
    /// Creates a stack without layers.
    pub fn new() -> Self {
        Self {
            slots: Table::default(),
            classifier: Arc::new(Inherited),
            under_balancer: false,
            reporters: Reporters::new(None, None),
        }
    }

    /// Creates a stack that sets every layer to its default.
    ///
    /// The values are similar to the defaults of a service mesh:
    ///
    /// | layer | value |
    /// |---|---|
    /// | total timeout | 5 s |
    /// | retry | up to 3 retries of the requests that `replay` copies, with a budget of 10 retries at the start and one more for every 10 calls |
    /// | bulkhead | 256 concurrent calls |
    /// | circuit breaker | opens at a 50 % failure rate (10 s window, at least 20 calls) for 30 s, doubling up to 5 min; half-open admits 3 probes |
    /// | attempt timeout | 2 s |
    ///
    /// Call a setter to override one layer. If you set the retry, its policy replaces `replay`.
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

impl<Slots, C> Stack<Slots, C> {
    pub(crate) fn with<Position, L>(self, layer: L) -> Stack<Filled<Slots, Position, L>, C>
    where
        Slots: Fill<Position, L>,
    {
        Stack {
            slots: self.slots.fill(layer),
            classifier: self.classifier,
            under_balancer: self.under_balancer,
            reporters: self.reporters,
        }
    }

    /// Sets a layer of your own around the whole call.
    ///
    /// Default: none.
    ///
    /// It is outside all layers of the stack, but inside the span of the call. Any tower layer can
    /// be used. For a layer that may be absent, use `tower::util::option_layer`. The layer must
    /// keep the request, response and error types. [`service`](Self::service) and
    /// [`boxed`](Self::boxed) check this at compile time.
    ///
    /// If the layer rejects a call, the rejection is the result of the call. No layer of the stack
    /// retries it or counts it. No timeout of the stack limits the time of the layer. Therefore
    /// the [`worst_time`](super::Explanation::worst_time) of [`explain`](Self::explain) is `None`.
    pub fn around_call<L>(
        self,
        layer: L,
    ) -> Stack<Filled<Slots, position::AroundCallPosition, Open<L>>, C>
    where
        Slots: Fill<position::AroundCallPosition, Open<L>>,
    {
        self.with(Open::new(layer, AROUND_CALL))
    }

    /// Sets the fallback, which responds when the call fails.
    ///
    /// Default: none.
    ///
    /// Pass a [`FallbackLayer`](crate::fallback::FallbackLayer) or an `Option` of one. It is
    /// outside the total timeout, and its time is not part of it.
    pub fn fallback<L>(self, layer: L) -> Stack<Filled<Slots, position::FallbackPosition, L>, C>
    where
        L: FallbackSlot,
        Slots: Fill<position::FallbackPosition, L>,
    {
        self.with(layer)
    }

    /// Sets the cache.
    ///
    /// Default: none.
    ///
    /// Pass a [`CacheLayer`](crate::cache::CacheLayer) or an `Option` of one. It is outside the
    /// total timeout, so a call that times out can still get an older response.
    pub fn cache<L>(self, layer: L) -> Stack<Filled<Slots, position::CachePosition, L>, C>
    where
        L: CacheSlot,
        Slots: Fill<position::CachePosition, L>,
    {
        self.with(layer)
    }

    /// Sets the limit for the whole call.
    ///
    /// Default: none. In a standard stack: `5 s`.
    ///
    /// In a stack with [`http`](Self::http), the limit of an HTTP call covers only the head of the
    /// response. It also covers the body for gRPC, and with
    /// [`body_deadline`](crate::http::HttpClientBuilder::body_deadline).
    ///
    /// Pass a `Duration`, a [`TimeoutLayer`](crate::timeout::TimeoutLayer) with a name or a limit
    /// per request, or an `Option` of either. The limit includes the wait for readiness, the
    /// pauses of the retry and the wait in a queue. With a limit of zero, only a call that
    /// completes on its first poll can succeed. [`explain`](Self::explain) warns about it.
    pub fn total_timeout<L>(
        self,
        limit: L,
    ) -> Stack<Filled<Slots, position::TotalTimeoutPosition, L::Total>, C>
    where
        L: IntoTimeout,
        Slots: Fill<position::TotalTimeoutPosition, L::Total>,
    {
        self.with(limit.into_total())
    }

    /// Sets the retry.
    ///
    /// Default: none. In a standard stack: up to 3 retries.
    ///
    /// Pass a [`RetryLayer`] or an `Option` of one. It is inside the total timeout, and outside
    /// the bulkhead, the breaker and the attempt timeout.
    pub fn retry<L>(self, layer: L) -> Stack<Filled<Slots, position::RetryPosition, L>, C>
    where
        L: RetrySlot<<Slots as SlotAt<position::TransportPosition>>::Layer>,
        Slots: SlotAt<position::TransportPosition> + Fill<position::RetryPosition, L>,
    {
        self.with(layer)
    }

    /// Sets the limit of concurrent calls.
    ///
    /// Default: none. In a standard stack: `256`, and further calls are rejected.
    ///
    /// Pass a [`BulkheadLayer`], a [`QueuedBulkheadLayer`](crate::bulkhead::QueuedBulkheadLayer),
    /// or an `Option` of either.
    pub fn bulkhead<L>(self, layer: L) -> Stack<Filled<Slots, position::BulkheadPosition, L>, C>
    where
        L: BulkheadSlot,
        Slots: Fill<position::BulkheadPosition, L>,
    {
        self.with(layer)
    }

    /// Sets the circuit breaker.
    ///
    /// Default: none. In a standard stack: [`CircuitBreakerLayer::new`].
    ///
    /// Pass a [`CircuitBreakerLayer`], a
    /// [`KeyedCircuitBreakerLayer`](crate::circuit_breaker::KeyedCircuitBreakerLayer), or an
    /// `Option` of either.
    pub fn circuit_breaker<L>(
        self,
        layer: L,
    ) -> Stack<Filled<Slots, position::CircuitBreakerPosition, L>, C>
    where
        L: CircuitBreakerSlot,
        Slots: Fill<position::CircuitBreakerPosition, L>,
    {
        self.with(layer)
    }

    /// Sets the limit for each attempt.
    ///
    /// Default: none. In a standard stack: `2 s`.
    ///
    /// It covers the body of a response as [`total_timeout`](Self::total_timeout) does.
    ///
    /// Pass a `Duration`, a [`TimeoutLayer`](crate::timeout::TimeoutLayer) with a name or a limit
    /// per request, or an `Option` of either. With a limit of zero, only an attempt that completes
    /// on its first poll can succeed. [`explain`](Self::explain) warns about it.
    pub fn attempt_timeout<L>(
        self,
        limit: L,
    ) -> Stack<Filled<Slots, position::AttemptTimeoutPosition, L::Attempt>, C>
    where
        L: IntoTimeout,
        Slots: Fill<position::AttemptTimeoutPosition, L::Attempt>,
    {
        self.with(limit.into_attempt())
    }

    /// Sets a layer of your own around each attempt.
    ///
    /// Default: none.
    ///
    /// It is inside the attempt timeout and outside [`http`](Self::http). Use it to sign requests
    /// or to add headers. Any tower layer can be used. For a layer that may be absent, use
    /// `tower::util::option_layer`. The layer must keep the request, response and error types, as
    /// in [`around_call`](Self::around_call). An error of the layer itself counts as an error of
    /// the service. A rejection by the layer is neither retried nor counted.
    ///
    /// A layer that passes the request to another task, such as a buffer, hides the deadline and
    /// the attempt from the layers beneath. Put a layer of this crate into its own slot. Here it
    /// would not wait for the end of the body.
    pub fn around_attempt<L>(
        self,
        layer: L,
    ) -> Stack<Filled<Slots, position::AroundAttemptPosition, Open<L>>, C>
    where
        Slots: Fill<position::AroundAttemptPosition, Open<L>>,
    {
        self.with(Open::new(layer, AROUND_ATTEMPT))
    }

    /// Sets the classifier for every layer that does not have its own.
    ///
    /// Default: none. The layers use the
    /// [`DefaultClassifier`](crate::outcome::DefaultClassifier), or with [`http`](Self::http) the
    /// classifier of the HTTP client.
    pub fn classify<D>(self, classifier: D) -> Stack<Slots, Own<D>> {
        Stack {
            slots: self.slots,
            classifier: Arc::new(Own(classifier)),
            under_balancer: self.under_balancer,
            reporters: self.reporters,
        }
    }

    /// Sets a closure as the classifier for every layer that does not have its own.
    ///
    /// Default: none, as for [`classify`](Self::classify).
    ///
    /// The closure sees results of the service, never a rejection by a layer. Under
    /// [`service`](Self::service) the service's own error is inside an [`Error`]:
    ///
    /// ```
    /// use buttress::{Error, Fault, Outcome, Stack};
    /// use std::io;
    /// use tower::service_fn;
    ///
    /// let client = service_fn(|_path: &'static str| async { Ok::<u16, io::Error>(200) });
    /// let client = Stack::new()
    ///     .classify_fn(|result: Result<&u16, &Error<io::Error>>| match result {
    ///         Ok(status) if *status < 500 => Outcome::Success,
    ///         Err(Error::Service(error)) if error.kind() == io::ErrorKind::InvalidInput => {
    ///             Outcome::Failure(Fault::Permanent)
    ///         }
    ///         _ => Outcome::Failure(Fault::Transient),
    ///     })
    ///     .service(client);
    /// # let _ = client;
    /// ```
    pub fn classify_fn<F, Res, E>(self, f: F) -> Stack<Slots, Own<ClassifyFn<F>>>
    where
        F: Fn(Result<&Res, &E>) -> Outcome,
    {
        self.classify(classify_fn(f))
    }

    /// Declares that the stack is used under a balancer.
    ///
    /// Default: off.
    ///
    /// A balancer picks another endpoint instead of one that is not ready. The setting changes only
    /// the warnings of [`explain`](Self::explain).
    pub fn under_balancer(mut self) -> Self {
        self.under_balancer = true;
        self
    }

    /// Returns a stack with the same settings and a state of its own, for another upstream.
    ///
    /// Its breaker is closed, its bulkhead is empty and its retry budget has the initial balance.
    /// The budget is separate even if other layers share it. A clone would share all three.
    /// Handles of the original do not control it, so set a layer again if you need its handle. A
    /// limit that was set with [`resize`](crate::bulkhead::BulkheadHandle::resize) is kept. Layers
    /// in the open slots are cloned, and classifiers and the replay policy are shared.
    ///
    /// ```
    /// use buttress::{Stack, bulkhead::BulkheadLayer, retry::ReplayClones};
    /// # use tower::service_fn;
    /// # let orders = service_fn(|x: u32| async move { Ok::<_, std::io::Error>(x) });
    /// # let payments = orders.clone();
    ///
    /// let stack = Stack::standard(ReplayClones)
    ///     .bulkhead(BulkheadLayer::builder().max_concurrent(64).build()?);
    /// // If the payments fail, the breaker of the orders stays closed.
    /// let payments = stack.fresh().service(payments);
    /// let orders = stack.service(orders);
    /// # let _ = (orders, payments);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn fresh(&self) -> Self
    where
        Slots: Fresh,
    {
        Self { reporters: self.reporters.fresh(), ..self.with_slots(self.slots.fresh()) }
    }

    /// Returns a stack with these slots, and the same classifier and name.
    fn with_slots(&self, slots: Slots) -> Self {
        let (classifier, reporters) = (Arc::clone(&self.classifier), self.reporters.clone());
        Self { slots, classifier, under_balancer: self.under_balancer, reporters }
    }

    /// Wraps a service, whose error becomes [`Error<E>`](crate::Error).
    ///
    /// For a service that fails with a [`BoxError`], use [`boxed`](Self::boxed). For a service
    /// that is already in a stack, use the outer stack as a [`Layer`], because the error can
    /// already carry a rejection. Inside another `Error`, a rejection would look like an error of
    /// the service.
    pub fn service<S, Req, Why>(
        self,
        service: S,
    ) -> <Self as Layer<ConvertError<S, Error<S::Error>>>>::Service
    where
        S: Service<Req>,
        S::Error: PlainError + NotInAStack<Why>,
        Self: Layer<ConvertError<S, Error<S::Error>>> + GoesAround<S, Req, Error<S::Error>>,
    {
        self.layer(ConvertError::new(service))
    }

    /// Wraps a service, whose error becomes a [`BoxError`].
    ///
    /// Use it for services that fail with a `BoxError`, such as tower's own layers, and for layers
    /// in [`around_call`](Self::around_call) or [`around_attempt`](Self::around_attempt) that box
    /// their errors. It boxes the error, not the service. To get a short type, wrap the result in
    /// `tower::util::BoxCloneSyncService`. Also do that if the compiler says that an implementation
    /// "is not general enough". It cannot prove otherwise that an `async` block that calls the
    /// service is `Send`.
    ///
    /// Rejections by tower's `LoadShed` and `Timeout` beneath the stack are not retried, and are
    /// not failures of the dependency. A breaker counts a call that `Timeout` ended like one that
    /// its caller dropped.
    pub fn boxed<S, Req>(self, service: S) -> <Self as Layer<ConvertError<S, BoxError>>>::Service
    where
        S: Service<Req>,
        S::Error: Into<BoxError>,
        Self: Layer<ConvertError<S, BoxError>> + GoesAround<S, Req, BoxError>,
    {
        self.layer(ConvertError::new(service))
    }
}

impl<Slots: Untimed, C> Untimed for Stack<Slots, C> {
    fn untimed(&self) -> Self {
        self.with_slots(self.slots.untimed())
    }
}

impl<Slots: Clone, C> Clone for Stack<Slots, C> {
    fn clone(&self) -> Self {
        self.with_slots(self.slots.clone())
    }
}

impl<Slots: fmt::Debug, C> fmt::Debug for Stack<Slots, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("slots", &self.slots)
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish_non_exhaustive()
    }
}
