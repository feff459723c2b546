mod model;

use proptest::{option, prelude::*};

use super::*;
use crate::idempotency::ScopeId;

const KEY: [u8; 32] = [7; 32];

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![9 => (0..12_u64).prop_map(Duration::from_secs), 1 => Just(Duration::MAX)]
}

fn owner() -> impl Strategy<Value = Owner> {
    (0..3_u8).prop_map(|owner| Owner::from_bytes([owner; 16]))
}

fn fingerprint() -> impl Strategy<Value = Fingerprint> {
    (0..2_u8).prop_map(|fingerprint| Fingerprint::from_bytes([fingerprint; 33]))
}

fn stage() -> impl Strategy<Value = RunStage> {
    prop_oneof![
        Just(RunStage::Reserved),
        Just(RunStage::Started),
        (0..4_u64).prop_map(|from| RunStage::TakenOver { from }),
    ]
}

fn kept() -> impl Strategy<Value = Option<Vec<u8>>> {
    any::<Option<u8>>().prop_map(|kept| kept.map(|kept| vec![kept]))
}

fn state() -> impl Strategy<Value = RecordState<u8>> {
    prop_oneof![
        (stage(), time(), kept()).prop_map(|(stage, unknown_for, checkpoint)| {
            RecordState::InFlight { stage, unknown_for, checkpoint }
        }),
        any::<Option<u8>>().prop_map(|payload| RecordState::Completed { payload }),
        kept().prop_map(|checkpoint| RecordState::Unknown { checkpoint }),
    ]
}

prop_compose! {
    fn record()(
        owner in owner(),
        fence in 4..8_u64,
        fingerprint in fingerprint(),
        since in time(),
        until in time(),
        state in state(),
    ) -> StoredRecord<u8> {
        StoredRecord { owner, fence, fingerprint, since: since.min(until), until, state }
    }
}

prop_compose! {
    fn a_claim()(
        owner in owner(),
        fingerprint in fingerprint(),
        reserved in any::<bool>(),
        takes_over in any::<bool>(),
        lease in time(),
        unknown_for in time(),
    ) -> Claim {
        let key = StorageKey::from_bytes(KEY);
        let mut claim = Claim::new(key, ScopeId::of(b""), owner, fingerprint);
        claim.mode = if reserved { ClaimMode::Reserved } else { ClaimMode::Started };
        claim.on_unknown = if takes_over { OnUnknown::TakeOver } else { OnUnknown::Keep };
        (claim.lease, claim.unknown_for) = (lease, unknown_for);
        claim
    }
}

/// A step that is bound to a hold.
#[derive(Clone, Copy, Debug)]
enum Held {
    MarkStarted,
    Renew(Duration),
    Checkpoint(u8),
    Complete(Option<u8>, Duration),
    Abandon(Duration),
}

impl Held {
    fn take(self, slot: &mut Option<StoredRecord<u8>>, hold: &Hold, now: Duration) -> StepOutcome {
        match self {
            Self::MarkStarted => mark_started(slot, hold, now),
            Self::Renew(lease) => renew(slot, hold, lease, now),
            Self::Checkpoint(kept) => checkpoint(slot, hold, vec![kept], now),
            Self::Complete(payload, ttl) => {
                complete(slot, hold, Completed { payload, size: 1 }, ttl, now)
            }
            Self::Abandon(unknown_for) => abandon(slot, hold, unknown_for, now),
        }
    }
}

fn held() -> impl Strategy<Value = Held> {
    prop_oneof![
        Just(Held::MarkStarted),
        time().prop_map(Held::Renew),
        any::<u8>().prop_map(Held::Checkpoint),
        (any::<Option<u8>>(), time()).prop_map(|(payload, ttl)| Held::Complete(payload, ttl)),
        time().prop_map(Held::Abandon),
    ]
}

fn updated(slot: &Option<StoredRecord<u8>>, now: Duration) -> Option<StoredRecord<u8>> {
    let mut slot = slot.clone();
    update(&mut slot, now);
    slot
}

fn in_flight(slot: &Option<StoredRecord<u8>>) -> bool {
    matches!(slot, Some(StoredRecord { state: RecordState::InFlight { .. }, .. }))
}

/// Generates steps that are applied, with the state that they leave.
///
/// Most steps are stale. They are filtered here, because a test may reject only few cases.
fn applied() -> impl Strategy<Value = (Held, Hold, Option<StoredRecord<u8>>, Duration)> {
    (record(), held(), time()).prop_filter_map("the step is stale", |(record, step, now)| {
        let hold = Hold::new(StorageKey::from_bytes(KEY), record.owner, record.fence);
        let mut slot = Some(record);
        let applied = step.take(&mut slot, &hold, now) == StepOutcome::Applied;
        // With a time to live or a lease of zero, the written state ends before the step is
        // repeated.
        (applied && slot == updated(&slot, now)).then_some((step, hold, slot, now))
    })
}

proptest! {
    #[test]
    fn a_step_of_another_owner_or_fence_changes_nothing(
        slot in option::weighted(0.9, record()),
        step in held(),
        owner in owner(),
        fence in 4..8_u64,
        now in time(),
    ) {
        prop_assume!(!matches!(&slot, Some(r) if r.owner == owner && r.fence == fence));
        let mut after = slot.clone();

        let hold = Hold::new(StorageKey::from_bytes(KEY), owner, fence);
        let written = step.take(&mut after, &hold, now);

        prop_assert_eq!(written, StepOutcome::Stale);
        prop_assert_eq!(after, updated(&slot, now));
    }

    #[test]
    fn a_step_of_a_hold_that_is_over_changes_nothing(
        record in record(),
        step in held(),
        now in time(),
    ) {
        let hold = Hold::new(StorageKey::from_bytes(KEY), record.owner, record.fence);
        let before = updated(&Some(record), now);
        prop_assume!(!in_flight(&before));
        let mut after = before.clone();

        let _ = step.take(&mut after, &hold, now);

        prop_assert_eq!(after, before);
    }

    #[test]
    fn a_step_that_is_repeated_is_answered_as_before_and_changes_nothing_more(
        (step, hold, once, now) in applied(),
    ) {
        let mut slot = once.clone();
        prop_assert_eq!(step.take(&mut slot, &hold, now), StepOutcome::Applied);
        prop_assert_eq!(slot, once);
    }

    #[test]
    fn a_claim_that_is_repeated_has_the_same_fence(
        slot in option::weighted(0.8, record()),
        claim in a_claim(),
        now in time(),
        later in time(),
    ) {
        let mut slot = slot;
        let first = super::claim(&mut slot, &claim, now, || 9);
        prop_assume!(matches!(first, ClaimOutcome::Claimed { .. }));

        let again = super::claim(&mut slot, &claim, now.saturating_add(later), || 10);

        prop_assert_eq!(again, first);
    }

    #[test]
    fn only_a_claim_that_is_granted_takes_a_fence_or_changes_anything(
        slot in option::weighted(0.8, record()),
        claim in a_claim(),
        now in time(),
    ) {
        let mut after = slot.clone();
        let mut taken = false;

        let answer = super::claim(&mut after, &claim, now, || {
            taken = true;
            9
        });

        match answer {
            ClaimOutcome::Claimed { fence, .. } => prop_assert_eq!(taken, fence == 9),
            _ => {
                prop_assert!(!taken);
                prop_assert_eq!(after, updated(&slot, now));
            }
        }
    }

    #[test]
    fn what_is_in_flight_or_has_started_is_never_granted_to_another(
        record in record(),
        claim in a_claim(),
        now in time(),
    ) {
        prop_assume!(record.owner != claim.owner);
        let before = updated(&Some(record), now);
        let mut after = before.clone();

        let answer = super::claim(&mut after, &claim, now, || 9);

        if let ClaimOutcome::Claimed { previous, .. } = answer {
            match before {
                None => prop_assert_eq!(previous, None),
                Some(StoredRecord { fence, state: RecordState::Unknown { checkpoint }, .. }) => {
                    prop_assert_eq!(claim.on_unknown, OnUnknown::TakeOver);
                    prop_assert_eq!(previous, Some(Previous::new(fence, checkpoint)));
                }
                Some(record) => prop_assert!(false, "{record:?} was granted"),
            }
        }
    }

    #[test]
    fn a_record_leaves_its_flight_when_its_lease_ends_and_only_then(
        record in record(),
        now in time(),
    ) {
        let was = Some(record.clone());
        let after = updated(&was, now);

        prop_assert_eq!(in_flight(&after), in_flight(&was) && now < record.until);
        prop_assert_eq!(&updated(&after, now), &after);
    }

    #[test]
    fn when_a_record_is_brought_up_to_date_makes_no_difference(
        record in record(),
        between in time(),
        later in time(),
    ) {
        let now = between.saturating_add(later);
        let slot = Some(record);

        prop_assert_eq!(updated(&updated(&slot, between), now), updated(&slot, now));
    }

    #[test]
    fn what_is_told_as_unknown_is_what_a_claim_finds_unknown(
        record in record(),
        claim in a_claim(),
        now in time(),
    ) {
        // A store's clock does not go back.
        prop_assume!(record.since <= now);
        let (key, owner) = (StorageKey::from_bytes(KEY), Owner::from_bytes([99; 16]));
        let fingerprint = record.fingerprint;
        let claim = Claim { owner, fingerprint, on_unknown: OnUnknown::Keep, ..claim };
        let told = unknown(key, &record, now);

        let answer = super::claim(&mut Some(record), &claim, now, || 9);

        let met = match answer {
            ClaimOutcome::Unknown { fence, since } => {
                Some(UnknownOperation::new(key, fence, since))
            }
            _ => None,
        };
        prop_assert_eq!(told, met);
    }
}
