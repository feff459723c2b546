//! Claims an operation for a request, until the request can run, has its result, or is rejected.

use std::{future::Future, sync::Arc};

use tokio::time::{Instant, sleep_until};

use super::{
    Claim, ClaimOutcome, Fingerprint, Hold, OnUnknown, Owner, Previous, Run, Store, StoreError,
    active_keys::{JoinedKey, RunningKey},
    counts::count,
    fingerprint::Fingerprints,
    rules::Operation,
    run::Checkpoints,
    runs::RunSlot,
    settle::PendingClaim,
    shared::Shared,
};
use crate::{
    call::{
        race::{Either, race},
        random::{between, draw},
    },
    error::IdempotencyReason,
};

/// The decision about a request.
// It is matched where it is returned, and a box would cost an allocation for each run.
#[allow(clippy::large_enum_variant)]
pub(super) enum Decision<St: Store> {
    Run(Granted<St>, RunPermit),
    Replay(St::Payload),
}

/// A claim that was granted to this process.
pub(super) struct Granted<St: Store> {
    pub(super) shared: Arc<Shared<St>>,
    pub(super) hold: Hold,
    pub(super) run: Run,
    /// The time at which the claim was sent.
    pub(super) sent: Instant,
    pub(super) pending: PendingClaim<St>,
}

impl<St: Store> Granted<St> {
    fn new(
        shared: &Arc<Shared<St>>,
        hold: Hold,
        previous: Option<Previous>,
        sent: Instant,
        pending: PendingClaim<St>,
    ) -> Self {
        let checkpoints: Arc<dyn Checkpoints> = Arc::clone(shared) as _;
        let run = Run::new(hold, previous, checkpoints);
        Self { shared: Arc::clone(shared), hold, run, sent, pending }
    }
}

/// The slot and the key that a run occupies in this process until it ends.
pub(super) struct RunPermit {
    _slot: Arc<RunSlot>,
    _key: RunningKey,
}

/// The number of fingerprints that a request may try.
///
/// It is enough to try the fingerprints that other processes recorded with other secrets. It
/// bounds the loop if a faulty store returns a new fingerprint each time.
const TRIES: u8 = 4;

/// A request that claims its operation.
pub(super) struct Claimant<St: Store> {
    shared: Arc<Shared<St>>,
    operation: Operation,
    fingerprints: Fingerprints,
    /// The stored fingerprint of the same request, if it was made with another secret.
    recorded: Option<Fingerprint>,
    /// The number of times that the operation may still be claimed with another fingerprint.
    ///
    /// At zero, a mismatch that the store reports is final.
    tries: u8,
    on_unknown: OnUnknown,
    reserve: usize,
}

/// The result of a claim.
enum Claimed<St: Store> {
    Granted(Granted<St>),
    Rejected(ClaimOutcome<St::Payload>),
}

impl<St: Store> Claimant<St> {
    /// Creates the claimant of `operation` for a request with these fingerprints.
    ///
    /// The store reserves `reserve` bytes for the result of the request.
    pub(super) fn new(
        shared: &Arc<Shared<St>>,
        operation: Operation,
        fingerprints: Fingerprints,
        on_unknown: OnUnknown,
        reserve: usize,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            operation,
            fingerprints,
            recorded: None,
            tries: TRIES,
            on_unknown,
            reserve,
        }
    }

    /// Claims the operation, waits while it is in flight, and decides about the request.
    pub(super) async fn until_settled(mut self) -> Result<Decision<St>, IdempotencyReason> {
        let shared = Arc::clone(&self.shared);
        let joined = shared.keys.join(self.operation.key);
        // The time at which this request stops waiting.
        let patience = shared.config.wait.map(|wait| Instant::now() + wait);
        // The permit of the one duplicate in this process that polls the store for all.
        let mut polling = None;
        let mut waited = false;
        loop {
            let mut ended = std::pin::pin!(joined.active().ended.notified());
            // Enabled before the claim, so that the end of an operation in between is not missed.
            ended.as_mut().enable();
            // A run in this process is known to be in flight without a round trip. Most
            // duplicates come while their operation runs here.
            let answer = if joined.active().runs_here(self.fingerprints.current) {
                None
            } else {
                // The slot is taken before the claim. It stands for the memory of the response, so
                // that the result of every run can be recorded.
                let slot = joined.active().enter(&shared.runs);
                // A caller that has waited for a result gets it even if no more runs may begin.
                if slot.is_none() && !waited {
                    return Err(IdempotencyReason::Full);
                }
                match self.claim().await.map_err(reason_of)? {
                    Claimed::Granted(granted) => {
                        drop(polling);
                        // Without a slot, the claim is released in the background.
                        let slot = slot.ok_or(IdempotencyReason::Full)?;
                        count(&shared.counts.claims);
                        // Joined before the task begins, so that duplicates that arrive in between
                        // also wait for it.
                        let key = shared.keys.join(self.operation.key);
                        let key = key.run(self.fingerprints.current);
                        return Ok(Decision::Run(granted, RunPermit { _slot: slot, _key: key }));
                    }
                    Claimed::Rejected(answer) => Some(answer),
                }
            };
            if polling.is_some() && !matches!(answer, None | Some(ClaimOutcome::InFlight { .. })) {
                // The other duplicates now ask the store themselves, each with its own
                // fingerprint.
                joined.active().ended.notify_waiters();
            }
            match answer {
                Some(ClaimOutcome::Replay(payload)) => {
                    count(&shared.counts.replays);
                    return Ok(Decision::Replay(payload));
                }
                Some(ClaimOutcome::Mismatch { recorded }) if self.is_same(recorded) => {}
                Some(ClaimOutcome::Mismatch { .. }) => {
                    count(&shared.counts.mismatches);
                    return Err(IdempotencyReason::Mismatch);
                }
                None | Some(ClaimOutcome::InFlight { .. }) => {
                    count(&shared.counts.conflicts);
                    self.tries = TRIES;
                    let patience = patience.ok_or(IdempotencyReason::InFlight)?;
                    let again = wait(&shared, &joined, ended, &mut polling);
                    if let Either::Right(()) = race(again, sleep_until(patience)).await {
                        return Err(IdempotencyReason::InFlight);
                    }
                    waited = true;
                }
                Some(ClaimOutcome::NotReplayable) => return Err(IdempotencyReason::NotReplayable),
                Some(ClaimOutcome::Unknown { .. } | ClaimOutcome::Claimed { .. }) => {
                    return Err(IdempotencyReason::Unknown);
                }
            }
        }
    }

    /// Sends the claim, and sends it once more with the same owner if the result is not known.
    ///
    /// If the second result is not known either, or if the caller leaves, the claim is released
    /// in the background. So is a first claim that arrives after the run of the second has ended.
    async fn claim(&self) -> Result<Claimed<St>, StoreError> {
        let config = &self.shared.config;
        let claim = Claim {
            key: self.operation.key,
            scope: self.operation.scope,
            single_tenant: self.operation.single_tenant,
            owner: Owner::random(),
            fingerprint: self.fingerprint(),
            mode: config.effect().mode(),
            on_unknown: self.on_unknown,
            lease: config.lease,
            unknown_for: config.unknown_for,
            reserve: self.reserve,
        };
        let mut pending = PendingClaim::new(Arc::clone(&self.shared), claim.key, claim.owner);
        let mut sent = Instant::now();
        let mut answered = self.shared.step("claim", self.shared.store.claim(&claim)).await;
        // The first claim may still be on its way. It must be released even if the store rejects
        // the second one.
        let unsure = matches!(answered, Err(StoreError::Unavailable(_) | StoreError::Garbled(_)));
        if unsure {
            pending.sent_twice = true;
            sent = Instant::now();
            answered = self.shared.step("claim", self.shared.store.claim(&claim)).await;
        }
        match answered {
            Ok(ClaimOutcome::Claimed { fence, previous }) => {
                self.shared.warn_if_almost_full(&claim, sent);
                let hold = Hold::new(claim.key, claim.owner, fence);
                Ok(Claimed::Granted(Granted::new(&self.shared, hold, previous, sent, pending)))
            }
            answered => {
                if unsure {
                    drop(pending);
                } else {
                    pending.keep();
                }
                answered.map(Claimed::Rejected)
            }
        }
    }

    /// Returns whether a recorded fingerprint belongs to this request after all.
    ///
    /// If it does, the next claims use it. While a new secret is rolled out, other processes may
    /// record the operation again with another secret.
    fn is_same(&mut self, recorded: Fingerprint) -> bool {
        let same = recorded != self.fingerprint() && self.fingerprints.has(recorded);
        if !same || self.tries == 0 {
            return false;
        }
        self.tries -= 1;
        self.recorded = Some(recorded);
        true
    }

    fn fingerprint(&self) -> Fingerprint {
        self.recorded.unwrap_or(self.fingerprints.current)
    }
}

/// Waits until the store should be asked again.
async fn wait<'a, St>(
    shared: &Shared<St>,
    joined: &'a JoinedKey,
    ended: impl Future<Output = ()>,
    polling: &mut Option<tokio::sync::SemaphorePermit<'a>>,
) {
    if joined.active().is_run_here() {
        return ended.await;
    }
    let every = shared.config.retry_after;
    let ask = async {
        if polling.is_none() {
            // The semaphore is never closed. One duplicate polls for all, and the next takes over
            // if it leaves.
            *polling = joined.active().polls.acquire().await.ok();
        }
        let pause = draw(|rng| between(every / 2, every, rng));
        tokio::time::sleep(pause).await;
    };
    race(ended, ask).await;
}

/// Returns the reason that a caller is given for an error of the store.
fn reason_of(error: StoreError) -> IdempotencyReason {
    match error {
        StoreError::Full => IdempotencyReason::Full,
        _ => IdempotencyReason::StoreUnavailable,
    }
}
