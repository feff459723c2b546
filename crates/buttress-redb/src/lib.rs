//! Stores the records of [buttress](mod@buttress)'s idempotency layer in a file.
//!
//! The file is a database of the embedded engine [redb](mod@::redb).
//!
//! ```toml
//! [dependencies]
//! buttress = "0.1"
//! buttress-redb = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! ```no_run
//! use buttress::idempotency::{IdempotencyLayer, Key, RequestKey};
//! use buttress_redb::RedbStore;
//!
//! type Payment = (&'static str, u64);
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let store = RedbStore::builder("payments.redb").max_records(1_000_000).build()?;
//!     let layer = IdempotencyLayer::builder_fn(
//!         store.clone(),
//!         |payment: &Payment| Ok(RequestKey::Key(Key::new(payment.0)?)),
//!         |payment: &Payment, request| request.part(payment.1.to_be_bytes()),
//!     )
//!     .single_tenant()
//!     .build()?;
//!     println!("{layer:?}");
//!
//!     // When the process shuts down:
//!     store.close().await;
//!     Ok(())
//! }
//! ```
//!
//! For the records of HTTP requests, use `IdempotencyLayer::http(store)`, as the idempotency guide
//! of buttress does.
//!
//! # Versions
//!
//! Version 0.1 works with buttress 0.1, which it re-exports as [`buttress`](mod@buttress). It
//! needs Rust 1.90, because redb does. The re-export has the feature `http`
//! only if your own dependency on buttress enables it, which it does by default.
//!
//! # Durability
//!
//! After a step has returned its result, the change is not lost even if the process is killed or
//! the power fails ([`Durability::Immediate`](redb::Durability::Immediate)). The disk must keep all
//! data that it reports as flushed.
//!
//! Each step that changes a record costs a flush of the disk. Steps that wait at the same time
//! share one flush. A file belongs to one process, which locks it.
//!
//! # Opening
//!
//! Opening a file ends every run that was in flight when the file was last closed, because no
//! process can still hold its lease. A reserved record is removed. A started record becomes
//! unknown. After a crash, redb first repairs the file. The checksums of the whole file are checked
//! each time it is opened. The time for both grows with the size of the file.
//!
//! The repair removes a latest commit that is not whole, and opens the file without an error. A
//! commit that the crash interrupted has not returned its result. A commit that was whole when the
//! process ended, and was damaged before the file is opened again, looks the same. Its steps are
//! lost although they have returned their results.
//!
//! # Damage
//!
//! A file that was damaged after it was closed is an error that names the file and the cause, and
//! never an empty store. An empty file is one, too. redb panics on some damaged files, which this
//! crate catches. The panic hook still reports it, and a program that is built with
//! `panic = "abort"` still ends.
//!
//! Keep a copy of a damaged file before you open it again. If only the latest commit is damaged,
//! redb restores the one before it. The first attempt to open the file is then an error, and a
//! second one continues without the latest records. After a crash, already the first attempt
//! continues, see [Opening](#opening).
//!
//! Each record has a checksum, which covers its key. A record that is altered while the file is
//! open is [`StoreError::Garbled`], and is left as it is.
//!
//! # Time
//!
//! The store reads the wall clock once, when it opens the file. From then on it adds the time of a
//! monotonic clock. If the wall clock is behind the latest time in the file, the store uses that
//! latest time instead. Otherwise an ended lease or result would become valid again. If the wall
//! clock is ahead when the file is opened, leases and results in the file end early.
//!
//! # The file
//!
//! | table | key | value |
//! |---|---|---|
//! | `buttress_idempotency_meta` | `version`, `fence`, `time` | the version of the layout (2 bytes); the last fence that was granted (8); the latest time (12); each with a checksum (4) |
//! | `buttress_idempotency_records` | storage key (32) | a record, which begins with its version and its checksum |
//! | `buttress_idempotency_until` | end of the record's state (12), storage key (32) | - |
//! | `buttress_idempotency_in_flight` | storage key (32) | - |
//! | `buttress_idempotency_unknown` | storage key (32) | - |
//!
//! Numbers are big-endian. Times are seconds (8) and nanoseconds (4) since 1970. Space of removed
//! records is reused, but the file does not shrink. Files and records of the first version, which
//! have no checksums, are still read.

mod backend;
mod builder;
mod checksum;
mod clock;
mod panic;
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

/// A store of idempotency records in a file of the embedded database [redb](mod@::redb).
///
/// Clones share the file. Dropping the last clone closes the file, and blocks the thread until the
/// queued steps are done. This takes a few flushes of the disk. [`close`](Self::close) waits
/// without blocking the thread. After either, the file can be opened again at once.
///
/// A queued step runs even after its future is dropped.
///
/// A claim fails with [`StoreError::Full`] when:
///
/// - the file holds [`max_records`](RedbStoreBuilder::max_records) records,
/// - 1,024 steps are waiting,
/// - the claim reserves more than [`max_payload`](RedbStoreBuilder::max_payload) bytes.
///
/// After an error of the disk, such as a full one, the steps that share the commit fail with
/// [`StoreError::Unavailable`]. The next step opens the file again, because redb's memory may
/// differ from the disk. If that fails, the following steps fail with the same error, and the file
/// is tried again after a second. The process need not be restarted, and runs in flight go on.
///
/// After a failed flush, all steps fail until you close the store and open the file again. The
/// operating system may then return data that the disk has lost, so first find out why it failed.
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
    /// Joins the thread when the last clone is dropped.
    ///
    /// Declared after the sender, because fields are dropped in order and the thread ends with the
    /// last sender.
    _thread: Arc<JoinOnDrop>,
}

/// Joins the thread when it is dropped.
struct JoinOnDrop(Option<JoinHandle<()>>);

impl RedbStore {
    /// Closes the file after the steps that are already queued.
    ///
    /// Later steps of any clone fail with [`StoreError::Unavailable`]. If the file is already
    /// closed, this method returns at once.
    pub async fn close(&self) {
        let (done, closed) = tokio::sync::oneshot::channel();
        if self.queue.send(Message::Close(done)).await.is_ok() {
            // An error means that the thread has already ended and closed the file.
            let _ = closed.await;
        }
    }

    /// Returns the number of transactions committed and flushed since the file was opened.
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
        // A claim can be rejected without harm. Later steps of a claimed operation must be able
        // to wait.
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

    /// Brings records up to date whose time has ended. Each record has its own retention.
    async fn sweep(&self, limit: usize) -> Result<usize, StoreError> {
        self.take(move |tables| tables.sweep(limit)).await
    }
}

impl Drop for JoinOnDrop {
    fn drop(&mut self) {
        // Sending a result may wake a task, which may drop the last handle on this thread. A
        // thread cannot join itself.
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

/// Runs the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
