use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{Database, StorageBackend, backends::InMemoryBackend};

use buttress::idempotency::{Fingerprint, Key, ScopeId};

use super::*;
use crate::tables::Limits;

fn claim() -> Claim {
    let key = StorageKey::of(b"", &[], &Key::new("a").unwrap());
    Claim::new(key, ScopeId::of(b""), Owner::random(), Fingerprint::from_bytes([0; 33]))
}

fn start(disk: impl StorageBackend) -> RedbStore {
    let database = Database::builder().create_with_backend(disk).unwrap();
    let limits = Limits { records: 1_000, payload: 1_000 };
    RedbStore::start(database, limits).unwrap_or_else(|_| panic!("not started"))
}

/// A disk that can fail to flush.
#[derive(Debug, Default)]
struct Disk {
    memory: InMemoryBackend,
    broken: Arc<AtomicBool>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.broken.load(Ordering::Relaxed) {
            true => Err(io::Error::other("no flush")),
            false => self.memory.sync_data(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.write(offset, data)
    }
}

#[tokio::test]
async fn a_commit_that_fails_is_answered_to_all_that_share_it() {
    let disk = Disk::default();
    let broken = Arc::clone(&disk.broken);
    let store = start(disk);
    let (first, second) = (claim(), claim());
    broken.store(true, Ordering::Relaxed);

    let (first, second) = futures::future::join(store.claim(&first), store.claim(&second)).await;

    assert!(matches!(first, Err(StoreError::Unavailable(_))), "{first:?}");
    assert!(matches!(second, Err(StoreError::Unavailable(_))), "{second:?}");
    // The content of the disk is not known any more, so no step may succeed from memory.
    broken.store(false, Ordering::Relaxed);
    assert!(matches!(store.claim(&claim()).await, Err(StoreError::Unavailable(_))));
    assert_eq!(store.commits(), 0);
}

#[tokio::test]
async fn a_thread_that_dies_leaves_nobody_waiting() {
    let store = start(Disk::default());
    let claim = claim();

    let died = store.take(|_| -> Step<()> { panic!("a defect") });
    let (died, waiting) = futures::future::join(died, store.claim(&claim)).await;

    assert!(matches!(died, Err(StoreError::Unavailable(_))), "{died:?}");
    assert!(matches!(waiting, Err(StoreError::Unavailable(_))), "{waiting:?}");
    assert!(matches!(store.claim(&claim).await, Err(StoreError::Unavailable(_))));
    store.close().await;
}

#[tokio::test]
async fn the_last_handle_may_be_dropped_by_the_thread_itself() {
    let store = start(Disk::default());
    let queue = store.queue.clone();
    let (message, answer) = crate::writer::call(move |_: &mut Tables<'_>| {
        drop(store);
        Ok(())
    });

    queue.send(message).await.unwrap_or_else(|_| panic!("the thread has ended"));

    answer.await.unwrap().unwrap();
}
