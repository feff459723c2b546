//! The store in a file.

use std::{
    fs,
    future::{Future, poll_fn},
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use buttress::idempotency::{
    Claim, ClaimMode, ClaimOutcome, Completed, Fingerprint, Hold, Key, OnUnknown, Owner,
    Resolution, ScopeId, StepOutcome, StorageKey, Store, StoreError,
};
use buttress::testing::idempotency::{Fixture, check};
use buttress_redb::{RedbSetupError, RedbStore};
use futures::future::join_all;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

const HOUR: Duration = Duration::from_secs(60 * 60);
const RECORDS: TableDefinition<'_, &[u8; 32], &[u8]> =
    TableDefinition::new("buttress_idempotency_records");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("buttress_idempotency_meta");

/// A folder with one file, which is removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("buttress-redb-{}-{next}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("records.redb")
    }

    fn open(&self) -> RedbStore {
        RedbStore::open(self.file()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Stores in files of their own, which are removed with the fixture.
struct Files(Mutex<Vec<Folder>>);

impl Fixture for Files {
    type Store = RedbStore;

    async fn fresh(&self) -> RedbStore {
        let folder = Folder::new();
        let store = folder.open();
        self.0.lock().unwrap().push(folder);
        store
    }

    fn payload(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    fn bytes(&self, payload: &Vec<u8>) -> Vec<u8> {
        payload.clone()
    }
}

#[tokio::test]
async fn it_does_what_every_store_must() {
    check(&Files(Mutex::default())).await.assert();
}

fn claim_of(name: &str) -> Claim {
    let key = StorageKey::of(b"tenant", &[b"POST", b"/pay"], &Key::new(name).unwrap());
    let mut claim =
        Claim::new(key, ScopeId::of(b"tenant"), Owner::random(), Fingerprint::from_bytes([1; 33]));
    claim.lease = HOUR;
    claim.unknown_for = HOUR;
    claim
}

async fn claimed(store: &RedbStore, claim: &Claim) -> Hold {
    match store.claim(claim).await.unwrap() {
        ClaimOutcome::Claimed { fence, .. } => Hold::new(claim.key, claim.owner, fence),
        other => panic!("not claimed, but {other:?}"),
    }
}

fn result(bytes: &[u8]) -> Completed<Vec<u8>> {
    Completed::replayable(bytes.to_vec(), bytes.len())
}

async fn completed(store: &RedbStore, name: &str, bytes: &[u8]) -> Hold {
    let hold = claimed(store, &claim_of(name)).await;
    assert_eq!(store.complete(&hold, result(bytes), HOUR).await.unwrap(), StepOutcome::Applied);
    hold
}

fn replay(bytes: &[u8]) -> ClaimOutcome<Vec<u8>> {
    ClaimOutcome::Replay(bytes.to_vec())
}

#[tokio::test]
async fn opening_again_settles_what_was_in_flight_and_keeps_the_rest() {
    let folder = Folder::new();
    let store = folder.open();
    let started = claimed(&store, &claim_of("started")).await;
    let mut reserved = claim_of("reserved");
    reserved.mode = ClaimMode::Reserved;
    claimed(&store, &reserved).await;
    let mut marked = claim_of("marked");
    marked.mode = ClaimMode::Reserved;
    let marked = claimed(&store, &marked).await;
    assert_eq!(store.mark_started(&marked).await.unwrap(), StepOutcome::Applied);
    completed(&store, "done", b"paid").await;
    let lost = claimed(&store, &claim_of("lost")).await;
    let _ = store.abandon(&lost, HOUR).await.unwrap();
    let mut retry = claim_of("lost");
    retry.on_unknown = OnUnknown::TakeOver;
    let taken_over = claimed(&store, &retry).await;
    drop(store);

    let store = folder.open();

    let mut unknown = [started, marked, taken_over];
    unknown.sort_by_key(|hold| hold.key);
    let listed = store.unknown(None, 10).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|found| (found.key, found.fence)).collect();
    assert_eq!(listed, unknown.iter().map(|hold| (hold.key, hold.fence)).collect::<Vec<_>>());
    assert_eq!(store.count_unknown().await.unwrap(), 3);
    for name in ["started", "marked", "lost"] {
        assert!(
            matches!(store.claim(&claim_of(name)).await, Ok(ClaimOutcome::Unknown { .. })),
            "{name}"
        );
    }
    assert_eq!(store.claim(&claim_of("done")).await.unwrap(), replay(b"paid"));
    let anew = claimed(&store, &claim_of("reserved")).await;
    assert!(anew.fence > taken_over.fence, "a fence was given twice");
}

#[tokio::test]
async fn a_hold_from_before_the_file_was_opened_changes_nothing() {
    let folder = Folder::new();
    let store = folder.open();
    let claim = claim_of("a");
    let hold = claimed(&store, &claim).await;
    store.close().await;

    let store = folder.open();

    assert_eq!(store.complete(&hold, result(b"late"), HOUR).await.unwrap(), StepOutcome::Stale);
    assert_eq!(store.renew(&[hold], HOUR).await.unwrap(), [StepOutcome::Stale]);
    assert!(matches!(store.claim(&claim).await, Ok(ClaimOutcome::Unknown { .. })));
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_file() {
    let folder = Folder::new();
    for round in 0..5 {
        let store = folder.open();
        let clone = store.clone();
        drop(store);
        completed(&clone, &round.to_string(), b"").await;
    }
}

#[tokio::test]
async fn closing_makes_other_handles_unavailable_and_the_file_free() {
    let folder = Folder::new();
    let (store, clone) = {
        let store = folder.open();
        (store.clone(), store)
    };

    store.close().await;
    store.close().await;

    assert!(matches!(clone.claim(&claim_of("a")).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(clone.count_unknown().await, Err(StoreError::Unavailable(_))));
    folder.open();
}

#[tokio::test]
async fn a_step_that_nobody_waits_for_any_more_hinders_nothing() {
    let folder = Folder::new();
    let store = folder.open();
    let claim = claim_of("a");
    let mut abandoned = Box::pin(store.claim(&claim));
    let sent = poll_fn(|context| Poll::Ready(abandoned.as_mut().poll(context))).await;
    assert!(sent.is_pending(), "a flush cannot take no time");
    drop(abandoned);

    // The claim was granted all the same, and its owner may claim again.
    let first = claimed(&store, &claim).await;
    assert_eq!(first, claimed(&store, &claim).await);
    drop(store);
    folder.open();
}

#[test]
fn a_second_open_is_refused_and_says_why() {
    let folder = Folder::new();
    let _store = folder.open();

    let error = RedbStore::open(folder.file()).unwrap_err();

    assert!(matches!(&error, RedbSetupError::InUse(path) if *path == folder.file()));
    assert!(error.to_string().contains("already open"), "{error}");
}

/// Set for a child process, which opens the file, leaves records in it, and waits to be killed.
const CHILD: &str = "BUTTRESS_TEST_REDB_FILE";

#[tokio::test]
async fn what_was_answered_is_kept_when_the_process_is_killed() {
    if let Some(file) = std::env::var_os(CHILD) {
        let store = RedbStore::open(file).unwrap();
        completed(&store, "done", b"paid").await;
        claimed(&store, &claim_of("started")).await;
        println!("\nready");
        std::future::pending::<()>().await;
    }
    let folder = Folder::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "what_was_answered_is_kept_when_the_process_is_killed"])
        .env(CHILD, folder.file())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.any(|line| line.unwrap() == "ready");
    let second = RedbStore::open(folder.file());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ready, "the other process has failed");
    assert!(matches!(second, Err(RedbSetupError::InUse(_))), "{second:?}");

    let store = folder.open();

    assert_eq!(store.claim(&claim_of("done")).await.unwrap(), replay(b"paid"));
    assert!(matches!(store.claim(&claim_of("started")).await, Ok(ClaimOutcome::Unknown { .. })));
}

#[tokio::test]
async fn claims_that_wait_together_share_a_commit() {
    let folder = Folder::new();
    let store = folder.open();
    let claims: Vec<_> = (0..500).map(|n| claim_of(&n.to_string())).collect();

    let answers = join_all(claims.iter().map(|claim| claimed(&store, claim))).await;

    assert!(store.commits() < 100, "{} commits", store.commits());
    let mut fences: Vec<_> = answers.iter().map(|hold| hold.fence).collect();
    fences.sort_unstable();
    fences.dedup();
    assert_eq!(fences.len(), 500, "a fence was given twice");
}

#[tokio::test]
async fn of_duplicates_that_share_a_commit_one_is_claimed() {
    let folder = Folder::new();
    let store = folder.open();
    let claims: Vec<_> = (0..500).map(|_| claim_of("same")).collect();

    let answers = join_all(claims.iter().map(|claim| store.claim(claim))).await;

    let claimed =
        answers.iter().filter(|answer| matches!(answer, Ok(ClaimOutcome::Claimed { .. })));
    assert_eq!(claimed.count(), 1);
    let in_flight =
        answers.iter().filter(|answer| matches!(answer, Ok(ClaimOutcome::InFlight { .. })));
    assert_eq!(in_flight.count(), 499);
}

#[tokio::test]
async fn what_changes_nothing_needs_no_commit() {
    let folder = Folder::new();
    let store = folder.open();
    completed(&store, "done", b"paid").await;
    let before = store.commits();

    assert_eq!(store.claim(&claim_of("done")).await.unwrap(), replay(b"paid"));
    assert_eq!(store.sweep(10).await.unwrap(), 0);

    assert_eq!(store.commits(), before);
}

#[tokio::test]
async fn beyond_the_queue_claims_are_refused_and_nothing_else_is() {
    let folder = Folder::new();
    let store = folder.open();
    let hold = claimed(&store, &claim_of("mine")).await;
    let claims: Vec<_> = (0..4000).map(|n| claim_of(&n.to_string())).collect();

    let storm = join_all(claims.iter().map(|claim| store.claim(claim)));
    let (storm, completed) =
        futures::future::join(storm, store.complete(&hold, result(b"paid"), HOUR)).await;

    assert_eq!(completed.unwrap(), StepOutcome::Applied);
    let refused = storm.iter().filter(|answer| matches!(answer, Err(StoreError::Full))).count();
    assert!(refused > 0, "4000 claims were all taken");
    let granted =
        storm.iter().filter(|answer| matches!(answer, Ok(ClaimOutcome::Claimed { .. }))).count();
    assert!(granted >= 1024);
    assert_eq!(refused + granted, 4000);
}

#[tokio::test]
async fn a_full_file_refuses_new_keys_until_old_ones_have_ended() {
    let folder = Folder::new();
    let store = RedbStore::builder(folder.file()).max_records(2).build().unwrap();
    completed(&store, "a", b"kept").await;
    let short = claimed(&store, &claim_of("b")).await;
    assert!(matches!(store.claim(&claim_of("c")).await, Err(StoreError::Full)));
    assert_eq!(store.claim(&claim_of("a")).await.unwrap(), replay(b"kept"));

    let ended = store.complete(&short, result(b"gone"), Duration::ZERO).await.unwrap();

    assert_eq!(ended, StepOutcome::Applied);
    claimed(&store, &claim_of("c")).await;
    assert_eq!(store.claim(&claim_of("a")).await.unwrap(), replay(b"kept"));
}

#[test]
fn a_store_that_cannot_work_is_not_built_and_makes_no_file() {
    let folder = Folder::new();
    let builder = || RedbStore::builder(folder.file());
    for (knob, builder) in [
        ("max_records", builder().max_records(0)),
        ("max_payload", builder().max_payload(0)),
        ("max_payload", builder().max_payload((1 << 30) + 1)),
    ] {
        match builder.build() {
            Err(RedbSetupError::Config(error)) => assert_eq!(error.knob(), knob),
            other => panic!("{knob}: {other:?}"),
        }
    }
    assert!(!folder.file().exists());
}

#[tokio::test]
async fn a_result_over_the_limit_is_refused_and_changes_nothing() {
    let folder = Folder::new();
    let store = RedbStore::builder(folder.file()).max_payload(4).build().unwrap();
    let hold = claimed(&store, &claim_of("a")).await;
    let lost = claimed(&store, &claim_of("b")).await;
    let _ = store.abandon(&lost, HOUR).await.unwrap();
    let large = Resolution::Completed(result(b"large"), HOUR);

    assert!(matches!(store.complete(&hold, result(b"large"), HOUR).await, Err(StoreError::Full)));
    assert!(matches!(store.checkpoint(&hold, b"large".to_vec()).await, Err(StoreError::Full)));
    assert!(matches!(store.resolve(&lost.key, lost.fence, large).await, Err(StoreError::Full)));
    let mut greedy = claim_of("c");
    greedy.reserve = 5;
    assert!(matches!(store.claim(&greedy).await, Err(StoreError::Full)));

    assert_eq!(store.complete(&hold, result(b"four"), HOUR).await.unwrap(), StepOutcome::Applied);
}

#[tokio::test]
async fn sweeping_is_bounded_and_leaves_what_still_counts() {
    let folder = Folder::new();
    let store = folder.open();
    for n in 0..5 {
        let hold = claimed(&store, &claim_of(&n.to_string())).await;
        let _ = store.complete(&hold, result(b""), Duration::ZERO).await.unwrap();
    }
    completed(&store, "kept", b"kept").await;

    assert_eq!(store.sweep(3).await.unwrap(), 3);
    assert_eq!(store.sweep(3).await.unwrap(), 2);
    assert_eq!(store.sweep(3).await.unwrap(), 0);

    assert_eq!(store.claim(&claim_of("kept")).await.unwrap(), replay(b"kept"));
}

#[tokio::test]
async fn a_lapsed_lease_is_told_before_and_after_it_is_swept() {
    let folder = Folder::new();
    let store = folder.open();
    let mut claims: Vec<_> = (0..6).map(|n| claim_of(&n.to_string())).collect();
    claims.sort_by_key(|claim| claim.key);
    for claim in &mut claims {
        claim.lease = Duration::ZERO;
        claimed(&store, claim).await;
    }
    let keys: Vec<_> = claims.iter().map(|claim| claim.key).collect();

    for swept in 0..=6 {
        assert_eq!(store.count_unknown().await.unwrap(), 6, "after {swept}");
        let first = store.unknown(None, 4).await.unwrap();
        assert_eq!(first.iter().map(|found| found.key).collect::<Vec<_>>(), keys[..4]);
        let rest = store.unknown(Some(keys[3]), 4).await.unwrap();
        assert_eq!(rest.iter().map(|found| found.key).collect::<Vec<_>>(), keys[4..]);
        let _ = store.sweep(1).await.unwrap();
    }
}

/// Writes one byte of the record of `name`, with the file closed.
fn tamper(folder: &Folder, name: &str, at: usize, byte: u8) {
    let database = Database::open(folder.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut records = transaction.open_table(RECORDS).unwrap();
        let key = claim_of(name).key;
        let mut bytes = records.get(key.as_bytes()).unwrap().unwrap().value().to_vec();
        bytes[at] = byte;
        records.insert(key.as_bytes(), bytes.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

fn stored(folder: &Folder, name: &str) -> Vec<u8> {
    let database = Database::open(folder.file()).unwrap();
    let records = database.begin_read().unwrap().open_table(RECORDS).unwrap();
    records.get(claim_of(name).key.as_bytes()).unwrap().unwrap().value().to_vec()
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_refused_and_left_alone() {
    for (at, byte) in [(0, 9), (0, 0), (1, 77)] {
        let folder = Folder::new();
        let store = folder.open();
        let hold = claimed(&store, &claim_of("strange")).await;
        drop(store);
        tamper(&folder, "strange", at, byte);
        let before = stored(&folder, "strange");
        let store = folder.open();

        for answer in [
            store.claim(&claim_of("strange")).await.map(|_| ()),
            store.complete(&hold, result(b""), HOUR).await.map(|_| ()),
            store.release(&hold.key, &hold.owner, HOUR).await.map(|_| ()),
        ] {
            match (at, byte) {
                (0, 9) => assert!(matches!(answer, Err(StoreError::Newer(9))), "{answer:?}"),
                _ => assert!(matches!(answer, Err(StoreError::Garbled(_))), "{answer:?}"),
            }
        }
        let mine = claimed(&store, &claim_of("mine")).await;
        assert_eq!(
            store.renew(&[hold, mine], HOUR).await.unwrap(),
            [StepOutcome::Stale, StepOutcome::Applied]
        );
        assert_eq!(store.unknown(None, 10).await.unwrap(), []);
        drop(store);

        assert_eq!(stored(&folder, "strange"), before);
    }
}

#[tokio::test]
async fn an_altered_response_is_not_replayed() {
    let folder = Folder::new();
    completed(&folder.open(), "a", b"paid 42 EUR").await;
    let at = stored(&folder, "a").len() - 6;
    tamper(&folder, "a", at, b'9');

    let answer = folder.open().claim(&claim_of("a")).await;

    assert!(matches!(answer, Err(StoreError::Garbled(_))), "{answer:?}");
}

/// Changes or removes an entry for the whole file, with the file closed.
fn tamper_meta(folder: &Folder, name: &str, change: impl Fn(&mut Vec<u8>)) {
    let database = Database::open(folder.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        let mut value = meta.remove(name).unwrap().unwrap().value().to_vec();
        change(&mut value);
        if !value.is_empty() {
            meta.insert(name, value.as_slice()).unwrap();
        }
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn an_altered_counter_or_time_is_noticed() {
    for name in ["fence", "time", "version"] {
        let changes: [fn(&mut Vec<u8>); 5] = [
            Vec::clear,
            |value| value[0] ^= 0x80,
            |value| value[1] ^= 1,
            |value| value.truncate(1),
            |value| value.push(0),
        ];
        for change in changes {
            let folder = Folder::new();
            let _ = claimed(&folder.open(), &claim_of("a")).await;
            tamper_meta(&folder, name, change);

            let error = RedbStore::open(folder.file()).unwrap_err();

            let text = error.to_string();
            assert!(text.contains("records.redb"), "{name}: {text}");
            match error {
                RedbSetupError::Newer { .. } => assert_eq!(name, "version"),
                _ => assert!(text.contains("meta table"), "{name}: {text}"),
            }
        }
    }
}

#[test]
fn an_empty_file_is_not_taken_for_a_new_one() {
    let folder = Folder::new();
    fs::write(folder.file(), b"").unwrap();

    let error = RedbStore::open(folder.file()).unwrap_err();

    assert!(error.to_string().contains("the file is empty"), "{error}");
    assert_eq!(fs::read(folder.file()).unwrap(), b"");
}

#[test]
fn a_file_of_a_newer_layout_is_refused_and_left_alone() {
    let folder = Folder::new();
    drop(folder.open());
    let database = Database::open(folder.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    let newer = 7_u16.to_be_bytes();
    transaction.open_table(META).unwrap().insert("version", &newer[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);

    let error = RedbStore::open(folder.file()).unwrap_err();

    assert!(matches!(error, RedbSetupError::Newer { version: 7, .. }), "{error:?}");
    let database = Database::open(folder.file()).unwrap();
    let meta = database.begin_read().unwrap().open_table(META).unwrap();
    assert_eq!(meta.get("version").unwrap().unwrap().value(), newer);
}

#[test]
fn a_file_of_something_else_is_refused_and_left_alone() {
    let folder = Folder::new();
    let bytes = b"not records, ".repeat(1000);
    fs::write(folder.file(), &bytes).unwrap();

    let error = RedbStore::open(folder.file()).unwrap_err();

    assert!(matches!(error, RedbSetupError::Failed { .. }), "{error:?}");
    assert_eq!(fs::read(folder.file()).unwrap(), bytes);
}

#[tokio::test]
async fn a_wall_clock_that_was_set_back_brings_nothing_back() {
    let folder = Folder::new();
    let store = folder.open();
    completed(&store, "a", b"paid").await;
    drop(store);
    // The last process had a clock that was two hours ahead.
    let database = Database::open(folder.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        let entry = |name| meta.get(name).unwrap().unwrap().value().to_vec();
        let (fence, mut time) = (entry("fence"), entry("time"));
        let (seconds, _) = time.split_first_chunk_mut::<8>().unwrap();
        *seconds = (u64::from_be_bytes(*seconds) + 2 * 60 * 60).to_be_bytes();
        // The first layout has no checksums.
        meta.insert("version", &1_u16.to_be_bytes()[..]).unwrap();
        meta.insert("fence", &fence[..8]).unwrap();
        meta.insert("time", &time[..12]).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);

    let store = folder.open();

    claimed(&store, &claim_of("a")).await;
}
