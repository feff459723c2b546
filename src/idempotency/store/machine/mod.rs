//! The state machine of a record: each step of a [`Store`](super::Store) as a pure function.
//!
//! Use it in a store that can read a record and write it back in one atomic step, such as under a
//! lock or in a transaction. `MemoryStore` and the store of
//! [`buttress-redb`](https://docs.rs/buttress-redb) use it. A store whose steps run on a server,
//! such as in a script or an SQL function, cannot use it. It implements the [states of a
//! record](super::Store#states-of-a-record) on the server instead.
//!
//! Each function takes the record of a key, or `None` if there is none. It changes the record in
//! place, and returns the result of the step. The store then writes the record back if it has
//! changed, and removes it if it is now `None`. `now` is the time of the store, counted from any
//! fixed instant. It must never go backwards. In a durable store, this includes a restart.
//!
//! ```
//! use buttress::idempotency::{
//!     Claim,
//!     ClaimOutcome,
//!     Fingerprint,
//!     Hold,
//!     Key,
//!     Owner,
//!     ScopeId,
//!     StepOutcome,
//!     StorageKey,
//!     store::machine,
//! };
//! use std::time::Duration;
//!
//! let key = StorageKey::of(b"tenant", &[b"POST", b"/payments"], &Key::new("k1")?);
//! let request = Fingerprint::from_bytes([1; 33]);
//! let claim = Claim::new(key, ScopeId::of(b"tenant"), Owner::random(), request);
//! let mut record = None::<machine::StoredRecord<Vec<u8>>>;
//!
//! let now = Duration::ZERO;
//! let outcome = machine::claim(&mut record, &claim, now, || 1);
//! assert_eq!(outcome, ClaimOutcome::Claimed { fence: 1, previous: None });
//!
//! // The lease ends without a result, and the outcome of the operation is unknown.
//! let now = now + claim.lease;
//! let hold = Hold::new(key, claim.owner, 1);
//! assert_eq!(machine::renew(&mut record, &hold, claim.lease, now), StepOutcome::Stale);
//! assert!(record.is_some_and(|record| machine::unknown(key, &record, now).is_some()));
//! # Ok::<(), buttress::idempotency::InvalidKey>(())
//! ```
//!
//! The [module of stores](super#a-store-of-your-own) has an example of a complete store.

use std::time::Duration;

use super::{
    Claim, ClaimMode, ClaimOutcome, Completed, Hold, OnUnknown, Previous, Resolution, StepOutcome,
    UnknownOperation,
};
use crate::idempotency::{Fingerprint, Owner, StorageKey};

/// The record of an operation, as a store keeps it under its key.
///
/// A durable store writes every field, and reads it back unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoredRecord<P> {
    /// The owner of the last granted claim. It is all zeros if an operator completed the record.
    pub owner: Owner,
    /// The fence of the last granted claim.
    pub fence: u64,
    /// The fingerprint of the request that the key was used for.
    pub fingerprint: Fingerprint,
    /// The time at which the state began.
    pub since: Duration,
    /// The time at which the state ends, by the end of its lease, time to live or retention.
    pub until: Duration,
    /// The state.
    pub state: RecordState<P>,
}

/// The state of a record that is not absent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RecordState<P> {
    /// A claim was granted, and its result is not recorded yet.
    InFlight {
        /// The progress of the effect.
        stage: RunStage,
        /// The time for which the record is kept if it becomes unknown.
        unknown_for: Duration,
        /// The last checkpoint, if there is one.
        checkpoint: Option<Vec<u8>>,
    },
    /// The result is recorded.
    Completed {
        /// The recorded part of the response; `None` if it could not be kept.
        payload: Option<P>,
    },
    /// The outcome is unknown.
    Unknown {
        /// The last checkpoint of the earlier run, if there is one.
        checkpoint: Option<Vec<u8>>,
    },
}

/// The owner of a record that an operator completed.
const NOBODY: Owner = Owner::from_bytes([0; 16]);

/// The progress of the effect of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunStage {
    /// Nothing has happened yet.
    Reserved,
    /// Anything may have happened in this run.
    Started,
    /// Anything may have happened in the earlier run, which this run takes over, or in this run.
    ///
    /// If the record is released, it becomes unknown again.
    TakenOver {
        /// The fence of the earlier run.
        from: u64,
    },
}

impl<P> StoredRecord<P> {
    fn is_held_by(&self, hold: &Hold) -> bool {
        self.owner == hold.owner && self.fence == hold.fence
    }

    fn enter(&mut self, state: RecordState<P>, now: Duration, lasting: Duration) {
        (self.since, self.until) = (now, now.saturating_add(lasting));
        self.state = state;
    }

    fn become_unknown(&mut self, now: Duration, unknown_for: Duration) {
        let checkpoint = match &mut self.state {
            RecordState::InFlight { checkpoint, .. } | RecordState::Unknown { checkpoint } => {
                checkpoint.take()
            }
            RecordState::Completed { .. } => None,
        };
        self.enter(RecordState::Unknown { checkpoint }, now, unknown_for);
    }
}

/// Brings a record up to date, and returns whether that changed it.
///
/// A state whose time is over has ended even if nothing was written. All functions that change a
/// record call this first. Only [`claim`] checks before whether the owner repeats its claim.
/// [`Store::sweep`](super::Store::sweep) calls it for each record whose
/// [`until`](StoredRecord::until) has passed.
pub fn update<P>(slot: &mut Option<StoredRecord<P>>, now: Duration) -> bool {
    let mut changed = false;
    while let Some(record) = slot.as_mut().filter(|record| record.until <= now) {
        changed = true;
        match record.state {
            RecordState::InFlight {
                stage: RunStage::Started | RunStage::TakenOver { .. },
                unknown_for,
                ..
            } => {
                record.become_unknown(record.until, unknown_for);
            }
            RecordState::InFlight { stage: RunStage::Reserved, .. }
            | RecordState::Completed { .. }
            | RecordState::Unknown { .. } => *slot = None,
        }
    }
    changed
}

/// Claims an operation, as [`Store::claim`](super::Store::claim) does.
///
/// `fence` is called only if the claim is granted under a new fence. It must return a number that
/// is larger than every earlier fence of the key, even after the record is gone.
pub fn claim<P: Clone>(
    slot: &mut Option<StoredRecord<P>>,
    claim: &Claim,
    now: Duration,
    fence: impl FnOnce() -> u64,
) -> ClaimOutcome<P> {
    // Checked before the update. An owner that repeats its claim has not begun its run, because it
    // does not know the first result. So even if the lease has ended, nothing is unknown.
    if let Some(record) = slot {
        if let RecordState::InFlight { stage, checkpoint, .. } = &record.state {
            if record.owner == claim.owner {
                record.until = now.saturating_add(claim.lease);
                let previous = match stage {
                    RunStage::Reserved | RunStage::Started => None,
                    RunStage::TakenOver { from } => Some(Previous::new(*from, checkpoint.clone())),
                };
                return ClaimOutcome::Claimed { fence: record.fence, previous };
            }
        }
    }
    update(slot, now);
    let previous = match slot {
        None => None,
        Some(record) if record.fingerprint != claim.fingerprint => {
            return ClaimOutcome::Mismatch { recorded: record.fingerprint };
        }
        Some(record) => match &record.state {
            RecordState::InFlight { .. } => {
                return ClaimOutcome::InFlight {
                    since: now.saturating_sub(record.since),
                    lease_left: record.until.saturating_sub(now),
                };
            }
            RecordState::Completed { payload } => {
                return payload.clone().map_or(ClaimOutcome::NotReplayable, ClaimOutcome::Replay);
            }
            RecordState::Unknown { checkpoint } => match claim.on_unknown {
                OnUnknown::Keep => {
                    let since = now.saturating_sub(record.since);
                    return ClaimOutcome::Unknown { fence: record.fence, since };
                }
                OnUnknown::TakeOver => Some(Previous::new(record.fence, checkpoint.clone())),
            },
        },
    };
    let stage = match (&previous, claim.mode) {
        (Some(previous), _) => RunStage::TakenOver { from: previous.fence },
        (None, ClaimMode::Started) => RunStage::Started,
        (None, ClaimMode::Reserved) => RunStage::Reserved,
    };
    let fence = fence();
    *slot = Some(StoredRecord {
        owner: claim.owner,
        fence,
        fingerprint: claim.fingerprint,
        since: now,
        until: now.saturating_add(claim.lease),
        state: RecordState::InFlight {
            stage,
            unknown_for: claim.unknown_for,
            checkpoint: previous.as_ref().and_then(|previous| previous.checkpoint.clone()),
        },
    });
    ClaimOutcome::Claimed { fence, previous }
}

/// Brings the record up to date, and returns it if it still belongs to the hold.
fn held<'a, P>(
    slot: &'a mut Option<StoredRecord<P>>,
    hold: &Hold,
    now: Duration,
) -> Option<&'a mut StoredRecord<P>> {
    update(slot, now);
    slot.as_mut().filter(|record| record.is_held_by(hold))
}

/// Records the start of the effect, as [`Store::mark_started`](super::Store::mark_started) does.
pub fn mark_started<P>(
    slot: &mut Option<StoredRecord<P>>,
    hold: &Hold,
    now: Duration,
) -> StepOutcome {
    match held(slot, hold, now).map(|record| &mut record.state) {
        Some(RecordState::InFlight { stage, .. }) => {
            if *stage == RunStage::Reserved {
                *stage = RunStage::Started;
            }
            StepOutcome::Applied
        }
        _ => StepOutcome::Stale,
    }
}

/// Renews a lease, as [`Store::renew`](super::Store::renew) does.
pub fn renew<P>(
    slot: &mut Option<StoredRecord<P>>,
    hold: &Hold,
    lease: Duration,
    now: Duration,
) -> StepOutcome {
    match held(slot, hold, now) {
        Some(record @ StoredRecord { state: RecordState::InFlight { .. }, .. }) => {
            record.until = now.saturating_add(lease);
            StepOutcome::Applied
        }
        _ => StepOutcome::Stale,
    }
}

/// Saves a checkpoint, as [`Store::checkpoint`](super::Store::checkpoint) does.
pub fn checkpoint<P>(
    slot: &mut Option<StoredRecord<P>>,
    hold: &Hold,
    kept: Vec<u8>,
    now: Duration,
) -> StepOutcome {
    match held(slot, hold, now).map(|record| &mut record.state) {
        Some(RecordState::InFlight { checkpoint, .. }) => {
            *checkpoint = Some(kept);
            StepOutcome::Applied
        }
        _ => StepOutcome::Stale,
    }
}

/// Records the result of an operation, as [`Store::complete`](super::Store::complete) does.
pub fn complete<P>(
    slot: &mut Option<StoredRecord<P>>,
    hold: &Hold,
    completed: Completed<P>,
    ttl: Duration,
    now: Duration,
) -> StepOutcome {
    match held(slot, hold, now) {
        Some(record @ StoredRecord { state: RecordState::InFlight { .. }, .. }) => {
            record.enter(RecordState::Completed { payload: completed.payload }, now, ttl);
            StepOutcome::Applied
        }
        Some(StoredRecord { state: RecordState::Completed { .. }, .. }) => StepOutcome::Applied,
        _ => StepOutcome::Stale,
    }
}

/// Releases a claim, as [`Store::release`](super::Store::release) does.
pub fn release<P>(
    slot: &mut Option<StoredRecord<P>>,
    owner: &Owner,
    unknown_for: Duration,
    now: Duration,
) -> StepOutcome {
    update(slot, now);
    match slot.as_mut().filter(|record| record.owner == *owner) {
        Some(record @ StoredRecord { state: RecordState::InFlight { .. }, .. }) => {
            match record.state {
                RecordState::InFlight { stage: RunStage::TakenOver { .. }, .. } => {
                    record.become_unknown(now, unknown_for);
                }
                _ => *slot = None,
            }
            StepOutcome::Applied
        }
        _ => StepOutcome::Stale,
    }
}

/// Records that the outcome is unknown, as [`Store::abandon`](super::Store::abandon) does.
pub fn abandon<P>(
    slot: &mut Option<StoredRecord<P>>,
    hold: &Hold,
    unknown_for: Duration,
    now: Duration,
) -> StepOutcome {
    match held(slot, hold, now) {
        Some(record @ StoredRecord { state: RecordState::InFlight { .. }, .. }) => {
            record.become_unknown(now, unknown_for);
            StepOutcome::Applied
        }
        Some(StoredRecord { state: RecordState::Unknown { .. }, .. }) => StepOutcome::Applied,
        _ => StepOutcome::Stale,
    }
}

/// Resolves an unknown operation, as [`Store::resolve`](super::Store::resolve) does.
pub fn resolve<P>(
    slot: &mut Option<StoredRecord<P>>,
    fence: u64,
    resolution: Resolution<P>,
    now: Duration,
) -> StepOutcome {
    update(slot, now);
    match slot.as_mut().filter(|record| record.fence == fence) {
        Some(record @ StoredRecord { state: RecordState::Unknown { .. }, .. }) => {
            match resolution {
                Resolution::Completed(completed, ttl) => {
                    // Without this, the earlier run would be told that its own result was
                    // recorded.
                    record.owner = NOBODY;
                    record.enter(RecordState::Completed { payload: completed.payload }, now, ttl);
                }
                Resolution::Never => *slot = None,
            }
            StepOutcome::Applied
        }
        _ => StepOutcome::Stale,
    }
}

/// Describes a record whose outcome is unknown, and returns `None` for any other record.
///
/// A record whose lease has ended is included even if nothing was written since.
/// [`Store::unknown`](super::Store::unknown) lists such records, and
/// [`Store::count_unknown`](super::Store::count_unknown) counts them.
pub fn unknown<P>(
    key: StorageKey,
    record: &StoredRecord<P>,
    now: Duration,
) -> Option<UnknownOperation> {
    let (since, until) = match record.state {
        RecordState::Unknown { .. } => (record.since, record.until),
        RecordState::InFlight {
            stage: RunStage::Started | RunStage::TakenOver { .. },
            unknown_for,
            ..
        } => (record.until, record.until.saturating_add(unknown_for)),
        RecordState::InFlight { stage: RunStage::Reserved, .. } | RecordState::Completed { .. } => {
            return None;
        }
    };
    (since <= now && now < until)
        .then(|| UnknownOperation::new(key, record.fence, now.saturating_sub(since)))
}

#[cfg(test)]
mod tests;
