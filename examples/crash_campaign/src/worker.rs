//! A worker, which handles the driver's requests from its input until that is closed.

use std::{
    convert::Infallible,
    io::{self, BufRead},
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use buttress::{
    Error, Rejection,
    error::IdempotencyReason,
    idempotency::{
        Claim, ClaimOutcome, Digests, FindKey, Fingerprint, IdempotencyLayer, InvalidKey, Key,
        Owner, ReadRequest, RequestKey, Run, ScopeId, Settled, StorageKey, Store,
        store::MemoryStore,
    },
    keep::KeepClones,
};
use buttress_postgres::PostgresStore;
use buttress_redb::RedbStore;
use buttress_redis::RedisStore;
use tokio::{runtime::Handle, time::sleep};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::{
    LEASE, Outcome, STORE_TIMEOUT,
    faults::{Armed, Point},
    faulty::Faulty,
    ledger::Ledger,
    protocol::{Ask, Call, Found, Policy, Reply, storage_key},
    stores::Kind,
};

/// The time limit for connecting to a store that is down when the worker starts.
const PATIENCE: Duration = Duration::from_secs(20);

/// The arguments of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The address or the file of the store.
    pub(crate) store: String,
    pub(crate) ledger: PathBuf,
    pub(crate) journal: PathBuf,
}

impl Place {
    pub(crate) fn to_args(&self) -> [String; 6] {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        [
            "worker".to_owned(),
            self.name.clone(),
            self.kind.name().to_owned(),
            self.store.clone(),
            path(&self.ledger),
            path(&self.journal),
        ]
    }

    pub(crate) fn from_args(args: &[String]) -> Option<Self> {
        let [name, kind, store, ledger, journal] = args else { return None };
        Some(Self {
            name: name.clone(),
            kind: Kind::from_name(kind)?,
            store: store.clone(),
            ledger: ledger.into(),
            journal: journal.into(),
        })
    }
}

pub(crate) fn run(place: Place) -> Outcome<()> {
    // A thread at its point blocks. The others must run until the process is gone.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    let handle = runtime.handle();
    match place.kind {
        Kind::Redb => {
            let store = connect(handle, || async { RedbStore::open(&place.store) })?;
            serve(handle, store, place)
        }
        Kind::Redis => {
            let store = connect(handle, || RedisStore::builder(place.store.as_str()).build())?;
            serve(handle, store, place)
        }
        Kind::Postgres => {
            let config: tokio_postgres::Config = place.store.parse()?;
            let store = connect(handle, || PostgresStore::builder(config.clone()).build())?;
            serve(handle, store, place)
        }
        // The store is used only for the point at which the worker is killed.
        Kind::Unguarded => serve(handle, MemoryStore::builder().build()?, place),
    }
}

/// Tries until the store is up, because it may be down when a worker starts.
fn connect<S, E, F>(handle: &Handle, open: impl Fn() -> F) -> Outcome<S>
where
    E: std::error::Error + Send + Sync + 'static,
    F: Future<Output = Result<S, E>>,
{
    let begun = Instant::now();
    loop {
        match handle.block_on(open()) {
            Ok(store) => return Ok(store),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

type Guarded = BoxCloneSyncService<Call, Vec<u8>, Error<Infallible>>;

fn serve<S: Store<Payload = Vec<u8>>>(handle: &Handle, store: S, place: Place) -> Outcome<()> {
    let store = Faulty::new(store, place.journal);
    let around = Arc::clone(store.around());
    let handler = Arc::new(Handler {
        ledger: Ledger::at(place.ledger),
        worker: format!("{}.{}", place.name, process::id()),
        charges: AtomicU64::new(0),
        guarded: place.kind != Kind::Unguarded,
    });
    let call = {
        let (handler, around) = (Arc::clone(&handler), Arc::clone(&around));
        service_fn(move |(call, run): (Call, Option<Run>)| {
            let (handler, around) = (Arc::clone(&handler), Arc::clone(&around));
            async move { Ok(handler.handle(call, run, &around.armed).await) }
        })
    };
    let layer = || {
        IdempotencyLayer::builder(store.clone(), CallKey, ReadCall, KeepClones)
            .single_tenant()
            .lease(LEASE)
            .lease_limit(Duration::from_secs(5))
            .run_limit(Duration::from_secs(5))
            .store_timeout(STORE_TIMEOUT)
    };
    let quarantine: Guarded = BoxCloneSyncService::new(layer().build()?.layer(call.clone()));
    let ledger = handler.ledger.clone();
    let reconcile = layer().reconcile_fn(move |run: Run| reconcile(ledger.clone(), run)).build()?;
    let reconcile: Guarded = BoxCloneSyncService::new(reconcile.layer(call.clone()));

    println!("ready");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let Some((id, ask)) = line.split_once(' ') else { continue };
        let (id, ask) = (id.to_owned(), ask.parse::<Ask>());
        let (store, around, bare) = (store.clone(), Arc::clone(&around), call.clone());
        let (quarantine, reconcile) = (quarantine.clone(), reconcile.clone());
        let guarded = handler.guarded;
        handle.spawn(async move {
            let reply = match ask {
                Err(()) => Reply::Odd("the worker does not understand".to_owned()),
                Ok(Ask::Call(call)) => {
                    if let (Some(fault), Some(key)) = (call.fault, storage_key(&call.key)) {
                        around.armed.arm(key, fault);
                    }
                    match (guarded, call.policy) {
                        (true, Policy::Quarantine) => answer(quarantine, call).await,
                        (true, Policy::Reconcile) => answer(reconcile, call).await,
                        (false, _) => answer(bare, (call, None)).await,
                    }
                }
                Ok(Ask::Probe(key)) => Reply::Found(probe(&store, &key).await),
                Ok(Ask::Stall(millis)) => {
                    around.stall(Duration::from_millis(millis)).await;
                    Reply::Done("stalled".to_owned())
                }
            };
            println!("{id} {reply}");
        });
    }
    // The driver is gone, or does not need this worker any more. Ends without waiting for anything.
    process::exit(0)
}

async fn answer<Req, S>(service: S, request: Req) -> Reply
where
    S: Service<Req, Response = Vec<u8>, Error = Error<Infallible>>,
{
    match service.oneshot(request).await {
        Ok(body) => Reply::Done(String::from_utf8_lossy(&body).into_owned()),
        Err(Error::Rejected(Rejection::Idempotency(refused))) => match refused.reason() {
            IdempotencyReason::InFlight => Reply::InFlight,
            IdempotencyReason::Unknown => Reply::Unknown,
            IdempotencyReason::Mismatch => Reply::Mismatch,
            IdempotencyReason::StoreUnavailable | IdempotencyReason::Full => Reply::Unavailable,
            other => Reply::Odd(other.to_string()),
        },
        Err(other) => Reply::Odd(other.to_string()),
    }
}

struct CallKey;

impl FindKey<Call> for CallKey {
    fn find_key(&self, call: &Call) -> Result<RequestKey, InvalidKey> {
        Ok(RequestKey::Key(Key::new(call.key.clone())?))
    }
}

struct ReadCall;

impl ReadRequest<Call> for ReadCall {
    type Request = (Call, Option<Run>);

    async fn read(
        &self,
        call: Call,
        mut digests: Digests,
    ) -> Result<(Self::Request, Digests), IdempotencyReason> {
        digests.part(&call.payload);
        Ok(((call, None), digests))
    }

    fn pass(&self, call: Call) -> Self::Request {
        (call, None)
    }

    fn hand_over(&self, request: &mut Self::Request, run: &Run) {
        request.1 = Some(run.clone());
    }
}

/// The handler, which charges and responds with the id of the charge.
struct Handler {
    ledger: Ledger,
    worker: String,
    charges: AtomicU64,
    guarded: bool,
}

impl Handler {
    async fn handle(&self, call: Call, run: Option<Run>, armed: &Armed) -> Vec<u8> {
        pause(call.work.0).await;
        let key = storage_key(&call.key);
        if let Some(key) = key {
            armed.reach(Point::BeforeEffect, &key);
        }
        let fence = run.as_ref().map_or(0, Run::fence);
        let number = self.charges.fetch_add(1, Ordering::Relaxed);
        let id = format!("charge-{}-{number}", self.worker);
        if let Err(error) = self.ledger.charge(&call.key, fence, &self.worker, &id) {
            eprintln!("the ledger cannot be written: {error}");
            process::abort();
        }
        if let Some(key) = key.filter(|_| !self.guarded) {
            armed.reach(Point::BetweenEffectAndRecord, &key);
        }
        pause(call.work.1).await;
        id.into_bytes()
    }
}

/// Waits, without even a yield for zero. A worker that was paused here must continue.
async fn pause(millis: u64) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

/// Looks for the charge.
///
/// It never reports that there will be none, because a paused worker may still charge.
async fn reconcile(ledger: Ledger, run: Run) -> Settled<Vec<u8>> {
    let charges = ledger.read().unwrap_or_default();
    let of_this = |key: &str| storage_key(key) == Some(run.storage_key());
    let charge = charges.into_iter().find(|charge| of_this(&charge.key));
    // For a while two runs hold the key, a resumed worker and this one. Only the fence differs.
    sleep(Duration::from_millis(120)).await;
    match charge.and_then(|charge| charge.said) {
        Some(said) => Settled::Completed(said.id.into_bytes()),
        None => Settled::StillUnknown,
    }
}

/// Asks the store by a claim, which changes nothing unless the key is absent.
async fn probe<S: Store<Payload = Vec<u8>>>(store: &S, key: &str) -> Found {
    let Some(key) = storage_key(key) else { return Found::Failed("no key".to_owned()) };
    match probe_key(store, key).await {
        Ok(found) => found,
        Err(error) => Found::Failed(error.to_string()),
    }
}

async fn probe_key<S: Store<Payload = Vec<u8>>>(store: &S, key: StorageKey) -> Outcome<Found> {
    // The layer computes the fingerprints. A wrong one gets the right one in response.
    let mut fingerprint = Fingerprint::from_bytes([0; 33]);
    for _ in 0..2 {
        let mut claim = Claim::new(key, ScopeId::of(b""), Owner::random(), fingerprint);
        claim.lease = LEASE;
        match store.claim(&claim).await? {
            ClaimOutcome::Mismatch { recorded } => fingerprint = recorded,
            ClaimOutcome::Claimed { .. } => {
                let _ = store.release(&key, &claim.owner, claim.unknown_for).await?;
                return Ok(Found::Absent);
            }
            ClaimOutcome::InFlight { .. } => return Ok(Found::InFlight),
            ClaimOutcome::Replay(body) => {
                return Ok(Found::Completed(String::from_utf8_lossy(&body).into_owned()));
            }
            ClaimOutcome::Unknown { fence, .. } => return Ok(Found::Unknown(fence)),
            other => return Ok(Found::Failed(format!("{other:?}"))),
        }
    }
    Ok(Found::Failed("two fingerprints for one key".to_owned()))
}
