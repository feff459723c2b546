//! The store in PostgreSQL, against servers that the tests start.

use std::{
    error::Error,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    http::idempotency::{HeaderKey, NotStarted, ReadHttp, RecordHttp},
    idempotency::{
        Claim, ClaimMode, ClaimOutcome, Completed, Fingerprint, Hold, IdempotencyLayer, Key,
        OnUnknown, Owner, Run, ScopeId, SingleTenant, StepOutcome, StorageKey, Store, StoreError,
    },
    testing::idempotency::{Fixture, check},
};
use buttress_postgres::{PostgresSetupError, PostgresStore};
use http::{Request, Response};
use http_body_util::BodyExt;
use test_servers::PostgresServer;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, NoTls};
use tower::{Layer, ServiceExt, service_fn};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const LONG: Duration = Duration::from_secs(600);

/// Opens a connection past the store.
async fn connect(config: &Config) -> Outcome<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Creates an empty schema on the server, for the tables of one test.
async fn schema(server: &PostgresServer) -> Outcome<Config> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut config: Config = server.url().parse()?;
    let name = format!("guard{}", COUNT.fetch_add(1, Ordering::Relaxed));
    connect(&config).await?.batch_execute(&format!("CREATE SCHEMA {name}")).await?;
    config.options(format!("-c search_path={name}"));
    Ok(config)
}

async fn store(server: &PostgresServer) -> Outcome<PostgresStore> {
    Ok(PostgresStore::builder(schema(server).await?).build().await?)
}

fn key(name: &str) -> Outcome<StorageKey> {
    Ok(StorageKey::of(b"tenant", &[b"POST", b"/payments"], &Key::new(name)?))
}

fn claim_of(key: StorageKey) -> Claim {
    let fingerprint = Fingerprint::from_bytes([1; 33]);
    let mut claim = Claim::new(key, ScopeId::of(b"tenant"), Owner::random(), fingerprint);
    claim.lease = LONG;
    claim
}

async fn granted(store: &PostgresStore, claim: &Claim) -> Outcome<Hold> {
    match store.claim(claim).await? {
        ClaimOutcome::Claimed { fence, .. } => Ok(Hold::new(claim.key, claim.owner, fence)),
        other => Err(format!("not claimed: {other:?}").into()),
    }
}

fn response(text: &str) -> Completed<Vec<u8>> {
    Completed::replayable(text.as_bytes().to_vec(), text.len())
}

/// Claims until the operation is no longer in flight.
async fn answer_in_the_end(store: &PostgresStore, claim: &Claim) -> Outcome<ClaimOutcome<Vec<u8>>> {
    loop {
        match store.claim(claim).await? {
            ClaimOutcome::InFlight { lease_left, .. } => tokio::time::sleep(lease_left).await,
            answer => return Ok(answer),
        }
    }
}

struct Schemas(Arc<PostgresServer>);

impl Fixture for Schemas {
    type Store = PostgresStore;

    async fn fresh(&self) -> PostgresStore {
        store(&self.0).await.expect("a schema of its own")
    }

    fn payload(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    fn bytes(&self, payload: &Vec<u8>) -> Vec<u8> {
        payload.clone()
    }

    // Each step waits for the disk, and all checks run at once.
    fn unit(&self) -> Duration {
        Duration::from_millis(300)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_what_every_store_must() -> Outcome {
    check(&Schemas(PostgresServer::shared()?)).await.assert();
    Ok(())
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_killed_server() -> Outcome {
    let mut server = PostgresServer::start()?;
    let store = store(&server).await?;
    let mut running = JoinSet::new();
    for number in 0..64 {
        let store = store.clone();
        running.spawn(async move {
            let hold = granted(&store, &claim_of(key(&format!("done {number}"))?)).await?;
            assert_eq!(store.complete(&hold, response("paid"), LONG).await?, StepOutcome::Applied);
            granted(&store, &claim_of(key(&format!("in flight {number}"))?)).await
        });
    }
    let mut highest = 0;
    while let Some(hold) = running.join_next().await {
        highest = highest.max(hold??.fence);
    }
    server.kill()?;
    assert!(matches!(
        store.claim(&claim_of(key("while it is gone")?)).await,
        Err(StoreError::Unavailable(_))
    ));
    server.restart()?;

    for number in 0..64 {
        let again = claim_of(key(&format!("done {number}"))?);
        // Each connection from before the crash is found closed once.
        let answer = loop {
            match store.claim(&again).await {
                Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                answer => break answer?,
            }
        };
        assert_eq!(answer, ClaimOutcome::Replay(b"paid".to_vec()));
        let again = claim_of(key(&format!("in flight {number}"))?);
        assert!(matches!(store.claim(&again).await?, ClaimOutcome::InFlight { .. }));
    }
    assert!(granted(&store, &claim_of(key("later")?)).await?.fence > highest);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_paused_answers_late_and_once() -> Outcome {
    let server = PostgresServer::start()?;
    let store = store(&server).await?;
    let hold = granted(&store, &claim_of(key("warm")?)).await?;
    server.pause()?;
    let claim = claim_of(key("late")?);
    let given_up = tokio::time::timeout(Duration::from_millis(100), store.claim(&claim)).await;
    server.resume()?;
    assert!(given_up.is_err());
    // The same owner may claim again, even if its first claim was granted.
    granted(&store, &claim).await?;
    let twin = claim_of(key("late")?);
    assert!(matches!(store.claim(&twin).await?, ClaimOutcome::InFlight { .. }));
    assert_eq!(store.complete(&hold, response("paid"), LONG).await?, StepOutcome::Applied);
    Ok(())
}

#[tokio::test]
async fn a_step_that_is_dropped_does_not_hold_up_the_next() -> Outcome {
    let server = PostgresServer::shared()?;
    let config = schema(&server).await?;
    let store = PostgresStore::builder(config.clone()).connections(1).build().await?;
    let hold = granted(&store, &claim_of(key("locked")?)).await?;
    let mut client = connect(&config).await?;
    let transaction = client.transaction().await?;
    transaction.execute("SELECT key FROM buttress_idempotency FOR UPDATE", &[]).await?;

    let step = store.complete(&hold, response("paid"), LONG);
    assert!(tokio::time::timeout(Duration::from_millis(50), step).await.is_err());
    // Shorter than the time that the dropped step would have waited for the lock.
    tokio::time::timeout(Duration::from_millis(1_500), store.count_unknown()).await??;
    transaction.rollback().await?;
    Ok(())
}

#[tokio::test]
async fn many_can_make_the_schema_at_once() -> Outcome {
    let server = PostgresServer::shared()?;
    let config = schema(&server).await?;
    let builds = (0..8).map(|_| PostgresStore::builder(config.clone()).build());
    for store in futures::future::join_all(builds).await {
        store?.count_unknown().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_schema_made_by_hand_needs_no_more_than_the_use_of_it() -> Outcome {
    let server = PostgresServer::shared()?;
    let mut config = schema(&server).await?;
    let owner = connect(&config).await?;
    owner.batch_execute(&format!("BEGIN; {}; COMMIT", PostgresStore::MIGRATION)).await?;
    owner
        .batch_execute(
            "CREATE ROLE modest LOGIN;
             DO $$ BEGIN
                 EXECUTE format('GRANT USAGE ON SCHEMA %I TO modest', current_schema());
             END $$;
             GRANT SELECT, INSERT, UPDATE, DELETE ON buttress_idempotency TO modest;
             GRANT USAGE ON buttress_fence TO modest",
        )
        .await?;
    config.user("modest");
    let store = PostgresStore::builder(config).build().await?;
    let hold = granted(&store, &claim_of(key("modest")?)).await?;
    assert_eq!(
        store.complete(&hold, response("paid"), Duration::ZERO).await?,
        StepOutcome::Applied
    );
    assert_eq!(store.sweep(10).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_refused_and_kept() -> Outcome {
    let server = PostgresServer::shared()?;
    let config = schema(&server).await?;
    let store = PostgresStore::builder(config.clone()).build().await?;
    let client = connect(&config).await?;

    let claim = claim_of(key("from the future")?);
    let hold = granted(&store, &claim).await?;
    client
        .execute(
            "UPDATE buttress_idempotency SET version = 7, until = now() - interval '1 day'",
            &[],
        )
        .await?;
    let all = "SELECT i::text FROM buttress_idempotency AS i";
    let before: String = client.query_one(all, &[]).await?.get(0);

    let refused = |error: StoreError| matches!(error, StoreError::Newer(7));
    assert!(store.claim(&claim).await.is_err_and(refused));
    assert!(store.claim(&claim_of(claim.key)).await.is_err_and(refused));
    assert!(store.mark_started(&hold).await.is_err_and(refused));
    assert!(store.checkpoint(&hold, vec![1]).await.is_err_and(refused));
    assert!(store.complete(&hold, response("paid"), LONG).await.is_err_and(refused));
    assert!(store.abandon(&hold, LONG).await.is_err_and(refused));
    assert!(store.release(&hold.key, &hold.owner, LONG).await.is_err_and(refused));
    let never = buttress::idempotency::Resolution::Never;
    assert!(store.resolve(&hold.key, hold.fence, never).await.is_err_and(refused));
    assert_eq!(store.renew(&[hold], LONG).await?, [StepOutcome::Stale]);
    assert_eq!(store.sweep(10).await?, 0);
    assert_eq!(store.count_unknown().await?, 0);
    assert_eq!(store.unknown(None, 10).await?, []);

    let after: String = client.query_one(all, &[]).await?.get(0);
    assert_eq!(before, after);
    Ok(())
}

#[tokio::test]
async fn a_store_that_cannot_work_is_not_built() -> Outcome {
    // Nothing listens at this address, because settings are checked before connecting.
    let builder = || PostgresStore::builder(Config::new());
    for (knob, builder) in [
        ("connections", builder().connections(0)),
        ("connections", builder().connections(262_144)),
        ("connect_timeout", builder().connect_timeout(Duration::ZERO)),
        ("step_timeout", builder().step_timeout(Duration::from_micros(999))),
        ("step_timeout", builder().step_timeout(Duration::from_secs(25 * 24 * 60 * 60))),
    ] {
        match builder.build().await {
            Err(PostgresSetupError::Config(error)) => assert_eq!(error.knob(), knob),
            other => return Err(format!("{knob}: {other:?}").into()),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_not_built_says_why() -> Outcome {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = format!("postgres://ann:secret@{free}/orders").parse()?;
    let down = PostgresStore::builder(config).build().await;
    let error = down.err().ok_or("nothing listens there")?.to_string();
    assert!(error.starts_with("the store could not be set up: "), "{error}");
    assert!(error.to_lowercase().contains("connection refused"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_server_without_fsync_is_refused_by_name() -> Outcome {
    let server = PostgresServer::start_with(&["fsync=off"])?;
    let config: Config = server.url().parse()?;
    let refused = PostgresStore::builder(config.clone()).build().await;
    let error = refused.err().ok_or("not refused")?;
    assert!(matches!(error, PostgresSetupError::Forgetful { setting: "fsync", .. }), "{error:?}");
    assert!(error.to_string().contains("fsync = off"), "{error}");
    PostgresStore::builder(config).accept_loss().build().await?.count_unknown().await?;
    Ok(())
}

#[tokio::test]
async fn the_defaults_of_the_database_do_not_weaken_our_sessions() -> Outcome {
    let server = PostgresServer::shared()?;
    let mut config = schema(&server).await?;
    connect(&config)
        .await?
        .batch_execute(
            "CREATE ROLE weak LOGIN SUPERUSER;
             ALTER ROLE weak SET synchronous_commit = off;
             ALTER ROLE weak SET default_transaction_isolation = 'serializable'",
        )
        .await?;
    config.user("weak");
    let store = PostgresStore::builder(config).build().await?;
    let claims =
        (0..64).map(|_| async { store.claim(&claim_of(key("one")?)).await.map_err(Into::into) });
    let answers: Outcome<Vec<_>> = futures::future::try_join_all(claims).await;
    let is_claimed = |answer: &&ClaimOutcome<_>| matches!(answer, ClaimOutcome::Claimed { .. });
    assert_eq!(answers?.iter().filter(is_claimed).count(), 1);
    Ok(())
}

/// Returns the number of statements that the role `counted` has run.
async fn statements(client: &Client) -> Outcome<i64> {
    let calls = client
        .query_one(
            "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
             WHERE userid = 'counted'::regrole",
            &[],
        )
        .await?;
    Ok(calls.get(0))
}

#[tokio::test]
async fn a_request_takes_a_statement_to_claim_and_one_to_complete() -> Outcome {
    let server = PostgresServer::shared()?;
    let mut config = schema(&server).await?;
    let client = connect(&config).await?;
    client
        .batch_execute("CREATE EXTENSION pg_stat_statements; CREATE ROLE counted LOGIN SUPERUSER")
        .await?;
    config.user("counted");
    let store = PostgresStore::builder(config).build().await?;

    for round in 0..3 {
        let before = statements(&client).await?;
        let hold = granted(&store, &claim_of(key(&format!("started {round}"))?)).await?;
        assert_eq!(statements(&client).await? - before, 1);
        assert_eq!(store.complete(&hold, response("paid"), LONG).await?, StepOutcome::Applied);
        assert_eq!(statements(&client).await? - before, 2);
    }
    let before = statements(&client).await?;
    let mut claim = claim_of(key("reserved")?);
    claim.mode = ClaimMode::Reserved;
    let hold = granted(&store, &claim).await?;
    assert_eq!(store.mark_started(&hold).await?, StepOutcome::Applied);
    assert_eq!(store.complete(&hold, response("paid"), LONG).await?, StepOutcome::Applied);
    assert_eq!(statements(&client).await? - before, 3);

    let mut holds = Vec::new();
    for number in 0..10 {
        holds.push(granted(&store, &claim_of(key(&format!("held {number}"))?)).await?);
    }
    let before = statements(&client).await?;
    assert_eq!(store.renew(&holds, LONG).await?, [StepOutcome::Applied; 10]);
    assert_eq!(statements(&client).await? - before, 1);
    Ok(())
}

/// Returns a claim for an effect that is committed with its record, and a connection to a ledger.
async fn transactional(
    lease: Duration,
) -> Outcome<(Arc<PostgresServer>, PostgresStore, Claim, Client)> {
    let server = PostgresServer::shared()?;
    let config = schema(&server).await?;
    let store = PostgresStore::builder(config.clone()).build().await?;
    let client = connect(&config).await?;
    client.batch_execute("CREATE TABLE ledger (fence bigint)").await?;
    let mut claim = claim_of(key("paid in one transaction")?);
    claim.mode = ClaimMode::Reserved;
    claim.lease = lease;
    Ok((server, store, claim, client))
}

/// Writes into the ledger and completes, and rolls back unless the completion was applied.
async fn pay(store: &PostgresStore, client: &mut Client, hold: &Hold) -> Outcome<StepOutcome> {
    let transaction = client.transaction().await?;
    transaction.execute("INSERT INTO ledger VALUES ($1)", &[&i64::try_from(hold.fence)?]).await?;
    let written = store.complete_in(&transaction, hold, response("paid"), LONG).await?;
    match written {
        StepOutcome::Applied => transaction.commit().await?,
        StepOutcome::Stale => transaction.rollback().await?,
    }
    Ok(written)
}

async fn payments(client: &Client) -> Outcome<i64> {
    Ok(client.query_one("SELECT count(*) FROM ledger", &[]).await?.get(0))
}

#[tokio::test]
async fn a_worker_that_is_late_rolls_back() -> Outcome {
    let (_server, store, mut claim, mut client) = transactional(Duration::from_millis(50)).await?;
    let late = granted(&store, &claim).await?;
    claim.owner = Owner::random();
    claim.lease = LONG;
    let ClaimOutcome::Claimed { fence, .. } = answer_in_the_end(&store, &claim).await? else {
        return Err("a reserved claim must free its key".into());
    };
    assert!(fence > late.fence);
    assert_eq!(pay(&store, &mut client, &late).await?, StepOutcome::Stale);
    assert_eq!(payments(&client).await?, 0);

    let hold = Hold::new(claim.key, claim.owner, fence);
    assert_eq!(pay(&store, &mut client, &hold).await?, StepOutcome::Applied);
    assert_eq!(payments(&client).await?, 1);
    assert_eq!(store.claim(&claim_of(claim.key)).await?, ClaimOutcome::Replay(b"paid".to_vec()));
    Ok(())
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_not_done_again() -> Outcome {
    let (_server, store, claim, mut client) = transactional(LONG).await?;
    let hold = granted(&store, &claim).await?;
    assert_eq!(pay(&store, &mut client, &hold).await?, StepOutcome::Applied);
    assert_eq!(pay(&store, &mut client, &hold).await?, StepOutcome::Stale);
    assert_eq!(payments(&client).await?, 1);
    // The layer itself, which completes after its handler, learns that the operation is completed.
    assert_eq!(store.complete(&hold, response("other"), LONG).await?, StepOutcome::Applied);
    assert_eq!(store.claim(&claim_of(claim.key)).await?, ClaimOutcome::Replay(b"paid".to_vec()));
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_is_not_committed_leaves_the_key_in_flight() -> Outcome {
    let (_server, store, claim, mut client) = transactional(LONG).await?;
    let hold = granted(&store, &claim).await?;
    let transaction = client.transaction().await?;
    let written = store.complete_in(&transaction, &hold, response("paid"), LONG).await?;
    assert_eq!(written, StepOutcome::Applied);
    // The claim does not wait for the transaction.
    let twin = claim_of(claim.key);
    assert!(matches!(store.claim(&twin).await?, ClaimOutcome::InFlight { .. }));
    transaction.rollback().await?;
    assert!(matches!(store.claim(&twin).await?, ClaimOutcome::InFlight { .. }));
    assert_eq!(pay(&store, &mut client, &hold).await?, StepOutcome::Applied);
    Ok(())
}

#[tokio::test]
async fn a_commit_waits_for_the_disk_in_a_session_that_would_not() -> Outcome {
    let (_server, store, claim, mut client) = transactional(LONG).await?;
    client.batch_execute("SET synchronous_commit = off").await?;
    let hold = granted(&store, &claim).await?;
    let transaction = client.transaction().await?;
    let written = store.complete_in(&transaction, &hold, response("paid"), LONG).await?;
    assert_eq!(written, StepOutcome::Applied);
    let setting: String = transaction.query_one("SHOW synchronous_commit", &[]).await?.get(0);
    assert_eq!(setting, "on");
    transaction.commit().await?;
    let setting: String = client.query_one("SHOW synchronous_commit", &[]).await?.get(0);
    assert_eq!(setting, "off");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_one_of_many_claims_is_answered_and_one_a_key_is_granted() -> Outcome {
    let server = PostgresServer::shared()?;
    let config = schema(&server).await?;
    let store = PostgresStore::builder(config).connections(50).build().await?;
    let mut running = JoinSet::new();
    for _ in 0..50 {
        let store = store.clone();
        running.spawn(async move {
            let (mut claimed, mut in_flight) = (0, 0);
            for number in 0..40 {
                match store.claim(&claim_of(key(["a", "b", "c"][number % 3])?)).await? {
                    ClaimOutcome::Claimed { .. } => claimed += 1,
                    ClaimOutcome::InFlight { .. } => in_flight += 1,
                    other => return Err(format!("{other:?}").into()),
                }
            }
            Outcome::Ok((claimed, in_flight))
        });
    }
    let (mut claimed, mut in_flight) = (0, 0);
    while let Some(counts) = running.join_next().await {
        let (more_claimed, more_in_flight) = counts??;
        claimed += more_claimed;
        in_flight += more_in_flight;
    }
    assert_eq!((claimed, in_flight), (3, 1_997));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_of_a_key_grow_in_the_order_of_its_claims() -> Outcome {
    let server = PostgresServer::shared()?;
    let store = store(&server).await?;
    // The key is freed repeatedly, so that claims find it absent and race to insert it.
    let fences = Arc::new(Mutex::new(Vec::new()));
    let mut running = JoinSet::new();
    for _ in 0..16 {
        let (store, fences) = (store.clone(), fences.clone());
        running.spawn(async move {
            let mut times = 0;
            while times < 20 {
                let claim = claim_of(key("freed")?);
                if let ClaimOutcome::Claimed { fence, .. } = store.claim(&claim).await? {
                    times += 1;
                    // Pushed before the release, so that the list is in the order of the claims.
                    fences.lock().unwrap_or_else(PoisonError::into_inner).push(fence);
                    let released = store.release(&claim.key, &claim.owner, LONG).await?;
                    assert_eq!(released, StepOutcome::Applied);
                }
            }
            Outcome::Ok(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    let fences = fences.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(fences.is_sorted(), "{fences:?}");
    Ok(())
}

#[tokio::test]
async fn no_span_is_too_long() -> Outcome {
    let server = PostgresServer::shared()?;
    let store = store(&server).await?;
    let mut claim = claim_of(key("for ever")?);
    claim.lease = Duration::MAX;
    claim.unknown_for = Duration::MAX;
    let hold = granted(&store, &claim).await?;
    assert_eq!(store.renew(&[hold], Duration::MAX).await?, [StepOutcome::Applied]);
    assert_eq!(store.abandon(&hold, Duration::MAX).await?, StepOutcome::Applied);
    assert_eq!(store.count_unknown().await?, 1);
    claim.on_unknown = OnUnknown::TakeOver;
    claim.owner = Owner::random();
    let hold = granted(&store, &claim).await?;
    assert_eq!(store.complete(&hold, response("paid"), Duration::MAX).await?, StepOutcome::Applied);
    assert_eq!(store.claim(&claim).await?, ClaimOutcome::Replay(b"paid".to_vec()));
    Ok(())
}

/// The ways in which a handler ends that pays in one transaction.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Answered,
    RolledBack,
    /// The transaction was committed, and the handler did not learn of it.
    CommitUnanswered,
    /// Reported as a response instead of an error.
    RolledBackAndSaid,
    CommitUnansweredAndSaid,
}

type Answered = (u16, bool, String);

/// An idempotency layer around a handler with a given ending, and the ledger that it pays into.
struct Paying {
    _server: Arc<PostgresServer>,
    layer: IdempotencyLayer<PostgresStore, HeaderKey, SingleTenant, ReadHttp, RecordHttp>,
    store: PostgresStore,
    config: Config,
    ledger: Client,
}

impl Paying {
    async fn new() -> Outcome<Self> {
        let server = PostgresServer::shared()?;
        let config = schema(&server).await?;
        let store = PostgresStore::builder(config.clone()).build().await?;
        let ledger = connect(&config).await?;
        ledger.batch_execute("CREATE TABLE ledger (fence bigint)").await?;
        let layer = IdempotencyLayer::http(store.clone()).single_tenant().transactional();
        // Longer than the test, so a key that is free again was freed.
        let layer = layer.lease(LONG).lease_limit(LONG).build()?;
        Ok(Self { _server: server, layer, store, config, ledger })
    }

    async fn ask(&self, ending: Ending) -> Result<Answered, buttress::Error<io::Error>> {
        let (store, config) = (self.store.clone(), self.config.clone());
        let handler = service_fn(move |request: Request<_>| {
            let (store, config) = (store.clone(), config.clone());
            async move {
                let run = request.extensions().get::<Run>().expect("a guard").clone();
                let paid = pay_behind_the_layer(&store, &config, &run, ending).await;
                paid.map_err(buttress::Error::Service)
            }
        });
        let request = Request::post("/payments").header("idempotency-key", "paid behind the layer");
        let request = request.body(String::new()).map_err(io::Error::other)?;
        let response = self.layer.layer(handler).oneshot(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let replayed = head.headers.contains_key("idempotency-replayed");
        Ok((head.status.as_u16(), replayed, String::from_utf8_lossy(&body).into_owned()))
    }
}

async fn pay_behind_the_layer(
    store: &PostgresStore,
    config: &Config,
    run: &Run,
    ending: Ending,
) -> io::Result<Response<String>> {
    let mut client = connect(config).await.map_err(io::Error::other)?;
    let transaction = client.transaction().await.map_err(io::Error::other)?;
    let fence = i64::try_from(run.fence()).map_err(io::Error::other)?;
    let note = transaction.execute("INSERT INTO ledger VALUES ($1)", &[&fence]).await;
    note.map_err(io::Error::other)?;
    let response = Response::new(format!("paid under fence {fence}"));
    let recorded = RecordHttp::new().encode(&response);
    let written = store.complete_in(&transaction, &run.hold(), recorded, LONG).await;
    assert_eq!(written.map_err(io::Error::other)?, StepOutcome::Applied);
    match ending {
        Ending::RolledBack | Ending::RolledBackAndSaid => transaction.rollback().await,
        _ => transaction.commit().await,
    }
    .map_err(io::Error::other)?;
    match ending {
        Ending::Answered => Ok(response),
        Ending::RolledBack | Ending::CommitUnanswered => Err(io::Error::other("broken pipe")),
        Ending::RolledBackAndSaid | Ending::CommitUnansweredAndSaid => {
            let mut failed = Response::new("broken pipe".to_owned());
            *failed.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            failed.extensions_mut().insert(NotStarted);
            Ok(failed)
        }
    }
}

#[tokio::test]
async fn the_layer_does_not_undo_what_its_handler_has_recorded() -> Outcome {
    let paying = Paying::new().await?;
    let first = paying.ask(Ending::Answered).await?;
    assert_eq!((first.0, first.1), (200, false));
    let again = paying.ask(Ending::Answered).await?;
    assert_eq!(again, (200, true, first.2));
    assert_eq!(payments(&paying.ledger).await?, 1);
    let guard = paying.layer.handle();
    assert_eq!((guard.counts().lost_leases, guard.count_unknown().await?), (0, 0));
    Ok(())
}

#[tokio::test]
async fn a_handler_that_rolls_back_frees_its_key() -> Outcome {
    for ending in [Ending::RolledBack, Ending::RolledBackAndSaid] {
        let paying = Paying::new().await?;
        let failed = paying.ask(ending).await;
        assert!(failed.is_err() || failed.is_ok_and(|(status, ..)| status == 503), "{ending:?}");
        assert_eq!(payments(&paying.ledger).await?, 0, "{ending:?}");
        let (status, replayed, _) = paying.ask(Ending::Answered).await?;
        assert_eq!((status, replayed), (200, false), "{ending:?}");
        assert_eq!(payments(&paying.ledger).await?, 1, "{ending:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_commit_that_the_handler_was_not_told_of_is_replayed() -> Outcome {
    for ending in [Ending::CommitUnanswered, Ending::CommitUnansweredAndSaid] {
        let paying = Paying::new().await?;
        let failed = paying.ask(ending).await;
        assert!(failed.is_err() || failed.is_ok_and(|(status, ..)| status == 503), "{ending:?}");
        let (status, replayed, text) = paying.ask(Ending::Answered).await?;
        assert_eq!((status, replayed), (200, true), "{ending:?}");
        assert!(text.starts_with("paid under fence"), "{text}");
        assert_eq!(payments(&paying.ledger).await?, 1, "{ending:?}");
    }
    Ok(())
}
