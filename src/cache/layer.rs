use std::{any::type_name, fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    config::{Config, Times},
    handle::CacheHandle,
    parts::Parts,
    rules::{ByFn, CheckedRules},
    service::Cache,
    shared::Shared,
};
use crate::{
    ConfigError, Outcome, classify_fn,
    error::Name,
    outcome::{
        ClassifyFn,
        choice::{ChooseClassifier, Inherited, Own},
    },
    telemetry::{Kind, Registry, ReporterCell, Reporters},
};

/// A layer that creates [`Cache`] services, which keep responses and share calls.
///
/// The layer *is* the cache. Its clones, and all services that it creates, share its entries. See
/// the [module docs](super) for an example.
///
/// `K` is the key of a request, `V` is the kept part of a response, and `R` are the rules that make
/// them.
pub struct CacheLayer<K, V, R, C = Inherited> {
    shared: Arc<Shared<K, V>>,
    rules: Arc<R>,
    classifier: Arc<C>,
}

impl<K, V, F> CacheLayer<K, V, ByFn<F, V>> {
    /// Returns a builder for a cache whose keys a closure returns.
    ///
    /// The closure returns `None` if the response must be neither kept nor shared. Everything that
    /// the response depends on must be in the key, such as the user. Otherwise, one user gets the
    /// response of another.
    ///
    /// The cache keeps clones of responses, unless [`keep`](CacheBuilder::keep) is set. For HTTP
    /// responses, use [`http`](Self::http).
    ///
    /// A key counts as its `size_of`, without its data on the heap. If callers choose how long a
    /// key is, return `None` for one that is too long.
    ///
    /// ```
    /// use buttress::cache::CacheLayer;
    /// use std::time::Duration;
    ///
    /// struct Query {
    ///     id: u64,
    /// }
    ///
    /// let cache = CacheLayer::by_fn(|query: &Query| Some(query.id))
    ///     .ttl(Duration::from_secs(5))
    ///     .build()?;
    /// # let _: buttress::cache::CacheLayer<_, String, _> = cache;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn by_fn<Req>(key: F) -> CacheBuilder<K, V, ByFn<F, V>>
    where
        F: Fn(&Req) -> Option<K>,
    {
        CacheBuilder::with_rules(ByFn::new(key))
    }
}

impl<K, V, R, C> CacheLayer<K, V, R, C> {
    pub(super) fn times(&self) -> &Times {
        self.shared.times()
    }
}

impl<K: Eq + Clone, V, R, C> CacheLayer<K, V, R, C> {
    /// Returns a handle for inspecting the cache and for forgetting entries at run time.
    pub fn handle(&self) -> CacheHandle<K, V> {
        CacheHandle::new(Arc::clone(&self.shared))
    }

    /// Returns a cache with the same settings and no entries.
    pub(crate) fn fresh(&self) -> Self {
        let config = Config { reporter: self.shared.config.reporter.fresh(), ..self.config() };
        Self {
            shared: Shared::new(config),
            rules: Arc::clone(&self.rules),
            classifier: Arc::clone(&self.classifier),
        }
    }

    fn config(&self) -> Config {
        self.shared.config.clone()
    }
}

impl<K, V, R, C> CacheLayer<K, V, R, C>
where
    K: Eq + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Takes the names and the registry of a stack.
    pub(crate) fn inherit(&self, stack: &Reporters) {
        self.shared.inherit(stack);
    }

    fn count_in(&self, registry: &Registry) {
        self.shared.register(registry);
    }

    /// Registers the layer, which counts from now on, and returns it.
    ///
    /// Default: none. Nothing is counted then.
    ///
    /// It is for a layer outside of a stack. In a stack, use
    /// [`Stack::register`](crate::Stack::register). All clones of the layer and all services that
    /// it creates are registered with it. The first registry that a layer is registered in keeps
    /// it.
    pub fn register(self, registry: &Registry) -> Self {
        self.count_in(registry);
        self
    }
}

impl<K, V, R, C> CacheLayer<K, V, R, C> {
    /// Creates a service. `total` is the limit of the total timeout beneath, and `M` decides when a
    /// call is complete.
    pub(crate) fn completing<S, Stacked, M>(
        &self,
        inner: S,
        classifier: &Arc<Stacked>,
        total: Option<Duration>,
    ) -> Cache<S, K, V, R, C::Chosen, M>
    where
        C: ChooseClassifier<Stacked>,
    {
        let (shared, rules) = (Arc::clone(&self.shared), Arc::clone(&self.rules));
        let classifier = C::choose(&self.classifier, classifier);
        Cache::new(inner, Parts { shared, rules, classifier, total })
    }
}

impl<S, K, V, R, C> Layer<S> for CacheLayer<K, V, R, C> {
    type Service = Cache<S, K, V, R, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let (shared, rules) = (Arc::clone(&self.shared), Arc::clone(&self.rules));
        let classifier = Arc::clone(&self.classifier);
        Cache::new(inner, Parts { shared, rules, classifier, total: None })
    }
}

impl<K, V, R, C> Clone for CacheLayer<K, V, R, C> {
    fn clone(&self) -> Self {
        let (shared, rules) = (Arc::clone(&self.shared), Arc::clone(&self.rules));
        Self { shared, rules, classifier: Arc::clone(&self.classifier) }
    }
}

impl<K, V, R, C> fmt::Debug for CacheLayer<K, V, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayer")
            .field("shared", &self.shared)
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish_non_exhaustive()
    }
}

/// A builder for a [`CacheLayer`].
#[must_use = "a builder does nothing until `build`"]
pub struct CacheBuilder<K, V, R, C = Inherited> {
    config: Config,
    pub(crate) rules: R,
    classifier: Arc<C>,
    kept: std::marker::PhantomData<fn() -> (K, V)>,
}

impl<K, V, R> CacheBuilder<K, V, R> {
    pub(crate) fn with_rules(rules: R) -> Self {
        let (config, classifier) = (Config::default(), Arc::new(Inherited));
        Self { config, rules, classifier, kept: std::marker::PhantomData }
    }
}

impl<K, V, R, C> CacheBuilder<K, V, R, C> {
    /// Sets the name of the layer in errors and events.
    ///
    /// Default: `cache`. In a stack with a name, it is that of the stack.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.reporter = ReporterCell::new(Some(name.into()), Kind::Cache);
        self
    }

    /// Sets the time for which a response is fresh, which means that it is given without a call.
    ///
    /// Default: `60 s`.
    ///
    /// The time of each entry is up to a tenth shorter, at random, so that entries that were made
    /// together are not renewed together. With zero, each call asks the service, and only calls
    /// that are under way at the same time are shared.
    pub fn ttl(mut self, time: Duration) -> Self {
        self.config.times.ttl = time;
        self
    }

    /// Sets the time, after the [`ttl`](Self::ttl), for which a response is given while it is being
    /// renewed.
    ///
    /// Default: `0 s`, which is off.
    ///
    /// The caller gets the older response at once. One call renews it, for which no caller waits.
    pub fn while_revalidate(mut self, time: Duration) -> Self {
        self.config.times.while_revalidate = time;
        self
    }

    /// Sets the time, after the [`ttl`](Self::ttl), for which a response is given if the service
    /// fails.
    ///
    /// Default: `0 s`, which is off.
    ///
    /// The service fails if its outcome is transient, timed out or overloaded, or if a layer
    /// beneath rejects the call and the rejection
    /// [is unavailable](crate::Rejection::is_unavailable). Every other result is returned. If the
    /// caller's own [deadline](crate::Deadline) is near, a tenth of its time is kept for the older
    /// response, at most 1 s.
    pub fn if_error(mut self, time: Duration) -> Self {
        self.config.times.if_error = time;
        self
    }

    /// Calls the service each time, and gives the last good response for up to `time` if it fails.
    ///
    /// Default: none.
    ///
    /// This is the same as a [`ttl`](Self::ttl) of zero with [`if_error`](Self::if_error).
    /// After a failure, the service is not called for the time of [`hold_off`](Self::hold_off).
    pub fn last_good(self, time: Duration) -> Self {
        self.ttl(Duration::ZERO).if_error(time)
    }

    /// Sets the time after a failure for which an older response is given without a call.
    ///
    /// Default: `1 s`.
    ///
    /// If the service asks for a longer time, such as by `Retry-After`, that time counts, up to the
    /// time of [`if_error`](Self::if_error). When it is over, one caller at a time calls the
    /// service. The others still get the older response, instead of waiting for a call that
    /// probably fails. With zero, no caller gets the older response without a call.
    pub fn hold_off(mut self, time: Duration) -> Self {
        self.config.times.hold_off = time;
        self
    }

    /// Sets the time after which a caller gets the older response instead of waiting on.
    ///
    /// Default: none. Callers wait until the call has failed.
    ///
    /// The call goes on, and renews the entry. The time must be longer than zero, and needs
    /// [`if_error`](Self::if_error).
    pub fn patience(mut self, time: Duration) -> Self {
        self.config.times.patience = Some(time);
        self
    }

    /// Sets the share of the caller's time that is reserved for an older response.
    ///
    /// Default: `0.1`.
    ///
    /// If the caller has a [deadline](crate::Deadline) and there is an older response for it, the
    /// caller gets that this share of the time that is left before the deadline, and at most a
    /// second before. The caller's deadline would otherwise come first. The call goes on. The share
    /// must be at least 0, which reserves nothing, and less than 1.
    pub fn reserve(mut self, ratio: f64) -> Self {
        self.config.reserve = ratio;
        self
    }

    /// Sets the maximum number of bytes of all entries.
    ///
    /// Default: `64 MiB`.
    ///
    /// An entry counts as its key, its response and another 256 B. There must be room for 16
    /// entries of [`max_entry_bytes`](Self::max_entry_bytes). The entries that are used least are
    /// evicted.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.config.max_bytes = bytes;
        self
    }

    /// Sets the maximum number of bytes of one entry.
    ///
    /// Default: `64 KiB`.
    ///
    /// It must be at least 1 B and at most 1 MiB. The key and the headers count too. A response
    /// that is larger with them is not kept.
    pub fn max_entry_bytes(mut self, bytes: usize) -> Self {
        self.config.max_entry_bytes = bytes;
        self
    }

    /// Sets the maximum number of shared calls that are under way at the same time.
    ///
    /// Default: `1,024`.
    ///
    /// Each runs in a task. Beyond the maximum, each caller makes a call of its own, whose response
    /// is not kept. The maximum must be at least 1.
    pub fn max_shared_calls(mut self, calls: u32) -> Self {
        self.config.max_shared_calls = calls;
        self
    }

    /// Lets a call go on after all of its callers have left, so that its response is kept.
    ///
    /// Default: off. The last caller that leaves ends the call.
    pub fn finish_abandoned(mut self) -> Self {
        self.config.finishes_abandoned = true;
        self
    }

    /// Sets the classifier for this layer, overriding the stack's.
    ///
    /// Default: none. The layer uses the stack's classifier. Outside of a stack, it uses the
    /// [`DefaultClassifier`](crate::outcome::DefaultClassifier).
    ///
    /// A response is kept if its outcome is a success.
    pub fn classify<D>(self, classifier: D) -> CacheBuilder<K, V, R, Own<D>> {
        let Self { config, rules, kept, .. } = self;
        CacheBuilder { config, rules, classifier: Arc::new(Own(classifier)), kept }
    }

    /// Sets a closure as the classifier for this layer, overriding the stack's.
    ///
    /// Default: none, as for [`classify`](Self::classify).
    pub fn classify_fn<G, Res, E>(self, f: G) -> CacheBuilder<K, V, R, Own<ClassifyFn<G>>>
    where
        G: Fn(Result<&Res, &E>) -> Outcome,
    {
        self.classify(classify_fn(f))
    }
}

impl<K: Eq + Clone, V, R: CheckedRules, C> CacheBuilder<K, V, R, C> {
    /// Checks the settings and builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`]
    ///
    /// - for `max_entry_bytes` if it is zero or more than 1 MiB;
    /// - for `max_bytes` if it has no room for 16 entries of `max_entry_bytes`;
    /// - for `max_shared_calls` if it is zero;
    /// - for `patience` if it is zero, or if `if_error` is not set;
    /// - for `negative` if a status is no 4xx, or is 429.
    pub fn build(self) -> Result<CacheLayer<K, V, R, C>, ConfigError> {
        let Self { config, mut rules, classifier, .. } = self;
        let config = config.checked()?;
        rules.check(config.max_entry_bytes)?;
        let shared = Shared::new(config);
        Ok(CacheLayer { shared, rules: Arc::new(rules), classifier })
    }
}

impl<K, V, F, P, C> CacheBuilder<K, V, ByFn<F, V, P>, C> {
    /// Sets how responses are kept, such as those that are not `Clone`.
    ///
    /// Default: none. Clones are kept, by [`KeepClones`](crate::keep::KeepClones).
    ///
    /// Its [`Response`](crate::keep::Keep::Response) must be the response of the service, and its
    /// [`Error`](crate::keep::Keep::Error) [`Infallible`](std::convert::Infallible). The payload is
    /// cloned for each caller, so share its data, such as in an `Arc`. A response that is
    /// [not kept](crate::keep::KeptPart::NotKept) is for one caller only. One that
    /// [broke off](crate::keep::KeptPart::BrokenOff) is a transient failure of the service.
    /// [`Keep`](crate::keep::Keep) has an example.
    pub fn keep<N>(self, keep: N) -> CacheBuilder<K, V, ByFn<F, V, N>, C> {
        let Self { config, rules, classifier, kept } = self;
        CacheBuilder { config, rules: rules.with_keep(keep), classifier, kept }
    }

    /// Sets how long a response is kept, by a closure that returns `None` for the
    /// [`ttl`](Self::ttl).
    ///
    /// Default: none. Each response is kept for the `ttl`.
    ///
    /// Use it to keep an empty result for a shorter time. Only responses whose outcome is a success
    /// are kept. With zero, the response is given only to the callers that wait for it, unless
    /// [`if_error`](Self::if_error) keeps it longer. With [`keep`](Self::keep), the closure gets
    /// the payload of the response.
    pub fn ttl_fn(mut self, ttl: impl Fn(&V) -> Option<Duration> + Send + Sync + 'static) -> Self {
        self.rules.ttl = Some(Arc::new(ttl));
        self
    }

    /// Sets the function that returns the bytes of a response.
    ///
    /// Default: none. The size is that of [`keep`](Self::keep). A clone counts as its `size_of`,
    /// without its data on the heap.
    pub fn size_fn(mut self, size: impl Fn(&V) -> usize + Send + Sync + 'static) -> Self {
        self.rules.size = Some(Arc::new(size));
        self
    }
}

impl<K, V, R: Clone, C> Clone for CacheBuilder<K, V, R, C> {
    fn clone(&self) -> Self {
        let (config, rules) = (self.config.clone(), self.rules.clone());
        Self { config, rules, classifier: Arc::clone(&self.classifier), kept: self.kept }
    }
}

impl<K, V, R: fmt::Debug, C> fmt::Debug for CacheBuilder<K, V, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("config", &self.config)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}
