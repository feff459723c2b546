//! Checks that a store returns all bytes unchanged, and of long times.

use super::{bench::*, fixture::Fixture};
use crate::idempotency::{
    Claim, ClaimOutcome, Fingerprint, Hold, OnUnknown, Owner, Resolution, StorageKey,
};

fn payloads() -> Vec<Vec<u8>> {
    let every: Vec<u8> = (0..=255).collect();
    let backwards = (0..=255).rev().collect();
    let large = every.iter().copied().cycle().take(64 * 1024).collect();
    vec![Vec::new(), vec![0], b"\0\r\n\\'\"%".to_vec(), every, backwards, large]
}

pub(super) async fn payloads_come_back_byte_for_byte<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    for bytes in payloads() {
        let what = format!("a payload of {} bytes", bytes.len());
        let claim = Claim { reserve: bytes.len(), ..new_claim() };
        let hold = bench.granted(&claim).await?;
        applied("checkpoint", bench.checkpoint(&hold, &bytes).await?)?;
        applied("abandon", bench.abandon(&hold, LONG).await?)?;
        let taking = Claim { on_unknown: OnUnknown::TakeOver, ..claim_of(claim.key) };
        let taking = Claim { reserve: bytes.len(), ..taking };
        let hold = match bench.claim(&taking).await? {
            ClaimOutcome::Claimed { fence, previous: Some(previous) }
                if previous.checkpoint.as_ref() == Some(&bytes) =>
            {
                Hold::new(taking.key, taking.owner, fence)
            }
            _ => return Err(Failure::Broken(format!("{what} was changed as a checkpoint"))),
        };
        applied("complete", bench.complete(&hold, &bytes, LONG).await?)?;
        bench.expect_replay(&what, hold.key, &bytes).await?;

        let hold = bench.unknown_operation().await?;
        let done = Resolution::Completed(bench.completed(&bytes), LONG);
        applied("resolve", bench.resolve(&hold.key, hold.fence, done).await?)?;
        bench.expect_replay(&format!("{what}, resolved"), hold.key, &bytes).await?;
    }
    Ok(())
}

pub(super) async fn keys_owners_and_fingerprints_may_be_any_bytes<F: Fixture>(
    bench: &Bench<'_, F>,
) -> Checked {
    let text = |byte: u8| {
        let mut bytes = [byte; 32];
        bytes[..7].copy_from_slice(b"{a}:*%'");
        StorageKey::from_bytes(bytes)
    };
    let keys = [StorageKey::from_bytes([0; 32]), StorageKey::from_bytes([0xff; 32]), text(0)];
    for (key, byte) in keys.into_iter().zip([0x00, 0xff, 0x0a]) {
        let fingerprint = Fingerprint::from_bytes([byte; 33]);
        let owner = Owner::from_bytes([byte; 16]);
        let claim = Claim { owner, fingerprint, ..claim_of(key) };
        let hold = bench.granted(&claim).await?;
        expect("the same claim again", bench.granted(&claim).await?, hold)?;
        let mismatch = ClaimOutcome::Mismatch { recorded: fingerprint };
        expect("another request", bench.look(key).await?, mismatch)?;
        let other = Owner::from_bytes([byte ^ 0x80; 16]);
        let stranger = Hold::new(key, other, hold.fence);
        stale("renew by another owner", bench.renew_one(&stranger, LONG).await?)?;
        applied("renew", bench.renew_one(&hold, LONG).await?)?;
        applied("mark_started", bench.mark_started(&hold).await?)?;
        applied("checkpoint", bench.checkpoint(&hold, b"half").await?)?;
        applied("abandon", bench.abandon(&hold, LONG).await?)?;
        let told: Vec<_> = bench.unknown(None, 100).await?;
        ensure(told.iter().any(|told| told.key == key && told.fence == hold.fence), || {
            format!("{key} is unknown, but not listed in {told:?}")
        })?;
        let again = Claim { owner: other, ..claim };
        let hold = bench.taken_over(&again, hold.fence, Some(b"half")).await?;
        applied("release", bench.release(&hold, LONG).await?)?;
        applied("resolve", bench.resolve(&key, hold.fence, Resolution::Never).await?)?;
        let hold = bench.granted(&again).await?;
        applied("complete", bench.complete(&hold, b"done", LONG).await?)?;
        let replay = ClaimOutcome::Replay(b"done".to_vec());
        expect("completed", bench.claim(&again).await?, replay)?;
    }
    Ok(())
}

/// Uses times of a century in every step. The times must hold, and must not wrap around.
pub(super) async fn times_may_be_as_long_as_a_century<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    let century = LONG * 24 * 36525;
    let claim = Claim { lease: century, unknown_for: century, ..new_claim() };
    let hold = bench.granted(&claim).await?;
    applied("renew", bench.renew_one(&hold, century).await?)?;
    bench.expect_in_flight("leased for a century", claim.key).await?;
    applied("abandon", bench.abandon(&hold, century).await?)?;
    bench.expect_unknown("abandoned for a century", claim.key, hold.fence).await?;
    let hold = bench.taken_over(&claim_of(claim.key), hold.fence, None).await?;
    applied("complete", bench.complete(&hold, b"done", century).await?)?;
    bench.expect_replay("completed for a century", claim.key, b"done").await
}
