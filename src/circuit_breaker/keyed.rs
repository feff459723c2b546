//! A breaker for each key, a bounded number of them.

use std::{
    any::type_name,
    borrow::Borrow,
    fmt,
    hash::Hash,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tower_layer::Layer;
use tower_service::Service;

use super::{
    CircuitBreakerHandle,
    admission::admitted,
    breaker::Breaker,
    config::{Config, Settings},
    future::KeyedResponseFuture,
    shared::Shared,
};
use crate::{
    CarryRejection, Classify, ConfigError,
    call::{
        completion::{AtHead, Completion},
        oneshot::Oneshot,
    },
    keyed::{Kept, Keys},
    outcome::choice::{ChooseClassifier, Inherited},
};

/// A breaker that an operator holds open, or has taken out, is never forgotten.
impl Kept for Breaker {
    fn is_pinned(&self) -> bool {
        self.is_held()
    }
}

/// The breakers of all keys.
struct Breakers<K> {
    config: Arc<Config>,
    keys: Keys<K, Breaker>,
}

/// Settings of a [`KeyedCircuitBreakerLayer`]: those of each breaker, and how many there may be.
#[must_use = "a builder does nothing until `build`"]
pub struct KeyedCircuitBreakerBuilder<K, F, C = Inherited> {
    settings: Settings,
    classifier: C,
    key: F,
    max_keys: usize,
    idle: Duration,
    keyed: PhantomData<fn() -> K>,
}

impl<K, F, C> KeyedCircuitBreakerBuilder<K, F, C> {
    pub(super) fn new(settings: Settings, classifier: C, key: F) -> Self {
        Self {
            settings,
            classifier,
            key,
            max_keys: 10_000,
            idle: Duration::from_secs(600),
            keyed: PhantomData,
        }
    }

    /// Sets how many breakers there may be.
    ///
    /// Default: `10,000`, about 2 MB.
    ///
    /// Half as many keys are remembered for certain; beyond that, those that were not used lately
    /// are forgotten first. A breaker that an operator holds open or has disabled is never
    /// forgotten. It must be at least 2.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// Sets how long a breaker is kept that nobody uses: at least this long, less than twice as
    /// long while there is any traffic.
    ///
    /// Default: `10 min`, twice the longest time that a breaker stays open.
    ///
    /// It must not be zero, nor shorter than
    /// [`max_open_for`](super::CircuitBreakerBuilder::max_open_for).
    pub fn idle(mut self, time: Duration) -> Self {
        self.idle = time;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If one of them cannot work, two contradict each other, or the breakers are to
    /// [`pend`](super::CircuitBreakerBuilder::pend): which breaker a call is for is not known before
    /// there is a request.
    pub fn build(self) -> Result<KeyedCircuitBreakerLayer<K, F, C>, ConfigError>
    where
        K: Hash + Eq,
    {
        if self.max_keys < 2 {
            return Err(ConfigError::new("max_keys", self.max_keys, "it must be at least 2"));
        }
        ConfigError::require_positive("idle", self.idle)?;
        if self.settings.pend {
            let rule = "a keyed breaker must see the request before it can wait";
            return Err(ConfigError::new("pend", true, rule));
        }
        let config = Arc::new(self.settings.check()?);
        if self.idle < config.max_open_for {
            let rule =
                "it must not be shorter than `max_open_for`, or an open breaker is forgotten";
            return Err(ConfigError::new("idle", self.idle, rule));
        }
        Ok(KeyedCircuitBreakerLayer {
            breakers: Arc::new(Breakers {
                keys: Keys::new(self.max_keys, self.idle, config.origin),
                config,
            }),
            key: Arc::new(self.key),
            classifier: Arc::new(self.classifier),
        })
    }
}

impl<K, F, C> fmt::Debug for KeyedCircuitBreakerBuilder<K, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreakerBuilder")
            .field("settings", &self.settings)
            .field("key", &format_args!("{}", type_name::<F>()))
            .field("max_keys", &self.max_keys)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

/// A circuit breaker for each key, which makes [`KeyedCircuitBreaker`] services.
///
/// The layer *is* the breakers: clones of it, and all services that it makes, share them.
pub struct KeyedCircuitBreakerLayer<K, F, C = Inherited> {
    breakers: Arc<Breakers<K>>,
    key: Arc<F>,
    classifier: Arc<C>,
}

impl<K: Hash + Eq, F, C> KeyedCircuitBreakerLayer<K, F, C> {
    /// The handle of the breaker of `key`, if it has one: a key has none before its first call, nor
    /// after it was forgotten.
    pub fn handle<Q>(&self, key: &Q) -> Option<CircuitBreakerHandle>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.breakers.keys.get(key).map(CircuitBreakerHandle::new)
    }

    /// How many keys have a breaker now.
    pub fn keys(&self) -> usize {
        self.breakers.keys.len()
    }
}

impl<K, F, C> KeyedCircuitBreakerLayer<K, F, C> {
    /// The service, with calls that end as `M` says.
    pub(crate) fn completing<S, M>(&self, inner: S) -> KeyedCircuitBreaker<S, K, F, C, M> {
        KeyedCircuitBreaker { inner, layer: self.clone(), completion: PhantomData }
    }

    pub(super) fn config(&self) -> &Config {
        &self.breakers.config
    }

    /// The same breakers, with the stack's classifier where they have none of their own.
    pub(crate) fn in_stack<Stacked>(
        &self,
        stacked: &Arc<Stacked>,
    ) -> KeyedCircuitBreakerLayer<K, F, C::Chosen>
    where
        C: ChooseClassifier<Stacked>,
    {
        KeyedCircuitBreakerLayer {
            breakers: Arc::clone(&self.breakers),
            key: Arc::clone(&self.key),
            classifier: C::choose(&self.classifier, stacked),
        }
    }
}

impl<K, F, C> Clone for KeyedCircuitBreakerLayer<K, F, C> {
    fn clone(&self) -> Self {
        Self {
            breakers: Arc::clone(&self.breakers),
            key: Arc::clone(&self.key),
            classifier: Arc::clone(&self.classifier),
        }
    }
}

impl<K, F, C> fmt::Debug for KeyedCircuitBreakerLayer<K, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreakerLayer")
            .field("name", &self.breakers.config.name())
            .field("key", &format_args!("{}", type_name::<F>()))
            .finish_non_exhaustive()
    }
}

impl<S, K, F, C> Layer<S> for KeyedCircuitBreakerLayer<K, F, C> {
    type Service = KeyedCircuitBreaker<S, K, F, C>;

    fn layer(&self, inner: S) -> Self::Service {
        self.completing(inner)
    }
}

/// Keeps calls from a service that fails for their key. See the [module docs](super).
///
/// Which breaker decides is not known before there is a request. So it is always ready, and a call
/// that is let through waits in its future for a clone of the service.
pub struct KeyedCircuitBreaker<S, K, F, C, M = AtHead> {
    inner: S,
    layer: KeyedCircuitBreakerLayer<K, F, C>,
    completion: PhantomData<fn() -> M>,
}

accessors!(KeyedCircuitBreaker<S, K, F, C, M>);

impl<S: Clone, K, F, C, M> Clone for KeyedCircuitBreaker<S, K, F, C, M> {
    fn clone(&self) -> Self {
        self.layer.completing(self.inner.clone())
    }
}

impl<S, K, F, C, M, Req> Service<Req> for KeyedCircuitBreaker<S, K, F, C, M>
where
    S: Service<Req> + Clone,
    S::Error: CarryRejection,
    K: Hash + Eq,
    F: Fn(&Req) -> K,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = KeyedResponseFuture<S, Req, C, M>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let key = (self.layer.key)(&request);
        let Breakers { config, keys } = &*self.layer.breakers;
        let breaker = keys.entry(key, || Breaker::new(Arc::clone(config)));
        let decision = breaker.begin(breaker.admit());
        let shared = Shared { breaker, classifier: Arc::clone(&self.layer.classifier) };
        match decision.admission() {
            Ok((phase, lease)) => {
                let admission = admitted(shared, phase, lease);
                let call = Oneshot::waiting(self.inner.clone(), request);
                KeyedResponseFuture::called(call, admission)
            }
            Err(rejected) => KeyedResponseFuture::rejected(shared, rejected),
        }
    }
}

impl<S: fmt::Debug, K, F, C, M> fmt::Debug for KeyedCircuitBreaker<S, K, F, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreaker")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}
