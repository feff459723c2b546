use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    config::{Config, Queue, WhenFull},
    events,
    queue::Slots,
    service::{Bulkhead, QueuedBulkhead},
};
use crate::{ConfigError, error::Name};

/// A limit on concurrent calls, which makes [`Bulkhead`]s. See the [module docs](super) for an
/// example.
///
/// The layer *is* the bulkhead: clones of it, and all services that it makes, share its slots.
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
    /// Creates a bulkhead that runs 256 calls at once and rejects the next.
    pub fn new() -> Self {
        Self::from_checked(Config::default())
    }

    fn from_checked(config: Config) -> Self {
        let Config { name, max_concurrent, when_full } = config;
        Self { slots: Slots::new(name, max_concurrent), when_full }
    }

    /// Settings other than the defaults.
    pub fn builder() -> BulkheadBuilder {
        BulkheadBuilder { config: Config::default() }
    }

    /// What an operator sees and turns.
    pub fn handle(&self) -> BulkheadHandle {
        BulkheadHandle { slots: Arc::clone(&self.slots) }
    }

    /// The service, with calls that end as `M` says.
    pub(crate) fn completing<S, M>(&self, inner: S) -> Bulkhead<S, M> {
        Bulkhead::new(inner, Arc::clone(&self.slots), self.when_full)
    }

    pub(crate) fn is_backpressure(&self) -> bool {
        self.when_full == WhenFull::Wait
    }
}

impl<S> Layer<S> for BulkheadLayer {
    type Service = Bulkhead<S>;

    fn layer(&self, inner: S) -> Bulkhead<S> {
        self.completing(inner)
    }
}

/// Settings of a [`BulkheadLayer`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct BulkheadBuilder {
    config: Config,
}

impl BulkheadBuilder {
    /// Sets the name of the layer in errors and events.
    ///
    /// Default: `bulkhead`.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// Sets the maximum number of concurrent calls.
    ///
    /// Default: `256`.
    ///
    /// At 50 ms each that is 5,000 calls a second, and a dependency that hangs holds 256 tasks and
    /// no more. It must be at least 1.
    pub fn max_concurrent(mut self, limit: u32) -> Self {
        self.config.max_concurrent = limit;
        self
    }

    /// Reports `Pending` while every slot is taken, instead of rejecting. It excludes a
    /// [`queue`](Self::queue).
    pub fn backpressure(mut self) -> Self {
        self.config.when_full = WhenFull::Wait;
        self
    }

    /// Lets up to `capacity` calls wait for a slot, each for at most `max_wait`, instead of
    /// rejecting.
    ///
    /// The services of a bulkhead with a queue have another future. So this returns another
    /// builder, that of a [`QueuedBulkheadLayer`], with the settings made so far. `capacity` must
    /// be at least 1 and `max_wait` longer than zero. `Duration::MAX` is no limit.
    pub fn queue(self, capacity: u32, max_wait: Duration) -> QueuedBulkheadBuilder {
        QueuedBulkheadBuilder { config: self.config, queue: Queue { capacity, max_wait } }
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If no call at all may run.
    pub fn build(self) -> Result<BulkheadLayer, ConfigError> {
        self.config.checked().map(BulkheadLayer::from_checked)
    }
}

/// A bulkhead with a queue, which makes [`QueuedBulkhead`]s.
///
/// The layer *is* the bulkhead: clones of it, and all services that it makes, share its slots and
/// its queue.
#[derive(Clone, Debug)]
pub struct QueuedBulkheadLayer {
    slots: Arc<Slots>,
    queue: Queue,
}

impl QueuedBulkheadLayer {
    /// Returns a builder for a bulkhead that lets up to `capacity` calls wait for a slot, each for
    /// at most `max_wait`. It is the same as [`BulkheadLayer::builder`] with
    /// [`queue`](BulkheadBuilder::queue).
    pub fn builder(capacity: u32, max_wait: Duration) -> QueuedBulkheadBuilder {
        BulkheadLayer::builder().queue(capacity, max_wait)
    }

    /// What an operator sees and turns.
    pub fn handle(&self) -> BulkheadHandle {
        BulkheadHandle { slots: Arc::clone(&self.slots) }
    }

    /// The service, with calls that end as `M` says.
    pub(crate) fn completing<S, M>(&self, inner: S) -> QueuedBulkhead<S, M> {
        QueuedBulkhead::new(inner, Arc::clone(&self.slots), self.queue)
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.queue.capacity
    }

    pub(crate) fn max_wait(&self) -> Duration {
        self.queue.max_wait
    }
}

impl<S> Layer<S> for QueuedBulkheadLayer {
    type Service = QueuedBulkhead<S>;

    fn layer(&self, inner: S) -> QueuedBulkhead<S> {
        self.completing(inner)
    }
}

/// Settings of a [`QueuedBulkheadLayer`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct QueuedBulkheadBuilder {
    config: Config,
    queue: Queue,
}

impl QueuedBulkheadBuilder {
    /// Sets the name of the layer in errors and events.
    ///
    /// Default: `bulkhead`.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// Sets the maximum number of concurrent calls.
    ///
    /// Default: `256`.
    ///
    /// It must be at least 1.
    pub fn max_concurrent(mut self, limit: u32) -> Self {
        self.config.max_concurrent = limit;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If no call may run, none may wait, or none may wait for any time; or if the bulkhead is also to
    /// push back.
    pub fn build(self) -> Result<QueuedBulkheadLayer, ConfigError> {
        let (config, queue) = self.queue.checked(self.config)?;
        let slots = Slots::new(config.name, config.max_concurrent);
        Ok(QueuedBulkheadLayer { slots, queue })
    }
}

/// What an operator sees of a bulkhead, and turns. Clones are the same handle.
#[derive(Clone)]
pub struct BulkheadHandle {
    slots: Arc<Slots>,
}

impl BulkheadHandle {
    /// How many slots are taken: by calls, and by services that are ready to be called.
    pub fn in_flight(&self) -> u32 {
        self.slots.in_flight()
    }

    /// How many callers wait for a slot.
    pub fn queued(&self) -> u32 {
        self.slots.queued()
    }

    /// How many calls may run at once.
    pub fn limit(&self) -> u32 {
        self.slots.limit()
    }

    /// Changes the limit. Calls that are under way go on; a higher limit lets waiters in at once.
    ///
    /// # Errors
    ///
    /// If the limit is zero.
    pub fn resize(&self, limit: u32) -> Result<(), ConfigError> {
        let limit = ConfigError::require_nonzero("resize", limit)?;
        self.slots.resize(limit);
        events::resized(self.slots.name(), limit);
        Ok(())
    }
}

impl fmt::Debug for BulkheadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BulkheadHandle").field(&self.slots).finish()
    }
}
