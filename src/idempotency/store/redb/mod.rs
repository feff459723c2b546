//! Records in an embedded database.
//!
//! The promise: a step that was answered is not forgotten, neither when the process is killed nor when
//! the power fails, as far as the disk keeps what it says that it has flushed
//! ([`Durability::Immediate`]). In return a file belongs to one process, which
//! locks it, and a step costs a flush of the disk; steps that wait together share one.
//!
//! # Opening
//!
//! Nobody can still hold what was in flight when the file was last closed, whatever is left of its lease:
//! opening frees what was only reserved, and makes all else unknown. After a crash redb first repairs
//! the file, which takes time in proportion to its size.
//!
//! # Time
//!
//! Read from the wall clock when the file is opened, and counted on by a clock that cannot be set. A
//! wall clock that is found to be behind the latest time in the file is not believed, so that what has
//! ended does not come back. One that runs ahead when the file is opened makes what is in it end early.
//!
//! # The file
//!
//! | table | key | value |
//! |---|---|---|
//! | `buttress_idempotency_meta` | `version`, `fence`, `time` | of the layout (2 bytes); the last fence given (8); the latest time (12) |
//! | `buttress_idempotency_records` | storage key (32) | a record, beginning with its version |
//! | `buttress_idempotency_until` | when the record's state ends (12), storage key (32) | - |
//! | `buttress_idempotency_in_flight` | storage key (32) | - |
//! | `buttress_idempotency_unknown` | storage key (32) | - |
//!
//! Numbers are big-endian, times seconds (8) and nanoseconds (4) since 1970. Space of removed records is
//! used again; the file does not shrink.

mod clock;
mod record;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt, io,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ::redb::{Database, Durability};
use tokio::sync::mpsc::{self, error::TrySendError};

use self::{
    clock::Clock,
    tables::{Failure, Limits, Step, Tables},
    writer::{Message, Writer},
};
use super::{
    Claim, ClaimOutcome, Completed, Hold, Resolution, StepOutcome, Store, StoreError,
    UnknownOperation, machine,
};
use crate::{
    BoxError,
    idempotency::{Owner, StorageKey},
};

/// How many steps may wait for the thread. Claims beyond it are refused, all else waits.
const QUEUE: usize = 1024;

/// redb's own default is a gigabyte.
const CACHE: usize = 64 * 1024 * 1024;

/// Keeps records in a file of the embedded database [redb](mod@::redb).
///
/// Clones share the file. It is closed when the last of them is dropped, which waits for the steps that
/// are under way, a few flushes of the disk; [`close`](Self::close) waits without blocking. Either way the
/// file can be opened again at once.
///
/// A claim is [`Full`](StoreError::Full) when there are as many records as
/// [allowed](RedbStoreBuilder::max_records), when 1024 steps wait, or when it asks to reserve more than a
/// payload [may have](RedbStoreBuilder::max_payload). After an error of the disk all steps are
/// [`Unavailable`](StoreError::Unavailable) until the file is opened again, since what redb holds in memory
/// may no longer be what the disk holds.
///
/// ```no_run
/// use buttress::idempotency::store::RedbStore;
///
/// # async fn run() -> Result<(), buttress::idempotency::store::RedbSetupError> {
/// let store = RedbStore::open("idempotency.redb")?;
/// // ... serve ...
/// store.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedbStore {
    queue: mpsc::Sender<Message>,
    commits: Arc<AtomicU64>,
    /// After the sender, since fields are dropped in order: the thread ends when the last sender is gone.
    _thread: Arc<JoinOnDrop>,
}

/// Waits for the thread when it is dropped.
struct JoinOnDrop(Option<JoinHandle<()>>);

/// Configures a [`RedbStore`].
#[derive(Clone, Debug)]
#[must_use]
pub struct RedbStoreBuilder {
    limits: Limits,
}

/// Why a file was not opened. It is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedbSetupError {
    /// Somebody else has it.
    #[error(
        "{} is open already, in this process or another: a file of records has one process",
        .0.display()
    )]
    InUse(PathBuf),
    /// It was written by a newer version of this crate.
    #[error("{} has layout {version}, which is newer than this program", .path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The version of its layout.
        version: u16,
    },
    /// It cannot be read or written, or is not a file of records.
    #[error("{} cannot be opened", .path.display())]
    Failed {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: BoxError,
    },
}

impl RedbStore {
    /// Opens a file, or makes one, with the defaults of the [builder](Self::builder).
    ///
    /// Blocks, after a crash for as long as it takes to repair the file.
    ///
    /// # Errors
    ///
    /// If another process has it open, or this one, if a newer version of this crate has written it, or
    /// if it cannot be read or is something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RedbSetupError> {
        Self::builder().open(path)
    }

    /// Configures a store.
    pub fn builder() -> RedbStoreBuilder {
        RedbStoreBuilder { limits: Limits { records: 10_000_000, payload: 16 * 1024 * 1024 } }
    }

    /// Closes the file, after the steps that wait. Those that come later, from any clone, are
    /// [`Unavailable`](StoreError::Unavailable).
    pub async fn close(&self) {
        let (done, closed) = tokio::sync::oneshot::channel();
        if self.queue.send(Message::Close(done)).await.is_ok() {
            // An error says that the thread has ended before, and has closed the file.
            let _ = closed.await;
        }
    }

    /// How many transactions have been committed, and flushed to the disk, since the file was opened.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn start(database: Database, limits: Limits) -> Result<Self, Refused> {
        let clock = recover(&database, limits)?;
        let commits = Arc::<AtomicU64>::default();
        let writer = Writer { database, clock, limits, commits: Arc::clone(&commits) };
        let (queue, steps) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("buttress-redb".into())
            .spawn(move || writer.run(steps))
            .map_err(|error| Refused::Failed(error.into()))?;
        Ok(Self { queue, commits, _thread: Arc::new(JoinOnDrop(Some(thread))) })
    }

    async fn take<T: Send + 'static>(
        &self,
        step: impl FnOnce(&mut Tables<'_>) -> Step<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (message, answer) = writer::call(step);
        self.queue.send(message).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

fn closed() -> StoreError {
    StoreError::unavailable(io::Error::new(
        io::ErrorKind::NotConnected,
        "the file of records is closed",
    ))
}

impl Store for RedbStore {
    type Payload = Vec<u8>;

    async fn claim(&self, claim: &Claim) -> Result<ClaimOutcome<Vec<u8>>, StoreError> {
        let claim = claim.clone();
        let (message, answer) = writer::call(move |tables: &mut Tables<'_>| tables.claim(&claim));
        // A claim may be refused without harm; what was claimed must be able to end.
        match self.queue.try_send(message) {
            Ok(()) => answer.await.map_err(|_| closed())?,
            Err(TrySendError::Full(_)) => Err(StoreError::Full),
            Err(TrySendError::Closed(_)) => Err(closed()),
        }
    }

    async fn mark_started(&self, hold: &Hold) -> Result<StepOutcome, StoreError> {
        let hold = *hold;
        self.take(move |tables| {
            tables.on(&hold.key, |slot, now| machine::mark_started(slot, &hold, now))
        })
        .await
    }

    async fn renew(&self, holds: &[Hold], lease: Duration) -> Result<Vec<StepOutcome>, StoreError> {
        let holds = holds.to_vec();
        self.take(move |tables| tables.renew(&holds, lease)).await
    }

    async fn checkpoint(
        &self,
        hold: &Hold,
        checkpoint: Vec<u8>,
    ) -> Result<StepOutcome, StoreError> {
        let hold = *hold;
        self.take(move |tables| tables.checkpoint(&hold, checkpoint)).await
    }

    async fn complete(
        &self,
        hold: &Hold,
        completed: Completed<Vec<u8>>,
        ttl: Duration,
    ) -> Result<StepOutcome, StoreError> {
        let hold = *hold;
        self.take(move |tables| tables.complete(&hold, completed, ttl)).await
    }

    async fn release(
        &self,
        key: &StorageKey,
        owner: &Owner,
        unknown_for: Duration,
    ) -> Result<StepOutcome, StoreError> {
        let (key, owner) = (*key, *owner);
        self.take(move |tables| {
            tables.on(&key, |slot, now| machine::release(slot, &owner, unknown_for, now))
        })
        .await
    }

    async fn abandon(&self, hold: &Hold, unknown_for: Duration) -> Result<StepOutcome, StoreError> {
        let hold = *hold;
        self.take(move |tables| {
            tables.on(&hold.key, |slot, now| machine::abandon(slot, &hold, unknown_for, now))
        })
        .await
    }

    async fn resolve(
        &self,
        key: &StorageKey,
        fence: u64,
        resolution: Resolution<Vec<u8>>,
    ) -> Result<StepOutcome, StoreError> {
        let key = *key;
        self.take(move |tables| tables.resolve(&key, fence, resolution)).await
    }

    async fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Result<Vec<UnknownOperation>, StoreError> {
        self.take(move |tables| tables.unknown(after, limit)).await
    }

    async fn count_unknown(&self) -> Result<u64, StoreError> {
        self.take(|tables| tables.count_unknown()).await
    }

    /// Each record in flight says itself for how long it is kept when it becomes unknown.
    async fn sweep(&self, limit: usize) -> Result<usize, StoreError> {
        self.take(move |tables| tables.sweep(limit)).await
    }
}

impl RedbStoreBuilder {
    /// How many records there may be, dead ones too until they are [swept](Store::sweep). 10 million if
    /// it is not set.
    pub fn max_records(mut self, records: NonZeroU64) -> Self {
        self.limits.records = records.get();
        self
    }

    /// How many bytes a result or a checkpoint may have. A step with more is [`Full`](StoreError::Full).
    /// 16 MiB if it is not set.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.limits.payload = bytes;
        self
    }

    /// Opens a file, or makes one. As [`RedbStore::open`].
    ///
    /// # Errors
    ///
    /// As [`RedbStore::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<RedbStore, RedbSetupError> {
        let path = path.as_ref();
        let opened = (|| {
            let database = Database::builder().set_cache_size(CACHE).create(path)?;
            sync_folder(path).map_err(|error| Refused::Failed(error.into()))?;
            RedbStore::start(database, self.limits)
        })();
        opened.map_err(|refused| match refused {
            Refused::InUse => RedbSetupError::InUse(path.into()),
            Refused::Newer(version) => RedbSetupError::Newer { path: path.into(), version },
            Refused::Failed(source) => RedbSetupError::Failed { path: path.into(), source },
        })
    }
}

/// Makes the name of a new file durable too: without it power loss may take the whole file.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::File::open(folder)?.sync_all()
}

/// Settles what the last process left, in one transaction, and finds out what time it is.
fn recover(database: &Database, limits: Limits) -> Result<Clock, Refused> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let mut tables = Tables::open(&transaction, limits)?;
    let clock = Clock::not_before(tables.seen());
    tables.set_now(clock.now());
    tables.orphan()?;
    tables.finish()?;
    transaction.commit()?;
    Ok(clock)
}

/// Why a file was not opened, without its name.
enum Refused {
    InUse,
    Newer(u16),
    Failed(BoxError),
}

impl<E: Into<::redb::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        match error.into() {
            ::redb::Error::DatabaseAlreadyOpen => Self::InUse,
            error => Self::Failed(error.into()),
        }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(StoreError::Newer(version)) => Self::Newer(version),
            failure => Self::Failed(failure.into_broken().into()),
        }
    }
}

impl Drop for JoinOnDrop {
    fn drop(&mut self) {
        // Answering a step may wake, and so drop, a task with the last handle: the thread cannot wait
        // for itself.
        let Some(thread) = self.0.take() else { return };
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore").field("commits", &self.commits()).finish_non_exhaustive()
    }
}
