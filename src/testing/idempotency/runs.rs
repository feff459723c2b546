//! Checks of the steps of a run, and of the times that end it.

use super::{bench::*, fixture::Fixture};
use crate::idempotency::{Claim, ClaimMode, ClaimOutcome, Owner, StepOutcome};

pub(super) async fn a_started_run_is_unknown_when_its_lease_ends<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let claim = Claim { lease: bench.units(2), ..new_claim() };
    let race = bench.race(2);
    let hold = bench.granted(&claim).await?;
    let written = bench.checkpoint(&hold, b"half").await?;
    race.won()?;
    applied("checkpoint", written)?;
    bench.pass(5).await;
    match bench.look(claim.key).await? {
        ClaimOutcome::Unknown { fence, since } if fence == hold.fence => {
            // `since` counts from the end of the lease, two units after the claim. It counts
            // neither from the claim nor from the time of this step.
            ensure(bench.units(2) <= since && since < LONG, || {
                format!("unknown for {since:?}, instead of since the end of its lease")
            })?;
        }
        answer => {
            return Err(Failure::Broken(format!(
                "{answer:?}, instead of Unknown with fence {}",
                hold.fence
            )));
        }
    }
    bench.taken_over(&claim_of(claim.key), hold.fence, Some(b"half")).await.map(drop)
}

pub(super) async fn a_reserved_run_leaves_no_trace_when_its_lease_ends<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let claim = Claim { mode: ClaimMode::Reserved, lease: bench.units(2), ..new_claim() };
    let race = bench.race(2);
    let hold = bench.granted(&claim).await?;
    let written = bench.checkpoint(&hold, b"half").await?;
    race.won()?;
    applied("checkpoint", written)?;
    bench.pass(3).await;
    let next = bench.expect_free("reserved, after its lease", claim.key, hold.fence).await?;
    // An unrelated run must not find the checkpoint.
    applied("abandon", bench.abandon(&next, LONG).await?)?;
    bench.taken_over(&claim_of(claim.key), next.fence, None).await.map(drop)
}

pub(super) async fn a_reserved_run_is_started_once_it_is_marked<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let claim = Claim { mode: ClaimMode::Reserved, lease: bench.units(4), ..new_claim() };
    let race = bench.race(4);
    let hold = bench.granted(&claim).await?;
    let written = bench.mark_started(&hold).await?;
    let again = bench.mark_started(&hold).await?;
    race.won()?;
    applied("mark_started", written)?;
    applied("mark_started again", again)?;
    bench.pass(5).await;
    bench.expect_unknown("marked, after its lease", claim.key, hold.fence).await?;
    let started = bench.granted(&new_claim()).await?;
    applied("mark_started of a started run", bench.mark_started(&started).await?)
}

pub(super) async fn a_mark_after_the_lease_is_stale_and_the_key_is_free<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let claim = Claim { mode: ClaimMode::Reserved, lease: bench.units(1), ..new_claim() };
    let hold = bench.granted(&claim).await?;
    bench.pass(2).await;
    stale("mark_started after the lease", bench.mark_started(&hold).await?)?;
    bench.expect_free("marked too late", claim.key, hold.fence).await.map(drop)
}

pub(super) async fn a_renewed_lease_ends_later_or_sooner<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    for mode in [ClaimMode::Started, ClaimMode::Reserved] {
        let longer = Claim { mode, lease: bench.units(3), ..new_claim() };
        let race = bench.race(3);
        let kept = bench.granted(&longer).await?;
        let written = bench.renew_one(&kept, LONG).await?;
        race.won()?;
        applied("renew", written)?;
        let shorter = Claim { mode: ClaimMode::Started, ..new_claim() };
        let ended = bench.granted(&shorter).await?;
        applied("renew", bench.renew_one(&ended, bench.units(1)).await?)?;
        bench.pass(4).await;
        bench.expect_in_flight("renewed for long", longer.key).await?;
        bench.expect_unknown("renewed for a short time", shorter.key, ended.fence).await?;
        applied("complete", bench.complete(&kept, b"done", LONG).await?)?;
    }
    Ok(())
}

pub(super) async fn many_leases_are_renewed_at_once_and_answered_in_order<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    expect("renew of none", bench.renew(&[], LONG).await?, vec![])?;
    let mut holds = Vec::new();
    let mut expected = Vec::new();
    for number in 0..40 {
        let mut hold = bench.granted(&new_claim()).await?;
        let mut written = StepOutcome::Stale;
        match number % 5 {
            1 => hold.fence += 1,
            2 => hold.owner = Owner::random(),
            3 => applied("release", bench.release(&hold, LONG).await?)?,
            4 if number % 2 == 0 => hold.key = random_key(),
            _ => written = StepOutcome::Applied,
        }
        expected.push(written);
        holds.push(hold);
    }
    expect("renew of many", bench.renew(&holds, bench.units(1)).await?, expected.clone())?;
    bench.pass(2).await;
    for (hold, renewed) in holds.iter().zip(&expected) {
        if *renewed == StepOutcome::Applied {
            bench.expect_unknown("renewed with many others", hold.key, hold.fence).await?;
        }
    }
    let hold = bench.granted(&new_claim()).await?;
    let twice = bench.renew(&[hold, hold], LONG).await?;
    expect("renew of one twice", twice, vec![StepOutcome::Applied; 2])
}

pub(super) async fn what_is_completed_is_replayed<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    for mode in [ClaimMode::Started, ClaimMode::Reserved] {
        let claim = Claim { mode, ..new_claim() };
        let hold = bench.granted(&claim).await?;
        applied("checkpoint", bench.checkpoint(&hold, b"half").await?)?;
        applied("complete", bench.complete(&hold, b"done", LONG).await?)?;
        for _ in 0..3 {
            bench.expect_replay("completed", claim.key, b"done").await?;
        }
    }
    Ok(())
}

pub(super) async fn completing_again_is_applied_and_keeps_the_first_result<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let hold = bench.granted(&new_claim()).await?;
    applied("complete", bench.complete(&hold, b"first", LONG).await?)?;
    applied("complete again", bench.complete(&hold, b"first", LONG).await?)?;
    applied("complete with another result", bench.complete(&hold, b"second", LONG).await?)?;
    applied("complete without a result", bench.complete_bare(&hold, LONG).await?)?;
    bench.expect_replay("completed again", hold.key, b"first").await
}

pub(super) async fn a_result_that_is_not_kept_is_not_replayable<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let claim = new_claim();
    let hold = bench.granted(&claim).await?;
    applied("checkpoint", bench.checkpoint(&hold, b"half").await?)?;
    applied("complete", bench.complete_bare(&hold, LONG).await?)?;
    expect("claim by another owner", bench.look(claim.key).await?, ClaimOutcome::NotReplayable)?;
    expect("claim by its owner", bench.claim(&claim).await?, ClaimOutcome::NotReplayable)?;
    applied("complete with a result", bench.complete(&hold, b"late", LONG).await?)?;
    expect("after a late result", bench.look(claim.key).await?, ClaimOutcome::NotReplayable)
}

pub(super) async fn the_time_to_live_counts_from_completion<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let hold = bench.granted(&new_claim()).await?;
    bench.pass(5).await;
    let race = bench.race(4);
    applied("complete", bench.complete(&hold, b"done", bench.units(4)).await?)?;
    let answer = bench.look(hold.key).await?;
    race.won()?;
    expect("completed just now", answer, ClaimOutcome::Replay(b"done".to_vec()))?;
    bench.pass(5).await;
    bench.expect_free("after its time to live", hold.key, hold.fence).await.map(drop)
}

pub(super) async fn neither_a_replay_nor_a_repetition_prolongs_the_time_to_live<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let hold = bench.granted(&new_claim()).await?;
    let race = bench.race(6);
    applied("complete", bench.complete(&hold, b"done", bench.units(6)).await?)?;
    bench.pass(4).await;
    let answer = bench.look(hold.key).await?;
    let again = bench.complete(&hold, b"done", bench.units(6)).await?;
    race.won()?;
    expect("completed a while ago", answer, ClaimOutcome::Replay(b"done".to_vec()))?;
    applied("complete again", again)?;
    bench.pass(3).await;
    bench.expect_free("after its time to live", hold.key, hold.fence).await.map(drop)
}

pub(super) async fn a_lapsed_run_cannot_be_completed<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    let claim = Claim { lease: bench.units(1), ..new_claim() };
    let hold = bench.granted(&claim).await?;
    let reserved = Claim { mode: ClaimMode::Reserved, ..claim_of(random_key()) };
    let reserved = Claim { lease: bench.units(1), ..reserved };
    let free = bench.granted(&reserved).await?;
    bench.pass(2).await;
    stale("complete after the lease", bench.complete(&hold, b"late", LONG).await?)?;
    stale("renew after the lease", bench.renew_one(&hold, LONG).await?)?;
    bench.expect_unknown("completed too late", claim.key, hold.fence).await?;
    stale("complete of a reserved run", bench.complete(&free, b"late", LONG).await?)?;
    bench.expect_free("completed too late", free.key, free.fence).await.map(drop)
}

pub(super) async fn what_is_released_is_free<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    for (mode, mark) in
        [(ClaimMode::Started, false), (ClaimMode::Reserved, false), (ClaimMode::Reserved, true)]
    {
        let hold = bench.granted(&Claim { mode, ..new_claim() }).await?;
        applied("checkpoint", bench.checkpoint(&hold, b"half").await?)?;
        if mark {
            applied("mark_started", bench.mark_started(&hold).await?)?;
        }
        applied("release", bench.release(&hold, LONG).await?)?;
        stale("release of a released run", bench.release(&hold, LONG).await?)?;
        let next = bench.expect_free("released", hold.key, hold.fence).await?;
        applied("abandon", bench.abandon(&next, LONG).await?)?;
        bench.taken_over(&claim_of(hold.key), next.fence, None).await?;
    }
    Ok(())
}

pub(super) async fn what_is_abandoned_is_unknown_until_its_retention_ends<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    for mode in [ClaimMode::Started, ClaimMode::Reserved] {
        let hold = bench.granted(&Claim { mode, ..new_claim() }).await?;
        let race = bench.race(6);
        applied("abandon", bench.abandon(&hold, bench.units(6)).await?)?;
        bench.pass(4).await;
        let answer = bench.look(hold.key).await?;
        let again = bench.abandon(&hold, bench.units(6)).await?;
        race.won()?;
        ensure(
            matches!(answer, ClaimOutcome::Unknown { fence, .. } if fence == hold.fence),
            || format!("abandoned: {answer:?}, instead of Unknown with fence {}", hold.fence),
        )?;
        applied("abandon again", again)?;
        bench.pass(3).await;
        bench.expect_free("after its retention", hold.key, hold.fence).await?;
    }
    Ok(())
}

/// The retention is as long as the claim said, whether or not a step read the record in between.
pub(super) async fn the_retention_counts_from_the_end_of_the_lease<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let short =
        |units| Claim { lease: bench.units(1), unknown_for: bench.units(units), ..new_claim() };
    let (looked_at, unseen) = (short(6), short(1));
    let race = bench.race(7);
    let seen = bench.granted(&looked_at).await?;
    let lost = bench.granted(&unseen).await?;
    bench.pass(4).await;
    bench.expect_free("after its lease and its retention", unseen.key, lost.fence).await?;
    let answer = bench.look(looked_at.key).await?;
    race.won()?;
    ensure(matches!(answer, ClaimOutcome::Unknown { fence, .. } if fence == seen.fence), || {
        format!("after its lease: {answer:?}, instead of Unknown with fence {}", seen.fence)
    })?;
    bench.pass(4).await;
    bench.expect_free("after its retention", looked_at.key, seen.fence).await.map(drop)
}

pub(super) async fn no_key_stays_in_flight_without_its_worker<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let mut keys = Vec::new();
    for number in 0..12 {
        let mode = if number % 2 == 0 { ClaimMode::Started } else { ClaimMode::Reserved };
        let claim = Claim { mode, lease: bench.units(3), ..new_claim() };
        let race = bench.race(3);
        let hold = bench.granted(&claim).await?;
        let written = match number % 3 {
            0 => bench.renew_one(&hold, bench.units(3)).await?,
            1 => bench.mark_started(&hold).await?,
            _ => bench.checkpoint(&hold, b"half").await?,
        };
        race.won()?;
        applied("a step within the lease", written)?;
        keys.push(claim.key);
    }
    bench.pass(4).await;
    for key in keys {
        let answer = bench.look(key).await?;
        ensure(!matches!(answer, ClaimOutcome::InFlight { .. }), || {
            format!("after the lease: {answer:?}")
        })?;
    }
    Ok(())
}
