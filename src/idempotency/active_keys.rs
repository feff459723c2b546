//! Duplicates that wait for a result.
//!
//! The process that runs the operation wakes its own duplicates. In every other process, one of
//! the duplicates polls the store for all of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use tokio::sync::{Notify, Semaphore};

use super::{
    Fingerprint, StorageKey,
    runs::{RunSlot, Runs},
};
use crate::call::lock::lock;

/// The keys of all calls in this process that wait or run.
#[derive(Debug, Default)]
pub(super) struct ActiveKeys {
    keys: Arc<Mutex<Keys>>,
}

/// Each key, with the number of calls that have joined.
///
/// The reference count is not enough, because two calls that leave at the same time would each
/// still count the reference of the other.
type Keys = HashMap<StorageKey, (Arc<ActiveKey>, usize)>;

/// The state that all calls of this process with one key share.
#[derive(Debug)]
pub(super) struct ActiveKey {
    /// Notified when the operation is no longer in flight.
    pub(super) ended: Notify,
    /// A semaphore with one permit, for the duplicate that polls the store for all.
    pub(super) polls: Semaphore,
    /// The requests that this process runs under the key, usually none or one.
    runs: Mutex<Vec<Fingerprint>>,
    /// The slot of the run of the key.
    slot: Mutex<Weak<RunSlot>>,
}

impl ActiveKey {
    /// Returns whether this process runs the key. The end of the run is then notified, and nobody
    /// needs to poll.
    pub(super) fn is_run_here(&self) -> bool {
        !lock(&self.runs).is_empty()
    }

    /// Returns whether this process runs this request. The store need not be asked then.
    pub(super) fn runs_here(&self, request: Fingerprint) -> bool {
        lock(&self.runs).contains(&request)
    }

    /// Returns a slot for a run of the key, if one is free.
    ///
    /// All calls with the key share one slot, because only one of them is granted the claim. If
    /// each had its own slot, many duplicates of one request could take all slots.
    pub(super) fn enter(&self, runs: &Arc<Runs>) -> Option<Arc<RunSlot>> {
        let mut slot = lock(&self.slot);
        match slot.upgrade() {
            Some(shared) if !runs.is_closed() => Some(shared),
            Some(_) => None,
            None => {
                let entered = Arc::new(runs.enter()?);
                *slot = Arc::downgrade(&entered);
                Some(entered)
            }
        }
    }
}

impl ActiveKeys {
    /// Joins the calls that share a key.
    ///
    /// A call that joins before it claims misses no notification.
    pub(super) fn join(&self, key: StorageKey) -> JoinedKey {
        let mut keys = lock(&self.keys);
        let (active, joined) = keys.entry(key).or_insert_with(|| {
            let (ended, polls) = (Notify::new(), Semaphore::new(1));
            let (runs, slot) = (Mutex::default(), Mutex::default());
            (Arc::new(ActiveKey { ended, polls, runs, slot }), 0)
        });
        *joined += 1;
        let active = Arc::clone(active);
        JoinedKey { keys: Arc::clone(&self.keys), key, active }
    }
}

/// A call that waits for a key or runs it.
///
/// The key is removed when its last call is dropped.
#[derive(Debug)]
pub(super) struct JoinedKey {
    keys: Arc<Mutex<Keys>>,
    key: StorageKey,
    active: Arc<ActiveKey>,
}

impl JoinedKey {
    /// Notes that this call runs the key.
    ///
    /// The waiting calls are notified when the run ends, however it ends.
    pub(super) fn run(self, request: Fingerprint) -> RunningKey {
        lock(&self.active.runs).push(request);
        RunningKey { joined: self, request }
    }

    pub(super) fn active(&self) -> &ActiveKey {
        &self.active
    }
}

impl Drop for JoinedKey {
    fn drop(&mut self) {
        let mut keys = lock(&self.keys);
        if let Some((_, joined)) = keys.get_mut(&self.key) {
            *joined -= 1;
            if *joined == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

/// The run of a key in this process.
#[derive(Debug)]
pub(super) struct RunningKey {
    joined: JoinedKey,
    request: Fingerprint,
}

impl Drop for RunningKey {
    fn drop(&mut self) {
        let active = self.joined.active();
        let mut runs = lock(&active.runs);
        if let Some(index) = runs.iter().position(|request| *request == self.request) {
            runs.swap_remove(index);
        }
        drop(runs);
        active.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idempotency::Key;

    #[test]
    fn a_key_that_all_have_left_is_forgotten() {
        let keys = ActiveKeys::default();
        let key = StorageKey::of(b"", &[], &Key::parse("k").unwrap());
        let (first, second) = (keys.join(key), keys.join(key));
        // A call that leaves keeps its reference for a moment after it has counted itself out.
        let lingering = Arc::clone(&first.active);
        drop(first);
        assert_eq!(lock(&keys.keys).len(), 1);
        drop(second);
        assert!(lock(&keys.keys).is_empty());
        drop(lingering);
    }
}
