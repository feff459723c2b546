//! Checks of the methods for operators: list, count, resolve and sweep.

use super::{bench::*, fixture::Fixture};
use crate::idempotency::{Claim, ClaimMode, ClaimOutcome, Completed, Resolution, StorageKey};

pub(super) async fn an_operation_resolved_as_done_is_replayed<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let lapsed = Claim { lease: bench.units(1), ..new_claim() };
    let lost = bench.granted(&lapsed).await?;
    let abandoned = bench.unknown_operation().await?;
    bench.pass(2).await;
    for hold in [lost, abandoned] {
        let done = Resolution::Completed(bench.completed(b"resolved"), LONG);
        applied("resolve", bench.resolve(&hold.key, hold.fence, done).await?)?;
        bench.expect_replay("resolved as done", hold.key, b"resolved").await?;
    }
    let hold = bench.unknown_operation().await?;
    let bare = Resolution::Completed(Completed::not_replayable(), LONG);
    applied("resolve", bench.resolve(&hold.key, hold.fence, bare).await?)?;
    expect("resolved without a result", bench.look(hold.key).await?, ClaimOutcome::NotReplayable)?;

    let hold = bench.unknown_operation().await?;
    let done = Resolution::Completed(bench.completed(b"resolved"), bench.units(1));
    applied("resolve", bench.resolve(&hold.key, hold.fence, done).await?)?;
    bench.pass(2).await;
    bench.expect_free("after its time to live", hold.key, hold.fence).await.map(drop)
}

pub(super) async fn an_operation_resolved_as_never_done_is_free<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let lapsed = Claim { lease: bench.units(1), ..new_claim() };
    let lost = bench.granted(&lapsed).await?;
    let kept = bench.granted(&new_claim()).await?;
    applied("checkpoint", bench.checkpoint(&kept, b"half").await?)?;
    applied("abandon", bench.abandon(&kept, LONG).await?)?;
    bench.pass(2).await;
    for hold in [lost, kept] {
        applied("resolve", bench.resolve(&hold.key, hold.fence, Resolution::Never).await?)?;
        let next = bench.expect_free("resolved as never done", hold.key, hold.fence).await?;
        applied("abandon", bench.abandon(&next, LONG).await?)?;
        bench.taken_over(&claim_of(hold.key), next.fence, None).await?;
    }
    Ok(())
}

pub(super) async fn only_what_is_unknown_under_the_fence_is_resolved<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let unknown = bench.unknown_operation().await?;
    let heir = bench.taken_over(&claim_of(unknown.key), unknown.fence, None).await?;
    let in_flight = bench.granted(&new_claim()).await?;
    let reserved = bench.granted(&Claim { mode: ClaimMode::Reserved, ..new_claim() }).await?;
    let completed = bench.granted(&new_claim()).await?;
    applied("complete", bench.complete(&completed, b"done", LONG).await?)?;
    let other = bench.unknown_operation().await?;
    let cases = [
        ("taken over, by its old fence", unknown.key, unknown.fence),
        ("taken over, by its new fence", unknown.key, heir.fence),
        ("in flight", in_flight.key, in_flight.fence),
        ("reserved", reserved.key, reserved.fence),
        ("completed", completed.key, completed.fence),
        ("absent", random_key(), 1),
        ("unknown, by a newer fence", other.key, other.fence + 1),
        ("unknown, by an older fence", other.key, other.fence.saturating_sub(1)),
    ];
    for (state, key, fence) in cases {
        let done = Resolution::Completed(bench.completed(b"stale"), LONG);
        for resolution in [done, Resolution::Never] {
            let what = format!("resolve of an operation: {state}");
            stale(&what, bench.resolve(&key, fence, resolution).await?)?;
        }
    }
    for key in [unknown.key, in_flight.key, reserved.key] {
        bench.expect_in_flight("after stale resolutions", key).await?;
    }
    bench.expect_replay("after stale resolutions", completed.key, b"done").await?;
    bench.expect_unknown("after stale resolutions", other.key, other.fence).await?;
    applied("abandon", bench.abandon(&heir, LONG).await?)?;
    let late = bench.resolve(&heir.key, unknown.fence, Resolution::Never).await?;
    stale("resolve by the fence of the run that was taken over", late)
}

pub(super) async fn unknown_operations_are_listed_page_by_page<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    expect("of an empty store", bench.unknown(None, 10).await?, vec![])?;
    expect("count of an empty store", bench.count_unknown().await?, 0)?;

    // The order is by unsigned bytes, from the first byte on.
    let first_bytes = [0x00, 0x01, 0x7f, 0x80, 0xff];
    let keys = first_bytes.map(|byte| StorageKey::from_bytes([byte; 32]));
    let mut holds = Vec::new();
    for (number, key) in keys.iter().enumerate().rev() {
        let lapses = number % 2 == 0;
        let lease = if lapses { bench.units(1) } else { LONG };
        let hold = bench.granted(&Claim { lease, ..claim_of(*key) }).await?;
        if !lapses {
            applied("abandon", bench.abandon(&hold, LONG).await?)?;
        }
        holds.insert(0, hold);
    }
    let short = bench.units(1);
    bench.granted(&new_claim()).await?;
    let reserved = || Claim { mode: ClaimMode::Reserved, ..new_claim() };
    bench.granted(&reserved()).await?;
    bench.granted(&Claim { lease: short, ..reserved() }).await?;
    bench.granted(&Claim { lease: short, unknown_for: short, ..new_claim() }).await?;
    let done = bench.granted(&new_claim()).await?;
    applied("complete", bench.complete(&done, b"done", LONG).await?)?;
    let free = bench.granted(&new_claim()).await?;
    applied("release", bench.release(&free, LONG).await?)?;
    let over = bench.granted(&new_claim()).await?;
    applied("abandon", bench.abandon(&over, short).await?)?;
    bench.pass(3).await;

    for limit in [1, 2, 3, 5, 100] {
        let mut after = None;
        let mut listed = Vec::new();
        loop {
            let page = bench.unknown(after, limit).await?;
            ensure(page.len() <= limit, || {
                format!("{} operations on a page of at most {limit}", page.len())
            })?;
            let Some(last) = page.last() else { break };
            after = Some(last.key);
            listed.extend(page);
            ensure(listed.len() <= keys.len(), || format!("too many listed: {listed:?}"))?;
        }
        let told: Vec<_> = listed.iter().map(|told| (told.key, told.fence)).collect();
        let expected: Vec<_> = holds.iter().map(|hold| (hold.key, hold.fence)).collect();
        expect(&format!("unknown operations on pages of {limit}"), told, expected)?;
        for told in listed {
            ensure(bench.units(1) <= told.since && told.since < LONG, || {
                format!("{told:?}, although unknown for two to three units")
            })?;
        }
    }
    expect("a page of at most 0", bench.unknown(None, 0).await?, vec![])?;
    // Starts after a key that is not in the list.
    let between = StorageKey::from_bytes([0x02; 32]);
    let page = bench.unknown(Some(between), 1).await?;
    expect("after another key", page.first().map(|told| told.key), Some(keys[2]))?;
    expect("count of unknown operations", bench.count_unknown().await?, keys.len() as u64)?;

    applied("resolve", bench.resolve(&keys[0], holds[0].fence, Resolution::Never).await?)?;
    let done = Resolution::Completed(bench.completed(b"done"), LONG);
    applied("resolve", bench.resolve(&keys[1], holds[1].fence, done).await?)?;
    bench.taken_over(&claim_of(keys[2]), holds[2].fence, None).await?;
    let left: Vec<_> = bench.unknown(None, 100).await?.iter().map(|told| told.key).collect();
    expect("after some were resolved or taken over", left, keys[3..].to_vec())?;
    expect("count after some were resolved or taken over", bench.count_unknown().await?, 2)
}

pub(super) async fn a_sweep_is_bounded_and_touches_only_what_is_over<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    expect("sweep of an empty store", bench.sweep(10).await?, 0)?;
    let short = bench.units(3);
    let race = bench.race(3);
    let renewed = bench.granted(&Claim { lease: short, ..new_claim() }).await?;
    let written = bench.renew_one(&renewed, LONG).await?;
    race.won()?;
    applied("renew", written)?;
    let in_flight = bench.granted(&new_claim()).await?;
    applied("checkpoint", bench.checkpoint(&in_flight, b"half").await?)?;
    let reserved = bench.granted(&Claim { mode: ClaimMode::Reserved, ..new_claim() }).await?;
    let completed = bench.granted(&Claim { lease: LONG, ..new_claim() }).await?;
    applied("complete", bench.complete(&completed, b"done", LONG).await?)?;
    let unknown = bench.unknown_operation().await?;

    let (mut gone, mut lost) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let done = bench.granted(&new_claim()).await?;
        applied("complete", bench.complete(&done, b"done", short).await?)?;
        let free = Claim { mode: ClaimMode::Reserved, lease: short, ..new_claim() };
        let over = bench.granted(&new_claim()).await?;
        applied("abandon", bench.abandon(&over, short).await?)?;
        gone.extend([done, bench.granted(&free).await?, over]);
        lost.push(bench.granted(&Claim { lease: short, ..new_claim() }).await?);
    }
    bench.pass(4).await;

    // The store may have swept some records by itself.
    let over = gone.len() + lost.len();
    let mut swept = 0;
    loop {
        let step = bench.sweep(2).await?;
        ensure(step <= 2, || format!("a sweep of at most 2 records returned {step}"))?;
        swept += step;
        ensure(swept <= over, || format!("{swept} records swept, but only {over} had ended"))?;
        if step == 0 {
            break;
        }
    }
    expect("sweep after all records were swept", bench.sweep(100).await?, 0)?;

    for hold in [&renewed, &in_flight, &reserved] {
        bench.expect_in_flight("after a sweep", hold.key).await?;
        applied("renew after a sweep", bench.renew_one(hold, LONG).await?)?;
    }
    bench.expect_replay("after a sweep", completed.key, b"done").await?;
    bench.expect_unknown("after a sweep", unknown.key, unknown.fence).await?;
    for hold in lost {
        bench.expect_unknown("its lease ended, and swept", hold.key, hold.fence).await?;
    }
    for hold in gone {
        bench.expect_free("ended, and swept", hold.key, hold.fence).await?;
    }
    applied("abandon", bench.abandon(&in_flight, LONG).await?)?;
    bench.taken_over(&claim_of(in_flight.key), in_flight.fence, Some(b"half")).await.map(drop)
}
