use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    Digests, FindKeyFn, FindScopeFn, HasScope, Idempotency, IdempotencyHandle, InvalidKey, NoScope,
    Quarantine, ReadRequestFn, Reconcile, RecordClones, RequestKey, Rerun, Resume, Scoped,
    SingleTenant, Store, config::Config, find_key_fn, find_scope_fn, read_request_fn, rules::Rules,
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
    /// Returns a builder for a layer that finds keys with `find_key`, tells requests apart with
    /// `read`, and keeps responses with `record`.
    ///
    /// It cannot `build` before it is told whose keys they are, with
    /// [`scope_fn`](IdempotencyBuilder::scope_fn), [`scope`](IdempotencyBuilder::scope) or
    /// [`single_tenant`](IdempotencyBuilder::single_tenant). For closures, see
    /// [`builder_fn`](IdempotencyLayer::builder_fn).
    pub fn builder(
        store: St,
        find_key: K,
        read: Q,
        record: R,
    ) -> IdempotencyBuilder<St, K, NoScope, Q, R> {
        let (scope, on_unknown, config) = (NoScope(()), Quarantine, Config::DEFAULT);
        IdempotencyBuilder { store, find_key, scope, read, record, on_unknown, config }
    }
}

impl<St, F, G> IdempotencyLayer<St, FindKeyFn<F>, (), ReadRequestFn<G>, RecordClones> {
    /// Returns a builder for a layer that finds keys with the closure `find_key`, tells requests
    /// apart by the parts that the closure `read` adds, and keeps clones of responses.
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
    /// let builder = IdempotencyLayer::builder_fn(store, key_of, |order: &Order, request| {
    ///     request.part(order.amount.to_be_bytes());
    /// });
    /// let layer = builder.scope_fn(|order: &Order| Some(order.account.clone())).build()?;
    /// # let _ = layer;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder_fn<Req>(
        store: St,
        find_key: F,
        read: G,
    ) -> IdempotencyBuilder<St, FindKeyFn<F>, NoScope, ReadRequestFn<G>, RecordClones>
    where
        F: Fn(&Req) -> Result<RequestKey, InvalidKey>,
        G: Fn(&Req, &mut Digests),
    {
        let (find_key, read) = (find_key_fn(find_key), read_request_fn(read));
        IdempotencyLayer::builder(store, find_key, read, RecordClones)
    }
}

impl<St, K, C, Q, R, U> IdempotencyLayer<St, K, C, Q, R, U> {
    /// Returns a handle for inspecting and controlling the layer at run time.
    pub fn handle(&self) -> IdempotencyHandle<St> {
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

/// Settings of an [`IdempotencyLayer`].
///
/// `C` is the state of the builder: [`NoScope`] until it is told whose keys they are, then
/// [`Scoped`]. There is no default, because callers that shared one space of keys could read each
/// other's responses. Only a builder with a scope has a [`build`](Self::build). The other settings
/// may come before or after.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct IdempotencyBuilder<St, K, C, Q, R, U = Quarantine> {
    store: St,
    find_key: K,
    scope: C,
    read: Q,
    record: R,
    on_unknown: U,
    config: Config,
}

impl<St, K, Q, R, U> IdempotencyBuilder<St, K, NoScope, Q, R, U> {
    /// Sets whose keys those of a request are, by a closure: each scope has keys of its own.
    ///
    /// The closure names the scope of a request, such as the account that it was authenticated for.
    /// It must not be anything that a caller can choose. It returns an owned name: a `String`, or
    /// `[u8; 16]`. Where it returns `None`, the request is rejected. Do not fall back to a common
    /// scope: whoever was not authenticated would get the responses of others.
    pub fn scope_fn<F, Req, T>(
        self,
        scope: F,
    ) -> IdempotencyBuilder<St, K, Scoped<FindScopeFn<F>>, Q, R, U>
    where
        F: Fn(&Req) -> Option<T>,
        T: AsRef<[u8]>,
    {
        self.scope(find_scope_fn(scope))
    }

    /// Lets all callers share their keys.
    ///
    /// That is right only if there is one caller, or if they may read each other's responses.
    pub fn single_tenant(self) -> IdempotencyBuilder<St, K, Scoped<SingleTenant>, Q, R, U> {
        self.scope(SingleTenant)
    }

    /// Sets whose keys those of a request are, by a type of your own, which implements
    /// [`FindScope`](super::FindScope).
    pub fn scope<C>(self, find_scope: C) -> IdempotencyBuilder<St, K, Scoped<C>, Q, R, U> {
        let Self { store, find_key, read, record, on_unknown, config, .. } = self;
        let scope = Scoped(find_scope);
        IdempotencyBuilder { store, find_key, scope, read, record, on_unknown, config }
    }
}

impl<St, K, C, Q, R, U> IdempotencyBuilder<St, K, C, Q, R, U> {
    /// Sets the name of the layer in errors and events.
    ///
    /// Default: `idempotency`.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// Notes in the store that the effect begins, after the claim and before the service is called.
    ///
    /// Default: off.
    ///
    /// That is a third trip. A process that dies in between then leaves no trace, instead of an
    /// unknown operation. With [`transactional`](Self::transactional) it would have no effect,
    /// which is an error.
    pub fn reserve_first(mut self) -> Self {
        self.config.reserve_first = true;
        self
    }

    /// Lets the service commit its effect and the record in one transaction, conditional on the
    /// [`Hold`](super::Hold) of its [`Run`](super::Run).
    ///
    /// Default: off.
    ///
    /// Until then nothing has happened: a run that is lost is not unknown, and the next claim runs
    /// anew.
    ///
    /// The response of a service that rolled back is recorded like any other, unless it says that
    /// nothing began. That is right for a rejection that would be the same again, and wrong for a
    /// failure that may pass.
    pub fn transactional(mut self) -> Self {
        self.config.transactional = true;
        self
    }

    /// Sets for how long nobody else may run what this process runs, unless the lease is renewed.
    ///
    /// Default: `30 s`.
    ///
    /// It is renewed after each third. It is how long a key is blocked when a process dies. It must
    /// be at least 1 ms, and longer than the [`store_timeout`](Self::store_timeout).
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// Sets for how long a lease is renewed in all.
    ///
    /// Default: `10 min`.
    ///
    /// It must not be shorter than the [`lease`](Self::lease) or the
    /// [`run_limit`](Self::run_limit), nor longer than a year.
    pub fn lease_limit(mut self, limit: Duration) -> Self {
        self.config.lease_limit = limit;
        self
    }

    /// Sets how long a run may take, to the end of what is kept of its response.
    ///
    /// Default: `30 s`.
    ///
    /// It replaces the caller's deadline, which ends only the waiting. It must be longer than zero.
    pub fn run_limit(mut self, limit: Duration) -> Self {
        self.config.run_limit = limit;
        self
    }

    /// Sets how long a step of the store may take before it is sent again or given up.
    ///
    /// Default: `1 s`.
    ///
    /// It must be longer than zero and shorter than the [`lease`](Self::lease).
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.config.store_timeout = timeout;
        self
    }

    /// Sets for how long a result is given again, from its completion.
    ///
    /// Default: `24 h`.
    ///
    /// It must be at least 1 ms and at most a hundred years.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// Sets for how long clients go on retrying, so that [`build`](Self::build) can check the
    /// [`ttl`](Self::ttl), which must be at least twice as long.
    ///
    /// Default: not known, and not checked.
    ///
    /// It must be longer than zero.
    pub fn clients_retry_for(mut self, horizon: Duration) -> Self {
        self.config.retry_horizon = Some(horizon);
        self
    }

    /// Sets for how long an unknown operation is kept that nobody resolves.
    ///
    /// Default: `30 days`.
    ///
    /// It must not be shorter than the [`ttl`](Self::ttl), nor longer than a hundred years.
    pub fn unknown_retention(mut self, retention: Duration) -> Self {
        self.config.unknown_for = retention;
        self
    }

    /// Sets when a duplicate of a request that is under way is told to come back, and how often one
    /// that waits asks the store, jittered.
    ///
    /// Default: `1 s`.
    ///
    /// It must be longer than zero and at most a year.
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.config.retry_after = retry_after;
        self
    }

    /// Lets a duplicate of a request that is under way wait for its result, for up to `limit`.
    ///
    /// Default: off; it is rejected at once.
    ///
    /// It holds its request while it waits, with the body that was read of it, and no place of a
    /// run. How many wait is not bounded here. The limit must be longer than zero and at most a
    /// year.
    pub fn wait_for_duplicates(mut self, limit: Duration) -> Self {
        self.config.wait = Some(limit);
        self
    }

    /// Sets how many runs this process has under way at once.
    ///
    /// Default: `1,024`.
    ///
    /// Each keeps a response of up to 64 KiB in memory. It must be at least 1.
    ///
    /// A request has a place from before the store is asked until it is told what that said. So one
    /// that comes when there is no room is rejected even if its result is recorded: leave some for
    /// requests that come twice.
    pub fn max_runs(mut self, runs: u32) -> Self {
        self.config.max_runs = runs;
        self
    }

    /// Sets a secret that keys the fingerprints, so that a reader of the store cannot guess what
    /// requests said.
    ///
    /// Default: none.
    ///
    /// Called again, it adds a newer secret: fingerprints that were stored with an older one, or
    /// without any, are still known. A secret must not be empty.
    pub fn fingerprint_secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.config.secrets.0.insert(0, secret.as_ref().into());
        self
    }

    /// Runs an unknown operation again. Say so only if its effect is idempotent, or keyed by
    /// [`Run::child_key`](super::Run::child_key) or [`Run::fence`](super::Run::fence) where it happens.
    ///
    /// It replaces an earlier decision about unknown operations, as do the next three.
    pub fn rerun(self) -> IdempotencyBuilder<St, K, C, Q, R, Rerun> {
        self.on_unknown(Rerun)
    }

    /// Runs an unknown operation again, from the [checkpoint](super::Run::checkpoint) that it had
    /// come to. What lies between two checkpoints must be idempotent, or keyed where it happens.
    pub fn resume(self) -> IdempotencyBuilder<St, K, C, Q, R, Resume> {
        self.on_unknown(Resume)
    }

    /// Finds out with a closure what became of an unknown operation, for one caller at a time: see
    /// [`Reconcile`].
    pub fn reconcile_fn<F>(self, f: F) -> IdempotencyBuilder<St, K, C, Q, R, Reconcile<F>> {
        self.on_unknown(Reconcile(f))
    }

    /// Decides about unknown operations with a type of your own, which implements
    /// [`SettleUnknown`](super::SettleUnknown).
    ///
    /// Default: [`Quarantine`].
    pub fn on_unknown<V>(self, on_unknown: V) -> IdempotencyBuilder<St, K, C, Q, R, V> {
        let Self { store, find_key, scope, read, record, config, .. } = self;
        IdempotencyBuilder { store, find_key, scope, read, record, on_unknown, config }
    }

    /// Checks the settings and builds the layer.
    ///
    /// # Errors
    ///
    /// If a time is zero or too long, no run at all is allowed, a lease or its limit is too short
    /// for a run, records are kept for too short a time, a secret is empty, or two settings
    /// contradict each other. The error names the setter.
    // The finder is a parameter of its own: if the type of the result named `C::FindScope`, the
    // compiler would say that there is no such method, and not what is missing.
    pub fn build<F>(self) -> Result<IdempotencyLayer<St, K, F, Q, R, U>, ConfigError>
    where
        St: Store,
        C: HasScope<FindScope = F>,
    {
        self.config.check()?;
        let Self { store, find_key, scope, read, record, on_unknown, config } = self;
        let shared = Shared::new(store, config);
        let find_scope = scope.into_find_scope();
        let rules = Arc::new(Rules { find_key, find_scope, read, record, on_unknown });
        Ok(IdempotencyLayer { rules, shared })
    }
}

impl<St, K, C, Q, R, U> fmt::Debug for IdempotencyBuilder<St, K, C, Q, R, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}
