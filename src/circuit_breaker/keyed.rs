//! A separate breaker for each key, in bounded memory.

use std::{
    any::type_name,
    borrow::Borrow,
    fmt,
    hash::Hash,
    marker::PhantomData,
    sync::{
        Arc, Weak,
        atomic::{Ordering, fence},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    CircuitBreakerHandle,
    admission::admitted,
    breaker::Breaker,
    config::{Config, Settings},
    future::KeyedResponseFuture,
    key_counts::KeyCounts,
    shared::{OfKey, Rules},
    state::State,
};
use crate::{
    CarryRejection, Classify, ConfigError,
    call::{
        completion::{AtHead, Completion, Discard},
        lock::lock,
        oneshot::Oneshot,
    },
    keyed::{DescribeKey, Kept, Keys, Rank},
    outcome::choice::{ChooseClassifier, Inherited},
    telemetry::{LayerState, Registry, Reporters, instrument::CIRCUIT_BREAKER_KEYS_EVICTED},
};

impl Kept for Breaker {
    fn rank(&self) -> Rank {
        match self.phase().state() {
            State::Closed => Rank::Ordinary,
            State::Open | State::HalfOpen => Rank::Preferred,
            State::ForcedOpen if self.still_open(Instant::now()).is_none() => Rank::Preferred,
            State::ForcedOpen | State::Disabled => Rank::Pinned,
        }
    }

    /// Returns `true` until the open time has elapsed.
    fn outlasts(&self, now: Instant) -> bool {
        self.phase().state() == State::Open && self.still_open(now).is_some()
    }

    fn kept(&self) {
        // Nobody has used it yet, so it is closed.
        if let Some(counts) = &self.config.key_counts {
            counts.add(State::Closed);
            self.is_kept.store(true, Ordering::Relaxed);
        }
    }

    fn forgotten(&self) {
        let Some(counts) = &self.config.key_counts else { return };
        self.is_kept.store(false, Ordering::Relaxed);
        // A change of state either sees this, or is seen here.
        fence(Ordering::SeqCst);
        let counted = self.cold.get().map(|cold| lock(&cold.machine).counted);
        counts.remove(counted.unwrap_or_default());
    }

    fn evicted(&self) {
        if let Some(meter) = self.config.reporter.meter() {
            meter.add(&CIRCUIT_BREAKER_KEYS_EVICTED, ["", ""]);
        }
    }
}

/// The breakers of all keys.
struct Breakers<K> {
    config: Arc<Config>,
    describe: Option<DescribeKey<K>>,
    keys: Keys<K, Breaker>,
}

/// A builder for a [`KeyedCircuitBreakerLayer`], created by
/// [`keyed_fn`](super::CircuitBreakerBuilder::keyed_fn).
///
/// Its own setters limit the number of breakers. The settings of each breaker were made before, on
/// the [`CircuitBreakerBuilder`](super::CircuitBreakerBuilder).
#[must_use = "a builder does nothing until `build`"]
pub struct KeyedCircuitBreakerBuilder<K, F, C = Inherited> {
    settings: Settings,
    classifier: C,
    key: F,
    max_keys: usize,
    idle: Duration,
    describe: Option<DescribeKey<K>>,
}

impl<K, F, C> KeyedCircuitBreakerBuilder<K, F, C> {
    pub(super) fn new(settings: Settings, classifier: C, key: F) -> Self {
        Self {
            settings,
            classifier,
            key,
            max_keys: 10_000,
            idle: Duration::from_secs(600),
            describe: None,
        }
    }

    /// Sets the maximum number of breakers.
    ///
    /// Default: `10,000`.
    ///
    /// 10,000 breakers take about 2 MB. While there are no more keys than this, a breaker is
    /// evicted only after the [`idle`](Self::idle) time. Each further key evicts a breaker, with
    /// these guarantees:
    ///
    /// - The breakers of the most recently used keys, half as many as `max_keys`, are kept.
    /// - Open and half-open breakers outlive closed ones, even if their keys are not used, as long
    ///   as they are at most half of `max_keys`.
    /// - A breaker that is forced open or disabled by hand is never evicted. It does not count
    ///   towards `max_keys`. One that is forced open [for a
    ///   time](CircuitBreakerHandle::force_open_for) can be evicted after that time.
    ///
    /// Among the breakers that may be evicted, the one that was unused for the longest time is. Its
    /// key then starts with a closed breaker. Therefore set the number to at least twice the number
    /// of keys in regular use. The number must be at least 2.
    ///
    /// No call pays for the eviction of more than a few breakers.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// Sets the time for which an unused breaker is kept.
    ///
    /// Default: `10 min`.
    ///
    /// This is twice the default of [`max_open_for`](super::CircuitBreakerBuilder::max_open_for).
    /// A breaker that was unused for this time is evicted, and its key starts with a closed one. It
    /// is not evicted before its open time has elapsed. Each call releases the memory of a few
    /// unused breakers, whatever its key is.
    ///
    /// The time must not be zero, and not shorter than `max_open_for`.
    pub fn idle(mut self, time: Duration) -> Self {
        self.idle = time;
        self
    }

    /// Sets a closure that describes a key in the breaker's events and in
    /// [`CircuitOpen`](crate::error::CircuitOpen).
    ///
    /// Default: none. Keys do not appear, because a key may be a secret, such as the token of a
    /// tenant.
    ///
    /// The closure runs once for each new breaker. [`CircuitOpen::key`] returns its text, and the
    /// message of the error has it: `outbound (mail.example): the circuit is open`. The name of the
    /// layer stays the same for all keys, so that metrics can be labelled with it.
    ///
    /// [`CircuitOpen::key`]: crate::error::CircuitOpen::key
    pub fn describe_fn(mut self, describe: impl Fn(&K) -> String + Send + Sync + 'static) -> Self {
        self.describe = Some(Arc::new(describe));
        self
    }

    /// Checks the settings and builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if a setting is out of range, or if two settings contradict each
    /// other. Returns one for [`pend`](super::CircuitBreakerBuilder::pend) too, because the breaker
    /// of a call is not known before there is a request.
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
        let key_counts = Some(Arc::default());
        let config = Arc::new(Config { key_counts, ..self.settings.check()? });
        if self.idle < config.max_open_for {
            let rule = "it must not be shorter than `max_open_for`, or an open breaker is evicted";
            return Err(ConfigError::new("idle", self.idle, rule));
        }
        Ok(KeyedCircuitBreakerLayer {
            breakers: Arc::new(Breakers {
                keys: Keys::new(self.max_keys, self.idle, config.origin),
                config,
                describe: self.describe,
            }),
            key: Arc::new(self.key),
            rules: Arc::new(Rules { classifier: Arc::new(self.classifier), own_limit: None }),
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

/// A layer that creates [`KeyedCircuitBreaker`] services, with a circuit breaker for each key.
///
/// The breakers belong to the layer. Its clones, and all services that it creates, share them. See
/// the [module docs](super) for an example.
pub struct KeyedCircuitBreakerLayer<K, F, C = Inherited> {
    breakers: Arc<Breakers<K>>,
    key: Arc<F>,
    rules: Arc<Rules<C>>,
}

impl<K: Hash + Eq, F, C> KeyedCircuitBreakerLayer<K, F, C> {
    /// Returns the handle of the breaker of `key`, or `None` if the key has no breaker.
    ///
    /// A key has no breaker before its first call, and after its breaker was evicted. A handle to
    /// an evicted breaker no longer affects any new call.
    pub fn handle<Q>(&self, key: &Q) -> Option<CircuitBreakerHandle>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.breakers.keys.get(key).map(CircuitBreakerHandle::new)
    }

    /// Calls a closure with each key that has a breaker, and the handle of the breaker.
    ///
    /// Use it to list the open breakers, or to close all of them. It is not a use of the keys. No
    /// lock is held while the closure runs, so the closure may call any handle. The keys are listed
    /// first, a few at a time, so calls do not wait for it. No key is cloned.
    ///
    /// ```
    /// use buttress::circuit_breaker::{CircuitBreakerLayer, State};
    ///
    /// let breakers = CircuitBreakerLayer::builder().keyed_fn(String::clone).build()?;
    /// let mut open = Vec::new();
    /// breakers.for_each(|host, handle| {
    ///     if handle.state() == State::Open {
    ///         open.push(host.clone());
    ///     }
    /// });
    /// assert!(open.is_empty());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn for_each(&self, mut f: impl FnMut(&K, &CircuitBreakerHandle)) {
        self.breakers.keys.for_each(|key, breaker| {
            f(key, &CircuitBreakerHandle::new(Arc::clone(breaker)));
        });
    }

    /// Returns the number of keys that have a breaker now.
    pub fn keys(&self) -> usize {
        self.breakers.keys.len()
    }

    /// Returns a layer with the same settings and without a breaker.
    pub(crate) fn fresh(&self) -> Self {
        let Breakers { config, describe, keys } = &*self.breakers;
        let (config, describe) = (Arc::new(config.fresh()), describe.clone());
        let breakers = Breakers { config, describe, keys: keys.fresh() };
        Self { breakers: Arc::new(breakers), ..self.clone() }
    }
}

impl<K, F, C> KeyedCircuitBreakerLayer<K, F, C> {
    /// Creates a service. `M` decides when a call is complete.
    pub(crate) fn completing<S, M>(&self, inner: S) -> KeyedCircuitBreaker<S, K, F, C, M> {
        KeyedCircuitBreaker { inner, layer: self.clone(), completion: PhantomData }
    }

    /// Takes the names and the registry of a stack.
    pub(crate) fn inherit(&self, stack: &Reporters) {
        self.config().reporter.inherit(stack, || self.state());
    }

    fn count_in(&self, registry: &Registry) {
        self.config().reporter.register(registry, self.state());
    }

    fn state(&self) -> Option<Weak<dyn LayerState>> {
        self.config().key_counts.as_ref().map(KeyCounts::layer_state)
    }

    pub(super) fn config(&self) -> &Config {
        &self.breakers.config
    }

    /// Returns the same breakers with the stack's classifier, unless they have their own.
    ///
    /// `own_limit` is the limit of the stack for each call or attempt.
    pub(crate) fn in_stack<Stacked>(
        &self,
        stacked: &Arc<Stacked>,
        own_limit: Option<Duration>,
    ) -> KeyedCircuitBreakerLayer<K, F, C::Chosen>
    where
        C: ChooseClassifier<Stacked>,
    {
        let classifier = C::choose(&self.rules.classifier, stacked);
        KeyedCircuitBreakerLayer {
            breakers: Arc::clone(&self.breakers),
            key: Arc::clone(&self.key),
            rules: Arc::new(Rules { classifier, own_limit }),
        }
    }
}

register!(KeyedCircuitBreakerLayer<K, F, C>);

impl<K, F, C> Clone for KeyedCircuitBreakerLayer<K, F, C> {
    fn clone(&self) -> Self {
        Self {
            breakers: Arc::clone(&self.breakers),
            key: Arc::clone(&self.key),
            rules: Arc::clone(&self.rules),
        }
    }
}

impl<K, F, C> fmt::Debug for KeyedCircuitBreakerLayer<K, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreakerLayer")
            .field("name", &self.breakers.config.reporter.as_str())
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

/// A service that rejects calls while the circuit of their key is open.
///
/// The breaker of a call is not known before there is a request. Therefore the service is always
/// ready, and an admitted call waits in its future for a clone of the inner service to become
/// ready. See the [module docs](super).
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
    M: Completion<S::Response> + Discard<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = KeyedResponseFuture<S, Req, C, M>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let key = (self.layer.key)(&request);
        let Breakers { config, describe, keys } = &*self.layer.breakers;
        let breaker = keys.entry(key, |key| {
            let breaker = Breaker::new(Arc::clone(config));
            if let Some(describe) = describe {
                breaker.describe(describe(key));
            }
            breaker
        });
        let decision = breaker.begin(breaker.admit());
        let shared = OfKey { breaker, rules: Arc::clone(&self.layer.rules) };
        match decision.admission() {
            Ok((phase, lease)) => {
                let admission = admitted(shared, phase, lease);
                let call = Oneshot::waiting(self.inner.clone(), request);
                KeyedResponseFuture::called(call, admission)
            }
            Err(rejected) => {
                M::discard(request);
                KeyedResponseFuture::rejected(shared, rejected)
            }
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
