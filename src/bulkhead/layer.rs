use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

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
    /// At most 256 calls at once; the next is refused.
    fn default() -> Self {
        Self::from_checked(Config::default())
    }
}

impl BulkheadLayer {
    /// At most `limit` calls at once; the next is refused.
    pub fn new(limit: NonZeroU32) -> Self {
        Self::from_checked(Config { max_concurrent: limit.get(), ..Config::default() })
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
pub struct BulkheadBuilder {
    config: Config,
}

impl BulkheadBuilder {
    /// What the layer is called in errors and events; `bulkhead` until it is set.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// How many calls run at once, at least 1; 256 until it is set.
    pub fn max_concurrent(mut self, limit: u32) -> Self {
        self.config.max_concurrent = limit;
        self
    }

    /// Is not ready while every slot is taken, in place of refusing.
    pub fn backpressure(mut self) -> Self {
        self.config.when_full = WhenFull::Wait;
        self
    }

    /// Lets up to `capacity` calls wait for a slot, each for at most `max_wait`, in place of refusing.
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
pub struct QueuedBulkheadBuilder {
    config: Config,
    queue: Queue,
}

impl QueuedBulkheadBuilder {
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
        let limit = ConfigError::unless_counting("limit", limit)?;
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
