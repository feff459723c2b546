//! The store while its server, a table, a record or a pooler does not behave, with real servers.

use std::{
    collections::BTreeSet,
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use buttress::idempotency::{
    Claim, ClaimMode, ClaimOutcome, Fingerprint, Key, Owner, ScopeId, StorageKey, Store, StoreError,
};
use buttress_postgres::{PostgresSetupError, PostgresStore};
use futures::FutureExt;
use test_servers::PostgresServer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, Config, NoTls};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The default timeout of a step in the layer.
const STEP: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(5);

/// Creates an empty schema for the tables of one test, whose name its sessions have, too.
async fn schema(server: &PostgresServer, name: &str) -> Outcome<Config> {
    let mut config: Config = server.url().parse()?;
    connect(&config).await?.batch_execute(&format!("CREATE SCHEMA {name}")).await?;
    config.application_name(name).options(format!("-c search_path={name}"));
    Ok(config)
}

/// Opens a connection past the store.
async fn connect(config: &Config) -> Outcome<Client> {
    let mut config = config.clone();
    config
        .application_name(format!("past {}", config.get_application_name().unwrap_or("buttress")));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn claim_of(name: &str) -> Outcome<Claim> {
    let key = StorageKey::of(b"tenant", &[], &Key::new(name)?);
    let fingerprint = Fingerprint::from_bytes([1; 33]);
    Ok(Claim::new(key, ScopeId::of(b"tenant"), Owner::random(), fingerprint))
}

/// Claims keys of their own, each for at most `patience`, until `done`.
fn crowd(
    store: &PostgresStore,
    callers: usize,
    patience: Duration,
    done: &Arc<AtomicBool>,
) -> JoinSet<Outcome> {
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let (store, done) = (store.clone(), Arc::clone(done));
        running.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let claim = claim_of(&format!("caller {caller}"))?;
                let _ = timeout(patience, store.claim(&claim)).await;
            }
            Ok(())
        });
    }
    running
}

/// Returns the process ids of the store's sessions that are in a state.
async fn sessions(observer: &Client, state: &str) -> Outcome<BTreeSet<i32>> {
    let query = "SELECT pid FROM pg_stat_activity WHERE state LIKE $1
                 AND 'past ' || application_name = current_setting('application_name')";
    let rows = observer.query(query, &[&state]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Returns the largest number of sessions of the store in a span of time.
async fn most_sessions(observer: &Client, span: Duration) -> Outcome<usize> {
    let (began, mut most) = (Instant::now(), 0);
    while began.elapsed() < span {
        most = most.max(sessions(observer, "%").await?.len());
        sleep(GLANCE).await;
    }
    Ok(most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_table_gets_at_most_twice_the_backends_of_the_pool() -> Outcome {
    let server = PostgresServer::shared()?;
    let config = schema(&server, "locked_table").await?;
    let store = PostgresStore::builder(config.clone()).connections(4).build().await?;
    let (observer, mut locker) = (connect(&config).await?, connect(&config).await?);
    let done = Arc::default();

    let lock = locker.transaction().await?;
    lock.batch_execute("LOCK TABLE buttress_idempotency").await?;
    // These callers give up before the server does.
    let mut running = crowd(&store, 32, Duration::from_millis(100), &done);
    let most = most_sessions(&observer, 2 * STEP).await?;
    lock.rollback().await?;

    // A backend that has ended its statement exits while the next one starts.
    assert!((1..=8).contains(&most), "{most}");
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let answer = timeout(STEP, store.claim(&claim_of("afterwards")?)).await??;
    assert!(matches!(answer, ClaimOutcome::Claimed { .. }), "{answer:?}");
    Ok(())
}

/// Leaves a record whose lease has ended, and that a transaction of `client` keeps locked.
async fn lock_record(store: &PostgresStore, client: &Client, name: &str) -> Outcome {
    let mut claim = claim_of(name)?;
    claim.mode = ClaimMode::Reserved;
    claim.lease = Duration::ZERO;
    store.claim(&claim).await?;
    client.batch_execute("BEGIN; SELECT 1 FROM buttress_idempotency FOR UPDATE").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_key_does_not_make_the_claims_of_others_wait() -> Outcome {
    let server = PostgresServer::shared()?;
    let config = schema(&server, "locked_key").await?;
    let store = PostgresStore::builder(config.clone()).build().await?;
    let locker = connect(&config).await?;
    lock_record(&store, &locker, "locked").await?;
    let mut waiting = JoinSet::new();
    for _ in 0..64 {
        let store = store.clone();
        waiting.spawn(async move {
            Outcome::Ok(timeout(STEP, store.claim(&claim_of("locked")?)).await??)
        });
    }
    let observer = connect(&config).await?;
    while sessions(&observer, "active").await?.is_empty() {
        sleep(GLANCE).await;
    }

    let began = Instant::now();
    for number in 0..16 {
        let answer = store.claim(&claim_of(&format!("free {number}"))?).await?;
        assert!(matches!(answer, ClaimOutcome::Claimed { .. }), "{answer:?}");
    }

    let took = began.elapsed();
    assert!(took < STEP / 2, "{took:?}");
    assert!(waiting.try_join_next().is_none());
    Ok(())
}

#[tokio::test]
async fn the_server_ends_a_step_before_its_caller_gives_up() -> Outcome {
    let server = PostgresServer::shared()?;
    let config = schema(&server, "ended").await?;
    let store = PostgresStore::builder(config.clone()).build().await?;
    let locker = connect(&config).await?;
    lock_record(&store, &locker, "locked").await?;

    let ended = timeout(STEP, store.claim(&claim_of("locked")?)).await?;

    let Err(StoreError::Unavailable(cause)) = ended else { return Err("not ended".into()) };
    let cause = cause.source().ok_or("no cause")?.to_string();
    assert!(cause.contains("lock timeout"), "{cause}");

    // What waits for no lock has a limit, too.
    locker.batch_execute("ROLLBACK").await?;
    let slow = "CREATE OR REPLACE FUNCTION buttress_sweep(p_limit bigint) RETURNS bigint
                LANGUAGE sql AS 'SELECT 1::bigint FROM pg_sleep(60)'";
    locker.batch_execute(slow).await?;
    assert!(matches!(timeout(STEP, store.sweep(1)).await?, Err(StoreError::Unavailable(_))));
    Ok(())
}

#[tokio::test]
async fn a_step_that_is_dropped_is_cancelled() -> Outcome {
    let server = PostgresServer::shared()?;
    let config = schema(&server, "dropped").await?;
    let patient = PostgresStore::builder(config.clone()).step_timeout(60 * STEP);
    let store = patient.connections(1).build().await?;
    let (observer, locker) = (connect(&config).await?, connect(&config).await?);
    lock_record(&store, &locker, "locked").await?;

    let step = timeout(Duration::from_millis(50), store.claim(&claim_of("locked")?)).await;

    assert!(step.is_err());
    let began = Instant::now();
    while !sessions(&observer, "active").await?.is_empty() {
        assert!(began.elapsed() < STEP);
        sleep(GLANCE).await;
    }
    let answer = store.claim(&claim_of("free")?).await?;
    assert!(matches!(answer, ClaimOutcome::Claimed { .. }), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn callers_that_leave_cost_no_connection() -> Outcome {
    let server = PostgresServer::shared()?;
    let config = schema(&server, "leaving").await?;
    let store = PostgresStore::builder(config.clone()).connections(1).build().await?;
    let observer = connect(&config).await?;
    store.claim(&claim_of("prepared")?).await?;
    let before = sessions(&observer, "%").await?;

    for number in 0..20 {
        let claim = claim_of(&format!("left {number}"))?;
        // Sent, and dropped before its response can arrive.
        assert!(store.claim(&claim).now_or_never().is_none());
        store.count_unknown().await?;
    }

    assert_eq!(sessions(&observer, "%").await?, before);
    Ok(())
}

/// The behaviour of a pooler for each connection.
#[derive(Clone, Copy)]
enum Pooler {
    Forwards,
    /// Forwards everything but the startup parameter `options`.
    DropsOptions,
    RejectsOptions,
    /// Accepts connections and never responds.
    Hangs,
}

/// A program between the store and the server.
struct Between {
    config: Config,
    pooler: Arc<Mutex<Pooler>>,
    accepted: Arc<AtomicUsize>,
    running: Arc<Mutex<JoinSet<()>>>,
    /// Swallows everything on the open connections from then on.
    silence: Arc<Notify>,
}

impl Between {
    async fn start(server: &PostgresServer, pooler: Pooler) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = server.url();
        let (_, address) = address.split_once('@').ok_or("no address")?;
        let address = address.split('/').next().ok_or("no address")?.to_owned();
        let port = listener.local_addr()?.port();
        let config = format!("postgres://postgres@127.0.0.1:{port}/postgres").parse()?;
        let between = Self {
            config,
            pooler: Arc::new(Mutex::new(pooler)),
            accepted: Arc::default(),
            running: Arc::default(),
            silence: Arc::default(),
        };
        let (pooler, accepted, running) =
            (between.pooler.clone(), between.accepted.clone(), between.running.clone());
        let silence = between.silence.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let (pooler, address) = (*pooler.lock().unwrap(), address.clone());
                let silence = silence.clone();
                running.lock().unwrap().spawn(async move {
                    let _ = serve(client, &address, pooler, &silence).await;
                });
            }
        });
        Ok(between)
    }
}

async fn serve(mut client: TcpStream, server: &str, pooler: Pooler, silence: &Notify) -> Outcome {
    let length = client.read_u32().await?;
    let mut startup = vec![0; length as usize - 4];
    client.read_exact(&mut startup).await?;
    match pooler {
        Pooler::Forwards => {}
        Pooler::DropsOptions => {
            let (version, parameters) = startup.split_at(4);
            let parts: Vec<&[u8]> = parameters.split(|byte| *byte == 0).collect();
            let kept =
                parts.chunks_exact(2).filter(|pair| ![&b"options"[..], b""].contains(&pair[0]));
            let kept = kept.flat_map(|pair| [pair[0], &[0], pair[1], &[0]].concat());
            startup = version.iter().copied().chain(kept).chain([0]).collect();
        }
        Pooler::RejectsOptions => {
            let message = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
            client.write_all(b"E").await?;
            client.write_u32(u32::try_from(message.len() + 4)?).await?;
            client.write_all(message).await?;
            return Ok(());
        }
        Pooler::Hangs => return std::future::pending().await,
    }
    let mut server = TcpStream::connect(server).await?;
    server.write_u32(u32::try_from(startup.len() + 4)?).await?;
    server.write_all(&startup).await?;
    tokio::select! {
        copied = copy_bidirectional(&mut client, &mut server) => drop(copied?),
        () = silence.notified() => std::future::pending().await,
    }
    Ok(())
}

#[tokio::test]
async fn steps_that_are_dropped_while_they_connect_leave_no_connections_behind() -> Outcome {
    let server = PostgresServer::shared()?;
    let between = Between::start(&server, Pooler::Forwards).await?;
    let store = PostgresStore::builder(between.config.clone()).connections(2).build().await?;
    *between.pooler.lock().unwrap() = Pooler::Hangs;
    between.running.lock().unwrap().abort_all();
    // The connection from before is closed, and is found closed at the latest by a first step.
    let _ = store.count_unknown().now_or_never();

    for _ in 0..20 {
        let steps = [store.count_unknown(), store.count_unknown(), store.count_unknown()];
        let left = timeout(Duration::from_millis(10), futures::future::join_all(steps)).await;
        assert!(left.is_err());
    }

    let connecting = between.accepted.load(Ordering::Relaxed) - 1;
    assert!((1..=2).contains(&connecting), "{connecting}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_gets_no_more_than_two_connections_for_each_one_of_the_pool() -> Outcome {
    let server = PostgresServer::start()?;
    let between = Between::start(&server, Pooler::Forwards).await?;
    let store = PostgresStore::builder(between.config.clone()).connections(4).build().await?;
    let done = Arc::default();

    server.pause()?;
    let mut running = crowd(&store, 32, Duration::from_millis(50), &done);
    sleep(2 * STEP).await;
    done.store(true, Ordering::Relaxed);
    let accepted = between.accepted.load(Ordering::Relaxed);
    server.resume()?;

    // The first one was idle. Its step is cancelled by a request on another one, and it is
    // replaced after a second.
    assert!((2..=6).contains(&accepted), "{accepted}");
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let answer = store.claim(&claim_of("afterwards")?).await?;
    assert!(matches!(answer, ClaimOutcome::Claimed { .. }), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn connections_that_fall_silent_are_replaced_within_seconds() -> Outcome {
    let server = PostgresServer::shared()?;
    let between = Between::start(&server, Pooler::Forwards).await?;
    let store = PostgresStore::builder(between.config.clone()).connections(4).build().await?;
    futures::future::try_join_all((0..4).map(|_| store.count_unknown())).await?;
    let opened = between.accepted.load(Ordering::Relaxed);
    assert_eq!(opened, 4);

    between.silence.notify_waiters();

    // The first of them gets another one while the second step waits, and so do the idle ones.
    let mut failed = 0;
    while timeout(3 * STEP / 2, store.count_unknown()).await.is_err() {
        failed += 1;
        assert!(failed <= 2, "not replaced");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_never_ends_its_statements_gets_twice_the_connections_of_the_pool() -> Outcome
{
    let server = PostgresServer::shared()?;
    let between = Between::start(&server, Pooler::Forwards).await?;
    let store = PostgresStore::builder(between.config.clone()).connections(1).build().await?;

    let began = Instant::now();
    let mut waits = 0;
    while began.elapsed() < 5 * STEP {
        between.silence.notify_waiters();
        waits += usize::from(timeout(STEP / 10, store.count_unknown()).await.is_err());
    }

    // The first connection, one that replaces it, and a cancel request for each of them.
    let accepted = between.accepted.load(Ordering::Relaxed);
    assert!((3..=4).contains(&accepted), "{accepted} with {waits}");
    Ok(())
}

#[tokio::test]
async fn a_pooler_that_does_not_pass_the_options_on_is_named() -> Outcome {
    let server = PostgresServer::start()?;
    let rejecting = Between::start(&server, Pooler::RejectsOptions).await?;
    let refused = PostgresStore::builder(rejecting.config.clone()).build().await;
    assert!(matches!(refused, Err(PostgresSetupError::OptionsRejected(_))), "{refused:?}");

    let dropping = Between::start(&server, Pooler::DropsOptions).await?;
    let refused = PostgresStore::builder(dropping.config.clone()).build().await;
    let Err(PostgresSetupError::OptionDropped { setting, found, needed }) = refused else {
        return Err(format!("{refused:?}").into());
    };
    assert_eq!((setting, &*found, &*needed), ("statement_timeout", "0", "900"));

    // The options of the role are those of every session.
    let client = connect(&server.url().parse()?).await?;
    client.batch_execute("ALTER ROLE postgres SET statement_timeout = '900ms'").await?;
    client.batch_execute("ALTER ROLE postgres SET lock_timeout = '810ms'").await?;
    PostgresStore::builder(dropping.config.clone()).build().await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_falls_silent_does_not_delay_build_beyond_its_limit() -> Outcome {
    let server = PostgresServer::start()?;
    let config = server.url().parse()?;
    let mut client = connect(&config).await?;
    let lock = client.transaction().await?;
    // The migration waits for it, and by then the connection is open.
    lock.batch_execute("SELECT pg_advisory_xact_lock(7094704831476364147)").await?;
    let between = Between::start(&server, Pooler::Forwards).await?;
    let limit = STEP / 4;
    let building = PostgresStore::builder(between.config.clone()).connect_timeout(limit).build();
    let building = tokio::spawn(building);
    let observer = connect(&config).await?;
    let waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    while observer.query(waiting, &[]).await?.is_empty() {
        sleep(GLANCE).await;
    }

    between.silence.notify_waiters();

    let built = timeout(8 * limit, building).await??;
    assert!(matches!(built, Err(PostgresSetupError::Server(_))), "{built:?}");
    Ok(())
}

#[tokio::test]
async fn the_options_in_the_address_are_kept_beside_our_own() -> Outcome {
    let server = PostgresServer::shared()?;
    let address =
        format!("{}?options=-cstatement_timeout%3D0%20-csearch_path%3Dmine", server.url());
    let config: Config = address.parse()?;
    let client = connect(&config).await?;
    client.batch_execute("CREATE SCHEMA mine").await?;

    // It would not be built with the timeout of the address.
    PostgresStore::builder(config).build().await?;

    client.batch_execute("SELECT 1 FROM mine.buttress_idempotency").await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_must_be_reached_by_tls_is_an_error_that_says_so() -> Outcome {
    let server = PostgresServer::shared()?;
    let config: Config = format!("{}?sslmode=require", server.url()).parse()?;
    let error = PostgresStore::builder(config).build().await.err().ok_or("built")?;
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain = format!("{chain}: {cause}");
        source = cause.source();
    }
    assert!(chain.contains("TLS"), "{chain}");
    Ok(())
}
