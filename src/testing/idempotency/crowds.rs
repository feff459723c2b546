//! Checks with many concurrent callers.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::task::JoinHandle;

use super::{
    bench::*,
    fixture::{Fixture, PayloadOf},
};
use crate::idempotency::{
    Claim, ClaimOutcome, Completed, Hold, OnUnknown, StepOutcome, Store, StoreError,
};

/// Returns the results of all tasks, or the first failure.
async fn joined<T>(tasks: Vec<JoinHandle<Result<T, StoreError>>>) -> Checked<Vec<T>> {
    let mut all = Vec::with_capacity(tasks.len());
    for task in tasks {
        let outcome = task.await.map_err(|error| Failure::Broken(format!("a task ended: {error}")));
        let done = outcome?.map_err(|error| Failure::Broken(format!("a step failed: {error:?}")));
        all.push(done?);
    }
    Ok(all)
}

/// Runs `count` tasks at once, each with its own clone of the store.
async fn crowd<F: Fixture, T: Send + 'static, Run>(
    bench: &Bench<'_, F>,
    count: u32,
    run: impl Fn(F::Store) -> Run,
) -> Checked<Vec<T>>
where
    Run: Future<Output = Result<T, StoreError>> + Send + 'static,
{
    joined((0..count).map(|_| tokio::spawn(run(bench.store.clone()))).collect()).await
}

fn grants<F: Fixture>(
    bench: &Bench<'_, F>,
    answers: &[ClaimOutcome<PayloadOf<F>>],
) -> Checked<Vec<u64>> {
    let mut granted = Vec::new();
    for answer in answers {
        match bench.answer(answer) {
            ClaimOutcome::Claimed { fence, .. } => granted.push(fence),
            ClaimOutcome::InFlight { .. } => {}
            answer => {
                let why =
                    format!("{answer:?}, instead of Claimed for one task and InFlight for others");
                return Err(Failure::Broken(why));
            }
        }
    }
    Ok(granted)
}

pub(super) async fn of_many_claims_at_once_one_is_granted<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let key = random_key();
    let answers = crowd(bench, 200, move |store| async move { store.claim(&claim_of(key)).await });
    let granted = grants(bench, &answers.await?)?;
    expect("grants of one key to 200 owners", granted.len(), 1)
}

pub(super) async fn of_many_take_overs_at_once_one_is_granted<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let lost = bench.unknown_operation().await?;
    let answers = crowd(bench, 50, move |store| async move {
        let claim = Claim { on_unknown: OnUnknown::TakeOver, ..claim_of(lost.key) };
        store.claim(&claim).await
    });
    let granted = grants(bench, &answers.await?)?;
    expect("take-overs of one key", granted.len(), 1)?;
    ensure(granted[0] > lost.fence, || format!("fence {} took over {}", granted[0], lost.fence))
}

/// One owner sends its claim many times at once, as if the first result was slow.
pub(super) async fn one_owner_at_once_has_one_fence<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    let claim = new_claim();
    let one = claim.clone();
    let answers = crowd(bench, 20, move |store| {
        let claim = one.clone();
        async move { store.claim(&claim).await }
    });
    let mut granted = grants(bench, &answers.await?)?;
    expect("grants to one owner", granted.len(), 20)?;
    granted.dedup();
    expect("fences of one owner", granted.len(), 1)
}

/// Each task claims and releases the key, which passes from owner to owner.
pub(super) async fn no_two_hold_a_key_at_once_and_no_fence_is_given_twice<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let key = random_key();
    let holders = Arc::new(AtomicU32::new(0));
    let fences = crowd(bench, 16, move |store| {
        let holders = Arc::clone(&holders);
        async move {
            let (mut fences, mut together) = (Vec::new(), 0);
            for _ in 0..10 {
                let claim = claim_of(key);
                if let ClaimOutcome::Claimed { fence, .. } = store.claim(&claim).await? {
                    together = together.max(holders.fetch_add(1, Ordering::SeqCst) + 1);
                    fences.push(fence);
                    tokio::task::yield_now().await;
                    holders.fetch_sub(1, Ordering::SeqCst);
                    let _ = store.release(&key, &claim.owner, LONG).await?;
                }
                tokio::task::yield_now().await;
            }
            Ok((fences, together))
        }
    });
    let mut all = Vec::new();
    for (fences, together) in fences.await? {
        ensure(together <= 1, || format!("{together} held one key at once"))?;
        ensure(fences.is_sorted(), || format!("fences that do not grow: {fences:?}"))?;
        all.extend(fences);
    }
    ensure(!all.is_empty(), || "no task was granted a free key".to_owned())?;
    let given = all.len();
    all.sort_unstable();
    all.dedup();
    expect("different fences of one key", all.len(), given)
}

/// Each task that is granted the key makes one charge and records it.
pub(super) async fn an_effect_happens_once_and_all_are_told_of_it<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let key = random_key();
    let charges = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&charges);
    let payloads: Vec<_> = (0..50).map(|number| bench.payload(&[number])).collect();
    let tasks = payloads.into_iter().map(|payload| {
        let (store, charges) = (bench.store.clone(), Arc::clone(&charges));
        tokio::spawn(async move {
            let claim = claim_of(key);
            let answer = store.claim(&claim).await?;
            if let ClaimOutcome::Claimed { fence, .. } = answer {
                charges.fetch_add(1, Ordering::SeqCst);
                let hold = Hold::new(key, claim.owner, fence);
                tokio::task::yield_now().await;
                let done = Completed::replayable(payload.clone(), 1);
                return match store.complete(&hold, done, LONG).await? {
                    StepOutcome::Applied => Ok(Some(ClaimOutcome::Replay(payload))),
                    StepOutcome::Stale => Ok(None),
                };
            }
            Ok(Some(answer))
        })
    });
    let answers = joined(tasks.collect()).await?;
    expect("effects of one key", counted.load(Ordering::SeqCst), 1)?;
    let ClaimOutcome::Replay(recorded) = bench.look(key).await? else {
        return Err(Failure::Broken("completed, but not replayed".to_owned()));
    };
    for answer in answers {
        match answer.map(|answer| bench.answer(&answer)) {
            Some(ClaimOutcome::InFlight { .. }) => {}
            Some(ClaimOutcome::Replay(bytes)) if bytes == recorded => {}
            answer => {
                let why = format!("{answer:?}, instead of InFlight or a replay of {recorded:?}");
                return Err(Failure::Broken(why));
            }
        }
    }
    Ok(())
}

/// A worker that lost its lease (`zombie`) and the one that took over (`heir`) both complete.
pub(super) async fn only_the_heir_of_a_stale_run_completes<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    for _ in 0..8 {
        let zombie = bench.unknown_operation().await?;
        let heir = bench.taken_over(&claim_of(zombie.key), zombie.fence, None).await?;
        let run = |hold: Hold, done: Completed<PayloadOf<F>>| {
            let store = bench.store.clone();
            tokio::spawn(async move { store.complete(&hold, done, LONG).await })
        };
        let late = run(zombie, bench.completed(b"zombie"));
        let tasks = vec![late, run(heir, bench.completed(b"heir"))];
        let written = joined(tasks).await?;
        expect("the old and new run", written, vec![StepOutcome::Stale, StepOutcome::Applied])?;
        bench.expect_replay("after both completions", zombie.key, b"heir").await?;
    }
    Ok(())
}
