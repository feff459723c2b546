//! Tests of the store in memory: the checks of every store, and its own properties.

use std::time::Duration;

use allocation_counter::measure;
use buttress::{
    idempotency::{
        Claim, ClaimMode, ClaimOutcome, Completed, Fingerprint, Hold, Key, OnUnknown, Owner,
        ScopeId, StepOutcome, StorageKey, Store, StoreError, store::MemoryStore,
    },
    testing::idempotency::{Fixture, check, check_one, names},
};
use futures::FutureExt;

struct Memory;

impl Fixture for Memory {
    type Store = MemoryStore;

    async fn fresh(&self) -> MemoryStore {
        MemoryStore::new()
    }

    fn payload(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    fn bytes(&self, payload: &Vec<u8>) -> Vec<u8> {
        payload.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn it_does_what_every_store_does() {
    check(&Memory).await.assert();
}

/// Runs the checks of concurrency on real threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_of_threads_is_no_different() {
    let is_crowd = |name: &&str| ["at_once", "effect", "heir"].iter().any(|of| name.contains(of));
    let crowds: Vec<_> = names().filter(is_crowd).collect();
    assert!(crowds.len() >= 6);
    for name in crowds {
        check_one(&Memory, name).await.assert();
    }
}

const LONG: Duration = Duration::from_secs(3600);

fn claim(scope: &str, number: u32) -> Claim {
    let key = Key::new(number.to_string()).unwrap();
    let key = StorageKey::of(scope.as_bytes(), &[], &key);
    let fingerprint = Fingerprint::from_bytes([1; 33]);
    let mut claim = Claim::new(key, ScopeId::of(scope.as_bytes()), Owner::random(), fingerprint);
    (claim.lease, claim.unknown_for) = (LONG, LONG);
    claim
}

async fn granted(store: &MemoryStore, claim: &Claim) -> Hold {
    match store.claim(claim).await.unwrap() {
        ClaimOutcome::Claimed { fence, .. } => Hold::new(claim.key, claim.owner, fence),
        answer => panic!("{answer:?}"),
    }
}

async fn is_full(store: &MemoryStore, claim: &Claim) -> bool {
    matches!(store.claim(claim).await, Err(StoreError::Full))
}

async fn complete(store: &MemoryStore, hold: &Hold, size: usize, ttl: Duration) {
    let done = Completed::replayable(vec![7; size], size);
    assert_eq!(store.complete(hold, done, ttl).await.unwrap(), StepOutcome::Applied);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_answers_for_every_key_that_it_knows() {
    let store: MemoryStore = MemoryStore::builder().max_records(3).max_share(1.0).build().unwrap();
    let (in_flight, done, lost) = (claim("a", 1), claim("a", 2), claim("a", 3));
    granted(&store, &in_flight).await;
    complete(&store, &granted(&store, &done).await, 9, LONG).await;
    let hold = granted(&store, &lost).await;
    assert_eq!(store.abandon(&hold, LONG).await.unwrap(), StepOutcome::Applied);

    assert!(is_full(&store, &claim("a", 4)).await && is_full(&store, &claim("b", 4)).await);
    granted(&store, &in_flight).await;
    let other = |number| claim("a", number);
    assert!(matches!(store.claim(&other(1)).await.unwrap(), ClaimOutcome::InFlight { .. }));
    assert_eq!(store.claim(&other(2)).await.unwrap(), ClaimOutcome::Replay(vec![7; 9]));
    let mut taking = other(3);
    taking.on_unknown = OnUnknown::TakeOver;
    let heir = granted(&store, &taking).await;
    assert_eq!(store.len(), 3);
    assert_eq!(
        store.release(&in_flight.key, &in_flight.owner, LONG).await.unwrap(),
        StepOutcome::Applied
    );
    granted(&store, &other(4)).await;
    complete(&store, &heir, 9, LONG).await;
}

#[tokio::test(start_paused = true)]
async fn what_lives_is_never_given_up_however_many_ask() {
    let store: MemoryStore = MemoryStore::builder().max_records(50).max_share(1.0).build().unwrap();
    for number in 0..50 {
        let hold = granted(&store, &claim("a", number)).await;
        complete(&store, &hold, 3, LONG).await;
    }
    for number in 50..2_000 {
        assert!(is_full(&store, &claim("a", number)).await);
    }
    for number in 0..50 {
        let answer = store.claim(&claim("a", number)).await.unwrap();
        assert_eq!(answer, ClaimOutcome::Replay(vec![7; 3]));
    }
}

/// Lets tenants claim in turns, until none is granted another record. Returns what each has.
async fn fill(store: &MemoryStore, tenants: u32, reserve: usize) -> Vec<u32> {
    let mut had = vec![0; tenants as usize];
    loop {
        let mut granted = false;
        for (tenant, had) in had.iter_mut().enumerate() {
            let mut claim = claim(&format!("greedy {tenant}"), *had);
            claim.reserve = reserve;
            if !is_full(store, &claim).await {
                (*had, granted) = (*had + 1, true);
            }
        }
        if !granted {
            return had;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_tenant_fills_the_store() {
    for tenants in 1..=20 {
        let store: MemoryStore = MemoryStore::builder().max_records(1_000).build().unwrap();
        let had = fill(&store, tenants, 0).await;
        let left = 1_000 - store.len();
        assert!(left >= 1_000 / (tenants as usize + 1), "{tenants} tenants leave {left}");
        assert!(had.iter().all(|had| had.abs_diff(had_by_each(tenants)) <= 1), "{had:?}");
        assert!(!is_full(&store, &claim("newcomer", 0)).await);

        let store: MemoryStore = MemoryStore::builder().max_bytes(100_000).build().unwrap();
        fill(&store, tenants, 100).await;
        let left = 100_000 - store.bytes();
        assert!(left >= 100_000 / (u64::from(tenants) + 1), "{tenants} tenants leave {left}");
        let mut newcomer = claim("newcomer", 0);
        newcomer.reserve = 100;
        assert!(!is_full(&store, &newcomer).await);
    }
    fn had_by_each(tenants: u32) -> u32 {
        1_000 / (tenants + 1)
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_may_hold_as_much_as_it_leaves_free() {
    let store: MemoryStore = MemoryStore::builder().max_records(1_000).build().unwrap();
    let mut last = None;
    for (tenant, expected) in [("first", 500), ("second", 250), ("third", 125)] {
        let mut had = 0;
        loop {
            let mut claim = claim(tenant, had);
            (claim.mode, claim.lease) = (ClaimMode::Reserved, Duration::from_secs(10));
            if is_full(&store, &claim).await {
                break;
            }
            had += 1;
        }
        assert_eq!(had, expected, "{tenant}");
        last = Some(claim(tenant, had));
    }
    // What is over counts for nobody, and no other tenant lost a record.
    assert_eq!(store.len(), 875);
    tokio::time::advance(Duration::from_secs(10)).await;
    granted(&store, &last.unwrap()).await;

    // One claim cannot reserve more than half.
    let store: MemoryStore = MemoryStore::builder().max_bytes(1_000).build().unwrap();
    let mut large = claim("a", 1);
    large.reserve = 501;
    assert!(is_full(&store, &large).await);
    large.reserve = 500;
    granted(&store, &large).await;

    // A small store is used up by tenants that have nothing else.
    let store: MemoryStore = MemoryStore::builder().max_records(2).build().unwrap();
    granted(&store, &claim("a", 1)).await;
    assert!(is_full(&store, &claim("a", 2)).await);
    granted(&store, &claim("b", 1)).await;
    assert!(is_full(&store, &claim("c", 1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_share_bounds_each_scope() {
    let builder = || MemoryStore::builder().max_share(0.25);
    let store: MemoryStore = builder().max_records(100).build().unwrap();
    assert_eq!(fill(&store, 2, 0).await, [25, 25]);

    let store: MemoryStore = builder().max_bytes(1_000).build().unwrap();
    let mut large = claim("greedy", 1);
    large.reserve = 251;
    assert!(is_full(&store, &large).await);
    large.reserve = 250;
    granted(&store, &large).await;
    let mut small = claim("greedy", 2);
    granted(&store, &small).await;
    (small.key, small.reserve) = (claim("greedy", 3).key, 1);
    assert!(is_full(&store, &small).await);
    small.scope = ScopeId::of(b"modest");
    granted(&store, &small).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_claim_reserves_is_set_aside_until_the_result_is_there() {
    let store: MemoryStore = MemoryStore::builder().max_bytes(100).max_share(1.0).build().unwrap();
    let reserving = |number, reserve| {
        let mut claim = claim("a", number);
        claim.reserve = reserve;
        claim
    };
    let first = granted(&store, &reserving(1, 60)).await;
    assert_eq!(store.bytes(), 60);
    assert!(is_full(&store, &reserving(2, 60)).await);
    assert_eq!(store.len(), 1);
    complete(&store, &first, 40, LONG).await;
    assert_eq!(store.bytes(), 40);
    let second = granted(&store, &reserving(2, 60)).await;
    assert_eq!(store.abandon(&second, LONG).await.unwrap(), StepOutcome::Applied);
    assert_eq!(store.bytes(), 40);
    let third = granted(&store, &reserving(3, 60)).await;
    assert_eq!(store.release(&third.key, &third.owner, LONG).await.unwrap(), StepOutcome::Applied);
    assert_eq!(store.bytes(), 40);
    // An existing result is recorded, even if it is larger than was reserved.
    let fourth = granted(&store, &reserving(4, 60)).await;
    complete(&store, &fourth, 90, LONG).await;
    assert_eq!(store.bytes(), 130);
    assert!(is_full(&store, &reserving(5, usize::MAX)).await);
}

/// A claim of a key in another shard also makes room. More than one record may be removed.
#[tokio::test(start_paused = true)]
async fn room_is_made_from_what_is_over() {
    let store: MemoryStore =
        MemoryStore::builder().max_records(500).max_share(1.0).build().unwrap();
    let short = Duration::from_secs(10);
    for number in 0..500 {
        let mut claim = claim("a", number);
        if number % 2 == 0 {
            (claim.mode, claim.lease) = (ClaimMode::Reserved, short);
            granted(&store, &claim).await;
        } else {
            let hold = granted(&store, &claim).await;
            complete(&store, &hold, 100, short).await;
        }
    }
    assert!(is_full(&store, &claim("a", 1_000)).await);
    tokio::time::advance(short).await;
    for number in 1_000..1_500 {
        granted(&store, &claim("a", number)).await;
    }
    assert_eq!((store.len(), store.bytes()), (500, 0));
}

/// A renewal moves a record in the order of ends, and leaves no entry behind.
#[tokio::test(start_paused = true)]
async fn what_is_renewed_is_not_over() {
    let store = MemoryStore::new();
    let holds: Vec<Hold> = {
        let mut holds = Vec::new();
        for number in 0..100 {
            let mut claim = claim("a", number);
            claim.lease = Duration::from_secs(10);
            holds.push(granted(&store, &claim).await);
        }
        holds
    };
    for _ in 0..100 {
        tokio::time::advance(Duration::from_secs(3)).await;
        let written = store.renew(&holds, Duration::from_secs(10)).await.unwrap();
        assert_eq!(written, vec![StepOutcome::Applied; 100]);
        assert_eq!(store.sweep(1_000).await.unwrap(), 0);
    }
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(store.sweep(1_000).await.unwrap(), 100);
    assert_eq!(store.count_unknown().await.unwrap(), 100);
}

/// The only allocation is for the result, which outlives the lock.
///
/// The tables already have room for the record.
#[test]
fn a_claim_and_its_completion_allocate_once() {
    let store: MemoryStore = MemoryStore::builder().max_share(1.0).build().unwrap();
    let claims: Vec<Claim> = (0..2_000).map(|number| claim("a", number)).collect();
    let finish = |claim: &Claim| {
        let answer = store.claim(claim).now_or_never().unwrap().unwrap();
        let ClaimOutcome::Claimed { fence, .. } = answer else { panic!("{answer:?}") };
        let hold = Hold::new(claim.key, claim.owner, fence);
        let done = Completed::replayable(Vec::new(), 0);
        let written = store.complete(&hold, done, Duration::ZERO).now_or_never().unwrap();
        assert_eq!(written.unwrap(), StepOutcome::Applied);
    };
    claims.iter().for_each(finish);
    while store.sweep(10_000).now_or_never().unwrap().unwrap() > 0 {}
    assert!(store.is_empty());
    assert_eq!(measure(|| claims.iter().for_each(finish)).count_total, 2_000);
    // A replay allocates nothing, except for its payload.
    let done = claim("a", 3_000);
    let hold = Hold::new(done.key, done.owner, {
        match store.claim(&done).now_or_never().unwrap().unwrap() {
            ClaimOutcome::Claimed { fence, .. } => fence,
            answer => panic!("{answer:?}"),
        }
    });
    let empty = Completed::replayable(Vec::new(), 0);
    let _ = store.complete(&hold, empty, LONG).now_or_never().unwrap().unwrap();
    let replay = measure(|| {
        let answer = store.claim(&done).now_or_never().unwrap().unwrap();
        assert_eq!(answer, ClaimOutcome::Replay(Vec::new()));
    });
    assert_eq!(replay.count_total, 0);
}
