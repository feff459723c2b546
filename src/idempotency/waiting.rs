//! Duplicates that wait for a result: woken in the process that makes it, and elsewhere one of them asks
//! the store for all.

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
pub(super) struct Waiting {
    keys: Arc<Mutex<Keys>>,
}

/// Each with how many have joined. The references would not do: two that leave at once would each still
/// count the other's.
type Keys = HashMap<StorageKey, (Arc<Meeting>, usize)>;

/// Where those meet that have to do with one key.
#[derive(Debug)]
pub(super) struct Meeting {
    /// Told when the operation is not in flight any more.
    pub(super) over: Notify,
    /// Who has it asks the store.
    pub(super) asks: Semaphore,
    /// What this process runs under the key: as a rule one request, or none.
    runs: Mutex<Vec<Fingerprint>>,
    /// The place of its run.
    slot: Mutex<Weak<RunSlot>>,
}

impl Meeting {
    /// Whether its end will be told without anybody's asking.
    pub(super) fn is_run_here(&self) -> bool {
        !lock(&self.runs).is_empty()
    }

    /// Whether this very request is under way here: then there is nothing to ask the store.
    pub(super) fn runs_here(&self, request: Fingerprint) -> bool {
        lock(&self.runs).contains(&request)
    }

    /// A place for a run of the key, if there is one: the same for all who ask, since one of them is granted.
    /// With one each, a crowd of duplicates would leave no place for the run itself.
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

impl Waiting {
    /// Takes part in what becomes of a key. Whoever joins before it claims misses nothing.
    pub(super) fn join(&self, key: StorageKey) -> Joined {
        let mut keys = lock(&self.keys);
        let (meeting, joined) = keys.entry(key).or_insert_with(|| {
            let (over, asks) = (Notify::new(), Semaphore::new(1));
            let (runs, slot) = (Mutex::default(), Mutex::default());
            (Arc::new(Meeting { over, asks, runs, slot }), 0)
        });
        *joined += 1;
        let meeting = Arc::clone(meeting);
        Joined { keys: Arc::clone(&self.keys), key, meeting }
    }
}

/// Somebody who has to do with a key. Dropped by the last, the key is forgotten.
#[derive(Debug)]
pub(super) struct Joined {
    keys: Arc<Mutex<Keys>>,
    key: StorageKey,
    meeting: Arc<Meeting>,
}

impl Joined {
    /// The one who runs it, and tells all who wait when it is over, however it ends.
    pub(super) fn running(self, request: Fingerprint) -> Running {
        lock(&self.meeting.runs).push(request);
        Running { joined: self, request }
    }

    pub(super) fn meeting(&self) -> &Meeting {
        &self.meeting
    }
}

impl Drop for Joined {
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
pub(super) struct Running {
    joined: Joined,
    request: Fingerprint,
}

impl Drop for Running {
    fn drop(&mut self) {
        let meeting = self.joined.meeting();
        let mut runs = lock(&meeting.runs);
        if let Some(index) = runs.iter().position(|request| *request == self.request) {
            runs.swap_remove(index);
        }
        drop(runs);
        meeting.over.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idempotency::Key;

    #[test]
    fn a_key_that_all_have_left_is_forgotten() {
        let waiting = Waiting::default();
        let key = StorageKey::of(b"", &[], &Key::parse("k").unwrap());
        let (first, second) = (waiting.join(key), waiting.join(key));
        // As when the other has left and has not let go of it yet.
        let lingering = Arc::clone(&first.meeting);
        drop(first);
        assert_eq!(lock(&waiting.keys).len(), 1);
        drop(second);
        assert!(lock(&waiting.keys).is_empty());
        drop(lingering);
    }
}
