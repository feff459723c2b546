//! The store that keeps records in the memory of one process.

mod map;
mod shard;
#[cfg(test)]
mod tests;
mod usage;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use self::{
    shard::{Entry, Shard},
    usage::{Limits, Usage},
};
use super::{
    Claim, ClaimOutcome, Completed, Hold, Resolution, StepOutcome, Store, StoreError,
    UnknownOperation, machine,
};
use crate::{ConfigError, call::lock::lock, idempotency::StorageKey};

const MAX_RECORDS: u32 = 1_000_000;
const MAX_BYTES: u64 = 256 * 1024 * 1024;
const MAX_SHARE: f64 = 0.25;

/// The number of shards. Calls rarely contend for one, and a visit to all of them is quick.
const SHARDS: usize = 64;

/// The maximum number of ended records that a claim retires in each shard if the store is full.
const ROOM: usize = 16;

/// A store that keeps records in the memory of this process.
///
/// | loses records on | survives | needs |
/// |---|---|---|
/// | the end of the process; a later retry runs the operation again, and fences begin at 1 again | cancellation, panics | one process |
///
/// Clones are the same store. It reads tokio's clock, which tests can pause and advance.
///
/// The store is bounded, by default to 1,000,000 records and 256 MiB of payloads. Each scope may
/// use up to a quarter of both. With a single scope, set
/// [`max_share`](MemoryStoreBuilder::max_share) to `1.0` to use all of the store.
///
/// It never removes a record before its time is over. When the store or the share of a scope is
/// full, claims of keys that have a record still work. A claim of a new key first removes records
/// whose time is over. If that is not enough, it fails with [`StoreError::Full`].
///
/// The bytes that a claim [reserves](Claim::reserve) stay reserved until the result is recorded.
/// From then on, only the size of the result counts. If the operation becomes unknown, its bytes
/// are freed, unless it has a checkpoint. A result that is larger than its reservation is recorded
/// all the same.
///
/// # Example
///
/// ```
/// use buttress::idempotency::store::MemoryStore;
///
/// # fn main() -> Result<(), buttress::ConfigError> {
/// let store: MemoryStore = MemoryStore::builder().max_records(10_000).max_share(1.0).build()?;
/// assert!(store.is_empty());
/// # Ok(())
/// # }
/// ```
pub struct MemoryStore<P = Vec<u8>> {
    inner: Arc<Inner<P>>,
}

struct Inner<P> {
    began: Instant,
    /// The last fence, of any key.
    fence: AtomicU64,
    usage: Usage,
    shards: Box<[Mutex<Shard<P>>]>,
}

impl MemoryStore {
    /// Returns a builder for a store with other limits.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder { max_records: MAX_RECORDS, max_bytes: MAX_BYTES, max_share: MAX_SHARE }
    }
}

impl<P> MemoryStore<P> {
    /// Creates a store with the default limits of [`builder`](MemoryStore::builder).
    pub fn new() -> Self {
        Self::within(Limits::new(MAX_RECORDS, MAX_BYTES, MAX_SHARE))
    }

    fn within(limits: Limits) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let (began, fence) = (Instant::now(), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { began, fence, usage: Usage::new(limits), shards }) }
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
    max_share: f64,
}

impl MemoryStoreBuilder {
    /// Sets the maximum number of records.
    ///
    /// Default: `1,000,000`.
    ///
    /// A record takes about 300 bytes besides its payload. The maximum must be at least 1.
    pub fn max_records(mut self, records: u32) -> Self {
        self.max_records = records;
        self
    }

    /// Sets the maximum number of bytes that payloads use or reserve.
    ///
    /// Default: `256 MiB`.
    ///
    /// It must be at least 1.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets the maximum share of records and bytes that one scope may use.
    ///
    /// Default: `0.25`, so that no tenant can use up the store.
    ///
    /// The share is a ratio, above 0 and at most 1. The limits of a scope are rounded up, so that
    /// it can have at least one record.
    pub fn max_share(mut self, share: f64) -> Self {
        self.max_share = share;
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
        let share = ConfigError::require_ratio("max_share", self.max_share)?;
        if share == 0.0 {
            return Err(ConfigError::new(
                "max_share",
                share,
                "it must be above 0, or no scope could have a record",
            ));
        }
        Ok(MemoryStore::within(Limits::new(records, bytes, share)))
    }
}

impl<P> Inner<P> {
    fn shard(&self, key: &StorageKey) -> MutexGuard<'_, Shard<P>> {
        // Selects by the last byte, because the map in a shard hashes by the first ones.
        lock(&self.shards[usize::from(key.as_bytes()[31]) % SHARDS])
    }

    /// Returns the time of the store.
    ///
    /// It is read while the shard is locked, so that no step is earlier than the one before it.
    fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.began)
    }

    fn next_fence(&self) -> u64 {
        self.fence.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes a step on the record of a key, if there is one. Only a claim creates a record.
    fn step<T>(
        &self,
        key: &StorageKey,
        act: impl FnOnce(&mut Entry<P>, Duration) -> T,
    ) -> Option<T> {
        let mut shard = self.shard(key);
        let now = self.now();
        let at = shard.find(key)?;
        // Dropped after the lock, because dropping a payload runs the user's code.
        let _payload = shard.payload(at);
        let done = shard.change(at, &self.usage, |entry| act(entry, now));
        drop(shard);
        Some(done)
    }

    fn claim(&self, claim: &Claim) -> Result<ClaimOutcome<Arc<P>>, StoreError> {
        match self.try_claim(claim) {
            Err(StoreError::Full) if self.make_room() => self.try_claim(claim),
            answer => answer,
        }
    }

    fn try_claim(&self, claim: &Claim) -> Result<ClaimOutcome<Arc<P>>, StoreError> {
        // Dropped after the lock, because dropping a payload runs the user's code.
        let _payload;
        let mut shard = self.shard(&claim.key);
        let now = self.now();
        let kept = self.usage.capped(claim.reserve);
        if let Some(at) = shard.find(&claim.key) {
            _payload = shard.payload(at);
            // A record whose time is over is removed, and its key counts as new.
            if shard.is_claimed_by(at, claim) || shard.bring_up_to_date(at, now, &self.usage) {
                let answer = shard.change(at, &self.usage, |entry| {
                    let before = entry.fence();
                    let answer = machine::claim(&mut entry.slot, claim, now, || self.next_fence());
                    if entry.fence() != before {
                        entry.kept = kept;
                    }
                    answer
                });
                return Ok(answer);
            }
        }
        self.usage.admit(&claim.scope, claim.reserve)?;
        let mut entry = Entry::new(claim.key, claim.scope, kept);
        let answer = machine::claim(&mut entry.slot, claim, now, || self.next_fence());
        shard.insert(entry);
        // Retires up to two records for the one that was added, so that ended records become
        // fewer with use.
        let _retired = [shard.retire(now, &self.usage), shard.retire(now, &self.usage)];
        drop(shard);
        Ok(answer)
    }

    /// Retires a bounded number of records whose time is over. Returns whether there was any.
    fn make_room(&self) -> bool {
        let retired = |shard| self.retire(shard, ROOM);
        self.shards.iter().map(retired).sum::<usize>() > 0
    }

    fn retire(&self, shard: &Mutex<Shard<P>>, limit: usize) -> usize {
        let mut payloads = Vec::new();
        let mut shard = lock(shard);
        let now = self.now();
        while payloads.len() < limit {
            match shard.retire(now, &self.usage) {
                Some(payload) => payloads.push(payload),
                None => break,
            }
        }
        drop(shard);
        payloads.len()
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
}
