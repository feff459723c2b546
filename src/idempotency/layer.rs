use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    Digests, FindKeyFn, FindScopeFn, HasScope, Idempotency, IdempotencyHandle, InvalidKey, NoScope,
    Quarantine, ReadRequestFn, Reconcile, RequestKey, Rerun, Resume, Scoped, SingleTenant, Store,
    config::Config, find_key_fn, find_scope_fn, read_request_fn, rules::Rules, shared::Shared,
};
use crate::{
    ConfigError,
    error::Name,
    keep::KeepClones,
    telemetry::{Kind, ReporterCell},
};

/// A layer that runs each operation once and replays its response.
///
/// Its clones, and all [`Idempotency`] services that it creates, share its runs and leases. See
/// the [module docs](super) for an example.
pub struct IdempotencyLayer<St, K, C, Q, R, U = Quarantine> {
    pub(super) rules: Arc<Rules<K, C, Q, R, U>>,
    pub(super) shared: Arc<Shared<St>>,
}

impl<St, K, Q, R> IdempotencyLayer<St, K, (), Q, R> {
    /// Returns a builder with the given store, key finder, request reader and response recorder.
    ///
    /// `find_key` finds the key of a request, `read` reads the content that a duplicate must
    /// share, and `record` records and replays responses. To pass closures, use
    /// [`builder_fn`](IdempotencyLayer::builder_fn).
    ///
    /// The builder has no `build` until its scope is set with
    /// [`scope_fn`](IdempotencyBuilder::scope_fn), [`scope`](IdempotencyBuilder::scope) or
    /// [`single_tenant`](IdempotencyBuilder::single_tenant).
    pub fn builder(
        store: St,
        find_key: K,
        read: Q,
        record: R,
    ) -> IdempotencyBuilder<St, K, NoScope, Q, R> {
        let (scope, on_unknown, config) = (NoScope(()), Quarantine, Config::default());
        IdempotencyBuilder { store, find_key, scope, read, record, on_unknown, config }
    }
}

impl<St, F, G> IdempotencyLayer<St, FindKeyFn<F>, (), ReadRequestFn<G>, KeepClones> {
    /// Returns a builder that reads requests with closures and keeps clones of responses.
    ///
    /// `find_key` finds the key of a request. `read` adds the content that a duplicate must share
    /// with the request.
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
    ///     match &order.key {
    ///         Some(key) => Key::parse(key).map(RequestKey::Key),
    ///         None => Ok(RequestKey::Missing),
    ///     }
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
    ) -> IdempotencyBuilder<St, FindKeyFn<F>, NoScope, ReadRequestFn<G>, KeepClones>
    where
        F: Fn(&Req) -> Result<RequestKey, InvalidKey>,
        G: Fn(&Req, &mut Digests),
    {
        let (find_key, read) = (find_key_fn(find_key), read_request_fn(read));
        IdempotencyLayer::builder(store, find_key, read, KeepClones)
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

/// A builder for [`IdempotencyLayer`].
///
/// [`build`](Self::build) returns a [`ConfigError`] for an invalid value. The error names the
/// setter.
///
/// `C` is the state of the builder: [`NoScope`] until a scope is set, then [`Scoped`]. Only a
/// builder with a scope has a `build`. The other setters can be called before or after. There is
/// no default scope, because callers that share their keys could read each other's responses.
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
    /// Sets the closure that finds the scope of a request. Each scope has its own keys.
    ///
    /// Default: none. [`build`](IdempotencyBuilder::build) exists only after a scope was set.
    ///
    /// The closure returns the name of the scope, such as the authenticated account. The name is
    /// owned, such as a `String` or `[u8; 16]`. It must not be anything that a caller can choose.
    ///
    /// If the closure returns `None`, the request is rejected with
    /// [`ScopeMissing`](crate::error::IdempotencyReason::ScopeMissing). Do not fall back to a
    /// common scope, because unauthenticated callers would then get the responses of others.
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

    /// Sets one scope for all callers, which then share their keys.
    ///
    /// Default: none. [`build`](IdempotencyBuilder::build) exists only after a scope was set.
    ///
    /// Use it only if there is one caller, or if callers may read each other's responses. The scope
    /// has no share in a bounded store, and may use all of it.
    pub fn single_tenant(self) -> IdempotencyBuilder<St, K, Scoped<SingleTenant>, Q, R, U> {
        self.scope(SingleTenant)
    }

    /// Sets the [`FindScope`](super::FindScope) that finds the scope of a request.
    ///
    /// Default: none. [`build`](IdempotencyBuilder::build) exists only after a scope was set.
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
        self.config.reporter = ReporterCell::new(Some(name.into()), Kind::Idempotency);
        self
    }

    /// Records the start of the effect in the store, after the claim and before the service call.
    ///
    /// Default: off, because it costs a third round trip to the store for each run.
    ///
    /// A process that dies before the effect begins then leaves no trace, instead of an unknown
    /// operation. It cannot be combined with [`transactional`](Self::transactional), where it
    /// would have no effect.
    pub fn reserve_first(mut self) -> Self {
        self.config.reserve_first = true;
        self
    }

    /// Lets the service commit its effect and the record in one transaction.
    ///
    /// Default: off.
    ///
    /// The transaction of the service must be conditional on the [`Hold`](super::Hold) of its
    /// [`Run`](super::Run). Nothing has happened until the commit. A run that ends without a
    /// commit is therefore not unknown, and the next request runs the operation again.
    ///
    /// If the service rolls back and returns a response, the response is recorded like any other.
    /// This is right for a final response, such as a declined payment. It is wrong for a failure
    /// that may pass. The service must then return an error, or over HTTP a response marked
    /// `NotStarted`.
    ///
    /// It cannot be combined with [`reserve_first`](Self::reserve_first).
    pub fn transactional(mut self) -> Self {
        self.config.transactional = true;
        self
    }

    /// Sets the lease, the time during which no other process may run the same operation.
    ///
    /// Default: `30 s`, because most runs then end before the first renewal.
    ///
    /// The lease is renewed each time a third of it has passed. If a process dies, its keys stay
    /// blocked for up to one lease. The lease must be at least 1 ms, longer than the
    /// [`store_timeout`](Self::store_timeout), and not longer than the
    /// [`lease_limit`](Self::lease_limit).
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// Sets the time after which a lease is no longer renewed, counted from the claim.
    ///
    /// Default: `10 min`, because a longer run is probably stuck.
    ///
    /// It must not be shorter than the [`lease`](Self::lease) or the
    /// [`run_limit`](Self::run_limit), nor longer than a year.
    pub fn lease_limit(mut self, limit: Duration) -> Self {
        self.config.lease_limit = limit;
        self
    }

    /// Sets the maximum duration of a run, which includes reading the response body to record it.
    ///
    /// Default: `30 s`.
    ///
    /// A run that takes longer is stopped. Its outcome is unknown if the service was called. The
    /// deadline of the caller does not stop the run, and ends only the caller's wait. The limit
    /// must be longer than zero and not longer than the [`lease_limit`](Self::lease_limit).
    pub fn run_limit(mut self, limit: Duration) -> Self {
        self.config.run_limit = limit;
        self
    }

    /// Sets the timeout of one step of the store, which is one call of a [`Store`] method.
    ///
    /// Default: `1 s`, because a slower step is better retried or abandoned.
    ///
    /// It must be longer than zero and shorter than the [`lease`](Self::lease).
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.config.store_timeout = timeout;
        self
    }

    /// Sets how long a result is replayed, counted from its completion.
    ///
    /// Default: `24 h`.
    ///
    /// After that, the key is free, and a late retry runs the operation again. The time must be at
    /// least 1 ms, not longer than the [`unknown_retention`](Self::unknown_retention), and at least
    /// twice as long as [`clients_retry_for`](Self::clients_retry_for), if that is set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// Sets how long clients keep retrying, only to check the [`ttl`](Self::ttl).
    ///
    /// Default: none, which skips the check.
    ///
    /// It must be longer than zero. The [`ttl`](Self::ttl) must be at least twice as long.
    pub fn clients_retry_for(mut self, horizon: Duration) -> Self {
        self.config.retry_horizon = Some(horizon);
        self
    }

    /// Sets how long an unknown operation is kept if it is not resolved.
    ///
    /// Default: `30 days`, long enough for an operator after a holiday.
    ///
    /// After that, the key is free, and a late retry runs the operation again. The time must not
    /// be shorter than the [`ttl`](Self::ttl), nor longer than a hundred years.
    pub fn unknown_retention(mut self, retention: Duration) -> Self {
        self.config.unknown_for = retention;
        self
    }

    /// Sets the time after which a rejected duplicate of a request in flight should retry.
    ///
    /// Default: `1 s`, the smallest value of the header `Retry-After`.
    ///
    /// It is also the longest pause between two polls of the store for waiting duplicates. Jitter
    /// shortens the pause to no less than half. The time must be longer than zero and not longer
    /// than a year.
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.config.retry_after = retry_after;
        self
    }

    /// Lets a duplicate of a request in flight wait for its result, for up to `limit`.
    ///
    /// Default: off. A duplicate is rejected at once.
    ///
    /// A duplicate that has waited for `limit` is rejected with
    /// [`InFlight`](crate::error::IdempotencyReason::InFlight). The limit must be longer than zero
    /// and not longer than a year.
    ///
    /// This layer does not bound the number of waiting duplicates. Each keeps its request in
    /// memory, with the part of the body that was read. Over HTTP, the bodies of all requests
    /// together are bounded. A duplicate takes no slot of a run while it waits.
    pub fn wait_for_duplicates(mut self, limit: Duration) -> Self {
        self.config.wait = Some(limit);
        self
    }

    /// Sets the maximum number of concurrent runs in this process.
    ///
    /// Default: `1024`.
    ///
    /// Over HTTP, each run keeps a response of up to 64 KiB in memory by default. The maximum
    /// must be at least 1.
    ///
    /// A request takes a slot before the store is asked. It keeps the slot until the store has
    /// responded, and if it is run, until the run ends. Requests with the same key share a slot.
    /// If no slot is free, a request is rejected with
    /// [`Full`](crate::error::IdempotencyReason::Full), even if its result is recorded. Leave
    /// some slots for duplicates.
    pub fn max_runs(mut self, runs: u32) -> Self {
        self.config.max_runs = runs;
        self
    }

    /// Adds a secret for the fingerprints of requests, which are then HMACs.
    ///
    /// Default: none. Fingerprints are plain SHA-256.
    ///
    /// Without the secret, a reader of the store cannot guess the content of requests. Each call
    /// adds a newer secret. Fingerprints that were stored with an older secret, or without one,
    /// are still recognized. A secret must not be empty.
    pub fn fingerprint_secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.config.secrets.0.insert(0, secret.as_ref().into());
        self
    }

    /// Runs an unknown operation again.
    ///
    /// Use it only if a second effect does no harm, or if the system with the effect rejects it
    /// by [`Run::child_key`](super::Run::child_key) or [`Run::fence`](super::Run::fence).
    ///
    /// It replaces the policy for unknown operations. [`resume`](Self::resume),
    /// [`reconcile_fn`](Self::reconcile_fn) and [`on_unknown`](Self::on_unknown) do, too.
    pub fn rerun(self) -> IdempotencyBuilder<St, K, C, Q, R, Rerun> {
        self.on_unknown(Rerun)
    }

    /// Runs an unknown operation again, from its last [checkpoint](super::Run::checkpoint).
    ///
    /// The service must read the checkpoint and continue there. The work between two checkpoints
    /// may be done twice. As with [`rerun`](Self::rerun), this must do no harm or be rejected.
    pub fn resume(self) -> IdempotencyBuilder<St, K, C, Q, R, Resume> {
        self.on_unknown(Resume)
    }

    /// Asks a closure for the outcome of an unknown operation when it is requested again.
    ///
    /// Default: none. Unknown operations are left to an operator.
    ///
    /// The closure is `Fn(Run) -> impl Future<Output = Settled<Res>>`. See [`Reconcile`] for the
    /// rules that it must follow.
    pub fn reconcile_fn<F>(self, f: F) -> IdempotencyBuilder<St, K, C, Q, R, Reconcile<F>> {
        self.on_unknown(Reconcile(f))
    }

    /// Sets the policy for unknown operations, a [`SettleUnknown`](super::SettleUnknown).
    ///
    /// Default: `Quarantine`, which leaves them to an operator.
    pub fn on_unknown<V>(self, on_unknown: V) -> IdempotencyBuilder<St, K, C, Q, R, V> {
        let Self { store, find_key, scope, read, record, config, .. } = self;
        IdempotencyBuilder { store, find_key, scope, read, record, on_unknown, config }
    }

    /// Changes the key finder and the recorder. `build` returns the first error.
    #[cfg(feature = "http")]
    pub(crate) fn change(
        mut self,
        change: impl FnOnce(&mut K, &mut R) -> Result<(), ConfigError>,
    ) -> Self {
        let changed = change(&mut self.find_key, &mut self.record);
        self.config.invalid = self.config.invalid.or(changed.err());
        self
    }

    /// Checks the settings and builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] that names the setter if
    ///
    /// - a duration is too short or too long, or does not fit another one;
    /// - [`max_runs`](Self::max_runs) is zero;
    /// - a [`fingerprint_secret`](Self::fingerprint_secret) is empty;
    /// - both [`reserve_first`](Self::reserve_first) and [`transactional`](Self::transactional)
    ///   are set.
    // `F` is a parameter of its own. If the result type named `C::FindScope`, the compiler would
    // report that the method does not exist, instead of the missing scope.
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
