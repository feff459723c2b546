//! Measures the idempotency layer in memory: a claim with its completion, and a million keys.
//!
//! ```sh
//! cargo bench -p micro --bench idempotency
//! cargo bench -p micro --bench idempotency -- --test
//! ```
//!
//! Times are medians of rounds in which the sides take turns. They are also given as ratios to an
//! insertion into a `HashMap` under a mutex, the least that any store in memory can do.
//! `cargo run -p trips` counts round trips to databases.

use std::{
    collections::HashMap,
    env,
    hint::black_box,
    sync::Mutex,
    time::{Duration, Instant},
};

use allocation_counter::measure;
use buttress::{
    BoxError,
    idempotency::{
        Claim, ClaimOutcome, Completed, Fingerprint, Hold, Key, Owner, ScopeId, StorageKey, Store,
        store::MemoryStore,
    },
};
use tokio::runtime::{Builder, Runtime};

/// The number of rounds.
const ROUNDS: usize = 9;

fn main() -> Result<(), BoxError> {
    // Checks only that it works, because a few calls are too few to measure.
    let test = env::args().any(|argument| argument == "--test");
    let keys = if test { 1_000 } else { 100_000 };
    let runtime = Builder::new_current_thread().enable_all().build()?;

    in_memory(&runtime, keys)?;
    per_key(&runtime, if test { 10_000 } else { 1_000_000 })?;
    Ok(())
}

/// Returns the key of the n-th operation.
fn storage_key(n: u64) -> Result<StorageKey, BoxError> {
    Ok(StorageKey::of(b"", &[b"POST", b"/payments"], &Key::new(format!("key-{n}"))?))
}

fn claim_of(key: StorageKey) -> Claim {
    Claim::new(key, ScopeId::of(b""), Owner::random(), Fingerprint::from_bytes([1; 33]))
}

/// Claims and completes a record with a response of `bytes` bytes.
async fn once(store: &MemoryStore, claim: &Claim, bytes: usize) -> Result<(), BoxError> {
    let ClaimOutcome::Claimed { fence, .. } = store.claim(claim).await? else {
        return Err("a new key was not claimed".into());
    };
    let hold = Hold::new(claim.key, claim.owner, fence);
    let completed = Completed::replayable(vec![0; bytes], bytes);
    let _written = store.complete(&hold, completed, Duration::from_secs(60)).await?;
    Ok(())
}

fn in_memory(runtime: &Runtime, keys: u64) -> Result<(), BoxError> {
    let (mut times, mut ratios) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        let claims = (0..keys)
            .map(|n| storage_key(round * keys + n).map(claim_of))
            .collect::<Result<Vec<_>, _>>()?;
        let mut least = Duration::ZERO;
        let mut guard = Duration::ZERO;
        for guarded in if round % 2 == 0 { [true, false] } else { [false, true] } {
            let began = Instant::now();
            if guarded {
                let store = MemoryStore::builder().max_share(1.0).build()?;
                runtime.block_on(async {
                    for claim in &claims {
                        once(&store, claim, 200).await?;
                    }
                    Ok::<_, BoxError>(())
                })?;
                guard = began.elapsed();
                black_box(store);
            } else {
                let map = Mutex::new(HashMap::new());
                for claim in &claims {
                    lock(&map).insert(claim.key, None);
                    lock(&map).insert(claim.key, Some(vec![0_u8; 200]));
                }
                least = began.elapsed();
                black_box(map);
            }
        }
        times.push(guard / u32::try_from(keys)?);
        ratios.push(guard.as_secs_f64() / least.as_secs_f64());
    }
    times.sort_unstable();
    ratios.sort_by(f64::total_cmp);
    let (time, ratio) = (times[ROUNDS / 2], ratios[ROUNDS / 2]);
    println!("claim and complete, in memory: {time:?}, {ratio:.2} of two insertions into a map");

    // Warm: the map has room for the key, as if an older one has just been removed.
    let store = MemoryStore::builder().max_share(1.0).build()?;
    let claims =
        (0..20_000).map(|n| storage_key(n).map(claim_of)).collect::<Result<Vec<_>, _>>()?;
    let (warm, measured) = claims.split_at(18_000);
    runtime.block_on(async {
        for claim in warm {
            once(&store, claim, 200).await?;
        }
        Ok::<_, BoxError>(())
    })?;
    let counted = measure(|| {
        runtime.block_on(async {
            for claim in measured {
                let _ = once(&store, claim, 200).await;
            }
        });
    });
    let each = counted.count_total as f64 / measured.len() as f64;
    println!("  allocations: {each:.3}, of which 1 is the response");
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn per_key(runtime: &Runtime, keys: u64) -> Result<(), BoxError> {
    let limit = u32::try_from(keys)?;
    let store = MemoryStore::builder().max_records(limit).max_share(1.0).build()?;
    let mut failed = None;
    let counted = measure(|| {
        failed = runtime
            .block_on(async {
                for n in 0..keys {
                    once(&store, &claim_of(storage_key(n)?), 0).await?;
                }
                Ok::<_, BoxError>(())
            })
            .err();
    });
    failed.map_or(Ok(()), Err)?;
    let each = counted.bytes_current as f64 / keys as f64;
    println!("memory for {keys} keys without their responses: {each:.0} bytes each");
    Ok(())
}
