//! A request, from its key to its answer: read, claimed, and then given again, refused, or run.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tower_service::Service;

use super::{
    Answer, Claim, FindKey, FindScope, Fingerprint, Found, Hold, Key, OnUnknown, Owner,
    ReadRequest, Record, ScopeId, SettleUnknown, StorageKey, Store, StoreError,
    counts::count,
    events,
    fingerprint::{Digests, Fingerprints},
    settle::Unbegun,
    shared::{Core, Shared},
    task::{self, Granted},
    waiting::Joined,
};
use crate::{
    CarryRejection, IdempotencyReason,
    call::{
        oneshot::Oneshot,
        race::{Either, race},
        random::{between, draw},
    },
};

/// What a store's failure is for a caller.
fn reason_of(error: &StoreError) -> IdempotencyReason {
    match error {
        StoreError::Full => IdempotencyReason::Full,
        _ => IdempotencyReason::StoreUnavailable,
    }
}

pub(super) async fn serve<S, Req, St, K, C, Q, R, U>(
    core: Arc<Core<St, K, C, Q, R, U>>,
    service: S,
    request: Req,
) -> Result<R::Response, S::Error>
where
    Req: Send,
    S: Service<Q::Request, Error: CarryRejection + Send, Response: Send, Future: Send>
        + Send
        + 'static,
    S::Response: 'static,
    S::Error: 'static,
    St: Store,
    K: FindKey<Req> + Send + Sync + 'static,
    C: FindScope<Req> + Send + Sync + 'static,
    Q: ReadRequest<Req, Request: Send + 'static> + Send + Sync + 'static,
    R: Record<S::Response, S::Error, Payload = St::Payload, Response: Send + 'static>
        + Send
        + Sync
        + 'static,
    U: SettleUnknown<S::Response> + Send + Sync + 'static,
{
    let shared = &core.shared;
    let key = match core.find_key.find_key(&request) {
        Ok(Found::Key(key)) => key,
        Ok(Found::Unguarded) => {
            let response = Oneshot::waiting(service, core.read.pass(request)).await?;
            return Ok(core.record.pass(response));
        }
        Ok(Found::Missing) => return Err(shared.refuse(IdempotencyReason::KeyMissing)),
        Err(_) => return Err(shared.refuse(IdempotencyReason::KeyMalformed)),
    };
    let Some((key, scope)) = core.name_of(&request, &key) else {
        return Err(shared.refuse(IdempotencyReason::ScopeMissing));
    };
    let digests = Digests::new(&shared.config.secrets.0);
    let (mut request, digests) = match core.read.read(request, digests).await {
        Ok(read) => read,
        Err(reason) => return Err(shared.refuse(reason)),
    };
    let mut asked = Asked {
        shared: Arc::clone(shared),
        key,
        scope,
        fingerprints: digests.finish(),
        recorded: None,
        tries: TRIES,
        on_unknown: U::ON_UNKNOWN,
        reserve: core.record.max_bytes(),
    };
    let joined = shared.waiting.join(key);
    let patience = shared.config.wait.map(|wait| Instant::now() + wait);
    // Held by the one duplicate of this process that asks the store for all.
    let mut asking = None;
    let mut waited = false;
    loop {
        let mut over = std::pin::pin!(joined.meeting().over.notified());
        // Before the claim: an operation that ends in between is heard.
        over.as_mut().enable();
        // What runs here is known to be under way without a trip, and most duplicates come then.
        let answer = if joined.meeting().runs_here(asked.fingerprints.current) {
            None
        } else {
            // Its place, and the room for its response, before the claim: what has begun is also recorded.
            let slot = joined.meeting().enter(&shared.runs);
            // Who has waited for a result gets it though nothing more may run.
            if slot.is_none() && !waited {
                return Err(shared.refuse(IdempotencyReason::Full));
            }
            let claimed = asked.claim().await.map_err(|error| shared.refuse(reason_of(&error)))?;
            match claimed {
                Claimed::Granted(granted) => {
                    drop(asking);
                    // Released in the background.
                    let Some(slot) = slot else {
                        return Err(shared.refuse(IdempotencyReason::Full));
                    };
                    count(&shared.counts.claims);
                    core.read.hand_over(&mut request, granted.run());
                    // Before its task has begun: duplicates that come in between wait for it too.
                    let running = shared.waiting.join(key).running(asked.fingerprints.current);
                    let place = (slot, running);
                    return task::detached(core, service, request, granted, place).await;
                }
                Claimed::Refused(answer) => Some(answer),
            }
        };
        if asking.is_some() && !matches!(answer, None | Some(Answer::InFlight { .. })) {
            // The others ask for themselves, each with its own fingerprint.
            joined.meeting().over.notify_waiters();
        }
        let reason = match answer {
            Some(Answer::Replay(payload)) => {
                count(&shared.counts.replays);
                return core.record.replay(payload).map_err(|error| {
                    events::store_failed(shared.name(), &error, Duration::ZERO);
                    shared.refuse(IdempotencyReason::StoreUnavailable)
                });
            }
            Some(Answer::Mismatch { recorded }) => {
                if asked.is_same(recorded) {
                    continue;
                }
                count(&shared.counts.mismatches);
                IdempotencyReason::Mismatch
            }
            None | Some(Answer::InFlight { .. }) => {
                count(&shared.counts.conflicts);
                asked.tries = TRIES;
                let Some(patience) = patience else {
                    return Err(shared.refuse(IdempotencyReason::InFlight));
                };
                let again = wait(shared, &joined, over, &mut asking);
                match race(again, sleep_until(patience)).await {
                    Either::Left(()) => {
                        waited = true;
                        continue;
                    }
                    Either::Right(()) => IdempotencyReason::InFlight,
                }
            }
            Some(Answer::NotReplayable) => IdempotencyReason::NotReplayable,
            Some(Answer::Unknown { .. } | Answer::Claimed { .. }) => IdempotencyReason::Unknown,
        };
        return Err(shared.refuse(reason));
    }
}

/// Waits until it is worth asking the store again.
async fn wait<'a, St>(
    shared: &Shared<St>,
    joined: &'a Joined,
    over: impl Future<Output = ()>,
    asking: &mut Option<tokio::sync::SemaphorePermit<'a>>,
) {
    if joined.meeting().is_run_here() {
        return over.await;
    }
    let every = shared.config.retry_after;
    let ask = async {
        if asking.is_none() {
            // Never closed. One asks for all; if it leaves, the next does.
            *asking = joined.meeting().asks.acquire().await.ok();
        }
        let pause = draw(|rng| between(every / 2, every, rng));
        tokio::time::sleep(pause).await;
    };
    race(over, ask).await;
}

impl<St, K, C, Q, R, U> Core<St, K, C, Q, R, U> {
    /// What the operation is stored under, and whose it is; `None` if nobody knows that.
    fn name_of<Req>(&self, request: &Req, key: &Key) -> Option<(StorageKey, ScopeId)>
    where
        K: FindKey<Req>,
        C: FindScope<Req>,
    {
        let scope = self.find_scope.find_scope(request)?;
        let scope = scope.as_ref();
        let mut operation: Vec<Vec<u8>> = Vec::new();
        self.find_key.operation(request, &mut |part| operation.push(part.to_vec()));
        let operation: Vec<&[u8]> = operation.iter().map(Vec::as_slice).collect();
        Some((StorageKey::of(scope, &operation, key), ScopeId::of(scope)))
    }
}

/// Enough for each to try what the others recorded, and few enough for a store that babbles.
const TRIES: u8 = 4;

/// What one request asks the store.
struct Asked<St: Store> {
    shared: Arc<Shared<St>>,
    key: StorageKey,
    scope: ScopeId,
    fingerprints: Fingerprints,
    /// The fingerprint that the same request was stored with, if by another secret.
    recorded: Option<Fingerprint>,
    /// How often it may be claimed with another fingerprint before the store is not believed.
    tries: u8,
    on_unknown: OnUnknown,
    reserve: usize,
}

/// What came of asking.
enum Claimed<St: Store> {
    Granted(Granted<St>),
    Refused(Answer<St::Payload>),
}

impl<St: Store> Asked<St> {
    /// Claims once, and once more with the same owner if nobody knows whether it did. If that is not known
    /// either, or the caller leaves, what was claimed is released in the background.
    async fn claim(&self) -> Result<Claimed<St>, StoreError> {
        let config = &self.shared.config;
        let claim = Claim {
            key: self.key,
            scope: self.scope,
            owner: Owner::random(),
            fingerprint: self.fingerprint(),
            mode: config.effect.mode(),
            on_unknown: self.on_unknown,
            lease: config.lease,
            unknown_for: config.unknown_for,
            reserve: self.reserve,
        };
        let unbegun = Unbegun::new(Arc::clone(&self.shared), claim.key, claim.owner);
        let mut sent = Instant::now();
        let mut answered = self.shared.step(self.shared.store.claim(&claim)).await;
        // One that may still be on its way is released, whatever is said to the next.
        let unsure = matches!(answered, Err(StoreError::Unavailable(_) | StoreError::Garbled(_)));
        if unsure {
            sent = Instant::now();
            answered = self.shared.step(self.shared.store.claim(&claim)).await;
        }
        match answered {
            Ok(Answer::Claimed { fence, previous }) => {
                let hold = Hold::new(claim.key, claim.owner, fence);
                Ok(Claimed::Granted(Granted::new(&self.shared, hold, previous, sent, unbegun)))
            }
            Ok(answer) => {
                unbegun.owe(unsure);
                Ok(Claimed::Refused(answer))
            }
            Err(error) => {
                unbegun.owe(unsure);
                Err(error)
            }
        }
    }

    /// Whether what was recorded is the same request after all; it is claimed as that from here on. While a
    /// secret is rolled out the record may be made anew with another one.
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
