use std::{
    any::type_name,
    borrow::Borrow,
    fmt,
    hash::Hash,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    service::KeyedStackService,
    shared::{Make, Shared},
};
use crate::{
    BoxError, ConfigError, Error,
    keyed::{DescribeKey, Keys},
    stack::{
        Stack,
        convert_error::{CloneableClient, ConvertError, NotInAStack, PlainError},
        fits::GoesAround,
        handles::Handles,
    },
};

/// A thousand standard stacks take about 2 MB.
const MAX_KEYS: usize = 1_000;

/// The longest open time of a breaker is 5 min, and a budget regains its floor in 10 min.
const IDLE: Duration = Duration::from_secs(600);

impl Stack {
    /// Returns a builder for a separate stack for each key, such as each host of a client.
    ///
    /// `key` returns the key of a request. `stack` returns the stack of a key, and runs at the
    /// first call with the key. With one stack for all hosts, a host that is down spends the
    /// retry budget of all, and a host that hangs takes all slots. With a stack for each, no host
    /// harms another.
    ///
    /// The state belongs to the stacks that the closure returns. [`fresh`](Self::fresh) gives each
    /// key its own breaker, slots and budget. If the closure returns clones of one stack, all keys
    /// share its state. To share one layer, set it on the copy:
    /// `template.fresh().bulkhead(shared.clone())`.
    ///
    /// The closure cannot fail. Build its layers before, where an error can be returned. No lock is
    /// held while it runs. If several first calls with one key run it at the same time, all calls
    /// use the stack of one of them, and the others are dropped. If it panics, the call panics, and
    /// the next call runs it again.
    ///
    #[cfg_attr(feature = "http", doc = "```")]
    #[cfg_attr(not(feature = "http"), doc = "```text")]
    /// use buttress::{Stack, bulkhead::BulkheadLayer, http::by_authority};
    /// use http::{Request, Response};
    /// # use tower::service_fn;
    /// # let client = service_fn(|_: Request<String>| async {
    /// #     Ok::<_, std::io::Error>(Response::new(String::new()))
    /// # });
    ///
    /// let bulkhead = BulkheadLayer::builder().max_concurrent(64).build()?;
    /// let template = Stack::standard_http().bulkhead(bulkhead);
    /// let hosts = Stack::by_key(by_authority::<String>, move |_| template.fresh())
    ///     .max_keys(500)
    ///     .build()?;
    /// let client = hosts.service(client);
    /// hosts.for_each(|host, stack| {
    ///     println!("{host}: {:?}", stack.bulkhead_handle().map(|bulkhead| bulkhead.in_flight()));
    /// });
    /// # let _ = client;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    ///
    /// See [`KeyedStack`].
    pub fn by_key<F, Req, K, M, St>(key: F, stack: M) -> KeyedStackBuilder<K, F, St>
    where
        F: Fn(&Req) -> K,
        M: Fn(&K) -> St + Send + Sync + 'static,
        St: Handles,
    {
        KeyedStackBuilder {
            key,
            make: Arc::new(stack),
            max_keys: MAX_KEYS,
            idle: IDLE,
            describe: None,
        }
    }
}

/// A builder for a [`KeyedStack`], created by [`Stack::by_key`].
#[must_use = "a builder does nothing until `build`"]
pub struct KeyedStackBuilder<K, F, St> {
    key: F,
    make: Make<K, St>,
    max_keys: usize,
    idle: Duration,
    describe: Option<DescribeKey<K>>,
}

impl<K, F, St> KeyedStackBuilder<K, F, St> {
    /// Sets the maximum number of stacks.
    ///
    /// Default: `1,000`.
    ///
    /// 1,000 standard stacks take about 2 MB. While there are no more keys than this, a stack is
    /// evicted only after the [`idle`](Self::idle) time. Each further key evicts a stack, with
    /// these guarantees:
    ///
    /// - The stacks of the most recently used keys, half as many as `max_keys`, are kept.
    /// - A stack with an open or half-open breaker, or with calls in flight, outlives the others,
    ///   even if its key is not used, as long as these are at most half of `max_keys`.
    /// - A stack whose breaker is forced open or disabled by hand, or whose
    ///   [fallback](Stack::fallback) is switched off, is never evicted. It does not count towards
    ///   `max_keys`.
    ///
    /// Among the stacks that may be evicted, the one that was unused for the longest time is. Its
    /// key then starts with a new stack. Therefore set the number to at least twice the number of
    /// keys in regular use. The number must be at least 2.
    ///
    /// These guarantees are about a stack's own layers. A breaker, bulkhead or fallback that
    /// several stacks share counts for the first of them only. It outlives the stacks, so an
    /// eviction does not reset it. The entries of a [cache](Stack::cache) are lost with its stack,
    /// unless the stacks share it.
    ///
    /// One call skips about 16 stacks that must outlive others. If the keys that were unused for
    /// the longest time all have such stacks, one in 17 of these is evicted nevertheless. The calls
    /// in flight of an evicted stack go on. Until they end, the key may use the slots of both
    /// stacks.
    ///
    /// No call pays for the eviction of more than a few stacks.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// Sets the time for which an unused stack is kept.
    ///
    /// Default: `10 min`.
    ///
    /// This is twice the longest open time of a default breaker, and the time in which a default
    /// retry budget regains its floor. A stack that was unused for this time is evicted, and its
    /// key starts with a new one. It is not evicted while it has calls in flight, or before the
    /// open time of its breaker has elapsed. Each call releases the memory of a few unused stacks,
    /// whatever its key is. The time must not be zero.
    pub fn idle(mut self, time: Duration) -> Self {
        self.idle = time;
        self
    }

    /// Sets a closure that describes a key in the events of its breaker and in
    /// [`CircuitOpen`](crate::error::CircuitOpen).
    ///
    /// Default: none. Keys do not appear, because a key may be a secret, such as the token of a
    /// tenant.
    ///
    /// The closure runs once for each new stack. [`CircuitOpen::key`] returns its text, and the
    /// message of the error has it: `outbound (mail.example): the circuit is open`. The names of
    /// the layers stay the same for all keys, so that metrics can be labelled with them. Leave it
    /// out if the stacks share a breaker, which would have the text of its first key.
    ///
    /// [`CircuitOpen::key`]: crate::error::CircuitOpen::key
    pub fn describe_fn(mut self, describe: impl Fn(&K) -> String + Send + Sync + 'static) -> Self {
        self.describe = Some(Arc::new(describe));
        self
    }

    /// Checks the settings and builds the stacks by key.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] for `max_keys` if it is less than 2, and for `idle` if it is zero.
    pub fn build(self) -> Result<KeyedStack<K, F, St>, ConfigError>
    where
        K: Hash + Eq,
    {
        let Self { key, make, max_keys, idle, describe } = self;
        if max_keys < 2 {
            return Err(ConfigError::new("max_keys", max_keys, "it must be at least 2"));
        }
        ConfigError::require_positive("idle", idle)?;
        let stacks = Keys::new(max_keys, idle, Instant::now());
        let made = AtomicU64::new(0);
        Ok(KeyedStack { shared: Arc::new(Shared { key, make, describe, stacks, made }) })
    }
}

impl<K, F, St> fmt::Debug for KeyedStackBuilder<K, F, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedStackBuilder")
            .field("key", &format_args!("{}", type_name::<F>()))
            .field("max_keys", &self.max_keys)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

/// A separate stack for each key, created by [`Stack::by_key`].
///
/// The stacks belong to this value. Its clones, and all services that it creates, share them. It
/// goes around a client in the same three ways as a [`Stack`], and the errors are the same. In a
/// struct, the service is a [`ServiceOf`](crate::stack::ServiceOf):
///
#[cfg_attr(feature = "http", doc = "```")]
#[cfg_attr(not(feature = "http"), doc = "```text")]
/// use buttress::{
///     Stack,
///     http::{HttpStack, by_authority},
///     stack::{KeyedStack, ServiceOf},
/// };
/// use http::Request;
///
/// type Hosts = KeyedStack<String, fn(&Request<String>) -> String, HttpStack>;
///
/// struct Outbound<Client: Clone, E> {
///     client: ServiceOf<Hosts, Client, E>,
///     hosts: Hosts,
/// }
///
/// let template = Stack::standard_http();
/// let by_host: fn(&Request<String>) -> String = by_authority;
/// let hosts: Hosts = Stack::by_key(by_host, move |_| template.fresh()).build()?;
/// # let _ = hosts;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
///
/// The key of a call is not known before there is a request. Therefore the service is always ready,
/// and a call waits in its future for a clone of the client to become ready. A bulkhead with
/// backpressure makes the call wait in its future too. A total timeout includes this wait.
///
/// A service keeps the stack of each key around a clone of the client. A call with a known key
/// therefore allocates only what its key does, for example the `String` of a host. All settings are
/// in the stacks, so [`Stack::explain`] explains the template.
pub struct KeyedStack<K, F, St> {
    shared: Arc<Shared<K, F, St>>,
}

impl<K: Hash + Eq, F, St: Handles> KeyedStack<K, F, St> {
    /// Returns a clone of the stack of `key`, or `None` if the key has no stack.
    ///
    /// A key has no stack before its first call, and after its stack was evicted. Use the clone for
    /// its handles, such as [`circuit_breaker_handle`](Stack::circuit_breaker_handle). The handles
    /// to an evicted stack no longer affect any new call.
    pub fn get<Q>(&self, key: &Q) -> Option<St>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        St: Clone,
    {
        self.shared.stacks.get(key).map(|entry| entry.stack.clone())
    }

    /// Calls a closure with each key that has a stack, and its stack.
    ///
    /// It is not a use of the keys. No lock is held while the closure runs, so the closure may call
    /// any handle, and this value. The keys are listed first, a few at a time, so calls do not wait
    /// for it. No key is cloned.
    pub fn for_each(&self, mut f: impl FnMut(&K, &St)) {
        self.shared.stacks.for_each(|key, entry| f(key, &entry.stack));
    }

    /// Returns the number of keys that have a stack now.
    pub fn keys(&self) -> usize {
        self.shared.stacks.len()
    }

    /// Wraps a client, whose error becomes [`Error<E>`](crate::Error).
    ///
    /// It is like [`Stack::service`].
    pub fn service<S, Req, Why>(
        &self,
        client: S,
    ) -> <Self as Layer<ConvertError<S, Error<S::Error>>>>::Service
    where
        S: Service<Req> + CloneableClient,
        S::Error: PlainError + NotInAStack<Why>,
        F: Fn(&Req) -> K,
        St: Layer<ConvertError<S, Error<S::Error>>> + GoesAround<S, Req, Error<S::Error>>,
    {
        self.layer(ConvertError::new(client))
    }

    /// Wraps a client, whose error becomes a [`BoxError`].
    ///
    /// It is like [`Stack::boxed`].
    pub fn boxed<S, Req>(&self, client: S) -> <Self as Layer<ConvertError<S, BoxError>>>::Service
    where
        S: Service<Req> + CloneableClient,
        S::Error: Into<BoxError>,
        F: Fn(&Req) -> K,
        St: Layer<ConvertError<S, BoxError>> + GoesAround<S, Req, BoxError>,
    {
        self.layer(ConvertError::new(client))
    }
}

impl<S, K: Hash + Eq, F, St: Handles + Layer<S>> Layer<S> for KeyedStack<K, F, St> {
    type Service = KeyedStackService<S, St::Service, K, F, St>;

    fn layer(&self, client: S) -> Self::Service {
        KeyedStackService::new(client, Arc::clone(&self.shared))
    }
}

impl<K, F, St> Clone for KeyedStack<K, F, St> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K, F, St> fmt::Debug for KeyedStack<K, F, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyedStack").field(&self.shared).finish()
    }
}
