//! The steps of a record, pure: what every store does, each in its own language.
//!
//! Time is counted from whatever the store counts from.

use std::time::Duration;

use super::{
    Claim, ClaimMode, ClaimOutcome, Completed, Hold, OnUnknown, Previous, Resolution, StepOutcome,
    UnknownOperation,
};
use crate::idempotency::{Fingerprint, Owner, StorageKey};

/// What is kept under a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record<P> {
    pub(crate) owner: Owner,
    pub(crate) fence: u64,
    pub(crate) fingerprint: Fingerprint,
    /// When the state began.
    pub(crate) since: Duration,
    /// When it ends: the lease, the time to live, or the retention.
    pub(crate) until: Duration,
    pub(crate) state: State<P>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State<P> {
    InFlight { stage: Stage, unknown_for: Duration, checkpoint: Option<Vec<u8>> },
    Completed { payload: Option<P> },
    Unknown { checkpoint: Option<Vec<u8>> },
}

/// Who owns a record that an operator completed.
const NOBODY: Owner = Owner::from_bytes([0; 16]);

/// What may have happened of the effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Nothing.
    Reserved,
    /// Anything, in this run.
    Started,
    /// Anything, in the lost run that had this fence. Released, it is still unknown.
    TakenOver { from: u64 },
}

/// Where the record of a key is, if there is one.
pub(crate) type Slot<P> = Option<Record<P>>;

impl<P> Record<P> {
    fn is_held_by(&self, hold: &Hold) -> bool {
        self.owner == hold.owner && self.fence == hold.fence
    }

    fn enter(&mut self, state: State<P>, now: Duration, lasting: Duration) {
        (self.since, self.until) = (now, now.saturating_add(lasting));
        self.state = state;
    }

    fn become_unknown(&mut self, now: Duration, unknown_for: Duration) {
        let checkpoint = match &mut self.state {
            State::InFlight { checkpoint, .. } | State::Unknown { checkpoint } => checkpoint.take(),
            State::Completed { .. } => None,
        };
        self.enter(State::Unknown { checkpoint }, now, unknown_for);
    }
}

/// Brings a record up to date: what ended by time has ended, whether or not anybody looked. Whether
/// anything had.
pub(crate) fn update<P>(slot: &mut Slot<P>, now: Duration) -> bool {
    let mut changed = false;
    while let Some(record) = slot.as_mut().filter(|record| record.until <= now) {
        changed = true;
        match record.state {
            State::InFlight {
                stage: Stage::Started | Stage::TakenOver { .. },
                unknown_for,
                ..
            } => {
                record.become_unknown(record.until, unknown_for);
            }
            State::InFlight { stage: Stage::Reserved, .. }
            | State::Completed { .. }
            | State::Unknown { .. } => *slot = None,
        }
    }
    changed
}

/// Asks to run an operation. `fence` is called only for a claim that is granted.
pub(crate) fn claim<P: Clone>(
    slot: &mut Slot<P>,
    claim: &Claim,
    now: Duration,
    fence: impl FnOnce() -> u64,
) -> ClaimOutcome<P> {
    // Before time is looked at: whose answer was lost has not begun, so nothing is unknown yet.
    if let Some(record) = slot {
        if let State::InFlight { stage, checkpoint, .. } = &record.state {
            if record.owner == claim.owner {
                record.until = now.saturating_add(claim.lease);
                let previous = match stage {
                    Stage::Reserved | Stage::Started => None,
                    Stage::TakenOver { from } => Some(Previous::new(*from, checkpoint.clone())),
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
            State::InFlight { .. } => {
                return ClaimOutcome::InFlight {
                    since: now.saturating_sub(record.since),
                    lease_left: record.until.saturating_sub(now),
                };
            }
            State::Completed { payload } => {
                return payload.clone().map_or(ClaimOutcome::NotReplayable, ClaimOutcome::Replay);
            }
            State::Unknown { .. } if claim.on_unknown == OnUnknown::Keep => {
                let since = now.saturating_sub(record.since);
                return ClaimOutcome::Unknown { fence: record.fence, since };
            }
            State::Unknown { checkpoint } => Some(Previous::new(record.fence, checkpoint.clone())),
        },
    };
    let stage = match (&previous, claim.mode) {
        (Some(previous), _) => Stage::TakenOver { from: previous.fence },
        (None, ClaimMode::Started) => Stage::Started,
        (None, ClaimMode::Reserved) => Stage::Reserved,
    };
    let fence = fence();
    *slot = Some(Record {
        owner: claim.owner,
        fence,
        fingerprint: claim.fingerprint,
        since: now,
        until: now.saturating_add(claim.lease),
        state: State::InFlight {
            stage,
            unknown_for: claim.unknown_for,
            checkpoint: previous.as_ref().and_then(|previous| previous.checkpoint.clone()),
        },
    });
    ClaimOutcome::Claimed { fence, previous }
}

/// The record of a hold, brought up to date, if it is still the hold's.
fn held<'a, P>(slot: &'a mut Slot<P>, hold: &Hold, now: Duration) -> Option<&'a mut Record<P>> {
    update(slot, now);
    slot.as_mut().filter(|record| record.is_held_by(hold))
}

/// Notes that the effect is about to begin.
pub(crate) fn mark_started<P>(slot: &mut Slot<P>, hold: &Hold, now: Duration) -> StepOutcome {
    match held(slot, hold, now).map(|record| &mut record.state) {
        Some(State::InFlight { stage, .. }) => {
            if *stage == Stage::Reserved {
                *stage = Stage::Started;
            }
            StepOutcome::Applied
        }
        _ => StepOutcome::Stale,
    }
}

/// Prolongs a lease.
pub(crate) fn renew<P>(
    slot: &mut Slot<P>,
    hold: &Hold,
    lease: Duration,
    now: Duration,
) -> StepOutcome {
    match held(slot, hold, now) {
        Some(record @ Record { state: State::InFlight { .. }, .. }) => {
            record.until = now.saturating_add(lease);
            StepOutcome::Applied
        }
        _ => StepOutcome::Stale,
    }
}

/// Keeps how far an operation has come.
pub(crate) fn checkpoint<P>(
    slot: &mut Slot<P>,
    hold: &Hold,
    kept: Vec<u8>,
    now: Duration,
) -> StepOutcome {
    match held(slot, hold, now).map(|record| &mut record.state) {
        Some(State::InFlight { checkpoint, .. }) => {
            *checkpoint = Some(kept);
            StepOutcome::Applied
        }
        _ => StepOutcome::Stale,
    }
}

/// Records the result of an operation.
pub(crate) fn complete<P>(
    slot: &mut Slot<P>,
    hold: &Hold,
    completed: Completed<P>,
    ttl: Duration,
    now: Duration,
) -> StepOutcome {
    match held(slot, hold, now) {
        Some(record @ Record { state: State::InFlight { .. }, .. }) => {
            record.enter(State::Completed { payload: completed.payload }, now, ttl);
            StepOutcome::Applied
        }
        Some(Record { state: State::Completed { .. }, .. }) => StepOutcome::Applied,
        _ => StepOutcome::Stale,
    }
}

/// Gives back what a claim took.
pub(crate) fn release<P>(
    slot: &mut Slot<P>,
    owner: &Owner,
    unknown_for: Duration,
    now: Duration,
) -> StepOutcome {
    update(slot, now);
    match slot.as_mut().filter(|record| record.owner == *owner) {
        Some(record @ Record { state: State::InFlight { .. }, .. }) => {
            match record.state {
                State::InFlight { stage: Stage::TakenOver { .. }, .. } => {
                    record.become_unknown(now, unknown_for);
                }
                _ => *slot = None,
            }
            StepOutcome::Applied
        }
        _ => StepOutcome::Stale,
    }
}

/// Notes that nobody knows what became of an operation.
pub(crate) fn abandon<P>(
    slot: &mut Slot<P>,
    hold: &Hold,
    unknown_for: Duration,
    now: Duration,
) -> StepOutcome {
    match held(slot, hold, now) {
        Some(record @ Record { state: State::InFlight { .. }, .. }) => {
            record.become_unknown(now, unknown_for);
            StepOutcome::Applied
        }
        Some(Record { state: State::Unknown { .. }, .. }) => StepOutcome::Applied,
        _ => StepOutcome::Stale,
    }
}

/// Says what became of an unknown operation.
pub(crate) fn resolve<P>(
    slot: &mut Slot<P>,
    fence: u64,
    resolution: Resolution<P>,
    now: Duration,
) -> StepOutcome {
    update(slot, now);
    match slot.as_mut().filter(|record| record.fence == fence) {
        Some(record @ Record { state: State::Unknown { .. }, .. }) => {
            match resolution {
                Resolution::Completed(completed, ttl) => {
                    // Otherwise the run that was lost would be told that its result was recorded.
                    record.owner = NOBODY;
                    record.enter(State::Completed { payload: completed.payload }, now, ttl);
                }
                Resolution::Never => *slot = None,
            }
            StepOutcome::Applied
        }
        _ => StepOutcome::Stale,
    }
}

/// What is to be told of an operation of which nobody knows what became, also if its lease has just
/// lapsed.
pub(crate) fn unknown<P>(
    key: StorageKey,
    record: &Record<P>,
    now: Duration,
) -> Option<UnknownOperation> {
    let (since, until) = match record.state {
        State::Unknown { .. } => (record.since, record.until),
        State::InFlight {
            stage: Stage::Started | Stage::TakenOver { .. }, unknown_for, ..
        } => (record.until, record.until.saturating_add(unknown_for)),
        State::InFlight { stage: Stage::Reserved, .. } | State::Completed { .. } => return None,
    };
    (since <= now && now < until)
        .then(|| UnknownOperation::new(key, record.fence, now.saturating_sub(since)))
}

#[cfg(test)]
mod tests;
