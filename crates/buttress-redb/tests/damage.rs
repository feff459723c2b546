//! Files that were damaged while no process had them open.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use buttress::idempotency::{
    Claim, ClaimOutcome, Completed, Fingerprint, Hold, Key, Owner, ScopeId, StorageKey, Store,
    StoreError,
};
use buttress_redb::{RedbSetupError, RedbStore};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const FILES: usize = 600;
const RECORDS: u64 = 60;
const PAGE: usize = 4096;
const LONG: Duration = Duration::from_secs(600);

/// A generator of numbers, the same in each run.
struct Dice(u64);

impl Dice {
    /// Returns a number below `end`.
    fn below(&mut self, end: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}

fn claim_of(number: u64) -> Outcome<Claim> {
    let key = StorageKey::of(b"", &[], &Key::new(format!("payment {number}"))?);
    let fingerprint = Fingerprint::from_bytes([1; 33]);
    Ok(Claim::new(key, ScopeId::of(b""), Owner::random(), fingerprint))
}

fn response(number: u64) -> Vec<u8> {
    format!("paid {number}, ").repeat(20).into_bytes()
}

/// Makes a file of completed records, and closes it.
async fn make(path: &Path) -> Outcome {
    let store = RedbStore::open(path)?;
    for number in 0..RECORDS {
        let claim = claim_of(number)?;
        let ClaimOutcome::Claimed { fence, .. } = store.claim(&claim).await? else {
            return Err("not claimed".into());
        };
        let hold = Hold::new(claim.key, claim.owner, fence);
        let response = response(number);
        let size = response.len();
        let _ = store.complete(&hold, Completed::replayable(response, size), LONG).await?;
    }
    store.close().await;
    Ok(())
}

/// Damages the bytes of a file in one of several ways, and names it.
fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) -> &'static str {
    // Half of the damage is where redb has its pages, not in space that it has not used.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
    let within = [bytes.len(), used][dice.below(2)];
    match dice.below(6) {
        0 => {
            let at = dice.below(within);
            bytes[at] ^= 1 << dice.below(8);
            "a flipped bit"
        }
        1 => {
            for _ in 0..64 {
                let at = dice.below(within);
                bytes[at] = dice.below(256) as u8;
            }
            "64 altered bytes"
        }
        2 => {
            // The header of the file, which all pages are found by.
            let at = dice.below(512);
            bytes[at] ^= 1 << dice.below(8);
            "a flipped bit in the header"
        }
        3 => {
            bytes.truncate(dice.below(within));
            "a truncated file"
        }
        4 => {
            let at = dice.below(within / PAGE + 1) * PAGE;
            bytes.iter_mut().skip(at).take(PAGE).for_each(|byte| *byte = 0);
            "a page of zeros"
        }
        _ => {
            let [from, to] = [(); 2].map(|()| dice.below(within / PAGE) * PAGE);
            bytes.copy_within(from..(from + PAGE), to);
            "a page in the place of another"
        }
    }
}

/// Opens a damaged file and uses it. Returns whether it could not be opened.
async fn open_and_use(path: &Path) -> Outcome<bool> {
    let store = match RedbStore::open(path) {
        Ok(store) => store,
        Err(RedbSetupError::InUse(_)) => return Err("still locked".into()),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("damaged.redb"), "no path: {text}");
            let has_cause = error.source().is_some_and(|cause| text.contains(&cause.to_string()));
            assert!(has_cause || matches!(error, RedbSetupError::Newer { .. }), "{error:?}");
            return Ok(true);
        }
    };
    for number in 0..RECORDS {
        match store.claim(&claim_of(number)?).await {
            Ok(ClaimOutcome::Replay(replayed)) => assert_eq!(replayed, response(number)),
            Ok(other) => return Err(format!("record {number} is lost: {other:?}").into()),
            Err(StoreError::Full) => return Err("full".into()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let _ = store.claim(&claim_of(RECORDS)?).await;
    let _ = (store.unknown(None, 10).await, store.count_unknown().await, store.sweep(10).await);
    store.close().await;
    Ok(false)
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_no_panic_and_can_be_replaced_at_once() -> Outcome {
    let folder = std::env::temp_dir().join(format!("buttress-damage-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let (whole, damaged): (PathBuf, PathBuf) =
        (folder.join("whole.redb"), folder.join("damaged.redb"));
    make(&whole).await?;
    let bytes = fs::read(&whole)?;
    let mut dice = Dice(12);
    let mut rejected = 0;

    let mut failures = Vec::new();
    for number in 0..FILES {
        let mut bytes = bytes.clone();
        let how = damage(&mut bytes, &mut dice);
        fs::write(&damaged, bytes)?;
        // In a task, which a panic would end.
        let path = damaged.clone();
        let ended =
            tokio::spawn(
                async move { open_and_use(&path).await.map_err(|error| error.to_string()) },
            );
        match ended.await.map_err(|panic| panic.to_string()).and_then(|ended| ended) {
            Ok(was_rejected) => rejected += usize::from(was_rejected),
            Err(failure) => failures.push(format!("file {number}, {how}: {failure}")),
        }
    }

    assert!(failures.is_empty(), "{failures:#?}");
    assert!((FILES / 10..FILES).contains(&rejected), "{rejected}");
    // Nothing of the damaged files is left behind in the process.
    fs::copy(&whole, &damaged)?;
    assert!(!open_and_use(&damaged).await?);
    fs::remove_dir_all(&folder)?;
    Ok(())
}

#[tokio::test]
async fn after_a_crash_a_damaged_latest_commit_is_removed_and_the_earlier_ones_are_kept() -> Outcome
{
    let folder = std::env::temp_dir().join(format!("buttress-torn-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let (whole, damaged) = (folder.join("whole.redb"), folder.join("damaged.redb"));
    make(&whole).await?;
    let store = RedbStore::open(&whole)?;
    let before = fs::read(&whole)?;
    let claimed = store.claim(&claim_of(RECORDS)?).await?;
    assert!(matches!(claimed, ClaimOutcome::Claimed { .. }), "{claimed:?}");
    // As the process would leave it if it was killed now.
    let crashed = fs::read(&whole)?;
    store.close().await;
    assert_eq!(before.len(), crashed.len());

    let mut removed = 0;
    // The first page is the header.
    for page in (PAGE..crashed.len()).step_by(PAGE) {
        if crashed[page..page + PAGE] == before[page..page + PAGE] {
            continue;
        }
        let mut bytes = crashed.clone();
        bytes[page + 40] ^= 16;
        fs::write(&damaged, bytes)?;
        let Ok(store) = RedbStore::open(&damaged) else { continue };
        let again = store.claim(&claim_of(RECORDS)?).await;
        removed += u32::from(matches!(again, Ok(ClaimOutcome::Claimed { .. })));
        store.close().await;
        // All records of the earlier commits are there.
        assert!(!open_and_use(&damaged).await?);
    }

    assert!(removed > 0);
    fs::remove_dir_all(&folder)?;
    Ok(())
}
