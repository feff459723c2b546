//! A breaker for each key, a bounded number of them.

use std::{
    any::type_name,
    borrow::Borrow,
    collections::{HashMap, hash_map::RandomState},
    fmt,
    hash::{BuildHasher, Hash},
    marker::PhantomData,
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    CircuitBreakerHandle, ResponseFuture,
    admission::guard,
    layer::{Config, Facts, Settings},
    state::Core,
    window::nanos,
};
use crate::{
    CarryRejection, Classify, ConfigError,
    call::{
        clock,
        completion::{AtHead, Completion},
        lock::lock,
        oneshot::Oneshot,
    },
    outcome::choice::{Choice, Inherited},
};

/// Breakers by key, no more than a bound, and none that nobody has used for long.
///
/// Each shard keeps two maps. A key is used from the young one; once that holds half of what the
/// shard may, or the idle time has gone by, it becomes the old one, and what was in the old one and
/// not used since is forgotten. So a key costs no link and no time of its own, and nothing is ever
/// searched.
struct Keys<K> {
    config: Arc<Config>,
    shards: Box<[Mutex<Shard<K>>]>,
    hasher: RandomState,
    most_young: usize,
    /// Nanoseconds.
    idle: u64,
    /// When all shards were last turned for idleness, in nanoseconds from the origin.
    turned: AtomicU64,
}

type Map<K> = HashMap<K, Arc<Core>>;

struct Shard<K> {
    young: Map<K>,
    old: Map<K>,
}

impl<K: Hash + Eq> Shard<K> {
    /// What is forgotten, for the caller to drop after the lock. What an operator has switched by hand
    /// is not: else whoever sends enough other keys could undo it.
    fn turn(&mut self) -> Map<K> {
        let forgotten = mem::replace(&mut self.old, mem::take(&mut self.young));
        if !forgotten.values().any(|core| core.is_held()) {
            return forgotten;
        }
        let (held, forgotten): (Map<K>, Map<K>) =
            forgotten.into_iter().partition(|(_, core)| core.is_held());
        self.old.extend(held);
        forgotten
    }
}

impl<K: Hash + Eq> Keys<K> {
    fn new(config: Arc<Config>, max_keys: usize, idle: Duration) -> Self {
        // So many shards that they are seldom contended, but no more than there are keys.
        let shards = if max_keys >= 1_024 { 16 } else { 1 };
        let shard = || Shard { young: HashMap::new(), old: HashMap::new() };
        Self {
            config,
            shards: (0..shards).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
            most_young: (max_keys / shards / 2).max(1),
            idle: nanos(idle),
            turned: AtomicU64::new(0),
        }
    }

    fn shard<Q>(&self, key: &Q) -> &Mutex<Shard<K>>
    where
        Q: Hash + ?Sized,
    {
        let hash = self.hasher.hash_one(key) as usize;
        &self.shards[hash % self.shards.len()]
    }

    /// The breaker of a key, made if there is none.
    fn entry(&self, key: K) -> Arc<Core> {
        self.forget_idle(clock::now());
        let mut shard = lock(self.shard(&key));
        if let Some(core) = shard.young.get(&key) {
            return Arc::clone(core);
        }
        let full = shard.young.len() >= self.most_young;
        if full {
            // Only a new key turns the maps: a known one would turn itself out.
            if let Some(core) = shard.old.get(&key) {
                return Arc::clone(core);
            }
        }
        let forgotten = full.then(|| shard.turn());
        let core = match shard.old.remove(&key) {
            Some(core) => core,
            None => Arc::new(Core::new(Arc::clone(&self.config))),
        };
        shard.young.insert(key, Arc::clone(&core));
        drop(shard);
        drop(forgotten);
        core
    }

    /// Turns all shards when the idle time has gone by: one caller does so, for all.
    fn forget_idle(&self, now: Instant) {
        let now = nanos(now.saturating_duration_since(self.config.origin));
        let turned = self.turned.load(Ordering::Relaxed);
        let idle = now.saturating_sub(turned);
        if idle < self.idle {
            return;
        }
        if self.turned.compare_exchange(turned, now, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        // Nobody came for so long that also what is young is old.
        let turns = if idle / 2 >= self.idle { 2 } else { 1 };
        for shard in &self.shards {
            for _ in 0..turns {
                let forgotten = lock(shard).turn();
                drop(forgotten);
            }
        }
    }

    fn get<Q>(&self, key: &Q) -> Option<Arc<Core>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = lock(self.shard(key));
        shard.young.get(key).or_else(|| shard.old.get(key)).cloned()
    }

    fn len(&self) -> usize {
        let len = |shard: &Mutex<Shard<K>>| {
            let shard = lock(shard);
            shard.young.len() + shard.old.len()
        };
        self.shards.iter().map(len).sum()
    }
}

/// Settings of a [`KeyedCircuitBreakerLayer`]: those of each breaker, and how many there may be.
pub struct KeyedBuilder<K, F, C = Inherited> {
    settings: Settings,
    classifier: C,
    key: F,
    max_keys: usize,
    idle: Duration,
    keyed: PhantomData<fn() -> K>,
}

impl<K, F, C> KeyedBuilder<K, F, C> {
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

    /// How many breakers there may be, at least 2; the default is 10,000, about 2 MB. Half as many keys
    /// are remembered for certain; beyond that, those that were not used lately are forgotten first. A
    /// breaker that an operator holds open or has disabled is never forgotten.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// How long a breaker that nobody uses is kept: at least this long, less than twice as long while
    /// there is any traffic. The default is 10 minutes, twice the longest time that a breaker stays
    /// open.
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
        ConfigError::unless_positive("idle", self.idle)?;
        if self.settings.pend {
            let rule = "a breaker by key cannot wait before it has seen the request";
            return Err(ConfigError::new("pend", true, rule));
        }
        let config = self.settings.build()?;
        if self.idle < config.max_open_for {
            let rule =
                "it must not be shorter than `max_open_for`, or an open breaker is forgotten";
            return Err(ConfigError::new("idle", self.idle, rule));
        }
        Ok(KeyedCircuitBreakerLayer {
            keys: Arc::new(Keys::new(config, self.max_keys, self.idle)),
            key: Arc::new(self.key),
            classifier: Arc::new(self.classifier),
        })
    }
}

impl<K, F, C> fmt::Debug for KeyedBuilder<K, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedBuilder")
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
    keys: Arc<Keys<K>>,
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
        self.keys.get(key).map(CircuitBreakerHandle::new)
    }

    /// How many keys have a breaker now.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}

impl<K, F, C> KeyedCircuitBreakerLayer<K, F, C> {
    /// The service, with calls that end as `M` says.
    pub(crate) fn completing<S, M>(&self, inner: S) -> KeyedCircuitBreaker<S, K, F, C, M> {
        KeyedCircuitBreaker { inner, layer: self.clone(), completion: PhantomData }
    }

    pub(crate) fn facts(&self) -> Facts {
        Facts { keyed: true, ..self.keys.config.facts() }
    }

    /// The same breakers, with the stack's classifier where they have none of their own.
    pub(crate) fn in_stack<Stacked>(
        &self,
        stacked: &Arc<Stacked>,
    ) -> KeyedCircuitBreakerLayer<K, F, C::Chosen>
    where
        C: Choice<Stacked>,
    {
        KeyedCircuitBreakerLayer {
            keys: Arc::clone(&self.keys),
            key: Arc::clone(&self.key),
            classifier: C::choose(&self.classifier, stacked),
        }
    }
}

impl<K, F, C> Clone for KeyedCircuitBreakerLayer<K, F, C> {
    fn clone(&self) -> Self {
        Self {
            keys: Arc::clone(&self.keys),
            key: Arc::clone(&self.key),
            classifier: Arc::clone(&self.classifier),
        }
    }
}

impl<K, F, C> fmt::Debug for KeyedCircuitBreakerLayer<K, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreakerLayer")
            .field("name", &self.keys.config.name())
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
    type Future = ResponseFuture<Oneshot<S, Req>, Core, Arc<C>, M>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let key = (self.layer.key)(&request);
        let core = self.layer.keys.entry(key);
        let classifier = Arc::clone(&self.layer.classifier);
        match guard(&core, core.begin(core.admit())) {
            Ok(admission) => {
                let call = Oneshot::waiting(self.inner.clone(), request);
                ResponseFuture::called(call, admission, classifier)
            }
            Err(refusal) => ResponseFuture::refused(core, refusal, classifier),
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
