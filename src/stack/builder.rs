use std::{any::type_name, fmt, sync::Arc, time::Duration};

use tower_layer::Layer;
use tower_service::Service;

use super::{
    convert_error::{ConvertError, NotInAStack, PlainError},
    fits::GoesAround,
    open::{AROUND_ATTEMPT, AROUND_CALL, Open},
    slot::{BulkheadSlot, CircuitBreakerSlot, IntoTimeout, RetrySlot},
    table::{Fill, Filled, SlotAt, Slots as Table, StandardSlots, position},
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
};

/// The layers of a client, in the one right order whatever the order of the setters. See the
/// [module docs](super) for examples.
///
/// There is no need to write the type parameters: [`StandardStack`] and the other aliases of
/// [`stack`](super) stand for them in a struct.
#[must_use = "a stack does nothing until it is put around a service"]
pub struct Stack<Slots = Table, C = Inherited> {
    pub(super) slots: Slots,
    pub(super) classifier: Arc<C>,
    pub(super) under_balancer: bool,
}

/// The stack that [`Stack::standard`] returns.
pub type StandardStack<P> = Stack<StandardSlots<P>>;

/// The service that [`Stack::service`] returns: of the stack `St` around a service `S` that fails with
/// `E`. It is what the field of a struct holds:
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

/// The service that [`Stack::boxed`] returns: of the stack `St` around a service `S`.
pub type BoxedServiceOf<St, S> = <St as Layer<ConvertError<S, BoxError>>>::Service;

impl Stack {
    /// A stack with every slot empty.
    pub fn new() -> Self {
        Self { slots: Table::default(), classifier: Arc::new(Inherited), under_balancer: false }
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

impl<Slots, C> Stack<Slots, C> {
    pub(crate) fn with<Position, L>(self, layer: L) -> Stack<Filled<Slots, Position, L>, C>
    where
        Slots: Fill<Position, L>,
    {
        Stack {
            slots: self.slots.fill(layer),
            classifier: self.classifier,
            under_balancer: self.under_balancer,
        }
    }

    /// Puts a layer of your own around the whole call: around all layers of the stack, within the
    /// span of the call.
    ///
    /// Default: none.
    ///
    /// Any tower layer goes; for one that may be absent, `tower::util::option_layer`. It must keep the
    /// request, response and error types: [`service`](Self::service) and [`boxed`](Self::boxed) check
    /// that the whole stack does. What it rejects by itself is the result of the call: nothing here
    /// retries or counts it. [`explain`](Self::explain) knows no bound of its time.
    pub fn around_call<L>(
        self,
        layer: L,
    ) -> Stack<Filled<Slots, position::AroundCallPosition, Open<L>>, C>
    where
        Slots: Fill<position::AroundCallPosition, Open<L>>,
    {
        self.with(Open::new(layer, AROUND_CALL))
    }

    /// Bounds the whole call: a `Duration`, or a [`TimeoutLayer`](crate::timeout::TimeoutLayer)
    /// for a name or a limit per request, or an `Option` of either.
    /// The wait for readiness, the pauses and the queue count too.
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

    /// Sets the retry: a [`RetryLayer`], or an `Option` of one. It stands within the total timeout,
    /// outside everything else.
    pub fn retry<L>(self, layer: L) -> Stack<Filled<Slots, position::RetryPosition, L>, C>
    where
        L: RetrySlot<<Slots as SlotAt<position::TransportPosition>>::Layer>,
        Slots: SlotAt<position::TransportPosition> + Fill<position::RetryPosition, L>,
    {
        self.with(layer)
    }

    /// Sets the limit of concurrent calls: a [`BulkheadLayer`], a
    /// [`QueuedBulkheadLayer`](crate::bulkhead::QueuedBulkheadLayer), or an `Option` of either.
    pub fn bulkhead<L>(self, layer: L) -> Stack<Filled<Slots, position::BulkheadPosition, L>, C>
    where
        L: BulkheadSlot,
        Slots: Fill<position::BulkheadPosition, L>,
    {
        self.with(layer)
    }

    /// Sets the circuit breaker: a [`CircuitBreakerLayer`], one
    /// [by key](crate::circuit_breaker::KeyedCircuitBreakerLayer), or an `Option` of either.
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

    /// Bounds each attempt: a `Duration`, or a [`TimeoutLayer`](crate::timeout::TimeoutLayer)
    /// for a name or a limit per request, or an `Option` of either.
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

    /// Puts a layer of your own around each attempt: within the attempt's timeout, around
    /// [`http`](Self::http). It is the place to sign requests or to add headers.
    ///
    /// Default: none.
    ///
    /// Any tower layer goes; for one that may be absent, `tower::util::option_layer`. It must keep the
    /// request, response and error types, as in [`around_call`](Self::around_call). An error of its own
    /// counts as one of the service; a rejection is neither retried nor counted.
    ///
    /// A layer that hands the request to another task, such as a buffer, hides the deadline and the
    /// attempt from what is beneath. A layer of this crate belongs into its own slot: here it would not
    /// wait for the end of a body.
    pub fn around_attempt<L>(
        self,
        layer: L,
    ) -> Stack<Filled<Slots, position::AroundAttemptPosition, Open<L>>, C>
    where
        Slots: Fill<position::AroundAttemptPosition, Open<L>>,
    {
        self.with(Open::new(layer, AROUND_ATTEMPT))
    }

    /// Who judges the results, for every layer that has no classifier of its own.
    pub fn classify<D>(self, classifier: D) -> Stack<Slots, Own<D>> {
        Stack {
            slots: self.slots,
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
    pub fn classify_fn<F, Res, E>(self, f: F) -> Stack<Slots, Own<ClassifyFn<F>>>
    where
        F: Fn(Result<&Res, &E>) -> Outcome,
    {
        self.classify(classify_fn(f))
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

    /// Puts the stack around a service, whose error becomes a [`BoxError`]. It boxes the error, not the
    /// service.
    ///
    /// It is for services that fail with a `BoxError`, as tower's own layers do, and for layers in open
    /// slots that box. To give the service a short type, wrap it in `tower::util::BoxCloneSyncService`.
    pub fn boxed<S, Req>(self, service: S) -> <Self as Layer<ConvertError<S, BoxError>>>::Service
    where
        S: Service<Req>,
        S::Error: Into<BoxError>,
        Self: Layer<ConvertError<S, BoxError>> + GoesAround<S, Req, BoxError>,
    {
        self.layer(ConvertError::new(service))
    }
}

impl<Slots: Clone, C> Clone for Stack<Slots, C> {
    fn clone(&self) -> Self {
        Self {
            slots: self.slots.clone(),
            classifier: Arc::clone(&self.classifier),
            under_balancer: self.under_balancer,
        }
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
