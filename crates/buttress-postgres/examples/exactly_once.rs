//! Moves money exactly once: a transfer and its record are committed in one transaction.
//!
//! Clients send each transfer until they get a response. Workers crash before the commit, crash
//! after it, or continue long after their lease has ended. At the end the books show that each
//! transfer has moved money once. The program fails otherwise.
//!
//! It starts its own PostgreSQL server:
//!
//! ```sh
//! cargo run -p buttress-postgres --example exactly_once
//! ```

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use buttress::{
    BoxError, Stack,
    http::{
        HttpServerLayer,
        idempotency::{NotStarted, RecordHttp},
    },
    idempotency::{IdempotencyLayer, Run, StepOutcome},
};
use buttress_postgres::PostgresStore;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use test_servers::PostgresServer;
use tokio::{
    runtime,
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, Config, NoTls};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The handler of transfers. It shares its store with the idempotency layer.
#[derive(Clone)]
struct Bank {
    database: Config,
    store: PostgresStore,
    faults: Faults,
}

impl Bank {
    /// Handles a request that has passed the idempotency layer.
    async fn answer<B>(self, request: Request<B>) -> Response<String> {
        // The idempotency layer has inserted the run.
        let Some(run) = request.extensions().get::<Run>() else {
            return answer(StatusCode::INTERNAL_SERVER_ERROR, "no guard".to_owned());
        };
        match self.transfer(request.uri().path(), run).await {
            Ok(response) => response,
            // After any error, the client may try again. If nothing was committed, this frees the
            // key. If the transaction was committed and only the response to the commit was lost,
            // the record stays and is replayed.
            Err(error) => {
                let mut failed = answer(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
                failed.extensions_mut().insert(NotStarted);
                failed
            }
        }
    }

    /// Moves the money and records the response in one transaction.
    async fn transfer(&self, path: &str, run: &Run) -> Result<Response<String>, BoxError> {
        let mut client = connect(&self.database).await?;
        self.faults.meet(Point::Begun).await;
        // Dropping the transaction without a commit rolls it back.
        let transaction = client.transaction().await?;
        for (name, amount) in [("alice", -AMOUNT), ("bob", AMOUNT)] {
            let change = "UPDATE account SET balance = balance + $2 WHERE name = $1";
            transaction.execute(change, &[&name, &amount]).await?;
        }
        transaction.execute("INSERT INTO ledger VALUES ($1, $2)", &[&path, &AMOUNT]).await?;

        // The text is different in each run, so that two runs cannot look like one.
        let text = format!("{path}: done under fence {}", run.fence());
        let response = answer(StatusCode::CREATED, text);
        let recorded = RecordHttp::new().encode(&response);
        match self.store.complete_in(&transaction, &run.hold(), recorded, DAY).await? {
            StepOutcome::Applied => {}
            StepOutcome::Stale => {
                transaction.rollback().await?;
                self.faults.meet(Point::Stale).await;
                return Err("somebody else has done it, or does".into());
            }
        }
        self.faults.meet(Point::BeforeCommit).await;
        transaction.commit().await?;
        self.faults.meet(Point::AfterCommit).await;
        Ok(response)
    }
}

fn answer(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response
}

async fn connect(database: &Config) -> Result<Client, BoxError> {
    let (client, connection) = database.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Builds a server: the idempotency layer around the bank.
async fn serve(database: Config, faults: Faults) -> Result<Server, BoxError> {
    let store = PostgresStore::builder(database.clone()).build().await?;
    let guard = IdempotencyLayer::http(store.clone())
        .single_tenant()
        .transactional()
        .lease(LEASE)
        .store_timeout(LEASE / 2)
        .build()?;
    let bank = Bank { database, store, faults };
    let handler = service_fn(move |request: Request<_>| {
        // The handler runs in its own task, which the layer does not stop when the lease ends.
        // Only the transaction then prevents an effect of a late worker.
        let work = tokio::spawn(bank.clone().answer(request));
        async move {
            let lost = || answer(StatusCode::INTERNAL_SERVER_ERROR, "panicked".to_owned());
            Ok::<_, Infallible>(work.await.unwrap_or_else(|_| lost()))
        }
    });
    let server = HttpServerLayer::builder(Stack::new()).outside(guard).build()?.layer(handler);
    let whole = service_fn(move |request: Request<String>| {
        let server = server.clone();
        async move {
            let (head, body) = server.oneshot(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        }
    });
    Ok(BoxCloneSyncService::new(whole))
}

type Server = BoxCloneSyncService<Request<String>, Response<Bytes>, BoxError>;

// The rest of this file injects the faults and runs the clients.

const TRANSFERS: u32 = 40;
const AMOUNT: i64 = 5;
const LEASE: Duration = Duration::from_millis(200);
/// The time limit for each fault to occur.
const PATIENCE: Duration = Duration::from_secs(20);

/// The fault of the first worker that gets a transfer.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Nothing,
    /// The money is moved and the result recorded, but neither is committed.
    CrashBeforeCommit,
    /// The transaction is committed, but the client gets no response.
    CrashAfterCommit,
    /// The worker stops, and continues after another worker has done the work.
    Late,
}

/// A point that a worker has reached.
#[derive(Clone, Copy)]
enum Point {
    Begun,
    BeforeCommit,
    AfterCommit,
    Stale,
}

/// Makes a worker fail at its point.
#[derive(Clone)]
struct Faults {
    fault: Fault,
    /// Notified when the worker reaches its point.
    ///
    /// A late worker notifies it a second time, when its hold is stale.
    met: Arc<Notify>,
}

impl Faults {
    fn new(fault: Fault) -> Self {
        Self { fault, met: Arc::default() }
    }

    async fn meet(&self, point: Point) {
        let counter = match (self.fault, point) {
            (Fault::CrashBeforeCommit, Point::BeforeCommit) => &CRASHED_BEFORE,
            (Fault::CrashAfterCommit, Point::AfterCommit) => &CRASHED_AFTER,
            (Fault::Late, Point::Begun) => {
                self.met.notify_one();
                // This blocks the only thread of the worker, so its lease is not renewed either.
                thread::sleep(3 * LEASE);
                return;
            }
            (Fault::Late, Point::Stale) => {
                ROLLED_BACK.fetch_add(1, Ordering::Relaxed);
                self.met.notify_one();
                return;
            }
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.met.notify_one();
        pending().await
    }
}

/// The number of times that each event occurred.
static CRASHED_BEFORE: AtomicU32 = AtomicU32::new(0);
static CRASHED_AFTER: AtomicU32 = AtomicU32::new(0);
static ROLLED_BACK: AtomicU32 = AtomicU32::new(0);
static REPLAYED: AtomicU32 = AtomicU32::new(0);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let postgres = PostgresServer::start()?;
    let database: Config = postgres.url().parse()?;
    let books = connect(&database).await?;
    // Only the idempotency layer keeps a transfer from being in the ledger twice.
    books
        .batch_execute(
            "CREATE TABLE account (name text PRIMARY KEY, balance bigint NOT NULL);
             INSERT INTO account VALUES ('alice', 1000), ('bob', 0);
             CREATE TABLE ledger (transfer text NOT NULL, amount bigint NOT NULL)",
        )
        .await?;
    let server = serve(database.clone(), Faults::new(Fault::Nothing)).await?;
    let mut clients = JoinSet::new();
    for fault in [Fault::Nothing, Fault::CrashBeforeCommit, Fault::CrashAfterCommit, Fault::Late] {
        let (server, database) = (server.clone(), database.clone());
        clients.spawn(async move {
            for round in 0..TRANSFERS / 4 {
                client(&server, &database, round * 4 + fault as u32, fault).await?;
            }
            Ok::<_, BoxError>(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    close_the_books(&books).await
}

/// The runtime of a worker. It is dropped within a task, where it must not wait for its tasks.
struct Worker(Option<runtime::Runtime>);

impl Worker {
    fn spawn<F: Future<Output: Send> + Send + 'static>(&self, work: F) {
        if let Some(runtime) = &self.0 {
            drop(runtime.spawn(work));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Sends a transfer to a faulty worker, then to a good one until it responds, and then once more.
async fn client(
    server: &Server,
    database: &Config,
    number: u32,
    fault: Fault,
) -> Result<(), BoxError> {
    let faults = Faults::new(fault);
    // The worker is like a separate process. When it ends, its tasks end, and the store does not
    // learn of it.
    let worker =
        Worker(Some(runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?));
    if fault != Fault::Nothing {
        let (server, request) = (serve(database.clone(), faults.clone()), request(number)?);
        worker.spawn(async move { server.await?.oneshot(request).await });
        timeout(PATIENCE, faults.met.notified()).await?;
    }
    let first;
    if fault == Fault::Late {
        first = ask(server, number).await?;
        timeout(PATIENCE, faults.met.notified()).await?;
        drop(worker);
    } else {
        drop(worker);
        first = ask(server, number).await?;
    }
    match first == ask(server, number).await? {
        true => Ok(()),
        false => Err(format!("transfer {number} has two answers").into()),
    }
}

fn request(number: u32) -> Result<Request<String>, http::Error> {
    let request = Request::post(format!("/transfers/{number}"));
    request.header("idempotency-key", format!("\"transfer-{number}\"")).body(String::new())
}

/// Sends the request until it gets the final response.
async fn ask(server: &Server, number: u32) -> Result<Bytes, BoxError> {
    loop {
        let response = server.clone().oneshot(request(number)?).await?;
        match response.status() {
            StatusCode::CREATED => {
                if response.headers().contains_key("idempotency-replayed") {
                    REPLAYED.fetch_add(1, Ordering::Relaxed);
                }
                return Ok(response.into_body());
            }
            // The response says when to retry, but that is later than necessary here.
            _ if response.headers().contains_key("retry-after") => sleep(LEASE / 10).await,
            status => return Err(format!("transfer {number}: {status}").into()),
        }
    }
}

/// Prints the sums, and fails if they differ from the transfers.
async fn close_the_books(books: &Client) -> Result<(), BoxError> {
    let balances = "SELECT
        (SELECT balance FROM account WHERE name = 'alice'),
        (SELECT balance FROM account WHERE name = 'bob')";
    let row = books.query_one(balances, &[]).await?;
    let (alice, bob): (i64, i64) = (row.get(0), row.get(1));
    let entries = "SELECT count(*), count(DISTINCT transfer) FROM ledger";
    let row = books.query_one(entries, &[]).await?;
    let (moves, transfers): (i64, i64) = (row.get(0), row.get(1));
    let met = |count: &AtomicU32| count.load(Ordering::Relaxed);
    println!(
        "summary {{\"asked\": {TRANSFERS}, \"transfers\": {transfers}, \"moves\": {moves}, \
         \"alice\": {alice}, \"bob\": {bob}, \"crashed_before_commit\": {}, \
         \"crashed_after_commit\": {}, \"rolled_back\": {}, \"replayed\": {}}}",
        met(&CRASHED_BEFORE),
        met(&CRASHED_AFTER),
        met(&ROLLED_BACK),
        met(&REPLAYED),
    );
    let asked = i64::from(TRANSFERS);
    let moved = asked * AMOUNT;
    if (transfers, moves, alice, bob) != (asked, asked, 1000 - moved, moved) {
        return Err("the books do not add up".into());
    }
    let each = TRANSFERS / 4;
    if [&CRASHED_BEFORE, &CRASHED_AFTER, &ROLLED_BACK].into_iter().any(|count| met(count) < each) {
        return Err("not every fault was met".into());
    }
    Ok(())
}
