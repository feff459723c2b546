//! Stores, which keep the records of operations.
//!
//! | store | loses records on | survives | needs |
//! |---|---|---|---|
//! | [`MemoryStore`] | the end of the process; a later retry runs the operation again | cancellation, panics | one process |
//! | `RedbStore`, crate [`buttress-redb`] | - | `kill -9`, power loss | one process per file |
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
use crate::{BoxError, error::WithCauses};

pub mod machine;
mod memory;
mod usage;

pub use self::{
    memory::{MemoryStore, MemoryStoreBuilder},
    usage::StoreUsage,
};

/// The default lease. Most runs end before its first renewal, after a third of it.
pub(super) const LEASE: Duration = Duration::from_secs(30);

/// The default retention of unknown operations, long enough for an operator after a holiday.
pub(super) const UNKNOWN_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A store of the records of operations. It decides which request runs an operation.
///
/// Each method is one atomic step. The store reads its own clock inside the step. It also issues
/// the fences. Each new fence of a key is larger than every earlier one, even after the record of
/// the key is gone.
///
/// # States of a record
///
/// | state | becomes |
/// |---|---|
/// | absent | in flight, by a claim |
/// | in flight, reserved | started; completed; absent, when it is released or its lease ends |
/// | in flight, started | completed; absent, when it is released (unknown, if it was taken over); unknown, when it is abandoned or its lease ends |
/// | completed | absent, when its time to live ends |
/// | unknown | in flight, by a claim that takes it over; completed or absent, when it is resolved; absent, when its retention ends |
///
/// A state ends at the end of its lease, time to live or retention, even if nothing is written at
/// that instant. Each step first brings the record up to date and then acts on it.
///
/// A step with a [`Hold`] acts only on a record in flight that has the owner and the fence of the
/// hold. For any other record, it changes nothing and returns [`StepOutcome::Stale`].
///
/// If the result of a step with a hold was lost, the caller may repeat the step, which then
/// returns the same result. A repeated [`release`](Self::release) or [`resolve`](Self::resolve) is
/// stale.
///
/// # Cancellation
///
/// A caller may drop the future of a step at any time. The step may still be taken.
pub trait Store: Clone + Send + Sync + 'static {
    /// The recorded part of a response. A durable store keeps bytes.
    type Payload: Clone + Send + Sync + 'static;

    /// Claims the right to run an operation.
    ///
    /// The store checks the following, in this order:
    ///
    /// 1. A record in flight with the same owner is claimed again, with the same fence and a new
    ///    lease. This is done even after its lease has ended, if no other step has brought it up
    ///    to date.
    /// 2. Otherwise, the record is brought up to date.
    /// 3. An absent record is claimed under a new fence.
    /// 4. A record with another fingerprint is a [`Mismatch`](ClaimOutcome::Mismatch).
    /// 5. An unknown record is claimed under a new fence if the claim [takes
    ///    over](OnUnknown::TakeOver). It is then in flight and started, whatever the mode, and
    ///    keeps its checkpoint. If it is released, it becomes unknown again, not absent.
    /// 6. For any other record, the outcome reports its state.
    fn claim(
        &self,
        claim: &Claim,
    ) -> impl Future<Output = Result<ClaimOutcome<Self::Payload>, StoreError>> + Send;

    /// Records that the effect is about to begin.
    fn mark_started(
        &self,
        hold: &Hold,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Renews leases, so that each ends `lease` from now, in one round trip.
    ///
    /// The outcomes are in the order of `holds`.
    fn renew(
        &self,
        holds: &[Hold],
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<StepOutcome>, StoreError>> + Send;

    /// Saves a checkpoint of an operation, which replaces an earlier one.
    fn checkpoint(
        &self,
        hold: &Hold,
        checkpoint: Vec<u8>,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Records the result of an operation, for `ttl` from now.
    ///
    /// In a durable store, the result is durable when this returns.
    fn complete(
        &self,
        hold: &Hold,
        completed: Completed<Self::Payload>,
        ttl: Duration,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Releases the claim of an owner, because nothing has begun.
    ///
    /// The record becomes absent. A record that the claim has taken over becomes unknown again, for
    /// `unknown_for`. If the owner has no claim on the key, the step is stale.
    fn release(
        &self,
        key: &StorageKey,
        owner: &Owner,
        unknown_for: Duration,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Records that the outcome of an operation is unknown, for `unknown_for`.
    fn abandon(
        &self,
        hold: &Hold,
        unknown_for: Duration,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Records the real outcome of an unknown operation.
    ///
    /// The step is stale if the operation is not unknown under this fence. A record that it
    /// completes has no owner any more. A late step of the earlier run is therefore stale.
    fn resolve(
        &self,
        key: &StorageKey,
        fence: u64,
        resolution: Resolution<Self::Payload>,
    ) -> impl Future<Output = Result<StepOutcome, StoreError>> + Send;

    /// Returns up to `limit` unknown operations, in the order of their keys.
    ///
    /// The list begins after the key `after`, or at the beginning if it is `None`. It includes
    /// operations whose lease has ended, even if the store has not yet written that.
    fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<UnknownOperation>, StoreError>> + Send;

    /// Returns the number of all operations that [`unknown`](Self::unknown) lists.
    fn count_unknown(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Brings records whose time is over up to date, and removes the absent ones.
    ///
    /// It stops after `limit` records, and returns the number of records brought up to date. The
    /// layer calls it after a run, at most once a minute, and again at once if the result is
    /// `limit`.
    fn sweep(&self, limit: usize) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// Returns what a bounded store uses, and its limits.
    ///
    /// The default implementation returns `None`, for a store that is not bounded or does not know.
    ///
    /// The layer calls it after each claim that was granted, to warn before the store is full. It
    /// must return at once.
    fn usage(&self) -> Option<StoreUsage> {
        None
    }

    /// Returns what the scope of a claim uses, and its share of a bounded store.
    ///
    /// The default implementation returns `None`, for a store without shares. The layer calls it
    /// like [`usage`](Self::usage).
    fn share(&self, claim: &Claim) -> Option<StoreUsage> {
        let _ = claim;
        None
    }
}

/// A claim of the right to run an operation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The key of the operation.
    pub key: StorageKey,
    /// The scope of the operation. A bounded store can limit the share of each scope.
    pub scope: ScopeId,
    /// `true` if the scope is the only one. A bounded store then sets no share.
    ///
    /// Default: `false`.
    pub single_tenant: bool,
    /// The owner of the claim.
    pub owner: Owner,
    /// The fingerprint of the request.
    pub fingerprint: Fingerprint,
    /// The moment at which the effect begins.
    ///
    /// Default: `ClaimMode::Started`.
    pub mode: ClaimMode,
    /// The policy for an unknown operation.
    ///
    /// Default: `OnUnknown::Keep`.
    pub on_unknown: OnUnknown,
    /// The time during which no other owner may run the operation.
    ///
    /// Default: `30 s`.
    pub lease: Duration,
    /// The time for which the record is kept if it becomes unknown.
    ///
    /// Default: `30 days`.
    pub unknown_for: Duration,
    /// The maximum size of the result, in bytes.
    ///
    /// Default: `0`.
    ///
    /// A bounded store reserves it, so that every result can be recorded.
    pub reserve: usize,
}

impl Claim {
    /// Creates a claim whose other fields have their defaults.
    pub fn new(key: StorageKey, scope: ScopeId, owner: Owner, fingerprint: Fingerprint) -> Self {
        Self {
            key,
            scope,
            single_tenant: false,
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

/// The moment at which the effect begins.
///
/// Default: `Started`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClaimMode {
    /// The effect begins with the claim.
    ///
    /// A run takes two round trips, one to claim and one to complete. A process that dies leaves
    /// the operation unknown, even if the effect had not begun.
    #[default]
    Started,
    /// The effect begins when [`Store::mark_started`] has returned, which is a third round trip.
    ///
    /// A process that dies before that leaves no trace. A transactional run uses this mode, too,
    /// but without `mark_started`. Its effect happens when the record is completed, because both
    /// are committed at once.
    Reserved,
}

/// The policy of a claim for an unknown operation.
///
/// Default: `Keep`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnknown {
    /// Rejects the claim. The operation stays unknown.
    #[default]
    Keep,
    /// Grants the claim under a new fence.
    TakeOver,
}

/// The outcome of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimOutcome<P> {
    /// The claim is granted, and the operation may be run.
    Claimed {
        /// The fence, which is larger than the fence of every earlier claim of the key.
        fence: u64,
        /// The earlier run, if the claim took over an unknown operation.
        previous: Option<Previous>,
    },
    /// Another owner runs the operation.
    InFlight {
        /// The time since its claim.
        since: Duration,
        /// The time until its lease ends, unless it is renewed.
        lease_left: Duration,
    },
    /// The operation is completed, with this recorded response.
    Replay(P),
    /// The operation is completed, and its response could not be kept.
    NotReplayable,
    /// The key was used for another request.
    Mismatch {
        /// The fingerprint of that request.
        recorded: Fingerprint,
    },
    /// The operation may have been done, and its outcome is unknown.
    Unknown {
        /// The fence of the earlier run.
        fence: u64,
        /// The time since it became unknown.
        since: Duration,
    },
}

/// The earlier run of an operation that was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Previous {
    /// The fence of the run.
    pub fence: u64,
    /// The last checkpoint of the run, if it saved one.
    pub checkpoint: Option<Vec<u8>>,
}

impl Previous {
    /// Creates a description of a run with this fence and checkpoint.
    pub fn new(fence: u64, checkpoint: Option<Vec<u8>>) -> Self {
        Self { fence, checkpoint }
    }
}

/// A granted claim, which the steps of its run must present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Hold {
    /// The key of the operation.
    pub key: StorageKey,
    /// The owner that the claim was granted to.
    pub owner: Owner,
    /// The fence that the claim was granted under.
    pub fence: u64,
}

impl Hold {
    /// Creates the hold of a claim that was granted to `owner` under `fence`.
    pub fn new(key: StorageKey, owner: Owner, fence: u64) -> Self {
        Self { key, owner, fence }
    }
}

/// The recorded result of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Completed<P> {
    /// The recorded part of the response; `None` if the response cannot be kept.
    pub payload: Option<P>,
    /// The size of the payload, in bytes.
    pub size: usize,
}

impl<P> Completed<P> {
    /// Creates a result whose response can be replayed.
    pub fn replayable(payload: P, size: usize) -> Self {
        Self { payload: Some(payload), size }
    }

    /// Creates a result whose response cannot be kept.
    pub fn not_replayable() -> Self {
        Self { payload: None, size: 0 }
    }
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a stale step changed nothing"]
pub enum StepOutcome {
    /// The step was taken, now or when it was sent before.
    Applied,
    /// The step was not taken, because the record is absent, in another state, or under another
    /// claim.
    Stale,
}

/// The real outcome of an unknown operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution<P> {
    /// The operation was done. The result is replayed for the given time.
    Completed(Completed<P>, Duration),
    /// The operation was not done and never will be. The key is free.
    Never,
}

/// An operation whose outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownOperation {
    /// The key of the operation.
    pub key: StorageKey,
    /// The fence of the earlier run, which [`Store::resolve`] needs.
    pub fence: u64,
    /// The time since the operation became unknown.
    pub since: Duration,
}

impl UnknownOperation {
    /// Creates an operation that became unknown `since` ago.
    pub fn new(key: StorageKey, fence: u64, since: Duration) -> Self {
        Self { key, fence, since }
    }
}

/// The error returned when a step of a store fails.
///
/// Its message includes those of its sources. A program that prints the whole chain prints them
/// again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store could not be reached, or failed. The step may have been taken.
    #[error("the store is unavailable: {}", WithCauses(.0.as_ref()))]
    Unavailable(#[source] BoxError),
    /// The store has no room for another record, or none for this scope. Nothing was done.
    #[error("the store is full")]
    Full,
    /// The record was written by a newer version of this crate. Nothing was done.
    #[error("the record has version {0}, which is newer than this program supports")]
    Newer(u16),
    /// The store returned invalid data. The step may have been taken.
    #[error("the store returned invalid data: {0}")]
    Garbled(&'static str),
}

impl StoreError {
    /// Creates an [`Unavailable`](Self::Unavailable) error from a failure of the store's client.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(error.into())
    }
}
