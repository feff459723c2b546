//! Tests that the checks find the faults of a store, each by the check that is named with it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::{Fixture, check, check_one, names};
use crate::{
    call::lock::lock,
    idempotency::{
        Claim, ClaimMode, ClaimOutcome, Completed, Hold, OnUnknown, Owner, Previous, Resolution,
        StepOutcome, StorageKey, Store, StoreError, UnknownOperation,
        store::machine::{self, RecordState, RunStage, StoredRecord},
    },
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    Panics,
    NeverAnswers,
    Fails,
    ClaimsInTwoSteps,
    ForgetsWhatIsInFlight,
    GivesTheSameFenceTwice,
    CountsFencesInTheRecord,
    GivesItsOwnerAnotherFence,
    LeavesTheLeaseAsItWas,
    ForgetsWhomItTookOver,
    TakesOverThoughToldToKeep,
    TakesOverWithoutTheCheckpoint,
    TakesOverAsReserved,
    OverlooksAnotherRequest,
    StartsWhatIsReserved,
    FreesWhatIsStarted,
    MarksAfterTheLease,
    CompletesWithAnyFence,
    CompletesForAnyOwner,
    CompletesAfterTheLease,
    CompletesAgain,
    CountsTimeToLiveFromTheClaim,
    ReplaysWhatWasNotKept,
    RenewsNothing,
    RenewsInAnotherOrder,
    RenewsOnlyTheFirst,
    RenewsWithAnyFence,
    MarksWithAnyFence,
    KeepsCheckpointsWithAnyFence,
    AbandonsWithAnyFence,
    ReleasesForAnyOwner,
    ReleasesWhatIsCompleted,
    FreesATakeOver,
    ResolvesWithAnyFence,
    KeepsResolvedForEver,
    CountsRetentionFromTheLook,
    KeepsUnknownForEver,
    ListsBackwards,
    ListsFromTheKeyItself,
    ListsOnlyWhatWasWritten,
    ListsTooMuch,
    CountsAll,
    SweepsWhatLives,
    SweepsWithoutBound,
    ReadsPayloadsAsText,
    CutsPayloads,
    SharesRecordsOfNearKeys,
}

use Fault::*;

/// The faults, each with a check that must find it.
const FAULTS: &[(Fault, &str)] = &[
    (Panics, "what_is_completed_is_replayed"),
    (NeverAnswers, "what_is_completed_is_replayed"),
    (Fails, "what_is_completed_is_replayed"),
    (ClaimsInTwoSteps, "of_many_claims_at_once_one_is_granted"),
    (ForgetsWhatIsInFlight, "a_claim_in_flight_keeps_all_others_out"),
    (GivesTheSameFenceTwice, "fences_grow_even_after_the_record_is_gone"),
    (CountsFencesInTheRecord, "fences_grow_even_after_the_record_is_gone"),
    (GivesItsOwnerAnotherFence, "its_owner_is_granted_a_claim_again"),
    (LeavesTheLeaseAsItWas, "a_claim_again_has_a_new_lease"),
    (ForgetsWhomItTookOver, "a_repeated_take_over_reports_the_same_earlier_run"),
    (TakesOverThoughToldToKeep, "an_unknown_operation_is_left_alone"),
    (TakesOverWithoutTheCheckpoint, "a_take_over_has_a_new_fence_and_the_checkpoint"),
    (TakesOverAsReserved, "what_was_taken_over_is_unknown_again_when_it_is_lost_or_released"),
    (OverlooksAnotherRequest, "another_request_is_told_what_the_key_was_used_for"),
    (StartsWhatIsReserved, "a_reserved_run_leaves_no_trace_when_its_lease_ends"),
    (FreesWhatIsStarted, "a_started_run_is_unknown_when_its_lease_ends"),
    (MarksAfterTheLease, "a_mark_after_the_lease_is_stale_and_the_key_is_free"),
    (CompletesWithAnyFence, "a_run_that_was_taken_over_changes_nothing"),
    (CompletesWithAnyFence, "only_the_heir_of_a_stale_run_completes"),
    (CompletesForAnyOwner, "a_stale_hold_changes_nothing_in_flight"),
    (CompletesAfterTheLease, "a_lapsed_run_cannot_be_completed"),
    (CompletesAgain, "completing_again_is_applied_and_keeps_the_first_result"),
    (CountsTimeToLiveFromTheClaim, "the_time_to_live_counts_from_completion"),
    (ReplaysWhatWasNotKept, "a_result_that_is_not_kept_is_not_replayable"),
    (RenewsNothing, "a_renewed_lease_ends_later_or_sooner"),
    (RenewsInAnotherOrder, "many_leases_are_renewed_at_once_and_answered_in_order"),
    (RenewsOnlyTheFirst, "many_leases_are_renewed_at_once_and_answered_in_order"),
    (RenewsWithAnyFence, "a_stale_mark_does_not_start_a_reserved_run"),
    (MarksWithAnyFence, "a_stale_mark_does_not_start_a_reserved_run"),
    (KeepsCheckpointsWithAnyFence, "a_stale_hold_changes_nothing_in_flight"),
    (AbandonsWithAnyFence, "a_stale_hold_changes_nothing_in_flight"),
    (ReleasesForAnyOwner, "a_stale_hold_changes_nothing_in_flight"),
    (ReleasesWhatIsCompleted, "nothing_changes_what_is_completed"),
    (FreesATakeOver, "what_was_taken_over_is_unknown_again_when_it_is_lost_or_released"),
    (ResolvesWithAnyFence, "only_what_is_unknown_under_the_fence_is_resolved"),
    (KeepsResolvedForEver, "an_operation_resolved_as_done_is_replayed"),
    (CountsRetentionFromTheLook, "the_retention_counts_from_the_end_of_the_lease"),
    (KeepsUnknownForEver, "what_is_abandoned_is_unknown_until_its_retention_ends"),
    (ListsBackwards, "unknown_operations_are_listed_page_by_page"),
    (ListsFromTheKeyItself, "unknown_operations_are_listed_page_by_page"),
    (ListsOnlyWhatWasWritten, "unknown_operations_are_listed_page_by_page"),
    (ListsTooMuch, "unknown_operations_are_listed_page_by_page"),
    (CountsAll, "unknown_operations_are_listed_page_by_page"),
    (SweepsWhatLives, "a_sweep_is_bounded_and_touches_only_what_is_over"),
    (SweepsWithoutBound, "a_sweep_is_bounded_and_touches_only_what_is_over"),
    (ReadsPayloadsAsText, "payloads_come_back_byte_for_byte"),
    (CutsPayloads, "payloads_come_back_byte_for_byte"),
    (SharesRecordsOfNearKeys, "keys_do_not_touch_each_other"),
];

type Records = BTreeMap<StorageKey, Option<StoredRecord<Vec<u8>>>>;

/// A store that only does what it must, with a fault.
#[derive(Clone)]
struct Plain {
    fault: Fault,
    began: Instant,
    records: Arc<Mutex<(Records, u64)>>,
}

impl Plain {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn key(&self, key: StorageKey) -> StorageKey {
        let mut bytes = *key.as_bytes();
        if self.fault == SharesRecordsOfNearKeys {
            bytes[31] = 0;
        }
        StorageKey::from_bytes(bytes)
    }

    fn step<T>(
        &self,
        key: &StorageKey,
        act: impl FnOnce(&mut Option<StoredRecord<Vec<u8>>>, &mut u64) -> T,
    ) -> Result<T, StoreError> {
        let (records, fence) = &mut *lock(&self.records);
        Ok(act(records.entry(self.key(*key)).or_default(), fence))
    }

    /// Returns the hold as this store sees it.
    ///
    /// If the fault ignores the owner and the fence, it has the owner and the fence of the record.
    fn seen(&self, slot: &Option<StoredRecord<Vec<u8>>>, hold: &Hold, any_fence: Fault) -> Hold {
        let mut hold = Hold { key: self.key(hold.key), ..*hold };
        if let Some(record) = slot.as_ref().filter(|_| self.fault == any_fence) {
            (hold.owner, hold.fence) = (record.owner, record.fence);
        }
        hold
    }

    fn kept(&self, payload: Vec<u8>) -> Vec<u8> {
        match self.fault {
            ReadsPayloadsAsText => String::from_utf8_lossy(&payload).into_owned().into_bytes(),
            CutsPayloads => payload.into_iter().take(1024).collect(),
            _ => payload,
        }
    }
}

impl Store for Plain {
    type Payload = Vec<u8>;

    async fn claim(&self, claim: &Claim) -> Result<ClaimOutcome<Vec<u8>>, StoreError> {
        if self.fault == ClaimsInTwoSteps {
            let there = self.step(&claim.key, |slot, _| slot.clone())?;
            tokio::task::yield_now().await;
            if there.is_none() {
                self.step(&claim.key, |slot, _| *slot = None)?;
            }
        }
        let now = self.now();
        let mut claim = claim.clone();
        match self.fault {
            TakesOverThoughToldToKeep => claim.on_unknown = OnUnknown::TakeOver,
            StartsWhatIsReserved => claim.mode = ClaimMode::Started,
            _ => {}
        }
        self.step(&claim.key.clone(), |slot, last| {
            let before = slot.clone();
            let owned = before.as_ref().is_some_and(|record| record.owner == claim.owner);
            if let Some(record) = slot {
                match self.fault {
                    OverlooksAnotherRequest => claim.fingerprint = record.fingerprint,
                    ForgetsWhatIsInFlight => *slot = None,
                    GivesItsOwnerAnotherFence if owned => {
                        record.owner = Owner::random();
                        *slot = None;
                    }
                    FreesWhatIsStarted if record.until <= now => *slot = None,
                    CountsRetentionFromTheLook if record.until <= now => {
                        if let RecordState::InFlight { unknown_for, .. } = record.state {
                            (record.since, record.until) = (now, now + unknown_for);
                            record.state = RecordState::Unknown { checkpoint: None };
                        }
                    }
                    _ => {}
                }
            }
            let in_record = before.as_ref().map_or(0, |record| record.fence);
            let mut answer = machine::claim(slot, &claim, now, || {
                match self.fault {
                    GivesTheSameFenceTwice => *last = 1,
                    CountsFencesInTheRecord => *last = in_record + 1,
                    _ => *last += 1,
                }
                *last
            });
            if let (ClaimOutcome::Claimed { previous, .. }, Some(record)) = (&mut answer, slot) {
                match (self.fault, before) {
                    (LeavesTheLeaseAsItWas, Some(before)) if owned => record.until = before.until,
                    (ForgetsWhomItTookOver, _) if owned => *previous = None,
                    (TakesOverWithoutTheCheckpoint, _) => {
                        *previous = previous.take().map(|lost| Previous::new(lost.fence, None));
                    }
                    (TakesOverAsReserved, _) => {
                        if let RecordState::InFlight { stage, .. } = &mut record.state {
                            if claim.mode == ClaimMode::Reserved {
                                *stage = RunStage::Reserved;
                            }
                        }
                    }
                    _ => {}
                }
            }
            match answer {
                ClaimOutcome::NotReplayable if self.fault == ReplaysWhatWasNotKept => {
                    ClaimOutcome::Replay(Vec::new())
                }
                answer => answer,
            }
        })
    }

    async fn mark_started(&self, hold: &Hold) -> Result<StepOutcome, StoreError> {
        let now = match self.fault {
            MarksAfterTheLease => Duration::ZERO,
            _ => self.now(),
        };
        self.step(&hold.key, |slot, _| {
            let hold = self.seen(slot, hold, MarksWithAnyFence);
            machine::mark_started(slot, &hold, now)
        })
    }

    async fn renew(&self, holds: &[Hold], lease: Duration) -> Result<Vec<StepOutcome>, StoreError> {
        let now = self.now();
        let mut written = Vec::new();
        for (number, hold) in holds.iter().enumerate() {
            if self.fault == RenewsOnlyTheFirst && number > 0 {
                break;
            }
            written.push(self.step(&hold.key, |slot, _| {
                let until = slot.as_ref().map(|record| record.until);
                let hold = self.seen(slot, hold, RenewsWithAnyFence);
                let written = machine::renew(slot, &hold, lease, now);
                if let (RenewsNothing, Some(record), Some(until)) = (self.fault, slot, until) {
                    record.until = until;
                }
                written
            })?);
        }
        if self.fault == RenewsInAnotherOrder {
            written.reverse();
        }
        Ok(written)
    }

    async fn checkpoint(
        &self,
        hold: &Hold,
        checkpoint: Vec<u8>,
    ) -> Result<StepOutcome, StoreError> {
        let (now, kept) = (self.now(), self.kept(checkpoint));
        self.step(&hold.key, |slot, _| {
            let hold = self.seen(slot, hold, KeepsCheckpointsWithAnyFence);
            machine::checkpoint(slot, &hold, kept, now)
        })
    }

    async fn complete(
        &self,
        hold: &Hold,
        completed: Completed<Vec<u8>>,
        ttl: Duration,
    ) -> Result<StepOutcome, StoreError> {
        match self.fault {
            Panics => panic!("at the disk"),
            NeverAnswers => std::future::pending::<()>().await,
            Fails => return Err(StoreError::Garbled("the disk")),
            _ => {}
        }
        let mut now = self.now();
        let payload = completed.payload.map(|payload| self.kept(payload));
        let completed = Completed { payload, ..completed };
        self.step(&hold.key, |slot, _| {
            let mut hold = self.seen(slot, hold, CompletesWithAnyFence);
            if let Some(record) = slot {
                match self.fault {
                    CompletesForAnyOwner => hold.owner = record.owner,
                    CompletesAfterTheLease => now = now.min(record.since),
                    CountsTimeToLiveFromTheClaim => now = record.since,
                    CompletesAgain if record.fence == hold.fence => {
                        record.state =
                            RecordState::Completed { payload: completed.payload.clone() };
                    }
                    _ => {}
                }
            }
            machine::complete(slot, &hold, completed, ttl, now)
        })
    }

    async fn release(
        &self,
        key: &StorageKey,
        owner: &Owner,
        unknown_for: Duration,
    ) -> Result<StepOutcome, StoreError> {
        let now = self.now();
        self.step(key, |slot, _| {
            let mut owner = *owner;
            if let Some(record) = slot {
                let completed = matches!(record.state, RecordState::Completed { .. });
                match (self.fault, &mut record.state) {
                    (ReleasesForAnyOwner, _) => owner = record.owner,
                    (FreesATakeOver, RecordState::InFlight { stage, .. }) => {
                        *stage = RunStage::Started
                    }
                    _ => {}
                }
                if self.fault == ReleasesWhatIsCompleted && completed {
                    *slot = None;
                    return StepOutcome::Applied;
                }
            }
            machine::release(slot, &owner, unknown_for, now)
        })
    }

    async fn abandon(&self, hold: &Hold, unknown_for: Duration) -> Result<StepOutcome, StoreError> {
        let now = self.now();
        let lasting = if self.fault == KeepsUnknownForEver { Duration::MAX } else { unknown_for };
        self.step(&hold.key, |slot, _| {
            let hold = self.seen(slot, hold, AbandonsWithAnyFence);
            machine::abandon(slot, &hold, lasting, now)
        })
    }

    async fn resolve(
        &self,
        key: &StorageKey,
        fence: u64,
        resolution: Resolution<Vec<u8>>,
    ) -> Result<StepOutcome, StoreError> {
        let now = self.now();
        let resolution = match resolution {
            Resolution::Completed(done, ttl) => {
                let payload = done.payload.map(|payload| self.kept(payload));
                let lasting = if self.fault == KeepsResolvedForEver { Duration::MAX } else { ttl };
                Resolution::Completed(Completed { payload, ..done }, lasting)
            }
            Resolution::Never => Resolution::Never,
        };
        self.step(key, |slot, _| {
            let recorded = slot.as_ref().map_or(fence, |record| record.fence);
            let fence = if self.fault == ResolvesWithAnyFence { recorded } else { fence };
            machine::resolve(slot, fence, resolution, now)
        })
    }

    async fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Result<Vec<UnknownOperation>, StoreError> {
        let now = self.now();
        let limit = if self.fault == ListsTooMuch { limit + 1 } else { limit };
        let (records, _) = &*lock(&self.records);
        let told = records.iter().filter_map(|(key, slot)| {
            let record = slot.as_ref()?;
            if self.fault == ListsOnlyWhatWasWritten {
                matches!(record.state, RecordState::Unknown { .. }).then_some(())?;
            }
            machine::unknown(*key, record, now)
        });
        let behind = |told: &UnknownOperation| match after {
            Some(after) if self.fault == ListsFromTheKeyItself => told.key >= after,
            Some(after) => told.key > after,
            None => true,
        };
        let mut told: Vec<_> = told.filter(behind).take(limit).collect();
        if self.fault == ListsBackwards {
            told.reverse();
        }
        Ok(told)
    }

    async fn count_unknown(&self) -> Result<u64, StoreError> {
        if self.fault == CountsAll {
            return Ok(lock(&self.records).0.len() as u64);
        }
        Ok(self.unknown(None, usize::MAX - 1).await?.len() as u64)
    }

    async fn sweep(&self, limit: usize) -> Result<usize, StoreError> {
        let now = self.now();
        let (records, _) = &mut *lock(&self.records);
        let limit = if self.fault == SweepsWithoutBound { usize::MAX } else { limit };
        let mut swept = 0;
        for slot in records.values_mut() {
            if self.fault == SweepsWhatLives {
                *slot = None;
            }
            if swept < limit && machine::update(slot, now) {
                swept += 1;
            }
        }
        records.retain(|_, slot| slot.is_some());
        Ok(swept)
    }
}

struct PlainStores(Fault);

impl Fixture for PlainStores {
    type Store = Plain;

    async fn fresh(&self) -> Plain {
        Plain { fault: self.0, began: Instant::now(), records: Arc::default() }
    }

    fn payload(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    fn bytes(&self, payload: &Vec<u8>) -> Vec<u8> {
        payload.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_store_passes() {
    check(&PlainStores(Fault::Nothing)).await.assert();
}

#[tokio::test(start_paused = true)]
async fn every_fault_is_found() {
    let mut missed = Vec::new();
    for &(fault, name) in FAULTS {
        assert!(names().any(|known| known == name), "there is no check {name}");
        let report = check_one(&PlainStores(fault), name).await;
        if report.failures().count() == 0 {
            missed.push((fault, name));
        }
    }
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

/// A fault in one step makes the checks that use it fail, and the other checks still run.
#[tokio::test(start_paused = true)]
async fn a_report_has_all_failures_and_all_that_passed() {
    let report = check(&PlainStores(Panics)).await;
    assert_eq!(report.findings().count(), names().count());
    let failed: Vec<_> = report.failures().map(|finding| finding.name()).collect();
    assert!(failed.len() > 5, "{report}");
    assert!(!failed.contains(&"an_absent_record_is_claimed"), "{report}");
    let why = report.failures().find_map(|finding| finding.failure());
    assert_eq!(why, Some("it panicked: at the disk"));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_no_check_has_fails() {
    assert_eq!(check_one(&PlainStores(Fault::Nothing), "nothing").await.failures().count(), 1);
}
