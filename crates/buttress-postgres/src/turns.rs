//! The turns of steps on the same record.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use buttress::idempotency::StorageKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type Keys = Mutex<HashMap<StorageKey, Arc<Semaphore>>>;

/// Limits the steps of a key that use a connection at the same time.
///
/// Otherwise, the steps of one locked record would take all connections, and the steps of all
/// other keys would wait.
pub(crate) struct Turns {
    keys: Arc<Keys>,
    at_once: usize,
}

/// The turn of one step, which ends when it is dropped.
pub(crate) struct Turn {
    // Declared first, because `Place` looks for users of the semaphore.
    _permit: Option<OwnedSemaphorePermit>,
    _place: Place,
}

/// Keeps the entry of a key while its steps run or wait.
struct Place {
    keys: Arc<Keys>,
    key: StorageKey,
}

impl Turns {
    pub(crate) fn new(at_once: usize) -> Self {
        Self { keys: Arc::default(), at_once }
    }

    pub(crate) async fn take(&self, key: StorageKey) -> Turn {
        let turns = Arc::clone(
            lock(&self.keys).entry(key).or_insert_with(|| Arc::new(Semaphore::new(self.at_once))),
        );
        let place = Place { keys: Arc::clone(&self.keys), key };
        // The semaphore is never closed.
        let permit = turns.acquire_owned().await.ok();
        Turn { _permit: permit, _place: place }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut keys = lock(&self.keys);
        // Only the map. A turn drops its own reference before its place, and others take theirs
        // under the lock, so the last of them finds no other.
        if keys.get(&self.key).is_some_and(|turns| Arc::strong_count(turns) == 1) {
            keys.remove(&self.key);
        }
    }
}

/// Locks the mutex, ignoring poisoning.
fn lock(keys: &Keys) -> MutexGuard<'_, HashMap<StorageKey, Arc<Semaphore>>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{array, sync::Barrier, thread};

    use buttress::idempotency::Key;
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_key_is_forgotten_after_its_last_turn_and_hinders_no_other() {
        let turns = Turns::new(1);
        let [first, second] = ["a", "b"].map(|key| {
            StorageKey::of(b"", &[], &Key::new(key).unwrap_or_else(|_| panic!("a valid key")))
        });

        let turn = turns.take(first).now_or_never();
        assert!(turn.is_some());
        assert!(turns.take(first).now_or_never().is_none());
        assert!(turns.take(second).now_or_never().is_some());
        assert_eq!(lock(&turns.keys).len(), 1);

        drop(turn);
        assert!(turns.take(first).now_or_never().is_some());
        assert!(lock(&turns.keys).is_empty());
    }
    #[test]
    fn a_key_is_forgotten_even_if_its_last_turns_end_together() {
        const THREADS: usize = 2;
        let (turns, together) = (Turns::new(THREADS), Barrier::new(THREADS));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for round in 0..2_500_u16 {
                        together.wait();
                        let keys: [_; 100] = array::from_fn(|number| {
                            let mut key = [number as u8; 32];
                            key[..2].copy_from_slice(&round.to_be_bytes());
                            StorageKey::from_bytes(key)
                        });
                        let held = keys.map(|key| turns.take(key).now_or_never());
                        together.wait();
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(lock(&turns.keys).len(), 0);
    }
}
