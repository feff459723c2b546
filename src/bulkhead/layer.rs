use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    config::{Config, Queue, WhenFull},
    future::Drained,
    queue::Slots,
    service::{Bulkhead, QueuedBulkhead},
};
use crate::{
    ConfigError,
    error::Name,
    telemetry::{Kind, Registry, ReporterCell, Reporters},
};

/// A layer that creates [`Bulkhead`] services, which limit concurrent calls.
///
/// The layer *is* the bulkhead. Its clones, and all services that it creates, share its slots. See
/// the [module docs](super) for an example.
#[derive(Clone, Debug)]
pub struct BulkheadLayer {
    slots: Arc<Slots>,
    when_full: WhenFull,
}

impl Default for BulkheadLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl BulkheadLayer {
    /// Creates a bulkhead that admits 256 concurrent calls and rejects further ones.
    pub fn new() -> Self {
        Self::from_checked(Config::default())
    }

    fn from_checked(config: Config) -> Self {
        let Config { reporter, max_concurrent, when_full } = config;
        let capacity = match when_full {
            WhenFull::Reject => 0,
            WhenFull::Wait => u32::MAX,
        };
        Self { slots: Slots::new(reporter, max_concurrent, capacity), when_full }
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> BulkheadBuilder {
        BulkheadBuilder { config: Config::default() }
    }

    /// Returns a handle for inspecting and resizing the bulkhead at run time.
    pub fn handle(&self) -> BulkheadHandle {
        BulkheadHandle { slots: Arc::clone(&self.slots) }
    }

    /// Creates a service. `M` decides when a call is complete.
    pub(crate) fn completing<S, M>(&self, inner: S) -> Bulkhead<S, M> {
        Bulkhead::new(inner, Arc::clone(&self.slots), self.when_full)
    }

    /// Takes the names and the registry of a stack.
    pub(crate) fn inherit(&self, stack: &Reporters) {
        self.slots.inherit(stack);
    }

    fn count_in(&self, registry: &Registry) {
        self.slots.register(registry);
    }

    /// Returns a layer with the same settings and slots of its own.
    pub(crate) fn fresh(&self) -> Self {
        Self { slots: self.slots.fresh(), when_full: self.when_full }
    }

    pub(crate) fn is_backpressure(&self) -> bool {
        self.when_full == WhenFull::Wait
    }
}

register!(BulkheadLayer);

impl<S> Layer<S> for BulkheadLayer {
    type Service = Bulkhead<S>;

    fn layer(&self, inner: S) -> Bulkhead<S> {
        self.completing(inner)
    }
}

/// A builder for a [`BulkheadLayer`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct BulkheadBuilder {
    config: Config,
}

impl BulkheadBuilder {
    /// Sets the name of the layer in errors and events.
    ///
    /// Default: `bulkhead`. In a stack with a name, it is that of the stack.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.reporter = ReporterCell::new(Some(name.into()), Kind::Bulkhead);
        self
    }

    /// Sets the maximum number of concurrent calls.
    ///
    /// Default: `256`.
    ///
    /// At 50 ms per call, that is about 5,000 calls per second. A dependency that hangs blocks at
    /// most 256 tasks. The limit must be at least 1. [`BulkheadHandle::resize`] changes it later.
    pub fn max_concurrent(mut self, limit: u32) -> Self {
        self.config.max_concurrent = limit;
        self
    }

    /// Reports `Pending` while no slot is free, instead of rejecting.
    ///
    /// Default: off.
    ///
    /// Use it where a caller can wait or do something else, such as a worker, or beneath a
    /// balancer. It cannot be combined with a [`queue`](Self::queue).
    pub fn backpressure(mut self) -> Self {
        self.config.when_full = WhenFull::Wait;
        self
    }

    /// Queues up to `capacity` calls, each for at most `max_wait`, instead of rejecting them.
    ///
    /// Default: none. A call that finds no free slot is rejected.
    ///
    /// The queue is first in, first out. Under lasting overload it is newest first. See the
    /// [order](super#the-order-of-the-queue).
    ///
    /// `capacity` must be at least 1, and `max_wait` must be longer than zero. `Duration::MAX`
    /// means no limit on the wait.
    ///
    /// A bulkhead with a queue has another type of future. Therefore this method returns the
    /// builder of a [`QueuedBulkheadLayer`], which keeps the settings made before. A queue cannot
    /// be combined with [`backpressure`](Self::backpressure).
    pub fn queue(self, capacity: u32, max_wait: Duration) -> QueuedBulkheadBuilder {
        QueuedBulkheadBuilder { config: self.config, queue: Queue { capacity, max_wait } }
    }

    /// Checks the settings and builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] for `max_concurrent` if it is zero.
    pub fn build(self) -> Result<BulkheadLayer, ConfigError> {
        self.config.checked().map(BulkheadLayer::from_checked)
    }
}

/// A layer that creates [`QueuedBulkhead`] services, which limit concurrent calls and queue others.
///
/// The layer *is* the bulkhead. Its clones, and all services that it creates, share its slots and
/// its queue.
#[derive(Clone, Debug)]
pub struct QueuedBulkheadLayer {
    slots: Arc<Slots>,
    queue: Queue,
}

impl QueuedBulkheadLayer {
    /// Returns a builder for a bulkhead that queues up to `capacity` calls for at most `max_wait`.
    ///
    /// This is the same as [`BulkheadLayer::builder`] with [`queue`](BulkheadBuilder::queue).
    /// `capacity` must be at least 1, and `max_wait` must be longer than zero. `Duration::MAX`
    /// means no limit on the wait.
    pub fn builder(capacity: u32, max_wait: Duration) -> QueuedBulkheadBuilder {
        BulkheadLayer::builder().queue(capacity, max_wait)
    }

    /// Returns a handle for inspecting and resizing the bulkhead at run time.
    pub fn handle(&self) -> BulkheadHandle {
        BulkheadHandle { slots: Arc::clone(&self.slots) }
    }

    /// Creates a service. `M` decides when a call is complete.
    pub(crate) fn completing<S, M>(&self, inner: S) -> QueuedBulkhead<S, M> {
        QueuedBulkhead::new(inner, Arc::clone(&self.slots), self.queue)
    }

    /// Takes the names and the registry of a stack.
    pub(crate) fn inherit(&self, stack: &Reporters) {
        self.slots.inherit(stack);
    }

    fn count_in(&self, registry: &Registry) {
        self.slots.register(registry);
    }

    /// Returns a layer with the same settings, and slots and a queue of its own.
    pub(crate) fn fresh(&self) -> Self {
        Self { slots: self.slots.fresh(), queue: self.queue }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.queue.capacity
    }

    pub(crate) fn max_wait(&self) -> Duration {
        self.queue.max_wait
    }
}

register!(QueuedBulkheadLayer);

impl<S> Layer<S> for QueuedBulkheadLayer {
    type Service = QueuedBulkhead<S>;

    fn layer(&self, inner: S) -> QueuedBulkhead<S> {
        self.completing(inner)
    }
}

/// A builder for a [`QueuedBulkheadLayer`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct QueuedBulkheadBuilder {
    config: Config,
    queue: Queue,
}

impl QueuedBulkheadBuilder {
    /// Sets the name of the layer in errors and events.
    ///
    /// Default: `bulkhead`. In a stack with a name, it is that of the stack.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.reporter = ReporterCell::new(Some(name.into()), Kind::Bulkhead);
        self
    }

    /// Sets the maximum number of concurrent calls.
    ///
    /// Default: `256`.
    ///
    /// The limit must be at least 1. [`BulkheadHandle::resize`] changes it later.
    pub fn max_concurrent(mut self, limit: u32) -> Self {
        self.config.max_concurrent = limit;
        self
    }

    /// Checks the settings and builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`]
    ///
    /// - for `max_concurrent` if it is zero;
    /// - for `queue` if its `capacity` or its `max_wait` is zero;
    /// - for `backpressure` if it was set too.
    pub fn build(self) -> Result<QueuedBulkheadLayer, ConfigError> {
        let (config, queue) = self.queue.checked(self.config)?;
        let slots = Slots::new(config.reporter, config.max_concurrent, queue.capacity);
        Ok(QueuedBulkheadLayer { slots, queue })
    }
}

/// A handle for inspecting and resizing a bulkhead at run time.
///
/// All clones control the same bulkhead.
#[derive(Clone)]
pub struct BulkheadHandle {
    slots: Arc<Slots>,
}

impl BulkheadHandle {
    /// Takes the names and the registry of a stack.
    pub(crate) fn inherit(&self, stack: &Reporters) {
        self.slots.inherit(stack);
    }

    /// Returns `true` to the first caller only. Others share the bulkhead with it.
    pub(crate) fn claim(&self) -> bool {
        self.slots.claim()
    }

    /// Returns the number of slots in use.
    ///
    /// A slot is in use by a call, or by a service that has reserved it in `poll_ready`.
    pub fn in_flight(&self) -> u32 {
        self.slots.in_flight()
    }

    /// Returns the number of callers that wait for a slot.
    pub fn queued(&self) -> u32 {
        self.slots.queued()
    }

    /// Returns the maximum number of concurrent calls.
    pub fn limit(&self) -> u32 {
        self.slots.limit()
    }

    /// Waits until no slot is in use and no caller is queued.
    ///
    /// Use it before a shutdown or the replacement of a client. It does not reject new calls, so
    /// stop them first. If calls still arrive, it returns once the bulkhead was empty for an
    /// instant during the wait. A service that has reserved a slot in `poll_ready` uses it until it
    /// is called or dropped.
    ///
    /// A retry that pauses between two attempts uses no slot of a bulkhead beneath it, as in a
    /// stack. To wait for whole calls, put another bulkhead around them, see
    /// [the recipe](crate::guide::recipes#how-do-i-wait-for-the-calls-in-flight-before-a-shutdown).
    ///
    /// ```
    /// use buttress::bulkhead::BulkheadLayer;
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let handle = BulkheadLayer::new().handle();
    /// // The server accepts no more requests. The calls in flight get at most 10 s.
    /// let drained = tokio::time::timeout(Duration::from_secs(10), handle.drained()).await;
    /// assert!(drained.is_ok());
    /// # }
    /// ```
    pub fn drained(&self) -> Drained {
        Drained::new(Arc::clone(&self.slots))
    }

    /// Sets the maximum number of concurrent calls.
    ///
    /// If the limit is lowered, the calls in flight continue, and further calls are admitted when
    /// there are fewer than `limit`. A higher limit admits queued calls at once.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] for `resize` if the limit is zero.
    pub fn resize(&self, limit: u32) -> Result<(), ConfigError> {
        let limit = ConfigError::require_nonzero("resize", limit)?;
        self.slots.resize(limit);
        Ok(())
    }
}

impl fmt::Debug for BulkheadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BulkheadHandle").field(&self.slots).finish()
    }
}
