//! The campaign of stalls: PostgreSQL's table is locked, and then one record.
//!
//! Meanwhile, many callers send requests through the idempotency layer, another caller claims other
//! keys, and an observer counts the sessions of the store. The layer and the store have their
//! defaults.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use buttress::{
    Error,
    idempotency::{
        Claim, ClaimMode, ClaimOutcome, Fingerprint, IdempotencyLayer, Key, Owner, RequestKey,
        ScopeId, Store,
    },
};
use buttress_postgres::PostgresStore;
use test_servers::PostgresServer;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, Config, NoTls};
use tower::{Layer, ServiceExt, service_fn};

use crate::{Outcome, protocol::storage_key};

const CALLERS: u64 = 64;

/// The default number of connections of the store.
const POOL: usize = 16;

/// The default timeout of a step in the layer.
const STEP: Duration = Duration::from_secs(1);

const LOCKED: Duration = Duration::from_secs(8);

/// The pause between two observations, or between two claims of other keys.
const GLANCE: Duration = Duration::from_millis(20);

const LOCK_TABLE: &str = "LOCK TABLE buttress_idempotency";
const LOCK_RECORD: &str = "SELECT 1 FROM buttress_idempotency WHERE key = $1 FOR UPDATE";

/// The observations during one lock.
#[derive(Debug)]
struct Seen {
    /// The largest number of sessions of the store.
    backends: usize,
    /// The claims of other keys during the lock.
    claims: u64,
    granted: u64,
    /// The longest of the granted ones.
    slowest: Duration,
    /// The time of the first claim after the lock, if it was granted.
    after: Option<Duration>,
}

/// Runs both stalls, and returns whether all checks passed.
pub(crate) async fn run() -> Outcome<bool> {
    let server = tokio::task::spawn_blocking(PostgresServer::start).await??;
    let config: Config = server.url().parse()?;
    let store = PostgresStore::builder(config.clone()).build().await?;
    // A record whose lease has ended. Each claim of it waits for its lock.
    claim(&store, "locked", Duration::ZERO).await?;

    let mut good = true;
    let mut summary = Vec::new();
    for (name, record) in [("table", None), ("record", Some("locked"))] {
        let seen = stall(&config, &store, record).await?;
        println!("{name} locked for {LOCKED:?}: {seen:?}");
        for failure in seen.failures(record.is_some()) {
            good = false;
            println!("  NOT AS IT HAS TO BE: {failure}");
        }
        summary.push(format!("\"{name}\":{}", seen.to_json()));
    }
    println!("\nsummary {{\"pool\":{POOL},\"callers\":{CALLERS},{}}}", summary.join(","));
    Ok(good)
}

/// Locks one record, or the table, while callers send requests for it.
async fn stall(config: &Config, store: &PostgresStore, record: Option<&str>) -> Outcome<Seen> {
    let (locker, observer) = (connect(config).await?, connect(config).await?);
    locker.batch_execute("BEGIN").await?;
    match record.and_then(storage_key) {
        Some(key) => locker.execute(LOCK_RECORD, &[&&key.as_bytes()[..]]).await?,
        None => locker.execute(LOCK_TABLE, &[]).await?,
    };
    let done = Arc::default();
    let mut callers = call(store, record, &done)?;
    let began = Instant::now();
    let backends = async {
        let mut most = 0;
        while began.elapsed() < LOCKED {
            most = most.max(backends(&observer).await?);
            sleep(GLANCE).await;
        }
        Outcome::Ok(most)
    };
    let others = async {
        let (mut claims, mut granted, mut slowest) = (0, 0, Duration::ZERO);
        while began.elapsed() < LOCKED {
            claims += 1;
            // Not a key of the stall before, whose last claim may be granted late.
            let key = format!("other than {record:?} {claims}");
            if let Some(took) = claim(store, &key, STEP).await? {
                granted += 1;
                slowest = slowest.max(took);
            }
            sleep(GLANCE).await;
        }
        Outcome::Ok((claims, granted, slowest))
    };
    let (backends, (claims, granted, slowest)) =
        futures::future::try_join(backends, others).await?;
    locker.batch_execute("ROLLBACK").await?;
    let after = claim(store, &format!("after {record:?}"), STEP).await?;
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended?;
    }
    Ok(Seen { backends, claims, granted, slowest, after })
}

/// Sends requests through the layer until `done`, all for one record or each for another.
fn call(
    store: &PostgresStore,
    record: Option<&str>,
    done: &Arc<AtomicBool>,
) -> Outcome<JoinSet<()>> {
    let layer = IdempotencyLayer::builder_fn(
        store.clone(),
        |request: &String| Ok(RequestKey::Key(Key::new(request)?)),
        |request: &String, digest| digest.part(request),
    );
    let layer = layer.single_tenant().build()?;
    let echo =
        service_fn(
            |request: String| async move { Ok::<_, Error<Infallible>>(request.into_bytes()) },
        );
    let service = layer.layer(echo);
    let sent = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (service, sent, done) = (service.clone(), Arc::clone(&sent), Arc::clone(done));
        let record = record.map(str::to_owned);
        callers.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let number = sent.fetch_add(1, Ordering::Relaxed);
                let request = record.clone().unwrap_or_else(|| format!("call {number}"));
                // It is rejected while the lock is held, which the other figures are about.
                let _ = service.clone().oneshot(request).await;
                sleep(GLANCE).await;
            }
        });
    }
    Ok(callers)
}

/// Claims a key past the layer, but with its timeout. Returns the time that a granted claim took.
async fn claim(store: &PostgresStore, key: &str, lease: Duration) -> Outcome<Option<Duration>> {
    let key = storage_key(key).ok_or("an invalid key")?;
    let fingerprint = Fingerprint::from_bytes([1; 33]);
    let mut claim = Claim::new(key, ScopeId::of(b""), Owner::random(), fingerprint);
    claim.mode = ClaimMode::Reserved;
    claim.lease = lease;
    let began = Instant::now();
    Ok(match timeout(STEP, store.claim(&claim)).await {
        Ok(Ok(ClaimOutcome::Claimed { .. })) => Some(began.elapsed()),
        _ => None,
    })
}

async fn connect(config: &Config) -> Outcome<Client> {
    let mut config = config.clone();
    let (client, connection) = config.application_name("observer").connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn backends(observer: &Client) -> Outcome<usize> {
    let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'buttress'";
    Ok(usize::try_from(observer.query_one(query, &[]).await?.get::<_, i64>(0))?)
}

impl Seen {
    fn failures(&self, others_are_free: bool) -> Vec<&'static str> {
        let checks = [
            (self.backends > 2 * POOL, "more than two backends for each connection of the pool"),
            (self.backends == 0, "no session of the store was seen"),
            (self.after.is_none(), "a claim after the lock took longer than a step may take"),
            (others_are_free && self.granted < self.claims, "a claim of another key had to wait"),
        ];
        checks.into_iter().filter_map(|(failed, name)| failed.then_some(name)).collect()
    }

    fn to_json(&self) -> String {
        format!(
            "{{\"backends\":{},\"other_claims\":{},\"granted\":{},\"slowest_ms\":{},\
             \"after_ms\":{}}}",
            self.backends,
            self.claims,
            self.granted,
            self.slowest.as_millis(),
            self.after.map_or_else(|| "null".to_owned(), |after| after.as_millis().to_string())
        )
    }
}
