use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{Bulkhead, QueuedBulkhead, events, queue::Slots};
use crate::{ConfigError, Name};

/// What happens to a call when every slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenFull {
    Reject,
    Wait,
}

/// A limit on concurrent calls, which makes [`Bulkhead`]s. See the [module docs](super) for an
/// example.
///
/// The layer *is* the bulkhead: clones of it, and all services that it makes, share its slots.
#[derive(Clone, Debug)]
pub struct BulkheadLayer {
    slots: Arc<Slots>,
    when_full: WhenFull,
}

/// 256 calls at once: at 50 ms each that is 5,000 calls a second, and a dependency that hangs holds
/// 256 tasks and no more.
const MAX_CONCURRENT: u32 = 256;

impl Default for BulkheadLayer {
    /// At most 256 calls at once; the next is refused.
    fn default() -> Self {
        Self { slots: Slots::new(None, MAX_CONCURRENT), when_full: WhenFull::Reject }
    }
}

impl BulkheadLayer {
    /// At most `limit` calls at once; the next is refused.
    pub fn new(limit: NonZeroU32) -> Self {
        Self { slots: Slots::new(None, limit.get()), when_full: WhenFull::Reject }
    }

    /// Settings other than the defaults.
    pub fn builder() -> BulkheadBuilder {
        BulkheadBuilder { name: None, max_concurrent: MAX_CONCURRENT, when_full: WhenFull::Reject }
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
    name: Option<Name>,
    max_concurrent: u32,
    when_full: WhenFull,
}

impl BulkheadBuilder {
    /// What the layer is called in errors and events; `bulkhead` until it is set.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How many calls run at once, at least 1; 256 until it is set.
    pub fn max_concurrent(mut self, limit: u32) -> Self {
        self.max_concurrent = limit;
        self
    }

    /// Is not ready while every slot is taken, in place of refusing.
    pub fn backpressure(mut self) -> Self {
        self.when_full = WhenFull::Wait;
        self
    }

    /// Lets up to `capacity` calls wait for a slot, each for at most `max_wait`, in place of refusing.
    pub fn queue(self, capacity: u32, max_wait: Duration) -> QueuedBulkheadBuilder {
        QueuedBulkheadBuilder { bulkhead: self, capacity, max_wait }
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If no call at all may run.
    pub fn build(self) -> Result<BulkheadLayer, ConfigError> {
        let limit = ConfigError::unless_counting("max_concurrent", self.max_concurrent)?;
        Ok(BulkheadLayer { slots: Slots::new(self.name, limit), when_full: self.when_full })
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

/// How many may wait, and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) capacity: u32,
    pub(super) max_wait: Duration,
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
    bulkhead: BulkheadBuilder,
    capacity: u32,
    max_wait: Duration,
}

impl QueuedBulkheadBuilder {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If no call may run, none may wait, or none may wait for any time; or if the bulkhead is also to
    /// push back.
    pub fn build(self) -> Result<QueuedBulkheadLayer, ConfigError> {
        if self.bulkhead.when_full == WhenFull::Wait {
            let rule = "a bulkhead either queues calls or pushes back";
            return Err(ConfigError::new("backpressure", true, rule));
        }
        let layer = self.bulkhead.build()?;
        let capacity = ConfigError::unless_counting("queue capacity", self.capacity)?;
        let max_wait = ConfigError::unless_positive("queue max_wait", self.max_wait)?;
        Ok(QueuedBulkheadLayer { slots: layer.slots, queue: Queue { capacity, max_wait } })
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
