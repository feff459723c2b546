use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use redb::{Database, StorageBackend, backends::InMemoryBackend};

use buttress::idempotency::{Fingerprint, Key, ScopeId};

use super::*;
use crate::{backend::Flushed, tables::Limits};

const LONG: Duration = Duration::from_secs(600);

fn claim(name: &str) -> Claim {
    let key = StorageKey::of(b"", &[], &Key::new(name).unwrap());
    Claim::new(key, ScopeId::of(b""), Owner::random(), Fingerprint::from_bytes([0; 33]))
}

/// Starts a store on a disk, which it opens again after an error.
fn start(disk: &Disk) -> RedbStore {
    let (backend, failed) = (disk.clone(), Arc::<AtomicBool>::default());
    let flush_failed = Arc::clone(&failed);
    let open = move || {
        let backend = Flushed { backend: backend.clone(), failed: Arc::clone(&failed) };
        Ok(Database::builder().create_with_backend(backend)?)
    };
    let database = open().unwrap();
    let limits = Limits { records: 1_000, payload: 100_000 };
    let disk = writer::Disk::new(Box::new(open), flush_failed);
    RedbStore::start(database, disk, limits).unwrap_or_else(|_| panic!("not started"))
}

/// A disk that can fail to flush, and that can be full.
#[derive(Clone, Debug, Default)]
struct Disk {
    memory: Arc<InMemoryBackend>,
    broken: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
}

impl Disk {
    /// Fails if the disk is full. A file can grow without space, until it is written.
    fn space(&self) -> io::Result<()> {
        match self.full.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
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
        self.space()?;
        self.memory.write(offset, data)
    }
}

/// Repeats a step until the file is open again, which is tried once a second.
async fn until_opened<T, F: Future<Output = Result<T, StoreError>>>(step: impl Fn() -> F) -> T {
    let began = Instant::now();
    loop {
        match step().await {
            Ok(done) => return done,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_commit_that_fails_is_answered_to_all_that_share_it() {
    let disk = Disk::default();
    let store = start(&disk);
    let (first, second) = (claim("first"), claim("second"));
    disk.broken.store(true, Ordering::Relaxed);

    let (first, second) = futures::future::join(store.claim(&first), store.claim(&second)).await;

    assert!(matches!(first, Err(StoreError::Unavailable(_))), "{first:?}");
    assert!(matches!(second, Err(StoreError::Unavailable(_))), "{second:?}");
    // The content of the disk is not known any more, so no step may succeed from memory, nor from
    // what the operating system returns.
    disk.broken.store(false, Ordering::Relaxed);
    let third = store.claim(&claim("third")).await;
    assert!(matches!(third, Err(StoreError::Unavailable(_))), "{third:?}");
    assert_eq!(store.commits(), 0);
}

#[tokio::test]
async fn after_a_full_disk_the_store_works_again_and_has_lost_nothing() {
    let disk = Disk::default();
    let store = start(&disk);
    let done = claim("done");
    let ClaimOutcome::Claimed { fence, .. } = store.claim(&done).await.unwrap() else {
        panic!("not claimed")
    };
    let hold = Hold::new(done.key, done.owner, fence);
    let before = claim("before");
    assert!(matches!(store.claim(&before).await, Ok(ClaimOutcome::Claimed { .. })));

    disk.full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let result = Completed::replayable(vec![0; 50_000], 50_000);
        let answer = store.complete(&hold, result, LONG).await;
        let Err(StoreError::Unavailable(cause)) = answer else { panic!("{answer:?}") };
        let full = io::Error::from(io::ErrorKind::StorageFull).to_string();
        assert!(cause.to_string().contains(&full), "{cause}");
    }
    disk.full.store(false, Ordering::Relaxed);

    let result = || Completed::replayable(b"paid".to_vec(), 4);
    let written = until_opened(|| store.complete(&hold, result(), LONG)).await;
    assert_eq!(written, StepOutcome::Applied);
    assert_eq!(store.claim(&claim("done")).await.unwrap(), ClaimOutcome::Replay(b"paid".to_vec()));
    // The run in flight has not been ended.
    let twin = store.claim(&claim("before")).await;
    assert!(matches!(twin, Ok(ClaimOutcome::InFlight { .. })), "{twin:?}");
    let later = store.claim(&claim("later")).await;
    assert!(matches!(later, Ok(ClaimOutcome::Claimed { fence: 3.., .. })), "{later:?}");
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_store_goes_on() {
    let store = start(&Disk::default());

    let panicked = store.take(|_| -> Step<()> { panic!("a defect") }).await;

    let Err(StoreError::Unavailable(cause)) = panicked else { panic!("{panicked:?}") };
    assert!(cause.to_string().contains("a defect"), "{cause}");
    let after = store.claim(&claim("a")).await;
    assert!(matches!(after, Ok(ClaimOutcome::Claimed { fence: 1, .. })), "{after:?}");
    store.close().await;
}

#[tokio::test]
async fn the_last_handle_may_be_dropped_by_the_thread_itself() {
    let store = start(&Disk::default());
    let queue = store.queue.clone();
    let (message, answer) = crate::writer::call(move |_: &mut Tables<'_>| {
        drop(store);
        Ok(())
    });

    queue.send(message).await.unwrap_or_else(|_| panic!("the thread has ended"));

    answer.await.unwrap().unwrap();
}
