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
#![doc = include_str!("own_store.md")]

use std::{future::Future, time::Duration};

use super::{Fingerprint, Owner, ScopeId, StorageKey};
use crate::BoxError;

pub mod machine;
mod memory;

pub use self::memory::{MemoryStore, MemoryStoreBuilder};

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
#[must_use = "a stale step changed nothing"]
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
    #[error("the store is unavailable")]
    Unavailable(#[source] BoxError),
    /// It has no room for another record, or not for this scope. Nothing was done.
    #[error("the store is full")]
    Full,
    /// The record was written by a newer version of this crate. Nothing was done.
    #[error("the record has version {0}, which is newer than this program supports")]
    Newer(u16),
    /// What it said makes no sense. The step may have been taken.
    #[error("the store returned invalid data: {0}")]
    Garbled(&'static str),
}

impl StoreError {
    /// A failure of the store's client.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(error.into())
    }
}
