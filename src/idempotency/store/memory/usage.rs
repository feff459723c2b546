//! The records and bytes that the store and each scope use, and their limits.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use super::{super::StoreError, map::HashedMap};
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
    pub(super) scope: Amount,
}

impl Limits {
    pub(super) fn new(max_records: u32, max_bytes: u64, max_share: f64) -> Self {
        let all = Amount { records: max_records.into(), bytes: max_bytes };
        // Rounded up, so that a small share is at least one record. A share of 1 is not
        // multiplied, because a large number would lose precision as a float.
        let share =
            |of: u64| if max_share < 1.0 { (of as f64 * max_share).ceil() as u64 } else { of };
        Self { all, scope: Amount { records: share(all.records), bytes: share(all.bytes) } }
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

    /// Accounts for a new record, if there is room for it.
    pub(super) fn admit(&self, scope: &ScopeId, reserve: usize) -> Result<(), StoreError> {
        let reserve = reserve as u64;
        let mut scopes = lock(self.scope(scope));
        let used = scopes.get(scope).copied().unwrap_or_default();
        let fits = |used: u64, more: u64, limit: u64| {
            used.checked_add(more).filter(|&sum| sum <= limit).ok_or(StoreError::Full)
        };
        let records = fits(used.records, 1, self.limits.scope.records)?;
        let bytes = fits(used.bytes, reserve, self.limits.scope.bytes)?;
        let take = |of: &AtomicU64, more, limit| {
            let take = |used| fits(used, more, limit).ok();
            of.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .map_err(|_| StoreError::Full)
        };
        take(&self.records, 1, self.limits.all.records)?;
        if let Err(full) = take(&self.bytes, reserve, self.limits.all.bytes) {
            self.records.fetch_sub(1, Ordering::Relaxed);
            return Err(full);
        }
        scopes.insert(*scope, Amount { records, bytes });
        Ok(())
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
