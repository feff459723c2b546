//! Checks of claims: which claim is granted, and the outcome of all others.

use super::{bench::*, fixture::Fixture};
use crate::idempotency::{Claim, ClaimMode, ClaimOutcome, Hold, OnUnknown};

pub(super) async fn an_absent_record_is_claimed<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    for mode in [ClaimMode::Started, ClaimMode::Reserved] {
        for on_unknown in [OnUnknown::Keep, OnUnknown::TakeOver] {
            bench.granted(&Claim { mode, on_unknown, ..new_claim() }).await?;
        }
    }
    Ok(())
}

pub(super) async fn a_claim_in_flight_keeps_all_others_out<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    for mode in [ClaimMode::Started, ClaimMode::Reserved] {
        let claim = Claim { mode, ..new_claim() };
        let hold = bench.granted(&claim).await?;
        for on_unknown in [OnUnknown::Keep, OnUnknown::TakeOver] {
            let other = Claim { on_unknown, ..claim_of(claim.key) };
            let answer = bench.claim(&other).await?;
            ensure(matches!(answer, ClaimOutcome::InFlight { .. }), || {
                format!("another claim, {on_unknown:?}: {answer:?}, instead of InFlight")
            })?;
        }
        applied("complete after other claims", bench.complete(&hold, b"done", LONG).await?)?;
    }
    Ok(())
}

pub(super) async fn in_flight_reports_its_age_and_the_rest_of_its_lease<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let claim = new_claim();
    let hold = bench.granted(&claim).await?;
    bench.pass(3).await;
    applied("renew", bench.renew_one(&hold, LONG / 2).await?)?;
    bench.granted(&Claim { lease: LONG / 2, ..claim.clone() }).await?;
    bench.pass(3).await;
    match bench.look(claim.key).await? {
        ClaimOutcome::InFlight { since, lease_left } => {
            ensure(bench.units(5) <= since && since < LONG / 2, || {
                format!("in flight for {since:?}, instead of since the first claim")
            })?;
            let left = LONG / 4..=LONG / 2 - bench.units(2);
            ensure(left.contains(&lease_left), || {
                format!(
                    "{lease_left:?} left of a lease of {:?} that was renewed a while ago",
                    LONG / 2
                )
            })
        }
        answer => Err(Failure::Broken(format!("{answer:?}, instead of InFlight"))),
    }
}

pub(super) async fn its_owner_is_granted_a_claim_again<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    for mode in [ClaimMode::Started, ClaimMode::Reserved] {
        let claim = Claim { mode, ..new_claim() };
        let first = bench.granted(&claim).await?;
        expect("the same claim again", bench.granted(&claim).await?, first)?;
        applied("mark_started", bench.mark_started(&first).await?)?;
        expect("the same claim again, after the start", bench.granted(&claim).await?, first)?;
        applied("complete", bench.complete(&first, b"done", LONG).await?)?;
    }
    Ok(())
}

pub(super) async fn a_claim_again_has_a_new_lease<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    let longer = Claim { lease: bench.units(3), ..new_claim() };
    let race = bench.race(3);
    bench.granted(&longer).await?;
    bench.granted(&Claim { lease: LONG, ..longer.clone() }).await?;
    race.won()?;
    let shorter = new_claim();
    let hold = bench.granted(&shorter).await?;
    bench.granted(&Claim { lease: bench.units(1), ..shorter.clone() }).await?;
    bench.pass(4).await;
    bench.expect_in_flight("claimed again with a longer lease", longer.key).await?;
    bench.expect_unknown("claimed again with a shorter lease", shorter.key, hold.fence).await
}

/// Accepts both outcomes, because the store may have brought the record up to date in between.
///
/// Both are safe. No other caller has received an outcome, and no second fence was given.
pub(super) async fn a_claim_again_after_its_lease_has_no_second_fence<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let claim = Claim { lease: bench.units(1), ..new_claim() };
    let hold = bench.granted(&claim).await?;
    bench.pass(2).await;
    let again = Claim { lease: LONG, ..claim };
    match bench.claim(&again).await? {
        ClaimOutcome::Claimed { fence, previous: None } if fence == hold.fence => {
            bench.expect_in_flight("claimed again after the lease", again.key).await?;
            applied("complete", bench.complete(&hold, b"done", LONG).await?)?;
            bench.expect_replay("completed after that", again.key, b"done").await
        }
        ClaimOutcome::Unknown { fence, .. } if fence == hold.fence => {
            stale("complete", bench.complete(&hold, b"done", LONG).await?)
        }
        answer => Err(Failure::Broken(format!(
            "{answer:?}, instead of Claimed or Unknown with fence {}",
            hold.fence
        ))),
    }
}

pub(super) async fn a_repeated_take_over_reports_the_same_earlier_run<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let lost = bench.granted(&new_claim()).await?;
    applied("checkpoint", bench.checkpoint(&lost, b"half").await?)?;
    applied("abandon", bench.abandon(&lost, LONG).await?)?;
    let claim = claim_of(lost.key);
    let first = bench.taken_over(&claim, lost.fence, Some(b"half")).await?;
    let again = bench.taken_over(&claim, lost.fence, Some(b"half")).await?;
    expect("the same take-over again", again, first)?;
    applied("checkpoint", bench.checkpoint(&first, b"more").await?)?;
    let again = bench.taken_over(&claim, lost.fence, Some(b"more")).await?;
    expect("the same take-over, after a checkpoint", again, first)
}

pub(super) async fn its_owner_is_answered_as_others_once_it_is_done<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let claim = new_claim();
    let hold = bench.granted(&claim).await?;
    applied("complete", bench.complete(&hold, b"done", LONG).await?)?;
    expect("completed", bench.claim(&claim).await?, ClaimOutcome::Replay(b"done".to_vec()))?;
    let claim = new_claim();
    let hold = bench.granted(&claim).await?;
    applied("abandon", bench.abandon(&hold, LONG).await?)?;
    let answer = bench.claim(&claim).await?;
    ensure(matches!(answer, ClaimOutcome::Unknown { fence, .. } if fence == hold.fence), || {
        format!("abandoned: {answer:?}, instead of Unknown with fence {}", hold.fence)
    })
}

/// Checks every state of a record. A mismatch changes nothing.
pub(super) async fn another_request_is_told_what_the_key_was_used_for<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let (in_flight, completed, bare) = (new_claim(), new_claim(), new_claim());
    let reserved = Claim { mode: ClaimMode::Reserved, ..new_claim() };
    bench.granted(&in_flight).await?;
    bench.granted(&reserved).await?;
    let hold = bench.granted(&completed).await?;
    applied("complete", bench.complete(&hold, b"done", LONG).await?)?;
    let hold = bench.granted(&bare).await?;
    applied("complete", bench.complete_bare(&hold, LONG).await?)?;
    let unknown = bench.unknown_operation().await?;
    let lapsed = Claim { lease: bench.units(1), ..new_claim() };
    let lost = bench.granted(&lapsed).await?;
    bench.pass(2).await;

    let recorded = fingerprint(1);
    let mut another = recorded.to_bytes();
    another[32] ^= 1;
    let mut version = recorded.to_bytes();
    version[0] ^= 1;
    let states = [
        ("in flight", in_flight.key),
        ("reserved", reserved.key),
        ("completed", completed.key),
        ("not replayable", bare.key),
        ("unknown", unknown.key),
        ("with a lapsed lease", lapsed.key),
    ];
    for (state, key) in states {
        for (differs, bytes) in [("digest", another), ("version", version)] {
            for on_unknown in [OnUnknown::Keep, OnUnknown::TakeOver] {
                let fingerprint = crate::idempotency::Fingerprint::from_bytes(bytes);
                let claim = Claim { fingerprint, on_unknown, ..claim_of(key) };
                let what = format!("{state}, with another {differs} of the fingerprint");
                expect(&what, bench.claim(&claim).await?, ClaimOutcome::Mismatch { recorded })?;
            }
        }
    }
    bench.expect_in_flight("after a mismatch", in_flight.key).await?;
    bench.expect_replay("after a mismatch", completed.key, b"done").await?;
    bench.expect_unknown("after a mismatch", unknown.key, unknown.fence).await?;
    bench.expect_unknown("after a mismatch", lapsed.key, lost.fence).await
}

pub(super) async fn a_key_that_is_free_again_takes_any_request<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let claim = new_claim();
    let hold = bench.granted(&claim).await?;
    applied("release", bench.release(&hold, LONG).await?)?;
    let claim = Claim { fingerprint: fingerprint(2), ..claim_of(claim.key) };
    let hold = bench.granted(&claim).await?;
    applied("complete", bench.complete(&hold, b"done", bench.units(1)).await?)?;
    bench.pass(2).await;
    bench.expect_free("completed, after its time to live", claim.key, hold.fence).await.map(drop)
}

pub(super) async fn fences_grow_even_after_the_record_is_gone<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let key = random_key();
    let short = bench.units(1);
    let reserved = || Claim { mode: ClaimMode::Reserved, lease: short, ..claim_of(key) };

    let mut last = bench.granted(&claim_of(key)).await?;
    applied("release", bench.release(&last, LONG).await?)?;
    last = grown("released", bench, reserved(), last).await?;
    bench.pass(2).await;
    last = grown("reserved, after its lease", bench, claim_of(key), last).await?;
    applied("complete", bench.complete(&last, b"done", short).await?)?;
    bench.pass(2).await;
    last = grown("completed, after its time to live", bench, claim_of(key), last).await?;
    applied("abandon", bench.abandon(&last, short).await?)?;
    bench.pass(2).await;
    last = grown("unknown, after its retention", bench, claim_of(key), last).await?;
    applied("abandon", bench.abandon(&last, LONG).await?)?;
    let never = crate::idempotency::Resolution::Never;
    applied("resolve", bench.resolve(&key, last.fence, never).await?)?;
    last = grown("resolved as never done", bench, claim_of(key), last).await?;
    applied("abandon", bench.abandon(&last, LONG).await?)?;
    bench.taken_over(&claim_of(key), last.fence, None).await.map(drop)
}

async fn grown<F: Fixture>(
    when: &str,
    bench: &Bench<'_, F>,
    claim: Claim,
    last: Hold,
) -> Checked<Hold> {
    let hold = bench.granted(&claim).await?;
    ensure(hold.fence > last.fence, || {
        format!("{when}: fence {} after fence {}", hold.fence, last.fence)
    })?;
    Ok(hold)
}

pub(super) async fn an_unknown_operation_is_left_alone<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let lost = bench.unknown_operation().await?;
    bench.pass(2).await;
    for mode in [ClaimMode::Started, ClaimMode::Reserved] {
        match bench.claim(&Claim { mode, ..claim_of(lost.key) }).await? {
            ClaimOutcome::Unknown { fence, since } if fence == lost.fence => {
                ensure(bench.units(1) <= since && since < LONG, || {
                    format!("unknown for {since:?}, instead of since it was abandoned")
                })?;
            }
            answer => {
                return Err(Failure::Broken(format!(
                    "{answer:?}, instead of Unknown with fence {}",
                    lost.fence
                )));
            }
        }
    }
    Ok(())
}

pub(super) async fn a_take_over_has_a_new_fence_and_the_checkpoint<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let lost = bench.granted(&new_claim()).await?;
    applied("checkpoint", bench.checkpoint(&lost, b"first").await?)?;
    applied("checkpoint", bench.checkpoint(&lost, b"second").await?)?;
    applied("abandon", bench.abandon(&lost, LONG).await?)?;
    let second = bench.taken_over(&claim_of(lost.key), lost.fence, Some(b"second")).await?;
    bench.expect_in_flight("taken over", lost.key).await?;
    applied("abandon", bench.abandon(&second, LONG).await?)?;
    bench.expect_unknown("abandoned again", lost.key, second.fence).await?;
    let third = bench.taken_over(&claim_of(lost.key), second.fence, Some(b"second")).await?;
    applied("checkpoint", bench.checkpoint(&third, b"third").await?)?;
    applied("abandon", bench.abandon(&third, LONG).await?)?;
    let fourth = bench.taken_over(&claim_of(lost.key), third.fence, Some(b"third")).await?;
    applied("complete", bench.complete(&fourth, b"done", LONG).await?)?;
    bench.expect_replay("completed after the take-over", lost.key, b"done").await
}

pub(super) async fn a_take_over_finds_only_what_is_unknown<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let taking = |key| Claim { on_unknown: OnUnknown::TakeOver, ..claim_of(key) };
    let hold = bench.granted(&taking(random_key())).await?;
    let answer = bench.claim(&taking(hold.key)).await?;
    ensure(matches!(answer, ClaimOutcome::InFlight { .. }), || {
        format!("take-over of a run in flight: {answer:?}, instead of InFlight")
    })?;
    applied("complete", bench.complete(&hold, b"done", LONG).await?)?;
    let replay = ClaimOutcome::Replay(b"done".to_vec());
    expect("take-over of a completed operation", bench.claim(&taking(hold.key)).await?, replay)
}

/// A take-over is started in either mode, because the lost run may have begun.
pub(super) async fn what_was_taken_over_is_unknown_again_when_it_is_lost_or_released<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let lost = bench.granted(&new_claim()).await?;
    applied("checkpoint", bench.checkpoint(&lost, b"half").await?)?;
    applied("abandon", bench.abandon(&lost, LONG).await?)?;
    let reserved = || Claim { mode: ClaimMode::Reserved, ..claim_of(lost.key) };

    let second = bench.taken_over(&reserved(), lost.fence, Some(b"half")).await?;
    applied("release of a take-over", bench.release(&second, LONG).await?)?;
    bench.expect_unknown("after the release of a take-over", lost.key, second.fence).await?;

    let third = bench.taken_over(&reserved(), second.fence, Some(b"half")).await?;
    applied("mark_started of a take-over", bench.mark_started(&third).await?)?;
    applied("release of a started take-over", bench.release(&third, LONG).await?)?;
    bench.expect_unknown("after the release of a started take-over", lost.key, third.fence).await?;

    let short = Claim { lease: bench.units(1), ..reserved() };
    let fourth = bench.taken_over(&short, third.fence, Some(b"half")).await?;
    bench.pass(2).await;
    bench.expect_unknown("after the lease of a take-over", lost.key, fourth.fence).await?;
    let fifth = bench.taken_over(&reserved(), fourth.fence, Some(b"half")).await?;
    applied("release", bench.release(&fifth, bench.units(1)).await?)?;
    bench.pass(2).await;
    bench.expect_free("released, after its retention", lost.key, fifth.fence).await.map(drop)
}
