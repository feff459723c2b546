//! Duplicates that wait for a result: woken in the process that makes it, and elsewhere one of them
//! asks the store for all.

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

/// The keys that anybody waits for, or runs.
#[derive(Debug, Default)]
pub(super) struct ActiveKeys {
    keys: Arc<Mutex<Keys>>,
}

/// Each with how many have joined. The references would not do: two that leave at once would each
/// still count the other's.
type Keys = HashMap<StorageKey, (Arc<ActiveKey>, usize)>;

/// What the calls of this process share that have one key.
#[derive(Debug)]
pub(super) struct ActiveKey {
    /// Told when the operation is not in flight any more.
    pub(super) ended: Notify,
    /// Its one permit is held by the duplicate that asks the store for all.
    pub(super) polls: Semaphore,
    /// What this process runs under the key: as a rule one request, or none.
    runs: Mutex<Vec<Fingerprint>>,
    /// The slot of its run.
    slot: Mutex<Weak<RunSlot>>,
}

impl ActiveKey {
    /// Whether its end will be told without anybody's asking.
    pub(super) fn is_run_here(&self) -> bool {
        !lock(&self.runs).is_empty()
    }

    /// Whether this very request is under way here: then there is nothing to ask the store.
    pub(super) fn runs_here(&self, request: Fingerprint) -> bool {
        lock(&self.runs).contains(&request)
    }

    /// Returns a slot for a run of the key, if there is one. It is the same for all callers that
    /// ask, because one of them is granted: with one each, a crowd of duplicates would leave no
    /// slot for the run itself.
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
    /// Takes part in what becomes of a key. Whoever joins before it claims misses nothing.
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

/// A call that waits for a key, or runs it. When the last is dropped, the key is forgotten.
#[derive(Debug)]
pub(super) struct JoinedKey {
    keys: Arc<Mutex<Keys>>,
    key: StorageKey,
    active: Arc<ActiveKey>,
}

impl JoinedKey {
    /// Notes that this one runs it. All waiting callers are told when it is over, however it ends.
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
        // As when the other has left and has not let go of it yet.
        let lingering = Arc::clone(&first.active);
        drop(first);
        assert_eq!(lock(&keys.keys).len(), 1);
        drop(second);
        assert!(lock(&keys.keys).is_empty());
        drop(lingering);
    }
}
