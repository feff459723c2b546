//! The records and bytes that the store and each scope use, and their limits.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use super::{
    super::{Claim, StoreError, StoreUsage},
    map::HashedMap,
};
use crate::{call::lock::lock, idempotency::ScopeId};

/// The number of shards. Few scopes are used at a time, and each is locked only for a moment.
const SHARDS: usize = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// The limits of all scopes together, and of one.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) all: Amount,
    /// The fixed limits of a scope; `None` if it may use as much as it leaves free.
    pub(super) scope: Option<Amount>,
}

/// The part of the store that a claim may use.
#[derive(Clone, Copy, Debug)]
enum Share {
    Whole,
    Fixed(Amount),
    /// As much as the claim leaves free.
    Free,
}

impl Limits {
    pub(super) fn new(max_records: u32, max_bytes: u64, max_share: Option<f64>) -> Self {
        let all = Amount { records: max_records.into(), bytes: max_bytes };
        // Rounded up, so that a small share is at least one record. A share of 1 is not
        // multiplied, because a large number would lose precision as a float.
        let part = |of: u64, share: f64| match share {
            share if share < 1.0 => (of as f64 * share).ceil() as u64,
            _ => of,
        };
        let scope = max_share.map(|share| Amount {
            records: part(all.records, share),
            bytes: part(all.bytes, share),
        });
        Self { all, scope }
    }

    fn share(&self, claim: &Claim) -> Share {
        match self.scope {
            _ if claim.single_tenant => Share::Whole,
            Some(limit) => Share::Fixed(limit),
            None => Share::Free,
        }
    }
}

pub(super) struct Usage {
    limits: Limits,
    records: AtomicU64,
    bytes: AtomicU64,
    /// The amount of each scope that has a record. The number of such scopes is bounded by the
    /// number of records.
    scopes: [Mutex<HashedMap<ScopeId, Amount>>; SHARDS],
}

impl Usage {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            scopes: Default::default(),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn records(&self) -> usize {
        self.records.load(Ordering::Relaxed) as usize
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns a size capped at the limit of the store, so that sums of sizes do not wrap.
    pub(super) fn capped(&self, size: usize) -> u64 {
        (size as u64).min(self.limits.all.bytes)
    }

    fn scope(&self, scope: &ScopeId) -> &Mutex<HashedMap<ScopeId, Amount>> {
        &self.scopes[usize::from(scope.as_bytes()[15]) % SHARDS]
    }

    /// Accounts for a new record, if there is room for it in the store and in the share of its
    /// scope.
    pub(super) fn admit(&self, claim: &Claim) -> Result<(), StoreError> {
        let reserve = claim.reserve as u64;
        let mut scopes = lock(self.scope(&claim.scope));
        let used = scopes.get(&claim.scope).copied().unwrap_or_default();
        let records = used.records + 1;
        let bytes = used.bytes.checked_add(reserve).ok_or(StoreError::Full)?;
        // The limits of the scope, and whether it must leave as much free as it then uses.
        let (limit, free) = match self.limits.share(claim) {
            Share::Whole => (self.limits.all, false),
            Share::Fixed(limit) => (limit, false),
            Share::Free => (self.limits.all, true),
        };
        if records > limit.records || bytes > limit.bytes {
            return Err(StoreError::Full);
        }
        let take = |of: &AtomicU64, more: u64, limit: u64, leave: u64| {
            let take = |used: u64| {
                let sum = used.checked_add(more)?;
                (leave <= limit.checked_sub(sum)?).then_some(sum)
            };
            of.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .map_err(|_| StoreError::Full)
        };
        // The last record is for a scope that has none. Otherwise, nobody could ever use it.
        let leave = if free && used.records > 0 { records } else { 0 };
        take(&self.records, 1, self.limits.all.records, leave)?;
        let leave = if free { bytes } else { 0 };
        if let Err(full) = take(&self.bytes, reserve, self.limits.all.bytes, leave) {
            self.records.fetch_sub(1, Ordering::Relaxed);
            return Err(full);
        }
        scopes.insert(claim.scope, Amount { records, bytes });
        Ok(())
    }

    /// Returns what all scopes use, and the limits of the store.
    pub(super) fn of_all(&self) -> StoreUsage {
        let records = self.records.load(Ordering::Relaxed);
        StoreUsage::new(records, self.limits.all.records, self.bytes(), self.limits.all.bytes)
    }

    /// Returns what the scope of a claim uses, and its share; `None` if it has none.
    pub(super) fn of_scope(&self, claim: &Claim) -> Option<StoreUsage> {
        let share = self.limits.share(claim);
        if matches!(share, Share::Whole) {
            return None;
        }
        let used = lock(self.scope(&claim.scope)).get(&claim.scope).copied().unwrap_or_default();
        let limit = match share {
            Share::Fixed(limit) => limit,
            _ => {
                let all = self.of_all();
                // The scope may use half of what the others leave, or what it already uses.
                let half = |max: u64, all: u64, own: u64| {
                    (max.saturating_sub(all.saturating_sub(own)) / 2).max(own)
                };
                Amount {
                    records: half(all.max_records, all.records, used.records),
                    bytes: half(all.max_bytes, all.bytes, used.bytes),
                }
            }
        };
        Some(StoreUsage::new(used.records, limit.records, used.bytes, limit.bytes))
    }

    /// Accounts for a record that changes its size.
    ///
    /// The total may exceed the limit, because the result of a finished run is always recorded.
    pub(super) fn settle(&self, scope: &ScopeId, before: u64, after: u64) {
        if before == after {
            return;
        }
        self.count(before, after);
        if let Some(used) = lock(self.scope(scope)).get_mut(scope) {
            used.bytes = used.bytes + after - before;
        }
    }

    /// Accounts for a record that is gone.
    pub(super) fn forget(&self, scope: &ScopeId, bytes: u64) {
        self.records.fetch_sub(1, Ordering::Relaxed);
        self.count(bytes, 0);
        let mut scopes = lock(self.scope(scope));
        if let Some(used) = scopes.get_mut(scope) {
            used.records -= 1;
            used.bytes -= bytes;
            if used.records == 0 {
                scopes.remove(scope);
            }
        }
    }

    fn count(&self, before: u64, after: u64) {
        self.bytes.fetch_add(after, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn all_scopes(&self) -> Vec<(ScopeId, Amount)> {
        let scopes = self.scopes.iter().flat_map(|shard| {
            lock(shard).iter().map(|(scope, used)| (*scope, *used)).collect::<Vec<_>>()
        });
        scopes.collect()
    }
}
