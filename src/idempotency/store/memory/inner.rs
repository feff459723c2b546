//! The shards of a store, and the steps on one record.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    super::{Claim, ClaimOutcome, StoreError, machine},
    shard::{Entry, Shard},
    usage::{Limits, Usage},
};
use crate::{call::lock::lock, idempotency::StorageKey};

/// The number of shards. Calls rarely contend for one, and a visit to all of them is quick.
pub(super) const SHARDS: usize = 64;

/// The maximum number of ended records that a claim retires in each shard if the store is full.
const ROOM: usize = 16;

/// The state that all clones of a store share.
pub(super) struct Inner<P> {
    began: Instant,
    /// The last fence, of any key.
    fence: AtomicU64,
    pub(super) usage: Usage,
    pub(super) shards: Box<[Mutex<Shard<P>>]>,
}

impl<P> Inner<P> {
    pub(super) fn new(limits: Limits) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let (began, fence) = (Instant::now(), AtomicU64::new(0));
        Self { began, fence, usage: Usage::new(limits), shards }
    }

    pub(super) fn shard(&self, key: &StorageKey) -> MutexGuard<'_, Shard<P>> {
        // Selects by the last byte, because the map in a shard hashes by the first ones.
        lock(&self.shards[usize::from(key.as_bytes()[31]) % SHARDS])
    }

    /// Returns the time of the store.
    ///
    /// It is read while the shard is locked, so that no step is earlier than the one before it.
    pub(super) fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.began)
    }

    fn next_fence(&self) -> u64 {
        self.fence.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes a step on the record of a key, if there is one. Only a claim creates a record.
    pub(super) fn step<T>(
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

    pub(super) fn claim(&self, claim: &Claim) -> Result<ClaimOutcome<Arc<P>>, StoreError> {
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
        self.usage.admit(claim)?;
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

    pub(super) fn retire(&self, shard: &Mutex<Shard<P>>, limit: usize) -> usize {
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
