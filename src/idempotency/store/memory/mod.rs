//! The store that keeps records in the memory of one process.

mod inner;
mod map;
mod shard;
#[cfg(test)]
mod tests;
mod usage;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use self::{
    inner::Inner,
    shard::{Entry, Shard},
    usage::Limits,
};
use super::{
    Claim, ClaimOutcome, Completed, Hold, Resolution, StepOutcome, Store, StoreError, StoreUsage,
    UnknownOperation, machine,
};
use crate::{ConfigError, call::lock::lock, idempotency::StorageKey};

const MAX_RECORDS: u32 = 1_000_000;
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// A store that keeps records in the memory of this process.
///
/// | loses records on | survives | needs |
/// |---|---|---|
/// | the end of the process; a later retry runs the operation again, and fences begin at 1 again | cancellation, panics | one process |
///
/// Clones are the same store. It reads tokio's clock, which tests can pause and advance.
///
/// The store is bounded, by default to 1,000,000 records and 256 MiB of payloads. It never removes
/// a record before its time is over. When the store or the share of a scope is full, claims of keys
/// that have a record still work. A claim of a new key first removes records whose time is over. If
/// that is not enough, it fails with [`StoreError::Full`].
///
/// # Shares
///
/// No scope can fill the store. A scope may use only as many records and bytes as it leaves free.
/// One scope alone can therefore use half of the store. If `n` scopes fill it at the same pace,
/// `1 / (n + 1)` stays free. A scope that comes later may use half of what is free then. A scope
/// without records may use the last free record.
///
/// A layer with [`single_tenant`](crate::idempotency::IdempotencyBuilder::single_tenant) has no
/// share, and may use the whole store. [`max_share`](MemoryStoreBuilder::max_share) sets a fixed
/// share instead.
///
/// # Size
///
/// The store must hold the records of one [`ttl`](crate::idempotency::IdempotencyBuilder::ttl). It
/// needs as many records as new keys arrive per second, times the `ttl` in seconds. For each, it
/// needs the bytes of one response. Double both if there is more than one scope, or the busiest
/// scope may reach its share. Unknown operations are kept longer, but are few.
///
/// For example, 10 new keys a second and a `ttl` of 24 h make 864,000 records. With responses of
/// 1 KiB, they need 844 MiB, which is more than the default.
///
/// Over HTTP, a claim reserves 72 KiB by default. `max_bytes` must have room for that, times the
/// number of concurrent runs. It must be at least twice as much as one claim reserves.
///
/// At 80 % of the store or of a share, the layer emits a `WARN` event. [`Counts::store`] has the
/// current use.
///
/// # Reserved bytes
///
/// The bytes that a claim [reserves](Claim::reserve) stay reserved until the result is recorded.
/// From then on, only the size of the result counts. If the operation becomes unknown, its bytes
/// are freed, unless it has a checkpoint. A result that is larger than its reservation is recorded
/// all the same.
///
/// [`Counts::store`]: crate::idempotency::Counts::store
///
/// # Example
///
/// ```
/// use buttress::idempotency::store::MemoryStore;
///
/// # fn main() -> Result<(), buttress::ConfigError> {
/// let store: MemoryStore = MemoryStore::builder().max_records(2_000_000).build()?;
/// assert!(store.is_empty());
/// # Ok(())
/// # }
/// ```
pub struct MemoryStore<P = Vec<u8>> {
    inner: Arc<Inner<P>>,
}

impl MemoryStore {
    /// Returns a builder for a store with other limits.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder { max_records: MAX_RECORDS, max_bytes: MAX_BYTES, max_share: None }
    }
}

impl<P> MemoryStore<P> {
    /// Creates a store with the default limits of [`builder`](MemoryStore::builder).
    pub fn new() -> Self {
        Self::within(Limits::new(MAX_RECORDS, MAX_BYTES, None))
    }

    fn within(limits: Limits) -> Self {
        Self { inner: Arc::new(Inner::new(limits)) }
    }

    /// Returns the number of records.
    ///
    /// It includes records whose time is over, until a step removes them.
    pub fn len(&self) -> usize {
        self.inner.usage.records()
    }

    /// Returns whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of bytes that payloads use or reserve.
    pub fn bytes(&self) -> u64 {
        self.inner.usage.bytes()
    }
}

impl<P> Default for MemoryStore<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> Clone for MemoryStore<P> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<P> fmt::Debug for MemoryStore<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("records", &self.len())
            .field("bytes", &self.bytes())
            .field("limits", self.inner.usage.limits())
            .finish()
    }
}

/// A builder for [`MemoryStore`].
///
/// [`build`](Self::build) returns a [`ConfigError`] for an invalid value.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct MemoryStoreBuilder {
    max_records: u32,
    max_bytes: u64,
    max_share: Option<f64>,
}

impl MemoryStoreBuilder {
    /// Sets the maximum number of records.
    ///
    /// Default: `1,000,000`.
    ///
    /// A record takes about 300 bytes besides its payload. The maximum must be at least 1. See
    /// [how to choose it](MemoryStore#size).
    pub fn max_records(mut self, records: u32) -> Self {
        self.max_records = records;
        self
    }

    /// Sets the maximum number of bytes that payloads use or reserve.
    ///
    /// Default: `256 MiB`.
    ///
    /// It must be at least 1. See [how to choose it](MemoryStore#size).
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets a fixed share of records and bytes that one scope may use.
    ///
    /// Default: none. A scope may use [as much as it leaves free](MemoryStore#shares), so that no
    /// tenant can use up the store.
    ///
    /// Some scopes with a fixed share can together use up the store. For example, four scopes can
    /// with a share of `0.25`. The share is a ratio, above 0 and at most 1. The limits of a scope
    /// are rounded up, so that it can have at least one record. A layer with
    /// [`single_tenant`](crate::idempotency::IdempotencyBuilder::single_tenant) ignores it.
    pub fn max_share(mut self, share: f64) -> Self {
        self.max_share = Some(share);
        self
    }

    /// Checks the settings and builds the store.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] that names the setter if a maximum is zero, or if the share is
    /// not above 0 and at most 1.
    pub fn build<P>(self) -> Result<MemoryStore<P>, ConfigError> {
        let records = ConfigError::require_nonzero("max_records", self.max_records)?;
        let bytes = ConfigError::require_nonzero("max_bytes", self.max_bytes)?;
        if let Some(share) = self.max_share {
            if ConfigError::require_ratio("max_share", share)? == 0.0 {
                let rule = "it must be above 0, or no scope could have a record";
                return Err(ConfigError::new("max_share", share, rule));
            }
        }
        Ok(MemoryStore::within(Limits::new(records, bytes, self.max_share)))
    }
}

fn written(written: Option<StepOutcome>) -> Result<StepOutcome, StoreError> {
    Ok(written.unwrap_or(StepOutcome::Stale))
}

/// Returns the payload by value, cloned if the record still shares it.
fn own<P: Clone>(payload: Arc<P>) -> P {
    Arc::try_unwrap(payload).unwrap_or_else(|shared| P::clone(&shared))
}

fn share<P>(completed: Completed<P>) -> Completed<Arc<P>> {
    Completed { payload: completed.payload.map(Arc::new), size: completed.size }
}

impl<P: Clone + Send + Sync + 'static> Store for MemoryStore<P> {
    type Payload = P;

    async fn claim(&self, claim: &Claim) -> Result<ClaimOutcome<P>, StoreError> {
        Ok(match self.inner.claim(claim)? {
            ClaimOutcome::Claimed { fence, previous } => ClaimOutcome::Claimed { fence, previous },
            ClaimOutcome::InFlight { since, lease_left } => {
                ClaimOutcome::InFlight { since, lease_left }
            }
            ClaimOutcome::Replay(payload) => ClaimOutcome::Replay(own(payload)),
            ClaimOutcome::NotReplayable => ClaimOutcome::NotReplayable,
            ClaimOutcome::Mismatch { recorded } => ClaimOutcome::Mismatch { recorded },
            ClaimOutcome::Unknown { fence, since } => ClaimOutcome::Unknown { fence, since },
        })
    }

    async fn mark_started(&self, hold: &Hold) -> Result<StepOutcome, StoreError> {
        let act = |entry: &mut Entry<P>, now| machine::mark_started(&mut entry.slot, hold, now);
        written(self.inner.step(&hold.key, act))
    }

    async fn renew(&self, holds: &[Hold], lease: Duration) -> Result<Vec<StepOutcome>, StoreError> {
        let renew = |hold: &Hold| {
            self.inner
                .step(&hold.key, |entry, now| machine::renew(&mut entry.slot, hold, lease, now))
        };
        holds.iter().map(|hold| written(renew(hold))).collect()
    }

    async fn checkpoint(
        &self,
        hold: &Hold,
        checkpoint: Vec<u8>,
    ) -> Result<StepOutcome, StoreError> {
        let size = self.inner.usage.capped(checkpoint.len());
        let step = self.inner.step(&hold.key, |entry, now| {
            let written = machine::checkpoint(&mut entry.slot, hold, checkpoint, now);
            if written == StepOutcome::Applied {
                entry.kept = entry.kept.max(size);
            }
            written
        });
        written(step)
    }

    async fn complete(
        &self,
        hold: &Hold,
        completed: Completed<P>,
        ttl: Duration,
    ) -> Result<StepOutcome, StoreError> {
        let completed = share(completed);
        let (kept, size) = (completed.clone(), self.inner.usage.capped(completed.size));
        let step = self.inner.step(&hold.key, |entry, now| {
            let first = entry.is_in_flight();
            let written = machine::complete(&mut entry.slot, hold, kept, ttl, now);
            if first && written == StepOutcome::Applied {
                entry.kept = size;
            }
            written
        });
        written(step)
    }

    async fn release(
        &self,
        key: &StorageKey,
        owner: &crate::idempotency::Owner,
        unknown_for: Duration,
    ) -> Result<StepOutcome, StoreError> {
        let step = self
            .inner
            .step(key, |entry, now| machine::release(&mut entry.slot, owner, unknown_for, now));
        written(step)
    }

    async fn abandon(&self, hold: &Hold, unknown_for: Duration) -> Result<StepOutcome, StoreError> {
        let step = self.inner.step(&hold.key, |entry, now| {
            machine::abandon(&mut entry.slot, hold, unknown_for, now)
        });
        written(step)
    }

    async fn resolve(
        &self,
        key: &StorageKey,
        fence: u64,
        resolution: Resolution<P>,
    ) -> Result<StepOutcome, StoreError> {
        let (resolution, size) = match resolution {
            Resolution::Completed(completed, ttl) => {
                let size = self.inner.usage.capped(completed.size);
                (Resolution::Completed(share(completed), ttl), size)
            }
            Resolution::Never => (Resolution::Never, 0),
        };
        let kept = resolution.clone();
        let step = self.inner.step(key, |entry, now| {
            let written = machine::resolve(&mut entry.slot, fence, kept, now);
            if written == StepOutcome::Applied {
                entry.kept = size;
            }
            written
        });
        written(step)
    }

    async fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Result<Vec<UnknownOperation>, StoreError> {
        let mut first = BTreeMap::new();
        for shard in &self.inner.shards {
            let shard = lock(shard);
            let behind = |told: &UnknownOperation| after.is_none_or(|after| told.key > after);
            for told in shard.unknown(self.inner.now()).filter(behind) {
                first.insert(told.key, told);
                if first.len() > limit {
                    first.pop_last();
                }
            }
        }
        Ok(first.into_values().collect())
    }

    async fn count_unknown(&self) -> Result<u64, StoreError> {
        let count = |shard: &Mutex<Shard<P>>| lock(shard).unknown(self.inner.now()).count() as u64;
        Ok(self.inner.shards.iter().map(count).sum())
    }

    async fn sweep(&self, limit: usize) -> Result<usize, StoreError> {
        let mut swept = 0;
        for shard in &self.inner.shards {
            swept += self.inner.retire(shard, limit - swept);
        }
        Ok(swept)
    }

    fn usage(&self) -> Option<StoreUsage> {
        Some(self.inner.usage.of_all())
    }

    fn share(&self, claim: &Claim) -> Option<StoreUsage> {
        self.inner.usage.of_scope(claim)
    }
}
