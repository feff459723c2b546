//! Claims an operation for a request, until the request is run, has its result, or is rejected.

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
// It is taken apart where it is returned: a box would be an allocation for each run.
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
    /// When the claim was sent.
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

/// What a run takes up in this process until it is over.
pub(super) struct RunPermit {
    _slot: Arc<RunSlot>,
    _key: RunningKey,
}

/// Enough for each to try what the others recorded, and few enough for a store that babbles.
const TRIES: u8 = 4;

/// One request, as it claims its operation.
pub(super) struct Claimant<St: Store> {
    shared: Arc<Shared<St>>,
    operation: Operation,
    fingerprints: Fingerprints,
    /// The fingerprint that the same request was stored with, if by another secret.
    recorded: Option<Fingerprint>,
    /// How often it may be claimed with another fingerprint before the store is not believed.
    tries: u8,
    on_unknown: OnUnknown,
    reserve: usize,
}

/// The store's answer to a claim.
enum Claimed<St: Store> {
    Granted(Granted<St>),
    Rejected(ClaimOutcome<St::Payload>),
}

impl<St: Store> Claimant<St> {
    /// Claims `operation` for a request with these fingerprints, whose result takes up to `reserve`
    /// bytes.
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

    /// Claims the operation, and waits while it is under way, until it is settled what becomes of
    /// the request.
    pub(super) async fn until_settled(mut self) -> Result<Decision<St>, IdempotencyReason> {
        let shared = Arc::clone(&self.shared);
        let joined = shared.keys.join(self.operation.key);
        let patience = shared.config.wait.map(|wait| Instant::now() + wait);
        // Held by the one duplicate of this process that asks the store for all.
        let mut polling = None;
        let mut waited = false;
        loop {
            let mut ended = std::pin::pin!(joined.active().ended.notified());
            // Before the claim: an operation that ends in between is heard.
            ended.as_mut().enable();
            // What runs here is known to be under way without a trip, and most duplicates come
            // then.
            let answer = if joined.active().runs_here(self.fingerprints.current) {
                None
            } else {
                // Its slot, and the room for its response, before the claim: what has begun is also
                // recorded.
                let slot = joined.active().enter(&shared.runs);
                // Who has waited for a result gets it though nothing more may run.
                if slot.is_none() && !waited {
                    return Err(IdempotencyReason::Full);
                }
                match self.claim().await.map_err(reason_of)? {
                    Claimed::Granted(granted) => {
                        drop(polling);
                        // Released in the background.
                        let slot = slot.ok_or(IdempotencyReason::Full)?;
                        count(&shared.counts.claims);
                        // Before its task has begun: duplicates that come in between wait for it
                        // too.
                        let key = shared.keys.join(self.operation.key);
                        let key = key.run(self.fingerprints.current);
                        return Ok(Decision::Run(granted, RunPermit { _slot: slot, _key: key }));
                    }
                    Claimed::Rejected(answer) => Some(answer),
                }
            };
            if polling.is_some() && !matches!(answer, None | Some(ClaimOutcome::InFlight { .. })) {
                // The others ask for themselves, each with its own fingerprint.
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

    /// Claims once, and once more with the same owner if nobody knows whether it did. If that is
    /// not known either, or the caller leaves, what was claimed is released in the background.
    async fn claim(&self) -> Result<Claimed<St>, StoreError> {
        let config = &self.shared.config;
        let claim = Claim {
            key: self.operation.key,
            scope: self.operation.scope,
            owner: Owner::random(),
            fingerprint: self.fingerprint(),
            mode: config.effect().mode(),
            on_unknown: self.on_unknown,
            lease: config.lease,
            unknown_for: config.unknown_for,
            reserve: self.reserve,
        };
        let pending = PendingClaim::new(Arc::clone(&self.shared), claim.key, claim.owner);
        let mut sent = Instant::now();
        let mut answered = self.shared.step(self.shared.store.claim(&claim)).await;
        // One that may still be on its way is released, whatever is said to the next.
        let unsure = matches!(answered, Err(StoreError::Unavailable(_) | StoreError::Garbled(_)));
        if unsure {
            sent = Instant::now();
            answered = self.shared.step(self.shared.store.claim(&claim)).await;
        }
        match answered {
            Ok(ClaimOutcome::Claimed { fence, previous }) => {
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

    /// Whether what was recorded is the same request after all; it is claimed as that from here on.
    /// While a secret is rolled out the record may be made anew with another one.
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

/// Waits until it is worth asking the store again.
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
            // Never closed. One asks for all; if it leaves, the next does.
            *polling = joined.active().polls.acquire().await.ok();
        }
        let pause = draw(|rng| between(every / 2, every, rng));
        tokio::time::sleep(pause).await;
    };
    race(ended, ask).await;
}

/// What a store's failure is for a caller.
fn reason_of(error: StoreError) -> IdempotencyReason {
    match error {
        StoreError::Full => IdempotencyReason::Full,
        _ => IdempotencyReason::StoreUnavailable,
    }
}
