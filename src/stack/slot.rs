use std::{cell::Cell, sync::Arc, time::Duration};

use tower_layer::Layer;

use crate::{
    bulkhead::{Bulkhead, BulkheadLayer, QueuedBulkhead, QueuedBulkheadLayer},
    cache::{Cache, CacheLayer},
    call::completion::AtHead,
    circuit_breaker::{
        CircuitBreaker, CircuitBreakerLayer, KeyedCircuitBreaker, KeyedCircuitBreakerLayer,
    },
    describe::{Describe, Facts},
    fallback::{Fallback, FallbackLayer},
    outcome::choice::ChooseClassifier,
    retry::{Retry, RetryLayer},
    sealed::Sealed,
    telemetry::{Kind, Reporters},
    timeout::{KnownLimit, Timeout, TimeoutLayer, TotalTimeout, TotalTimeoutLayer},
};

/// A layer in a slot of a stack. This trait is sealed.
///
/// `C` is the stack's classifier, and `M` decides [when a call is complete](crate::completion).
pub trait Slot<S, C, M = AtHead>: Sealed {
    /// The service with the layer around it, or `S` itself if the slot is empty.
    type Service;

    /// Puts the layer around a service.
    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service;

    /// Puts the layer around a service, in a stack.
    fn wrap_in_stack(&self, inner: S, classifier: &Arc<C>, within: &Within<'_>) -> Self::Service {
        let _ = within;
        self.wrap(inner, classifier)
    }

    /// Returns the limit of a timeout, if it is known and not endless.
    fn limit(&self) -> Option<Duration> {
        None
    }

    /// Returns the limit of a timeout of the whole call, if it is known and not endless.
    fn total_limit(&self) -> Option<Duration> {
        None
    }
}

/// The stack around a layer, as far as the layer must know it.
#[derive(Clone, Copy, Debug)]
pub struct Within<'a> {
    /// The smaller of the stack's limits for a call and for an attempt, if they are known. A call
    /// that is cut sooner was cut by its caller.
    pub(super) own_limit: Option<Duration>,
    /// The stack's limit for a call, if it is known.
    pub(super) total: Option<Duration>,
    pub(crate) reporters: &'a Reporters,
    /// Set if a layer that is not of this crate is around all others.
    pub(super) is_around_call: &'a Cell<bool>,
    /// Set if the stack has a retry.
    pub(super) retries: &'a Cell<bool>,
}

/// A layer for the slot of the retry, where `T` is the transport. This trait is sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a retry",
    note = "`RetryLayer` and `Option<RetryLayer>` are; a builder becomes one by `.build()?`"
)]
pub trait RetrySlot<T>: Sealed {}

impl<T> RetrySlot<T> for Empty {}
impl<P, C> RetrySlot<Empty> for RetryLayer<P, C> {}
impl<T, L: RetrySlot<T>> RetrySlot<T> for Option<L> {}

/// A layer for the slot of the fallback. This trait is sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a fallback",
    note = "`FallbackLayer` and `Option<FallbackLayer>` are; a builder becomes one by `.build()?`"
)]
pub trait FallbackSlot: Sealed {}

impl<R, C> FallbackSlot for FallbackLayer<R, C> {}
impl<L: FallbackSlot> FallbackSlot for Option<L> {}

/// A layer for the slot of the bulkhead. This trait is sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a bulkhead",
    note = "`BulkheadLayer` and `QueuedBulkheadLayer` are; a builder becomes one by `.build()?`"
)]
pub trait BulkheadSlot: Sealed {}

impl BulkheadSlot for BulkheadLayer {}
impl BulkheadSlot for QueuedBulkheadLayer {}
impl<L: BulkheadSlot> BulkheadSlot for Option<L> {}

/// A layer for the slot of the circuit breaker. This trait is sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a circuit breaker",
    note = "`CircuitBreakerLayer` and `KeyedCircuitBreakerLayer` are; a builder becomes one by \
           `.build()?`"
)]
pub trait CircuitBreakerSlot: Sealed {}

impl<C> CircuitBreakerSlot for CircuitBreakerLayer<C> {}
impl<K, F, C> CircuitBreakerSlot for KeyedCircuitBreakerLayer<K, F, C> {}
impl<L: CircuitBreakerSlot> CircuitBreakerSlot for Option<L> {}

/// A layer for the slot of the cache. This trait is sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a cache",
    note = "`CacheLayer` and `Option<CacheLayer>` are; a builder becomes one by `.build()?`"
)]
pub trait CacheSlot: Sealed {}

impl<K, V, R, C> CacheSlot for CacheLayer<K, V, R, C> {}
impl<L: CacheSlot> CacheSlot for Option<L> {}

/// A time limit for the slots of the timeouts. This trait is sealed.
///
/// It is a `Duration`, a [`TimeoutLayer`], or an `Option` of either.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a time limit",
    note = "a `Duration` is, a `TimeoutLayer`, and an `Option` of either"
)]
pub trait IntoTimeout: Sealed {
    /// The layer around an attempt.
    type Attempt;
    /// The layer around the whole call.
    type Total;

    /// Returns the layer around an attempt.
    fn into_attempt(self) -> Self::Attempt;

    /// Returns the layer around the whole call, whose limit includes the wait for readiness.
    fn into_total(self) -> Self::Total;
}

impl Sealed for Duration {}

impl IntoTimeout for Duration {
    type Attempt = TimeoutLayer;
    type Total = TotalTimeoutLayer;

    fn into_attempt(self) -> TimeoutLayer {
        TimeoutLayer::new(self)
    }

    fn into_total(self) -> TotalTimeoutLayer {
        TimeoutLayer::new(self).into_total()
    }
}

impl<L> IntoTimeout for TimeoutLayer<L> {
    type Attempt = Self;
    type Total = TotalTimeoutLayer<L>;

    fn into_attempt(self) -> Self {
        self.in_slot(Kind::AttemptTimeout)
    }

    fn into_total(self) -> TotalTimeoutLayer<L> {
        self.in_slot(Kind::TotalTimeout).including_readiness()
    }
}

impl<T: IntoTimeout> IntoTimeout for Option<T> {
    type Attempt = Option<T::Attempt>;
    type Total = Option<T::Total>;

    fn into_attempt(self) -> Self::Attempt {
        self.map(T::into_attempt)
    }

    fn into_total(self) -> Self::Total {
        self.map(T::into_total)
    }
}

/// An empty slot. It adds nothing to the service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Empty;

impl Sealed for Empty {}

impl Describe for Empty {
    fn describe(&self, _: &mut Facts) {}
}

impl<S, C, M> Slot<S, C, M> for Empty {
    type Service = S;

    fn wrap(&self, inner: S, _: &Arc<C>) -> S {
        inner
    }
}

impl<S, C, M, L: KnownLimit + Clone> Slot<S, C, M> for TotalTimeoutLayer<L> {
    type Service = TotalTimeout<S, L>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.layer(inner)
    }

    fn wrap_in_stack(&self, inner: S, _: &Arc<C>, within: &Within<'_>) -> Self::Service {
        self.reporting(within.reporters, Kind::TotalTimeout).layer(inner)
    }

    fn limit(&self) -> Option<Duration> {
        self.known_limit().filter(|limit| *limit < Duration::MAX)
    }

    fn total_limit(&self) -> Option<Duration> {
        Slot::<S, C, M>::limit(self)
    }
}

impl<S, C, M, L: KnownLimit + Clone> Slot<S, C, M> for TimeoutLayer<L> {
    type Service = Timeout<S, L>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.layer(inner)
    }

    fn wrap_in_stack(&self, inner: S, _: &Arc<C>, within: &Within<'_>) -> Self::Service {
        self.reporting(within.reporters, Kind::AttemptTimeout).layer(inner)
    }

    fn limit(&self) -> Option<Duration> {
        self.known_limit().filter(|limit| *limit < Duration::MAX)
    }
}

impl<S, C, M, R, D: ChooseClassifier<C>> Slot<S, C, M> for FallbackLayer<R, D> {
    type Service = Fallback<S, R, D::Chosen, M>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        self.in_stack(classifier).completing(inner)
    }

    fn wrap_in_stack(&self, inner: S, classifier: &Arc<C>, within: &Within<'_>) -> Self::Service {
        self.inherit(within.reporters);
        self.in_stack(classifier).completing(inner)
    }
}

impl<S: Clone, C, M, P, D: ChooseClassifier<C>> Slot<S, C, M> for RetryLayer<P, D> {
    type Service = Retry<S, P, D::Chosen, M>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        self.in_stack(classifier, None).completing(inner)
    }

    fn wrap_in_stack(&self, inner: S, classifier: &Arc<C>, within: &Within<'_>) -> Self::Service {
        self.inherit(within.reporters);
        within.retries.set(true);
        self.in_stack(classifier, within.own_limit).completing(inner)
    }
}

impl<S, C, M> Slot<S, C, M> for BulkheadLayer {
    type Service = Bulkhead<S, M>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.completing(inner)
    }

    fn wrap_in_stack(&self, inner: S, _: &Arc<C>, within: &Within<'_>) -> Self::Service {
        self.inherit(within.reporters);
        self.completing(inner)
    }
}

impl<S, C, M> Slot<S, C, M> for QueuedBulkheadLayer {
    type Service = QueuedBulkhead<S, M>;

    fn wrap(&self, inner: S, _: &Arc<C>) -> Self::Service {
        self.completing(inner)
    }

    fn wrap_in_stack(&self, inner: S, _: &Arc<C>, within: &Within<'_>) -> Self::Service {
        self.inherit(within.reporters);
        self.completing(inner)
    }
}

impl<S, C, M, D: ChooseClassifier<C>> Slot<S, C, M> for CircuitBreakerLayer<D> {
    type Service = CircuitBreaker<S, D::Chosen, M>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        self.in_stack(classifier, None).completing(inner)
    }

    fn wrap_in_stack(&self, inner: S, classifier: &Arc<C>, within: &Within<'_>) -> Self::Service {
        self.inherit(within.reporters);
        self.in_stack(classifier, within.own_limit).completing(inner)
    }
}

impl<S, C, M, K, F, D: ChooseClassifier<C>> Slot<S, C, M> for KeyedCircuitBreakerLayer<K, F, D> {
    type Service = KeyedCircuitBreaker<S, K, F, D::Chosen, M>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        self.in_stack(classifier, None).completing(inner)
    }

    fn wrap_in_stack(&self, inner: S, classifier: &Arc<C>, within: &Within<'_>) -> Self::Service {
        self.inherit(within.reporters);
        self.in_stack(classifier, within.own_limit).completing(inner)
    }
}

impl<S, C, M, K, V, R, D> Slot<S, C, M> for CacheLayer<K, V, R, D>
where
    K: Eq + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
    D: ChooseClassifier<C>,
{
    type Service = Cache<S, K, V, R, D::Chosen, M>;

    fn wrap(&self, inner: S, classifier: &Arc<C>) -> Self::Service {
        self.completing(inner, classifier, None)
    }

    fn wrap_in_stack(&self, inner: S, classifier: &Arc<C>, within: &Within<'_>) -> Self::Service {
        self.inherit(within.reporters);
        self.completing(inner, classifier, within.total)
    }
}
