//! The parts of the checks: a store whose payloads are bytes, claims, and expectations.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::fixture::{Fixture, PayloadOf};
use crate::idempotency::{
    Claim, ClaimOutcome, Completed, Fingerprint, Hold, OnUnknown, Owner, Previous, Resolution,
    ScopeId, StepOutcome, StorageKey, Store, StoreError, UnknownOperation,
};

/// A time that does not end while a check runs.
pub(super) const LONG: Duration = Duration::from_secs(3600);

pub(super) type Checked<T = ()> = Result<T, Failure>;

/// The reason why a check did not pass.
#[derive(Debug)]
pub(super) enum Failure {
    Broken(String),
    /// A lease may have ended before the store completed a step. The check proves nothing.
    TooSlow,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(why) => f.write_str(why),
            Self::TooSlow => {
                f.write_str("a step of the store took longer than its lease: raise Fixture::unit")
            }
        }
    }
}

/// Fails the check with a reason, unless the condition holds.
pub(super) fn ensure(holds: bool, why: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Failure::Broken(why())) }
}

pub(super) fn expect<T: PartialEq + fmt::Debug>(what: &str, actual: T, expected: T) -> Checked {
    ensure(actual == expected, || format!("{what}: {actual:?}, instead of {expected:?}"))
}

/// Checks that a step changed the record.
pub(super) fn applied(what: &str, written: StepOutcome) -> Checked {
    expect(what, written, StepOutcome::Applied)
}

/// Checks that a step changed nothing.
pub(super) fn stale(what: &str, written: StepOutcome) -> Checked {
    expect(what, written, StepOutcome::Stale)
}

fn told<T>(step: &str, result: Result<T, StoreError>) -> Checked<T> {
    result.map_err(|error| Failure::Broken(format!("{step} failed: {error} ({error:?})")))
}

/// The earliest end of a lease by the local clock.
///
/// It counts from before the claim was sent, and the lease begins later.
pub(super) struct Race {
    ends: Instant,
}

impl Race {
    /// Checks that the lease has not ended. All results received so far were then in time.
    pub(super) fn won(&self) -> Checked {
        if Instant::now() < self.ends { Ok(()) } else { Err(Failure::TooSlow) }
    }
}

pub(super) struct Bench<'a, F: Fixture> {
    fixture: &'a F,
    pub(super) store: F::Store,
    unit: Duration,
}

pub(super) fn fingerprint(number: u8) -> Fingerprint {
    Fingerprint::from_bytes([number; 33])
}

pub(super) fn random_key() -> StorageKey {
    let mut bytes = [0; 32];
    for half in bytes.chunks_exact_mut(16) {
        half.copy_from_slice(Owner::random().as_bytes());
    }
    StorageKey::from_bytes(bytes)
}

/// Creates a claim by a new owner, with a lease that does not end.
pub(super) fn claim_of(key: StorageKey) -> Claim {
    let scope = ScopeId::of(b"conformance");
    let mut claim = Claim::new(key, scope, Owner::random(), fingerprint(1));
    (claim.lease, claim.unknown_for) = (LONG, LONG);
    claim
}

/// Creates a claim of a new operation.
pub(super) fn new_claim() -> Claim {
    claim_of(random_key())
}

impl<'a, F: Fixture> Bench<'a, F> {
    pub(super) fn new(fixture: &'a F, store: F::Store, unit: Duration) -> Self {
        Self { fixture, store, unit }
    }

    pub(super) fn units(&self, count: u32) -> Duration {
        self.unit * count
    }

    pub(super) async fn pass(&self, units: u32) {
        self.fixture.pass(self.units(units)).await;
    }

    /// Starts a time of this length, within which steps must complete.
    pub(super) fn race(&self, units: u32) -> Race {
        Race { ends: Instant::now() + self.units(units) }
    }

    pub(super) fn payload(&self, bytes: &[u8]) -> PayloadOf<F> {
        self.fixture.payload(bytes.to_vec())
    }

    fn bytes(&self, payload: &PayloadOf<F>) -> Vec<u8> {
        self.fixture.bytes(payload)
    }

    pub(super) fn completed(&self, bytes: &[u8]) -> Completed<PayloadOf<F>> {
        Completed::replayable(self.payload(bytes), bytes.len())
    }

    pub(super) fn answer(&self, answer: &ClaimOutcome<PayloadOf<F>>) -> ClaimOutcome<Vec<u8>> {
        match answer {
            ClaimOutcome::Claimed { fence, previous } => {
                ClaimOutcome::Claimed { fence: *fence, previous: previous.clone() }
            }
            ClaimOutcome::InFlight { since, lease_left } => {
                ClaimOutcome::InFlight { since: *since, lease_left: *lease_left }
            }
            ClaimOutcome::Replay(payload) => ClaimOutcome::Replay(self.bytes(payload)),
            ClaimOutcome::NotReplayable => ClaimOutcome::NotReplayable,
            ClaimOutcome::Mismatch { recorded } => ClaimOutcome::Mismatch { recorded: *recorded },
            ClaimOutcome::Unknown { fence, since } => {
                ClaimOutcome::Unknown { fence: *fence, since: *since }
            }
        }
    }

    pub(super) async fn claim(&self, claim: &Claim) -> Checked<ClaimOutcome<Vec<u8>>> {
        Ok(self.answer(&told("claim", self.store.claim(claim).await)?))
    }

    /// Makes a claim that must be granted, and not as a take-over.
    pub(super) async fn granted(&self, claim: &Claim) -> Checked<Hold> {
        match self.claim(claim).await? {
            ClaimOutcome::Claimed { fence, previous: None } => {
                Ok(Hold::new(claim.key, claim.owner, fence))
            }
            answer => Err(Failure::Broken(format!(
                "a claim of a free key: {answer:?}, \
                 instead of Claimed without a previous run"
            ))),
        }
    }

    /// Makes a claim that must be granted as a take-over of the run with the fence `lost`.
    pub(super) async fn taken_over(
        &self,
        claim: &Claim,
        lost: u64,
        checkpoint: Option<&[u8]>,
    ) -> Checked<Hold> {
        let taking = Claim { on_unknown: OnUnknown::TakeOver, ..claim.clone() };
        let previous = Some(Previous::new(lost, checkpoint.map(<[u8]>::to_vec)));
        match self.claim(&taking).await? {
            ClaimOutcome::Claimed { fence, previous: told } if told == previous => {
                ensure(fence > lost, || format!("fence {fence} took over fence {lost}"))?;
                Ok(Hold::new(claim.key, claim.owner, fence))
            }
            answer => Err(Failure::Broken(format!(
                "a take-over: {answer:?}, instead of Claimed with {previous:?}"
            ))),
        }
    }

    /// Creates a new operation that is unknown.
    pub(super) async fn unknown_operation(&self) -> Checked<Hold> {
        let hold = self.granted(&new_claim()).await?;
        applied("abandon", self.abandon(&hold, LONG).await?)?;
        Ok(hold)
    }

    pub(super) async fn mark_started(&self, hold: &Hold) -> Checked<StepOutcome> {
        told("mark_started", self.store.mark_started(hold).await)
    }

    pub(super) async fn renew(&self, holds: &[Hold], lease: Duration) -> Checked<Vec<StepOutcome>> {
        told("renew", self.store.renew(holds, lease).await)
    }

    pub(super) async fn renew_one(&self, hold: &Hold, lease: Duration) -> Checked<StepOutcome> {
        let written = self.renew(&[*hold], lease).await?;
        match written[..] {
            [written] => Ok(written),
            _ => Err(Failure::Broken(format!("renew of one hold returned {written:?}"))),
        }
    }

    pub(super) async fn checkpoint(&self, hold: &Hold, bytes: &[u8]) -> Checked<StepOutcome> {
        told("checkpoint", self.store.checkpoint(hold, bytes.to_vec()).await)
    }

    pub(super) async fn complete(
        &self,
        hold: &Hold,
        bytes: &[u8],
        ttl: Duration,
    ) -> Checked<StepOutcome> {
        told("complete", self.store.complete(hold, self.completed(bytes), ttl).await)
    }

    /// Completes with a result that is not kept.
    pub(super) async fn complete_bare(&self, hold: &Hold, ttl: Duration) -> Checked<StepOutcome> {
        told("complete", self.store.complete(hold, Completed::not_replayable(), ttl).await)
    }

    pub(super) async fn release(&self, hold: &Hold, unknown_for: Duration) -> Checked<StepOutcome> {
        told("release", self.store.release(&hold.key, &hold.owner, unknown_for).await)
    }

    pub(super) async fn abandon(&self, hold: &Hold, unknown_for: Duration) -> Checked<StepOutcome> {
        told("abandon", self.store.abandon(hold, unknown_for).await)
    }

    pub(super) async fn resolve(
        &self,
        key: &StorageKey,
        fence: u64,
        resolution: Resolution<PayloadOf<F>>,
    ) -> Checked<StepOutcome> {
        told("resolve", self.store.resolve(key, fence, resolution).await)
    }

    pub(super) async fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Checked<Vec<UnknownOperation>> {
        told("unknown", self.store.unknown(after, limit).await)
    }

    pub(super) async fn count_unknown(&self) -> Checked<u64> {
        told("count_unknown", self.store.count_unknown().await)
    }

    pub(super) async fn sweep(&self, limit: usize) -> Checked<usize> {
        told("sweep", self.store.sweep(limit).await)
    }

    /// Returns the outcome of a claim by another caller with the same request.
    pub(super) async fn look(&self, key: StorageKey) -> Checked<ClaimOutcome<Vec<u8>>> {
        self.claim(&claim_of(key)).await
    }

    pub(super) async fn expect_in_flight(&self, when: &str, key: StorageKey) -> Checked {
        match self.look(key).await? {
            ClaimOutcome::InFlight { .. } => Ok(()),
            answer => Err(Failure::Broken(format!("{when}: {answer:?}, instead of InFlight"))),
        }
    }

    pub(super) async fn expect_unknown(&self, when: &str, key: StorageKey, lost: u64) -> Checked {
        match self.look(key).await? {
            ClaimOutcome::Unknown { fence, .. } if fence == lost => Ok(()),
            answer => Err(Failure::Broken(format!(
                "{when}: {answer:?}, instead of Unknown with fence {lost}"
            ))),
        }
    }

    pub(super) async fn expect_replay(&self, when: &str, key: StorageKey, kept: &[u8]) -> Checked {
        match self.look(key).await? {
            ClaimOutcome::Replay(bytes) if bytes == kept => Ok(()),
            ClaimOutcome::Replay(bytes) => Err(Failure::Broken(format!(
                "{when}: a replay of {} bytes that differ from the {} recorded bytes",
                bytes.len(),
                kept.len()
            ))),
            answer => Err(Failure::Broken(format!("{when}: {answer:?}, instead of Replay"))),
        }
    }

    /// Checks that the key is free, by claiming it.
    ///
    /// The fence must be larger than `last`, and there must be no previous run.
    pub(super) async fn expect_free(
        &self,
        when: &str,
        key: StorageKey,
        last: u64,
    ) -> Checked<Hold> {
        let claim = claim_of(key);
        match self.claim(&claim).await? {
            ClaimOutcome::Claimed { fence, previous: None } if fence > last => {
                Ok(Hold::new(key, claim.owner, fence))
            }
            answer => Err(Failure::Broken(format!(
                "{when}: {answer:?}, \
                 instead of Claimed with a fence above {last} and no previous run"
            ))),
        }
    }
}
