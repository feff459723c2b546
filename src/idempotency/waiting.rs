//! Duplicates that wait for a result: woken in the process that makes it, and elsewhere one of them asks
//! the store for all.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::{Notify, Semaphore};

use super::StorageKey;
use crate::waiters::lock;

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
    /// How many runs of it this process has: as a rule one, or none.
    runs: AtomicU32,
}

impl Meeting {
    /// Whether its end will be told without anybody's asking.
    pub(super) fn is_run_here(&self) -> bool {
        self.runs.load(Ordering::Acquire) > 0
    }
}

impl Waiting {
    /// Takes part in what becomes of a key. Whoever joins before it claims misses nothing.
    pub(super) fn join(&self, key: StorageKey) -> Joined {
        let mut keys = lock(&self.keys);
        let (meeting, joined) = keys.entry(key).or_insert_with(|| {
            let (over, asks) = (Notify::new(), Semaphore::new(1));
            (Arc::new(Meeting { over, asks, runs: AtomicU32::new(0) }), 0)
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
    pub(super) fn running(self) -> Running {
        self.meeting.runs.fetch_add(1, Ordering::AcqRel);
        Running(self)
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
pub(super) struct Running(Joined);

impl Drop for Running {
    fn drop(&mut self) {
        let meeting = self.0.meeting();
        meeting.runs.fetch_sub(1, Ordering::AcqRel);
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
