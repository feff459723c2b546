//! Keeps the records of [buttress](mod@buttress)'s idempotency guard in a file, the embedded database
//! [redb](mod@::redb).
//!
//! ```
//! use buttress_redb::{RedbStore, buttress::idempotency::IdempotencyLayer};
//! # use buttress_redb::buttress::idempotency::{Key, RequestKey};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let file = std::env::temp_dir().join(format!("buttress-docs-{}.redb", std::process::id()));
//! let store = RedbStore::builder(&file).max_records(1_000_000).build()?;
//!
//! type Payment = (&'static str, u64);
//! let guard = IdempotencyLayer::builder_fn(
//!     store.clone(),
//!     |payment: &Payment| Ok(RequestKey::Key(Key::new(payment.0)?)),
//!     |payment: &Payment, request| request.part(payment.1.to_be_bytes()),
//! )
//! .single_tenant()
//! .build()?;
//! # drop(guard);
//!
//! // When the process shuts down:
//! store.close().await;
//! # std::fs::remove_file(file)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Versions
//!
//! This minor version, 0.1, fits buttress 0.1, which it re-exports as [`buttress`](mod@buttress). It
//! needs Rust 1.90, as redb does.
//!
//! # What it promises
//!
//! The promise: a step that was answered is not forgotten, neither when the process is killed nor when
//! the power fails, as far as the disk keeps what it says that it has flushed
//! ([`Durability::Immediate`](redb::Durability::Immediate)). In return a file belongs to one process, which
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

mod builder;
mod clock;
mod record;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use buttress::idempotency::{
    Claim, ClaimOutcome, Completed, Hold, Owner, Resolution, StepOutcome, StorageKey, Store,
    StoreError, UnknownOperation, store::machine,
};
use tokio::sync::mpsc::{self, error::TrySendError};

use self::{
    tables::{Step, Tables},
    writer::Message,
};

pub use self::builder::{RedbSetupError, RedbStoreBuilder};
pub use buttress;

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
/// use buttress_redb::{RedbSetupError, RedbStore};
///
/// # async fn run() -> Result<(), RedbSetupError> {
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

impl RedbStore {
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

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
