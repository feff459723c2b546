//! Moves money exactly once: the transfer and the record of its key are committed in one transaction.
//!
//! Clients send each transfer until they are answered. Workers crash before the commit, crash after it, and
//! come back when their lease is long over. In the end each transfer has moved money once, which the books
//! show; the program fails if they do not.
//!
//! It starts a PostgreSQL server of its own: `cargo run --features postgres --example exactly_once_postgres`

#[path = "support/postgres_server.rs"]
mod postgres_server;

use std::{
    error::Error,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use buttress::idempotency::{
    Answer, Claim, ClaimMode, Completed, Fingerprint, Hold, Key, Owner, ScopeId, StorageKey, Store,
    Written, store::PostgresStore,
};
use postgres_server::PostgresServer;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tokio_postgres::{Client, Config, NoTls};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const TRANSFERS: u32 = 40;
const AMOUNT: i64 = 5;
const LEASE: Duration = Duration::from_millis(200);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What goes wrong in the first worker that a transfer gets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    /// Money has been moved, and the result recorded, but neither is committed.
    CrashBeforeCommit,
    /// All is committed, but nobody is told.
    CrashAfterCommit,
    /// The worker stops, and goes on when somebody else has done the work.
    Late,
}

/// What a worker says, if it lives to say it.
#[derive(Debug, PartialEq)]
enum Reply {
    Done(Vec<u8>),
    Replayed(Vec<u8>),
    TryAgain(Duration),
    Crashed,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let server = PostgresServer::start()?;
    let bank = Bank::open(server.url().parse()?).await?;
    let mut clients = JoinSet::new();
    for fault in [Fault::Nothing, Fault::CrashBeforeCommit, Fault::CrashAfterCommit, Fault::Late] {
        for client in 0..2 {
            let bank = bank.clone();
            clients.spawn(async move {
                for transfer in 0..TRANSFERS / 8 {
                    bank.client(transfer * 8 + client * 4 + fault as u32, fault).await?;
                }
                Outcome::Ok(())
            });
        }
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    bank.close_the_books().await
}

#[derive(Clone)]
struct Bank {
    database: Config,
    store: PostgresStore,
}

/// How often each of the faults was met.
static CRASHED_BEFORE: AtomicU32 = AtomicU32::new(0);
static CRASHED_AFTER: AtomicU32 = AtomicU32::new(0);
static REPLAYED: AtomicU32 = AtomicU32::new(0);
static ROLLED_BACK: AtomicU32 = AtomicU32::new(0);

impl Bank {
    async fn open(database: Config) -> Outcome<Self> {
        let store = PostgresStore::builder(database.clone()).build().await?;
        let bank = Self { database, store };
        let (client, _) = bank.connect().await?;
        // Nothing but the guard keeps a transfer from being in the ledger twice.
        client
            .batch_execute(
                "CREATE TABLE account (name text PRIMARY KEY, balance bigint NOT NULL);
                 INSERT INTO account VALUES ('alice', 1000), ('bob', 0);
                 CREATE TABLE ledger (transfer int NOT NULL, amount bigint NOT NULL)",
            )
            .await?;
        Ok(bank)
    }

    async fn connect(&self) -> Outcome<(Client, JoinHandle<()>)> {
        let (client, connection) = self.database.connect(NoTls).await?;
        let running = tokio::spawn(async move {
            // The client is told of what ends the connection.
            let _ = connection.await;
        });
        Ok((client, running))
    }

    /// Sends a transfer until it is answered, and then once more.
    async fn client(&self, number: u32, fault: Fault) -> Outcome<()> {
        let late = match fault {
            Fault::Late => {
                let claim = claim(number)?;
                let Answer::Claimed { fence, .. } = self.store.claim(&claim).await? else {
                    return Err("a new key must be free".into());
                };
                Some(Hold::new(claim.key, claim.owner, fence))
            }
            Fault::Nothing => None,
            Fault::CrashBeforeCommit | Fault::CrashAfterCommit => {
                while let Reply::TryAgain(after) = self.worker(number, fault).await? {
                    sleep(after).await;
                }
                None
            }
        };
        let first = self.ask(number).await?;
        if let Some(hold) = late {
            let reply = self.transfer(number, &hold, Fault::Nothing).await?;
            if reply != Reply::TryAgain(Duration::ZERO) {
                return Err(format!("transfer {number}: a late worker has said {reply:?}").into());
            }
        }
        match first == self.ask(number).await? {
            true => Ok(()),
            false => Err(format!("transfer {number} has two answers").into()),
        }
    }

    async fn ask(&self, number: u32) -> Outcome<Vec<u8>> {
        loop {
            match self.worker(number, Fault::Nothing).await? {
                Reply::Done(answer) => return Ok(answer),
                Reply::Replayed(answer) => {
                    REPLAYED.fetch_add(1, Ordering::Relaxed);
                    return Ok(answer);
                }
                Reply::TryAgain(after) => sleep(after).await,
                Reply::Crashed => {}
            }
        }
    }

    /// Takes a request: claims its key, and does what it asks for unless that has been done.
    async fn worker(&self, number: u32, fault: Fault) -> Outcome<Reply> {
        let claim = claim(number)?;
        match self.store.claim(&claim).await? {
            Answer::Claimed { fence, .. } => {
                self.transfer(number, &Hold::new(claim.key, claim.owner, fence), fault).await
            }
            Answer::Replay(answer) => Ok(Reply::Replayed(answer)),
            Answer::InFlight { lease_left, .. } => Ok(Reply::TryAgain(lease_left)),
            other => Err(format!("transfer {number}: {other:?}").into()),
        }
    }

    /// Moves the money and records the answer, both or neither.
    async fn transfer(&self, number: u32, hold: &Hold, fault: Fault) -> Outcome<Reply> {
        let (mut client, connection) = self.connect().await?;
        let transaction = client.transaction().await?;
        for (name, amount) in [("alice", -AMOUNT), ("bob", AMOUNT)] {
            let change = "UPDATE account SET balance = balance + $2 WHERE name = $1";
            transaction.execute(change, &[&name, &amount]).await?;
        }
        let note = "INSERT INTO ledger VALUES ($1::bigint::int, $2)";
        transaction.execute(note, &[&i64::from(number), &AMOUNT]).await?;

        // Different in each run, so that two runs cannot look like one.
        let answer = format!("transfer {number}, done under fence {}", hold.fence).into_bytes();
        let completed = Completed::replayable(answer.clone(), answer.len());
        match self.store.complete_in(&transaction, hold, completed, DAY).await? {
            Written::Applied => {}
            Written::Stale => {
                transaction.rollback().await?;
                ROLLED_BACK.fetch_add(1, Ordering::Relaxed);
                return Ok(Reply::TryAgain(Duration::ZERO));
            }
        }
        if fault == Fault::CrashBeforeCommit {
            // The connection breaks off, and with it the transaction.
            connection.abort();
            CRASHED_BEFORE.fetch_add(1, Ordering::Relaxed);
            return Ok(Reply::Crashed);
        }
        transaction.commit().await?;
        if fault == Fault::CrashAfterCommit {
            CRASHED_AFTER.fetch_add(1, Ordering::Relaxed);
            return Ok(Reply::Crashed);
        }
        Ok(Reply::Done(answer))
    }

    /// Says what has been moved, and fails if that is not what was asked for.
    async fn close_the_books(&self) -> Outcome<()> {
        let (client, _) = self.connect().await?;
        let balances = "SELECT
            (SELECT balance FROM account WHERE name = 'alice'),
            (SELECT balance FROM account WHERE name = 'bob')";
        let row = client.query_one(balances, &[]).await?;
        let (alice, bob): (i64, i64) = (row.get(0), row.get(1));
        let entries = "SELECT count(*), count(DISTINCT transfer) FROM ledger";
        let row = client.query_one(entries, &[]).await?;
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
        if [&CRASHED_BEFORE, &CRASHED_AFTER, &ROLLED_BACK]
            .into_iter()
            .any(|count| met(count) < each)
        {
            return Err("not every fault was met".into());
        }
        Ok(())
    }
}

/// Nothing is started before the commit, so a worker that is lost frees the key: reserved.
fn claim(number: u32) -> Outcome<Claim> {
    let tenant = b"the bank";
    let key = Key::new(format!("transfer-{number}"))?;
    let key = StorageKey::of(tenant, &[b"POST", b"/transfers"], &key);
    // Of what the request says; here the number says it all.
    let mut fingerprint = [0; 33];
    fingerprint[1..5].copy_from_slice(&number.to_be_bytes());
    let fingerprint = Fingerprint::from_bytes(fingerprint);
    let mut claim = Claim::new(key, ScopeId::of(tenant), Owner::random(), fingerprint);
    claim.mode = ClaimMode::Reserved;
    claim.lease = LEASE;
    Ok(claim)
}
