//! Compares the store with a simple one, which keeps a map and recounts it each time.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::{
    super::{
        Claim, ClaimMode, ClaimOutcome, Completed, Hold, OnUnknown, Resolution, StepOutcome, Store,
        StoreError,
        machine::{self, RecordState, StoredRecord},
    },
    MemoryStore, MemoryStoreBuilder,
    inner::SHARDS,
    usage::{Amount, Limits},
};
use crate::{
    call::lock::lock,
    idempotency::{Fingerprint, Owner, ScopeId, StorageKey},
};

/// The record of a key.
type Slot = Option<StoredRecord<Vec<u8>>>;

const RECORDS: u32 = 6;
const BYTES: u64 = 100;

/// The fixed shares of a scope that are tried. Without one, a scope may use as much as it leaves.
const SHARES: [Option<f64>; 3] = [None, Some(0.5), Some(1.0)];

#[derive(Clone, Debug)]
enum Op {
    Claim { key: u8, owner: u8, reserve: usize, lease: u64, flags: [bool; 3] },
    Hold { step: Step, key: u8, of: u8, size: usize, lasting: u64 },
    Resolve { key: u8, of: u8, done: Option<usize>, ttl: u64 },
    Sweep { limit: usize },
    Pass { seconds: u64 },
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Mark,
    Renew,
    Checkpoint,
    Complete,
    Release,
    Abandon,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    use Step::*;
    let (key, lasting, size) = (0u8..12, 0u64..12, 0usize..60);
    let step = prop::sample::select(vec![Mark, Renew, Checkpoint, Complete, Release, Abandon]);
    let claim = (key.clone(), 0u8..3, size.clone(), lasting.clone(), any::<[bool; 3]>()).prop_map(
        |(key, owner, reserve, lease, flags)| Op::Claim { key, owner, reserve, lease, flags },
    );
    let hold = (step, key.clone(), 0u8..4, size.clone(), lasting.clone())
        .prop_map(|(step, key, of, size, lasting)| Op::Hold { step, key, of, size, lasting });
    let resolve = (key, 0u8..3, prop::option::of(size), lasting.clone())
        .prop_map(|(key, of, done, ttl)| Op::Resolve { key, of, done, ttl });
    prop::collection::vec(
        prop_oneof![
            5 => claim,
            5 => hold,
            1 => resolve,
            1 => (0usize..4).prop_map(|limit| Op::Sweep { limit }),
            2 => lasting.prop_map(|seconds| Op::Pass { seconds }),
        ],
        1..120,
    )
}

/// Makes keys of a few shards, each in one scope.
fn key(number: u8) -> StorageKey {
    let mut bytes = [number; 32];
    bytes[31] = number % 3;
    StorageKey::from_bytes(bytes)
}

fn scope(number: u8) -> ScopeId {
    ScopeId::of(&[number % 3])
}

#[derive(Clone)]
struct Kept {
    scope: ScopeId,
    bytes: u64,
    slot: Slot,
}

#[derive(Default)]
struct Naive {
    share: Option<f64>,
    now: Duration,
    last: u64,
    records: BTreeMap<u8, Kept>,
    holds: BTreeMap<u8, Vec<Hold>>,
}

impl Naive {
    /// Returns the record as of now.
    ///
    /// It does not write the update back. Until the end of a lease is written, the owner of the
    /// record can still repeat its claim.
    fn as_of_now(&self, kept: &Kept) -> Slot {
        let mut slot = kept.slot.clone();
        machine::update(&mut slot, self.now);
        slot
    }

    fn used(&self, of: impl Fn(&Kept) -> bool) -> Amount {
        let mut used = Amount::default();
        for kept in self.records.values().filter(|kept| of(kept)) {
            let slot = self.as_of_now(kept);
            used.records += u64::from(slot.is_some());
            used.bytes += bytes(&slot, kept.bytes);
        }
        used
    }

    fn claim(
        &mut self,
        number: u8,
        claim: &Claim,
        still_theirs: bool,
    ) -> Option<ClaimOutcome<Vec<u8>>> {
        let now = self.now;
        if let Some(kept) = self.records.get_mut(&number).filter(|_| !still_theirs) {
            machine::update(&mut kept.slot, now);
        }
        let is_new = self.records.get(&number).is_none_or(|kept| kept.slot.is_none());
        if is_new && !self.has_room_for(claim) {
            return None;
        }
        let empty = Kept { scope: claim.scope, bytes: 0, slot: None };
        let kept = self.records.entry(number).or_insert(empty);
        let last = &mut self.last;
        let before = *last;
        let answer = machine::claim(&mut kept.slot, claim, self.now, || {
            *last += 1;
            *last
        });
        if self.last > before {
            kept.bytes = claim.reserve as u64;
        }
        Some(answer)
    }

    fn has_room_for(&self, claim: &Claim) -> bool {
        let limits = Limits::new(RECORDS, BYTES, self.share);
        let with_claim = |used: Amount| Amount {
            records: used.records + 1,
            bytes: used.bytes + claim.reserve as u64,
        };
        let fits =
            |sum: Amount, limit: Amount| sum.records <= limit.records && sum.bytes <= limit.bytes;
        let all = with_claim(self.used(|_| true));
        let scope = with_claim(self.used(|kept| kept.scope == claim.scope));
        fits(all, limits.all)
            && match limits.scope {
                _ if claim.single_tenant => true,
                Some(share) => fits(scope, share),
                None => {
                    let records = limits.all.records - all.records;
                    (scope.records == 1 || scope.records <= records)
                        && scope.bytes <= limits.all.bytes - all.bytes
                }
            }
    }

    fn hold(&self, number: u8, of: u8) -> Hold {
        let holds = self.holds.get(&number).map_or(&[][..], Vec::as_slice);
        let never = Hold::new(key(number), Owner::from_bytes([9; 16]), 1);
        holds.iter().rev().nth(of.into()).copied().unwrap_or(never)
    }

    fn slot(&mut self, number: u8) -> (&mut Slot, &mut u64, Duration) {
        let empty = Kept { scope: scope(number), bytes: 0, slot: None };
        let kept = self.records.entry(number).or_insert(empty);
        (&mut kept.slot, &mut kept.bytes, self.now)
    }
}

fn bytes<P>(slot: &Option<StoredRecord<P>>, kept: u64) -> u64 {
    match slot.as_ref().map(|record| &record.state) {
        None | Some(RecordState::Unknown { checkpoint: None }) => 0,
        Some(_) => kept,
    }
}

/// Returns all records of the store, brought up to date, and asserts that its counts match them.
fn recount(store: &MemoryStore, now: Duration) -> BTreeMap<StorageKey, (Slot, u64)> {
    let mut found = BTreeMap::new();
    let (mut all, mut scopes) = (Amount::default(), BTreeMap::<ScopeId, Amount>::new());
    for shard in &store.inner.shards {
        let shard = lock(shard);
        shard.check();
        for entry in shard.entries() {
            let record = entry.slot.clone().expect("no entry is without a record");
            for used in [&mut all, scopes.entry(entry.scope).or_default()] {
                used.records += 1;
                used.bytes += bytes(&entry.slot, entry.kept);
            }
            let own = |payload: Option<std::sync::Arc<Vec<u8>>>| payload.map(|kept| kept.to_vec());
            let mut slot = Some(StoredRecord {
                owner: record.owner,
                fence: record.fence,
                fingerprint: record.fingerprint,
                since: record.since,
                until: record.until,
                state: match record.state {
                    RecordState::InFlight { stage, unknown_for, checkpoint } => {
                        RecordState::InFlight { stage, unknown_for, checkpoint }
                    }
                    RecordState::Completed { payload } => {
                        RecordState::Completed { payload: own(payload) }
                    }
                    RecordState::Unknown { checkpoint } => RecordState::Unknown { checkpoint },
                },
            });
            machine::update(&mut slot, now);
            if slot.is_some() {
                let taken = bytes(&slot, entry.kept);
                found.insert(entry.key, (slot, taken));
            }
        }
    }
    assert_eq!((store.len() as u64, store.bytes()), (all.records, all.bytes));
    let counted: BTreeMap<_, _> = store.inner.usage.all_scopes().into_iter().collect();
    assert_eq!(counted, scopes);
    found
}

async fn run(share: Option<f64>, ops: Vec<Op>) {
    let builder = MemoryStore::builder().max_records(RECORDS).max_bytes(BYTES);
    let builder = share.into_iter().fold(builder, MemoryStoreBuilder::max_share);
    let store: MemoryStore = builder.build().unwrap();
    let mut naive = Naive { share, ..Naive::default() };
    let unknown_for = Duration::from_secs(7);
    for op in ops {
        match op.clone() {
            Op::Claim { key: number, owner, reserve, lease, flags } => {
                let [reserved, take_over, single_tenant] = flags;
                let mut claim = Claim::new(
                    key(number),
                    scope(number),
                    Owner::from_bytes([owner; 16]),
                    Fingerprint::from_bytes([1; 33]),
                );
                (claim.reserve, claim.unknown_for) = (reserve, unknown_for);
                claim.single_tenant = single_tenant;
                claim.lease = Duration::from_secs(lease);
                claim.mode = if reserved { ClaimMode::Reserved } else { ClaimMode::Started };
                claim.on_unknown = if take_over { OnUnknown::TakeOver } else { OnUnknown::Keep };
                let still_theirs = {
                    let shard = store.inner.shard(&claim.key);
                    shard.find(&claim.key).is_some_and(|at| shard.is_claimed_by(at, &claim))
                };
                let expected = naive.claim(number, &claim, still_theirs);
                let answer = match store.claim(&claim).await {
                    Err(StoreError::Full) => None,
                    answer => Some(answer.unwrap()),
                };
                assert_eq!(answer, expected, "{op:?}");
                if let Some(ClaimOutcome::Claimed { fence, .. }) = answer {
                    let hold = Hold::new(claim.key, claim.owner, fence);
                    naive.holds.entry(number).or_default().push(hold);
                }
            }
            Op::Hold { step, key: number, of, size, lasting } => {
                let hold = naive.hold(number, of);
                let lasting = Duration::from_secs(lasting);
                let payload = vec![0; size];
                let (slot, kept, now) = naive.slot(number);
                let (expected, actual) = match step {
                    Step::Mark => {
                        (machine::mark_started(slot, &hold, now), store.mark_started(&hold).await)
                    }
                    Step::Renew => (
                        machine::renew(slot, &hold, lasting, now),
                        store.renew(&[hold], lasting).await.map(|written| written[0]),
                    ),
                    Step::Checkpoint => {
                        let written = machine::checkpoint(slot, &hold, payload.clone(), now);
                        if written == StepOutcome::Applied {
                            *kept = (*kept).max(payload.len() as u64);
                        }
                        (written, store.checkpoint(&hold, payload).await)
                    }
                    Step::Complete => {
                        let done = Completed::replayable(payload, size);
                        let first = slot.as_ref().is_some_and(|record| {
                            matches!(record.state, RecordState::InFlight { .. })
                        });
                        let written = machine::complete(slot, &hold, done.clone(), lasting, now);
                        if first && written == StepOutcome::Applied {
                            *kept = size as u64;
                        }
                        (written, store.complete(&hold, done, lasting).await)
                    }
                    Step::Release => (
                        machine::release(slot, &hold.owner, lasting, now),
                        store.release(&hold.key, &hold.owner, lasting).await,
                    ),
                    Step::Abandon => (
                        machine::abandon(slot, &hold, lasting, now),
                        store.abandon(&hold, lasting).await,
                    ),
                };
                assert_eq!(actual.unwrap(), expected, "{op:?}");
            }
            Op::Resolve { key: number, of, done, ttl } => {
                let fence = naive.hold(number, of).fence;
                let resolution = done.map_or(Resolution::Never, |size| {
                    let done = Completed::replayable(vec![0; size], size);
                    Resolution::Completed(done, Duration::from_secs(ttl))
                });
                let (slot, kept, now) = naive.slot(number);
                let expected = machine::resolve(slot, fence, resolution.clone(), now);
                if let (StepOutcome::Applied, Some(size)) = (expected, done) {
                    *kept = size as u64;
                }
                let written = store.resolve(&key(number), fence, resolution).await.unwrap();
                assert_eq!(written, expected, "{op:?}");
            }
            Op::Sweep { limit } => {
                let swept = store.sweep(limit).await.unwrap();
                assert!(swept <= limit, "{swept} of at most {limit}");
            }
            Op::Pass { seconds } => {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                naive.now += Duration::from_secs(seconds);
            }
        }
        let expected = naive.records.iter().filter_map(|(number, kept)| {
            let slot = naive.as_of_now(kept);
            let taken = bytes(&slot, kept.bytes);
            slot.is_some().then(|| (key(*number), (slot, taken)))
        });
        let expected: BTreeMap<_, _> = expected.collect();
        assert_eq!(recount(&store, naive.now), expected, "after {op:?}");
        let unknown: Vec<_> = store.unknown(None, 100).await.unwrap();
        let keys: Vec<_> = unknown.iter().map(|told| told.key).collect();
        let is_unknown = |slot: &Slot| {
            slot.as_ref().is_some_and(|record| matches!(record.state, RecordState::Unknown { .. }))
        };
        let expected = expected.iter().filter(|(_, (slot, _))| is_unknown(slot));
        assert_eq!(keys, expected.map(|(key, _)| *key).collect::<Vec<_>>());
        assert_eq!(store.count_unknown().await.unwrap(), keys.len() as u64);
    }
    tokio::time::advance(Duration::from_secs(1_000)).await;
    while store.sweep(2).await.unwrap() > 0 {}
    assert_eq!((store.len(), store.bytes()), (0, 0));
    assert!(store.inner.usage.all_scopes().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn it_does_and_counts_what_a_naive_store_does(
        share in prop::sample::select(&SHARES),
        ops in ops(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(share, ops));
    }
}

/// Checks the size of a record without its payload, which is stored twice while a shard grows.
#[test]
fn a_record_is_small() {
    assert!(size_of::<super::Entry<Vec<u8>>>() <= 216, "{}", size_of::<super::Entry<Vec<u8>>>());
}

#[test]
fn a_whole_share_is_the_whole_and_a_small_one_is_not_nothing() {
    let whole = Limits::new(u32::MAX, u64::MAX, Some(1.0));
    assert_eq!(whole.scope, Some(whole.all));
    let small = Limits::new(2, 3, Some(0.01));
    assert_eq!(small.scope, Some(Amount { records: 1, bytes: 1 }));
    assert_eq!(SHARDS.count_ones(), 1);
}
