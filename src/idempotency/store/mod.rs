//! Where records are kept, and what a store has to do.
//!
//! | store | forgets on | keeps through | needs |
//! |---|---|---|---|
//! | [`MemoryStore`] | the end of the process: a later retry runs again | cancellation, panics | one process |
//! | `RedbStore`, crate [`buttress-redb`] | - | `kill -9`, power loss | one process a file |
//! | `RedisStore`, crate [`buttress-redis`] | power loss, failover to a replica | `kill -9` of Redis | `appendonly yes`, `appendfsync always`, `maxmemory-policy noeviction` |
//! | `PostgresStore`, crate [`buttress-postgres`] | failover to an asynchronous replica | `kill -9`, power loss | `fsync` |
//!
//! [`buttress-redb`]: https://docs.rs/buttress-redb
//! [`buttress-redis`]: https://docs.rs/buttress-redis
//! [`buttress-postgres`]: https://docs.rs/buttress-postgres
//!
//! # A store of your own
//!
//! Implement [`Store`]. Where a record can be read and written back in one atomic step, as under a
//! lock or in a transaction, the [`machine`] knows what each step does:
//!
//! ```
//! use buttress::idempotency::{
//!     Claim,
//!     ClaimOutcome,
//!     Completed,
//!     Hold,
//!     Owner,
//!     Resolution,
//!     StepOutcome,
//!     StorageKey,
//!     Store,
//!     StoreError,
//!     UnknownOperation,
//!     store::machine::{self, StoredRecord},
//! };
//! use std::{
//!     collections::BTreeMap,
//!     sync::{Arc, Mutex, PoisonError},
//!     time::Duration,
//! };
//! use tokio::time::Instant;
//!
//! /// Keeps records in a map. Clones share it.
//! #[derive(Clone)]
//! struct MapStore {
//!     began: Instant,
//!     map: Arc<Mutex<Map>>,
//! }
//!
//! #[derive(Default)]
//! struct Map {
//!     records: BTreeMap<StorageKey, StoredRecord<Vec<u8>>>,
//!     fence: u64,
//! }
//!
//! impl MapStore {
//!     fn new() -> Self {
//!         Self { began: Instant::now(), map: Arc::default() }
//!     }
//!
//!     /// Locks the map, and then reads the time, so that no step is earlier than the one before.
//!     fn locked<T>(&self, step: impl FnOnce(&mut Map, Duration) -> T) -> T {
//!         let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
//!         step(&mut map, self.began.elapsed())
//!     }
//!
//!     /// Takes a step on one record: reads it, changes it, and writes it back.
//!     fn step<T>(
//!         &self,
//!         key: &StorageKey,
//!         step: impl FnOnce(&mut Option<StoredRecord<Vec<u8>>>, Duration) -> T,
//!     ) -> Result<T, StoreError> {
//!         self.locked(|map, now| {
//!             let mut record = map.records.remove(key);
//!             let answer = step(&mut record, now);
//!             map.records.extend(record.map(|record| (*key, record)));
//!             Ok(answer)
//!         })
//!     }
//! }
//!
//! impl Store for MapStore {
//!     type Payload = Vec<u8>;
//!
//!     async fn claim(&self, claim: &Claim) -> Result<ClaimOutcome<Vec<u8>>, StoreError> {
//!         self.locked(|map, now| {
//!             let mut record = map.records.remove(&claim.key);
//!             let answer = machine::claim(&mut record, claim, now, || {
//!                 map.fence += 1;
//!                 map.fence
//!             });
//!             map.records.extend(record.map(|record| (claim.key, record)));
//!             Ok(answer)
//!         })
//!     }
//!
//!     async fn mark_started(&self, hold: &Hold) -> Result<StepOutcome, StoreError> {
//!         self.step(&hold.key, |record, now| machine::mark_started(record, hold, now))
//!     }
//!
//!     async fn renew(&self, holds: &[Hold], lease: Duration) -> Result<Vec<StepOutcome>, StoreError> {
//!         let renew = |hold: &Hold| {
//!             self.step(&hold.key, |record, now| machine::renew(record, hold, lease, now))
//!         };
//!         holds.iter().map(renew).collect()
//!     }
//!
//!     async fn checkpoint(&self, hold: &Hold, kept: Vec<u8>) -> Result<StepOutcome, StoreError> {
//!         self.step(&hold.key, |record, now| machine::checkpoint(record, hold, kept, now))
//!     }
//!
//!     async fn complete(
//!         &self,
//!         hold: &Hold,
//!         completed: Completed<Vec<u8>>,
//!         ttl: Duration,
//!     ) -> Result<StepOutcome, StoreError> {
//!         self.step(&hold.key, |record, now| machine::complete(record, hold, completed, ttl, now))
//!     }
//!
//!     async fn release(
//!         &self,
//!         key: &StorageKey,
//!         owner: &Owner,
//!         unknown_for: Duration,
//!     ) -> Result<StepOutcome, StoreError> {
//!         self.step(key, |record, now| machine::release(record, owner, unknown_for, now))
//!     }
//!
//!     async fn abandon(&self, hold: &Hold, unknown_for: Duration) -> Result<StepOutcome, StoreError> {
//!         self.step(&hold.key, |record, now| machine::abandon(record, hold, unknown_for, now))
//!     }
//!
//!     async fn resolve(
//!         &self,
//!         key: &StorageKey,
//!         fence: u64,
//!         resolution: Resolution<Vec<u8>>,
//!     ) -> Result<StepOutcome, StoreError> {
//!         self.step(key, |record, now| machine::resolve(record, fence, resolution, now))
//!     }
//!
//!     async fn unknown(
//!         &self,
//!         after: Option<StorageKey>,
//!         limit: usize,
//!     ) -> Result<Vec<UnknownOperation>, StoreError> {
//!         self.locked(|map, now| {
//!             let behind = map.records.iter().filter(|(key, _)| after.is_none_or(|it| **key > it));
//!             let unknown = behind.filter_map(|(key, it)| machine::unknown(*key, it, now));
//!             Ok(unknown.take(limit).collect())
//!         })
//!     }
//!
//!     async fn count_unknown(&self) -> Result<u64, StoreError> {
//!         Ok(self.unknown(None, usize::MAX).await?.len() as u64)
//!     }
//!
//!     async fn sweep(&self, limit: usize) -> Result<usize, StoreError> {
//!         self.locked(|map, now| {
//!             let over = map.records.iter().filter(|(_, it)| it.until <= now);
//!             let over: Vec<_> = over.map(|(key, _)| *key).take(limit).collect();
//!             for key in &over {
//!                 let mut record = map.records.remove(key);
//!                 machine::update(&mut record, now);
//!                 map.records.extend(record.map(|record| (*key, record)));
//!             }
//!             Ok(over.len())
//!         })
//!     }
//! }
//!
//! // Everything that the guard relies on, checked.
//! use buttress::testing::idempotency::{Fixture, check};
//!
//! struct Maps;
//!
//! impl Fixture for Maps {
//!     type Store = MapStore;
//!
//!     async fn fresh(&self) -> MapStore {
//!         MapStore::new()
//!     }
//!
//!     fn payload(&self, bytes: Vec<u8>) -> Vec<u8> {
//!         bytes
//!     }
//!
//!     fn bytes(&self, payload: &Vec<u8>) -> Vec<u8> {
//!         payload.clone()
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! check(&Maps).await.assert();
//! # }
//! ```
//!
//! The check is `buttress::testing::idempotency::check`, which needs the feature `test-util`. A real
//! store also bounds how many records it keeps ([`StoreError::Full`]), and a durable one writes each
//! record down before the step returns. A [`Claim`], an [`ClaimOutcome`] or a [`StoreError`] may get more
//! fields or variants in a minor version; [`ClaimMode`], [`OnUnknown`] and [`Resolution`] may not,
//! so a store matches them without a wildcard.

use std::{future::Future, time::Duration};

use super::{Fingerprint, Owner, ScopeId, StorageKey};
use crate::BoxError;

pub mod machine;
pub mod memory;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub mod postgres;
#[cfg(feature = "redb")]
#[cfg_attr(docsrs, doc(cfg(feature = "redb")))]
pub mod redb;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub mod redis;

pub use self::memory::{MemoryStore, MemoryStoreBuilder};
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use self::postgres::{PostgresSetupError, PostgresStore, PostgresStoreBuilder};
#[cfg(feature = "redb")]
#[cfg_attr(docsrs, doc(cfg(feature = "redb")))]
pub use self::redb::{RedbSetupError, RedbStore, RedbStoreBuilder};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use self::redis::{RedisSetupError, RedisStore, RedisStoreBuilder};

/// Long enough that most work ends before the lease is renewed for the first time, after a third of it.
pub(super) const LEASE: Duration = Duration::from_secs(30);

/// Time for an operator to look at it, after a holiday too.
pub(super) const UNKNOWN_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Keeps the records of operations, and decides who runs them.
///
/// Each method is one atomic step. Time is the store's own, read inside the step, and so are fences:
/// each that it gives is larger than all that it gave before for the same key, also after the key's record
/// is gone.
///
/// # States of a record
///
/// | state | becomes |
/// |---|---|
/// | absent | in flight, by a claim |
/// | in flight, reserved | started; completed; absent, when it is released or its lease ends |
/// | in flight, started | completed; absent, when it is released; unknown, when it is abandoned or its lease ends |
/// | completed | absent, when its time to live ends |
/// | unknown | in flight, by a claim that takes it over; whatever an operator says; absent, when its retention ends |
///
/// That a lease or a time has ended holds from that instant on, whether or not anything has been written:
/// each step first brings the record up to date, and then acts on it. Steps of a [`Hold`] act only on a
/// record in flight with that owner and that fence, and are otherwise [`StepOutcome::Stale`]: nothing changes.
/// A step of a hold that is repeated, because its answer was lost, is answered as it was the first time. A
/// repeated [`release`](Self::release) or [`resolve`](Self::resolve) is stale.
pub trait Store: Clone + Send + Sync + 'static {
    /// What is kept of a response: bytes in a durable store.
    type Payload: Clone + Send + Sync + 'static;

    /// Asks to run an operation.
    ///
    /// In order: a record in flight whose owner is the same is claimed again, with the same fence and a
    /// new lease. Otherwise the record is brought up to date. An absent one is claimed under a new fence.
    /// One with another fingerprint is a [`Mismatch`](ClaimOutcome::Mismatch). An unknown one is claimed under a new
    /// fence if the claim [takes over](OnUnknown::TakeOver): it is in flight and started whatever the mode,
    /// keeps its checkpoint, and becomes unknown again, not absent, when it is released. All else is answered as it is.
    fn claim(
        &self,
        claim: &Claim,
    ) -> impl Future<Output = Result<ClaimOutcome<Self::Payload>, StoreError>> + Send;

    /// Notes that the effect is about to begin.
    fn mark_started(
        &self,
        hold: &Hold,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Prolongs leases, so that each ends `lease` from now, in one trip. Answers in the same order.
    fn renew(
        &self,
        holds: &[Hold],
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<StepOutcome>, StoreError>> + Send;

    /// Keeps how far an operation has come, in place of an earlier checkpoint.
    fn checkpoint(
        &self,
        hold: &Hold,
        checkpoint: Vec<u8>,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Records the result of an operation, for `ttl` from now. Durable when it returns.
    fn complete(
        &self,
        hold: &Hold,
        completed: Completed<Self::Payload>,
        ttl: Duration,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Gives back what a claim of this owner took, if it did: nothing has begun. A claim that had taken
    /// over an unknown record leaves it unknown, for `unknown_for`.
    fn release(
        &self,
        key: &StorageKey,
        owner: &Owner,
        unknown_for: Duration,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Notes that nobody knows what became of an operation, for `unknown_for`.
    fn abandon(
        &self,
        hold: &Hold,
        unknown_for: Duration,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Says what became of an unknown operation. Stale if it is not unknown under this fence. From then on
    /// the record has no owner: a run that was lost and comes back with another result is stale.
    fn resolve(
        &self,
        key: &StorageKey,
        fence: u64,
        resolution: Resolution<Self::Payload>,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Up to `limit` unknown operations, those with a lapsed lease too, in the order of their keys, from
    /// behind `after`.
    fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<UnknownOperation>, StoreError>> + Send;

    /// How many operations are unknown.
    fn count_unknown(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Brings up to `limit` records up to date whose time is over, and removes those that are then absent.
    /// How many there were.
    fn sweep(&self, limit: usize) -> impl Future<Output = Result<usize, StoreError>> + Send;
}

/// Asks to run an operation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// Which operation.
    pub key: StorageKey,
    /// Whose it is: a bounded store gives each scope a share.
    pub scope: ScopeId,
    /// Who asks.
    pub owner: Owner,
    /// What tells whether it is the same request.
    pub fingerprint: Fingerprint,
    /// Whether the effect begins with the claim.
    pub mode: ClaimMode,
    /// What to do about an operation of which nobody knows what became.
    pub on_unknown: OnUnknown,
    /// For how long nobody else may run it.
    pub lease: Duration,
    /// For how long the record is kept if it becomes unknown.
    pub unknown_for: Duration,
    /// How many bytes the result may take. A store that is bounded sets them aside, so that a result that
    /// is there can also be recorded.
    pub reserve: usize,
}

impl Claim {
    /// A claim that begins the effect, and leaves an unknown operation alone.
    pub fn new(key: StorageKey, scope: ScopeId, owner: Owner, fingerprint: Fingerprint) -> Self {
        Self {
            key,
            scope,
            owner,
            fingerprint,
            mode: ClaimMode::Started,
            on_unknown: OnUnknown::Keep,
            lease: LEASE,
            unknown_for: UNKNOWN_RETENTION,
            reserve: 0,
        }
    }
}

/// Whether the effect begins with the claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClaimMode {
    /// It does: one trip claims, one completes. A worker that is lost leaves the operation unknown, also if it
    /// had not begun. The default.
    #[default]
    Started,
    /// It begins when [`Store::mark_started`] has returned, which is a third trip. A worker that is lost
    /// before leaves no trace. For a transactional effect nothing ever starts: it has happened when the record
    /// is complete, since both are committed at once.
    Reserved,
}

/// What a claim does about an operation of which nobody knows what became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnknown {
    /// Leaves it alone.
    #[default]
    Keep,
    /// Claims it under a new fence.
    TakeOver,
}

/// What a store says to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimOutcome<P> {
    /// Run it.
    Claimed {
        /// Larger than that of every earlier claim of the key.
        fence: u64,
        /// What is known of the run that was taken over, if one was.
        previous: Option<Previous>,
    },
    /// Somebody else runs it.
    InFlight {
        /// For how long.
        since: Duration,
        /// When its lease ends, if it is not renewed.
        lease_left: Duration,
    },
    /// It has been done: this is what was kept of the response.
    Replay(P),
    /// It has been done, and the response could not be kept.
    NotReplayable,
    /// The key was used for another request.
    Mismatch {
        /// The fingerprint of that request.
        recorded: Fingerprint,
    },
    /// It may have been done, and nobody knows.
    Unknown {
        /// The fence of the run that was lost.
        fence: u64,
        /// For how long it has been unknown.
        since: Duration,
    },
}

/// What is known of a run that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Previous {
    /// The fence that it had.
    pub fence: u64,
    /// How far it had come, if it said so.
    pub checkpoint: Option<Vec<u8>>,
}

impl Previous {
    /// A run that had this fence.
    pub fn new(fence: u64, checkpoint: Option<Vec<u8>>) -> Self {
        Self { fence, checkpoint }
    }
}

/// A claim that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Hold {
    /// Of which operation.
    pub key: StorageKey,
    /// To whom.
    pub owner: Owner,
    /// Under which fence.
    pub fence: u64,
}

impl Hold {
    /// What `owner` was granted.
    pub fn new(key: StorageKey, owner: Owner, fence: u64) -> Self {
        Self { key, owner, fence }
    }
}

/// The result of an operation, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Completed<P> {
    /// What is kept of the response; `None` if it cannot be kept.
    pub payload: Option<P>,
    /// How many bytes that takes.
    pub size: usize,
}

impl<P> Completed<P> {
    /// A response that can be given again.
    pub fn replayable(payload: P, size: usize) -> Self {
        Self { payload: Some(payload), size }
    }

    /// A response that cannot be kept.
    pub fn not_replayable() -> Self {
        Self { payload: None, size: 0 }
    }
}

/// Whether a step was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a stale step has changed nothing"]
pub enum StepOutcome {
    /// It was, now or when it was sent before.
    Applied,
    /// It was not: the record is not, or no longer, whose it was taken for.
    Stale,
}

/// What became of an unknown operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution<P> {
    /// It was done; this is its result, kept for this long.
    Completed(Completed<P>, Duration),
    /// It was not done and never will be: the key is free.
    Never,
}

/// An operation of which nobody knows what became.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownOperation {
    /// Which one.
    pub key: StorageKey,
    /// The fence of the run that was lost: what to resolve it with.
    pub fence: u64,
    /// For how long it has been unknown.
    pub since: Duration,
}

impl UnknownOperation {
    /// An operation that was lost `since` ago.
    pub fn new(key: StorageKey, fence: u64, since: Duration) -> Self {
        Self { key, fence, since }
    }
}

/// Why a store did not take a step, or may not have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It could not be reached, or failed. The step may have been taken.
    #[error("the store is not available")]
    Unavailable(#[source] BoxError),
    /// It has no room for another record, or not for this scope. Nothing was done.
    #[error("the store is full")]
    Full,
    /// The record was written by a newer version of this crate. Nothing was done.
    #[error("the record has version {0}, which is newer than this program")]
    Newer(u16),
    /// What it said makes no sense. The step may have been taken.
    #[error("the store said what makes no sense: {0}")]
    Garbled(&'static str),
}

impl StoreError {
    /// A failure of the store's client.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(error.into())
    }
}
