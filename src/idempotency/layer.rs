use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    ByFn, Digests, Idempotency, IdempotencyHandle, InvalidKey, Quarantine, Reconcile, RecordClones,
    RequestKey, Rerun, Resume, SingleTenant, Store,
    config::{Config, Effect},
    rules::Rules,
    shared::Shared,
};
use crate::{ConfigError, error::Name};

/// An idempotency guard, which makes [`Idempotency`] services. See the [module docs](super) for an
/// example.
///
/// The layer *is* the guard: clones of it, and all services that it makes, share its runs and leases.
pub struct IdempotencyLayer<St, K, C, Q, R, U = Quarantine> {
    pub(super) rules: Arc<Rules<K, C, Q, R, U>>,
    pub(super) shared: Arc<Shared<St>>,
}

impl<St, K, Q, R> IdempotencyLayer<St, K, (), Q, R> {
    /// A guard that finds keys with `find_key`, tells requests apart with `read`, and keeps responses
    /// with `record`. Whose keys they are has to be said next.
    pub fn builder(store: St, find_key: K, read: Q, record: R) -> Unscoped<St, K, Q, R> {
        Unscoped { store, find_key, read, record }
    }
}

impl<St, F, G> IdempotencyLayer<St, ByFn<F>, (), ByFn<G>, RecordClones> {
    /// A guard that finds keys with the closure `find_key`, tells requests apart by the parts that the
    /// closure `read` adds, and keeps clones of responses. Whose keys they are has to be said next.
    ///
    /// ```
    /// use buttress::idempotency::{
    ///     IdempotencyLayer,
    ///     InvalidKey,
    ///     Key,
    ///     RequestKey,
    ///     store::MemoryStore,
    /// };
    ///
    /// struct Order {
    ///     key: Option<String>,
    ///     account: String,
    ///     amount: u64,
    /// }
    ///
    /// fn key_of(order: &Order) -> Result<RequestKey, InvalidKey> {
    ///     order.key.as_deref().map_or(Ok(RequestKey::Missing), |key| Key::parse(key).map(RequestKey::Key))
    /// }
    ///
    /// let store = MemoryStore::<String>::new();
    /// let guard = IdempotencyLayer::by_fn(store, key_of, |order: &Order, request| {
    ///     request.part(order.amount.to_be_bytes());
    /// });
    /// let guard = guard.scope(|order: &Order| Some(order.account.clone())).build()?;
    /// # let _ = guard;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn by_fn<Req>(
        store: St,
        find_key: F,
        read: G,
    ) -> Unscoped<St, ByFn<F>, ByFn<G>, RecordClones>
    where
        F: Fn(&Req) -> Result<RequestKey, InvalidKey>,
        G: Fn(&Req, &mut Digests),
    {
        IdempotencyLayer::builder(store, ByFn(find_key), ByFn(read), RecordClones)
    }
}

impl<St, K, C, Q, R, U> IdempotencyLayer<St, K, C, Q, R, U> {
    /// What an operator sees and does.
    pub fn guard(&self) -> IdempotencyHandle<St> {
        IdempotencyHandle::new(Arc::clone(&self.shared))
    }
}

impl<St, K, C, Q, R, U> Clone for IdempotencyLayer<St, K, C, Q, R, U> {
    fn clone(&self) -> Self {
        Self { rules: Arc::clone(&self.rules), shared: Arc::clone(&self.shared) }
    }
}

impl<St, K, C, Q, R, U> fmt::Debug for IdempotencyLayer<St, K, C, Q, R, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl<S, St, K, C, Q, R, U> Layer<S> for IdempotencyLayer<St, K, C, Q, R, U> {
    type Service = Idempotency<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Idempotency::new(inner, self.clone())
    }
}

/// A guard that does not know yet whose keys they are. There is no default: keys of which all callers
/// share one space let one read what another was answered.
#[derive(Clone)]
#[must_use = "a guard is built by `scope` or `single_tenant`, and `build`"]
pub struct Unscoped<St, K, Q, R> {
    store: St,
    find_key: K,
    read: Q,
    record: R,
}

impl<St, K, Q, R> Unscoped<St, K, Q, R> {
    /// Each scope has keys of its own: `scope` names that of a request, as the account it was
    /// authenticated for. It must not be anything that a caller can choose. What it returns is owned: a
    /// `String`, or `[u8; 16]`. Where it returns `None`, the request is refused: fall back to no common
    /// scope, or whoever was not authenticated is answered what others were.
    pub fn scope<F, Req, T>(self, scope: F) -> IdempotencyBuilder<St, K, ByFn<F>, Q, R>
    where
        F: Fn(&Req) -> Option<T>,
        T: AsRef<[u8]>,
    {
        self.scope_by(ByFn(scope))
    }

    /// All callers share their keys: right only if there is one, or if they may read what any of them was
    /// answered.
    pub fn single_tenant(self) -> IdempotencyBuilder<St, K, SingleTenant, Q, R> {
        self.scope_by(SingleTenant)
    }

    /// Finds scopes with a type of one's own.
    pub fn scope_by<C>(self, find_scope: C) -> IdempotencyBuilder<St, K, C, Q, R> {
        let Self { store, find_key, read, record } = self;
        let config = Config::DEFAULT;
        let on_unknown = Quarantine;
        IdempotencyBuilder { store, find_key, find_scope, read, record, on_unknown, config }
    }
}

impl<St, K, Q, R> fmt::Debug for Unscoped<St, K, Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unscoped").finish_non_exhaustive()
    }
}

/// Settings of an [`IdempotencyLayer`].
#[derive(Clone)]
pub struct IdempotencyBuilder<St, K, C, Q, R, U = Quarantine> {
    store: St,
    find_key: K,
    find_scope: C,
    read: Q,
    record: R,
    on_unknown: U,
    config: Config,
}

impl<St, K, C, Q, R, U> IdempotencyBuilder<St, K, C, Q, R, U> {
    /// What the guard is called in errors and events; `idempotency` until it is set.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// Notes in the store that the effect begins, after the claim and before the service is called: a third
    /// trip. A process that dies in between then leaves no trace, in place of an unknown operation.
    pub fn reserve_first(mut self) -> Self {
        self.config.effect = Effect::Marked;
        self
    }

    /// The service commits its effect and the record in one transaction, conditional on the
    /// [`Hold`](super::Hold) of its [`Run`](super::Run). Until then nothing has happened: a run that is lost
    /// is not unknown, and the next claim runs anew.
    ///
    /// An answer of a service that rolled back is recorded like any other, unless it says that nothing began:
    /// right for a refusal that would be the same again, and wrong for a failure that may pass.
    pub fn transactional(mut self) -> Self {
        self.config.effect = Effect::Transactional;
        self
    }

    /// For how long nobody else may run what this process runs, unless it is renewed, which it is after
    /// each third; 30 s until it is set. It is how long a key is blocked when a process dies.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// For how long a lease is renewed in all; 10 min until it is set.
    pub fn lease_limit(mut self, limit: Duration) -> Self {
        self.config.lease_limit = limit;
        self
    }

    /// How long a run may take, to the end of what is kept of its response; 30 s until it is set. It stands in
    /// place of the caller's deadline, which ends only the waiting.
    pub fn run_limit(mut self, limit: Duration) -> Self {
        self.config.run_limit = limit;
        self
    }

    /// How long a step of the store may take before it is sent again or given up; 1 s until it is set. It must
    /// be shorter than the [`lease`](Self::lease).
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.config.store_timeout = timeout;
        self
    }

    /// For how long a result is given again, from its completion; 24 h until it is set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// For how long clients go on retrying. The [`ttl`](Self::ttl) must be at least twice as long, or
    /// `build` fails; not checked until it is set.
    pub fn clients_retry_for(mut self, horizon: Duration) -> Self {
        self.config.retry_horizon = horizon;
        self
    }

    /// For how long an unknown operation is kept that nobody resolves; 30 days until it is set. It must not be
    /// shorter than the [`ttl`](Self::ttl).
    pub fn unknown_retention(mut self, retention: Duration) -> Self {
        self.config.unknown_for = retention;
        self
    }

    /// When a duplicate of a request that is under way is told to come back, and how often one that waits
    /// asks the store, jittered; 1 s until it is set.
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.config.retry_after = retry_after;
        self
    }

    /// Lets a duplicate of a request that is under way wait for its result, for up to `limit`, in place of
    /// refusing it at once. It holds its request while it waits, with the body that was read of it, and
    /// no place of a run. How many wait is not bounded here.
    pub fn wait_for_duplicates(mut self, limit: Duration) -> Self {
        self.config.wait = Some(limit);
        self
    }

    /// How many runs this process has under way at once, at least 1; 1,024 until it is set. Each keeps a
    /// response of up to 64 KiB in memory.
    ///
    /// A request has a place from before the store is asked until it is told what that said. So one that comes
    /// when there is no room is refused, also if its result is recorded: leave some for requests that come twice.
    pub fn max_runs(mut self, runs: u32) -> Self {
        self.config.max_runs = runs;
        self
    }

    /// Keys the fingerprints, so that who reads the store cannot guess what requests said. Said again, what
    /// was said before is the older secret: fingerprints that were stored with it, or without any, are
    /// still known.
    pub fn fingerprint_secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.config.secrets.0.insert(0, secret.as_ref().into());
        self
    }

    /// An unknown operation is run again. Say so only if its effect is idempotent, or keyed by
    /// [`Run::child_key`](super::Run::child_key) or [`Run::fence`](super::Run::fence) where it happens.
    pub fn rerun(self) -> IdempotencyBuilder<St, K, C, Q, R, Rerun> {
        self.on_unknown(Rerun)
    }

    /// An unknown operation is run again, from the [checkpoint](super::Run::checkpoint) that it had come to.
    /// What lies between two checkpoints must be idempotent, or keyed where it happens.
    pub fn resume(self) -> IdempotencyBuilder<St, K, C, Q, R, Resume> {
        self.on_unknown(Resume)
    }

    /// `reconcile` finds out what became of an unknown operation, for one caller at a time: see
    /// [`Reconcile`].
    pub fn reconcile<F>(self, reconcile: F) -> IdempotencyBuilder<St, K, C, Q, R, Reconcile<F>> {
        self.on_unknown(Reconcile(reconcile))
    }

    /// Decides about unknown operations with a type of one's own, which implements
    /// [`SettleUnknown`](super::SettleUnknown).
    pub fn on_unknown<V>(self, on_unknown: V) -> IdempotencyBuilder<St, K, C, Q, R, V> {
        let Self { store, find_key, find_scope, read, record, config, .. } = self;
        IdempotencyBuilder { store, find_key, find_scope, read, record, on_unknown, config }
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If a time is zero, no run at all is allowed, a lease or its limit is too short for a run, records are
    /// kept for too short a time, or a secret is empty.
    pub fn build(self) -> Result<IdempotencyLayer<St, K, C, Q, R, U>, ConfigError>
    where
        St: Store,
    {
        self.config.check()?;
        let Self { store, find_key, find_scope, read, record, on_unknown, config } = self;
        let shared = Shared::new(store, config);
        let rules = Arc::new(Rules { find_key, find_scope, read, record, on_unknown });
        Ok(IdempotencyLayer { rules, shared })
    }
}

impl<St, K, C, Q, R, U> fmt::Debug for IdempotencyBuilder<St, K, C, Q, R, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}
