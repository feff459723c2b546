//! Checks that a stale hold changes nothing, in any state of the record.

use super::{bench::*, fixture::Fixture};
use crate::idempotency::{Claim, ClaimMode, Hold, Owner, Resolution, StorageKey};

/// A step that a check leaves out, because there it repeats a step that was taken.
#[derive(Clone, Copy, PartialEq)]
enum Repeated {
    Nothing,
    Complete,
    Abandon,
}

/// Checks that every step with this hold is stale.
async fn all_are_stale<F: Fixture>(
    state: &str,
    bench: &Bench<'_, F>,
    hold: &Hold,
    repeated: Repeated,
) -> Checked {
    let what = |step: &str| format!("{state}: {step} with a stale hold");
    stale(&what("mark_started"), bench.mark_started(hold).await?)?;
    stale(&what("renew"), bench.renew_one(hold, LONG).await?)?;
    stale(&what("checkpoint"), bench.checkpoint(hold, b"stale").await?)?;
    if repeated != Repeated::Abandon {
        stale(&what("abandon"), bench.abandon(hold, LONG).await?)?;
    }
    if repeated != Repeated::Complete {
        stale(&what("complete"), bench.complete(hold, b"stale", LONG).await?)?;
        stale(&what("complete"), bench.complete_bare(hold, LONG).await?)?;
    }
    Ok(())
}

/// Returns holds that differ from the hold of the record in one field.
fn wrong(hold: &Hold) -> impl Iterator<Item = (&'static str, Hold)> {
    let older = hold.fence.checked_sub(1).map(|fence| ("an older fence", fence));
    let fences = [Some(("a newer fence", hold.fence + 1)), older];
    let (key, owner) = (hold.key, hold.owner);
    let other = Hold::new(key, Owner::random(), hold.fence);
    let fences = fences.into_iter().flatten();
    fences
        .map(move |(what, fence)| (what, Hold::new(key, owner, fence)))
        .chain([("another owner", other)])
}

pub(super) async fn a_stale_hold_changes_nothing_in_flight<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    for mode in [ClaimMode::Started, ClaimMode::Reserved] {
        let hold = bench.granted(&Claim { mode, ..new_claim() }).await?;
        applied("checkpoint", bench.checkpoint(&hold, b"mine").await?)?;
        for (what, wrong) in wrong(&hold) {
            all_are_stale(&format!("in flight, {what}"), bench, &wrong, Repeated::Nothing).await?;
        }
        let other = Hold::new(hold.key, Owner::random(), hold.fence);
        stale("release by another owner", bench.release(&other, LONG).await?)?;
        bench.expect_in_flight("after stale steps", hold.key).await?;
        applied("abandon", bench.abandon(&hold, LONG).await?)?;
        bench.taken_over(&claim_of(hold.key), hold.fence, Some(b"mine")).await?;
    }
    Ok(())
}

pub(super) async fn a_stale_mark_does_not_start_a_reserved_run<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let claim = Claim { mode: ClaimMode::Reserved, lease: bench.units(4), ..new_claim() };
    let race = bench.race(4);
    let hold = bench.granted(&claim).await?;
    let mut answers = Vec::new();
    for (what, wrong) in wrong(&hold) {
        let marked = bench.mark_started(&wrong).await?;
        answers.push((what, marked, bench.renew_one(&wrong, LONG).await?));
    }
    race.won()?;
    for (what, marked, renewed) in answers {
        stale(what, marked)?;
        stale(what, renewed)?;
    }
    bench.pass(5).await;
    bench.expect_free("reserved, after its lease", claim.key, hold.fence).await.map(drop)
}

/// A worker was paused beyond its lease, and goes on after another worker took over.
pub(super) async fn a_run_that_was_taken_over_changes_nothing<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let claim = Claim { lease: bench.units(1), ..new_claim() };
    let zombie = bench.granted(&claim).await?;
    bench.pass(2).await;
    let heir = bench.taken_over(&claim_of(claim.key), zombie.fence, None).await?;
    applied("checkpoint", bench.checkpoint(&heir, b"mine").await?)?;
    all_are_stale("taken over", bench, &zombie, Repeated::Nothing).await?;
    stale("release of a run that was taken over", bench.release(&zombie, LONG).await?)?;
    bench.expect_in_flight("after stale steps", claim.key).await?;
    applied("abandon", bench.abandon(&heir, LONG).await?)?;
    all_are_stale("taken over, and unknown again", bench, &zombie, Repeated::Nothing).await?;
    let heir = bench.taken_over(&claim_of(claim.key), heir.fence, Some(b"mine")).await?;
    applied("complete", bench.complete(&heir, b"done", LONG).await?)?;
    all_are_stale("taken over, and completed", bench, &zombie, Repeated::Nothing).await?;
    stale("release of a run that was taken over", bench.release(&zombie, LONG).await?)?;
    bench.expect_replay("after stale steps", claim.key, b"done").await
}

pub(super) async fn nothing_changes_what_is_completed<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    let hold = bench.granted(&new_claim()).await?;
    applied("complete", bench.complete(&hold, b"done", LONG).await?)?;
    all_are_stale("completed", bench, &hold, Repeated::Complete).await?;
    for (what, wrong) in wrong(&hold) {
        all_are_stale(&format!("completed, {what}"), bench, &wrong, Repeated::Nothing).await?;
    }
    stale("release of a completed operation", bench.release(&hold, LONG).await?)?;
    stale("resolve", bench.resolve(&hold.key, hold.fence, Resolution::Never).await?)?;
    bench.expect_replay("after stale steps", hold.key, b"done").await
}

pub(super) async fn a_hold_of_what_is_gone_makes_no_record<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let never_was = Hold::new(random_key(), Owner::random(), 1);
    all_are_stale("never claimed", bench, &never_was, Repeated::Nothing).await?;
    stale("release of a key that was never claimed", bench.release(&never_was, LONG).await?)?;
    bench.expect_free("never claimed", never_was.key, 0).await?;

    let released = bench.granted(&new_claim()).await?;
    applied("release", bench.release(&released, LONG).await?)?;
    all_are_stale("released", bench, &released, Repeated::Nothing).await?;
    let next = bench.expect_free("released", released.key, released.fence).await?;
    all_are_stale("claimed again", bench, &released, Repeated::Nothing).await?;
    stale("release by the previous owner", bench.release(&released, LONG).await?)?;
    bench.expect_in_flight("claimed again", next.key).await?;

    let over = bench.granted(&new_claim()).await?;
    applied("complete", bench.complete(&over, b"done", bench.units(1)).await?)?;
    let reserved = Claim { mode: ClaimMode::Reserved, lease: bench.units(1), ..new_claim() };
    let lapsed = bench.granted(&reserved).await?;
    let unknown = bench.granted(&new_claim()).await?;
    applied("abandon", bench.abandon(&unknown, bench.units(1)).await?)?;
    bench.pass(2).await;
    let states = [
        ("after its time to live", over),
        ("reserved, after its lease", lapsed),
        ("after its retention", unknown),
    ];
    for (state, hold) in states {
        all_are_stale(state, bench, &hold, Repeated::Nothing).await?;
        stale(state, bench.release(&hold, LONG).await?)?;
        stale(state, bench.resolve(&hold.key, hold.fence, Resolution::Never).await?)?;
        bench.expect_free(state, hold.key, hold.fence).await?;
    }
    Ok(())
}

pub(super) async fn a_hold_of_what_is_unknown_is_over<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    let claim = Claim { lease: bench.units(3), ..new_claim() };
    let race = bench.race(3);
    let lapsed = bench.granted(&claim).await?;
    let written = bench.checkpoint(&lapsed, b"half").await?;
    race.won()?;
    applied("checkpoint", written)?;
    let abandoned = bench.granted(&new_claim()).await?;
    applied("checkpoint", bench.checkpoint(&abandoned, b"half").await?)?;
    applied("abandon", bench.abandon(&abandoned, LONG).await?)?;
    bench.pass(4).await;
    for (state, hold) in [("after its lease", lapsed), ("abandoned", abandoned)] {
        all_are_stale(state, bench, &hold, Repeated::Abandon).await?;
        stale(state, bench.release(&hold, LONG).await?)?;
        for (what, wrong) in wrong(&hold) {
            all_are_stale(&format!("{state}, {what}"), bench, &wrong, Repeated::Nothing).await?;
        }
        bench.expect_unknown(state, hold.key, hold.fence).await?;
        applied("abandon of an unknown operation", bench.abandon(&hold, LONG).await?)?;
        bench.taken_over(&claim_of(hold.key), hold.fence, Some(b"half")).await?;
    }
    Ok(())
}

pub(super) async fn a_stale_run_changes_nothing_after_a_resolution<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let hold = bench.unknown_operation().await?;
    let done = Resolution::Completed(bench.completed(b"resolved"), LONG);
    applied("resolve", bench.resolve(&hold.key, hold.fence, done).await?)?;
    // A completion must be stale too. Otherwise, its caller would believe that its own result was
    // recorded.
    all_are_stale("resolved as done", bench, &hold, Repeated::Nothing).await?;
    stale("release after a resolution", bench.release(&hold, LONG).await?)?;
    bench.expect_replay("resolved as done", hold.key, b"resolved").await?;

    let hold = bench.unknown_operation().await?;
    applied("resolve", bench.resolve(&hold.key, hold.fence, Resolution::Never).await?)?;
    all_are_stale("resolved as never done", bench, &hold, Repeated::Nothing).await?;
    bench.expect_free("resolved as never done", hold.key, hold.fence).await.map(drop)
}

pub(super) async fn keys_do_not_touch_each_other<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    let key = random_key();
    let near = |byte: usize, bit: u8| {
        let mut bytes = *key.as_bytes();
        bytes[byte] ^= bit;
        StorageKey::from_bytes(bytes)
    };
    let hold = bench.granted(&claim_of(key)).await?;
    for (place, near) in [("first", near(0, 0x80)), ("last", near(31, 1)), ("middle", near(16, 4))]
    {
        let wrong = Hold { key: near, ..hold };
        let what = format!("of a key that differs in its {place} byte");
        all_are_stale(&what, bench, &wrong, Repeated::Nothing).await?;
        stale(&what, bench.release(&wrong, LONG).await?)?;
        let other = bench.expect_free(&what, near, 0).await?;
        applied("complete", bench.complete(&other, b"other", LONG).await?)?;
    }
    bench.expect_in_flight("after steps on other keys", key).await?;
    applied("complete", bench.complete(&hold, b"mine", LONG).await?)?;
    bench.expect_replay("after steps on other keys", key, b"mine").await
}
