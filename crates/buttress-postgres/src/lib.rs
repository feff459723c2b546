//! Stores the records of [buttress](mod@buttress)'s idempotency layer in PostgreSQL.
//!
//! Any number of processes can share the records. If the effect of an operation is in the same
//! database, it can be committed in one transaction with its record. It then happens exactly once.
//!
//! ```toml
//! [dependencies]
//! buttress = "0.1"
//! buttress-postgres = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! ```no_run
//! use buttress::idempotency::{IdempotencyLayer, Key, RequestKey};
//! use buttress_postgres::PostgresStore;
//!
//! type Payment = (&'static str, u64);
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let store = PostgresStore::builder("postgres://app@localhost/app".parse()?).build().await?;
//!     let layer = IdempotencyLayer::builder_fn(
//!         store,
//!         |payment: &Payment| Ok(RequestKey::Key(Key::new(payment.0)?)),
//!         |payment: &Payment, request| request.part(payment.1.to_be_bytes()),
//!     )
//!     .single_tenant()
//!     .build()?;
//!     println!("{layer:?}");
//!     Ok(())
//! }
//! ```
//!
//! For the records of HTTP requests, use `IdempotencyLayer::http(store)`, as the idempotency guide
//! of buttress does.
//!
//! See [`PostgresStore`] for its durability, its requirements and its schema.
//!
//! # Versions
//!
//! Version 0.1 works with buttress 0.1, which it re-exports as [`buttress`](mod@buttress), and
//! with [`tokio_postgres`] 0.7. It needs Rust 1.85. The re-export has the feature `http` only if
//! your own dependency on buttress enables it, which it does by default.

mod builder;
mod wire;

use std::time::Duration;

use buttress::idempotency::{
    Claim, ClaimMode, ClaimOutcome, Completed, Hold, OnUnknown, Owner, Resolution, StepOutcome,
    StorageKey, Store, StoreError, UnknownOperation,
};
use deadpool_postgres::{Object, Pool};
use tokio_postgres::{
    Row, Transaction,
    types::{ToSql, Type},
};

use self::wire::{decode_answer, decode_unknown, fence_sent, get, microseconds, refused};

pub use self::builder::{PostgresSetupError, PostgresStoreBuilder};
pub use buttress;

/// A store of idempotency records in PostgreSQL, for any number of processes.
///
/// Clones share a pool of connections.
///
/// ```no_run
/// use buttress_postgres::PostgresStore;
///
/// # async fn connect() -> Result<PostgresStore, Box<dyn std::error::Error>> {
/// let store = PostgresStore::builder("postgres://app@localhost/app".parse()?).build().await?;
/// # Ok(store)
/// # }
/// ```
///
/// # Durability
///
/// | may lose records on | keeps records through | required settings |
/// |---|---|---|
/// | failover to an asynchronous replica | `kill -9`, power loss | `fsync`, and the settings of the store's sessions |
///
/// The store sets these options of its sessions when it connects, whatever the defaults of the
/// database are:
///
/// - `synchronous_commit = on`,
/// - the isolation level READ COMMITTED,
/// - a limit of two seconds for waiting for a lock.
///
/// [`build`](PostgresStoreBuilder::build) checks `fsync` and the first two, and its error names the
/// setting that has another value. A pooler between the store and the server must therefore run in
/// session mode.
///
/// The store uses the server's clock, read after the record is locked. Fences come from a
/// sequence.
///
/// # Schema
///
/// The store uses a table `buttress_idempotency`, a sequence `buttress_fence`, and functions whose
/// names begin with `buttress_`. Each step is one statement that calls a function.
///
/// If the table is not in the `search_path` of the session,
/// [`build`](PostgresStoreBuilder::build) creates these objects under an advisory lock, in the
/// first schema of the `search_path`.
///
/// You can also create them beforehand with [`MIGRATION`](Self::MIGRATION), as a user with the
/// rights to do so. The store's own user then needs only SELECT, INSERT, UPDATE and DELETE on the
/// table, and USAGE on the sequence.
///
/// To keep them in a separate schema, create that schema and name it in the address:
/// `postgres://app@localhost/app?options=-csearch_path%3Dguard`. For
/// [`complete_in`](Self::complete_in), that schema must also be in the `search_path` of the
/// transaction.
///
/// # Clean-up
///
/// A record whose time has ended has no effect, but takes space until [`sweep`](Store::sweep)
/// removes it. A sweep finds these records by an index, stops at its limit and skips locked
/// records. Any number of processes may sweep at once. Only the disk bounds the number of records.
/// If the disk is full, steps fail with [`StoreError::Full`].
///
/// # Exactly once
///
/// An effect in the same database can be committed together with its record. See
/// [`complete_in`](Self::complete_in).
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pool: Pool,
}

const CLAIM: &str = "SELECT * FROM buttress_claim($1, $2, $3, $4, $5, $6, $7, $8)";
const MARK_STARTED: &str = "SELECT buttress_mark_started($1, $2, $3)";
const RENEW: &str = "SELECT buttress_renew($1, $2, $3, $4)";
const CHECKPOINT: &str = "SELECT buttress_checkpoint($1, $2, $3, $4)";
const COMPLETE: &str = "SELECT buttress_complete($1, $2, $3, $4, $5, $6)";
const RELEASE: &str = "SELECT buttress_release($1, $2, $3)";
const ABANDON: &str = "SELECT buttress_abandon($1, $2, $3, $4)";
const RESOLVE: &str = "SELECT buttress_resolve($1, $2, $3, $4, $5)";
const SWEEP: &str = "SELECT buttress_sweep($1)";

/// Selects the unknown operations, including started ones whose lease has ended.
///
/// It takes no lock and therefore never waits, so the start of the statement is the current time.
macro_rules! unknown_now {
    ($select:literal, $rest:literal) => {
        concat!(
            $select,
            " FROM buttress_idempotency WHERE state IN (2, 3, 5) AND version <= 1
              AND CASE state WHEN 5 THEN until > now()
                  ELSE until <= now() AND until + unknown_for > now() END",
            $rest
        )
    };
}
const UNKNOWN: &str = unknown_now!(
    "SELECT key, fence, buttress_microseconds(now() - CASE state WHEN 5 THEN since ELSE until END)",
    " AND key > $1 ORDER BY key LIMIT $2"
);
const COUNT_UNKNOWN: &str = unknown_now!("SELECT count(*)", "");

impl PostgresStore {
    /// The SQL that creates the schema. Run it once, in one transaction.
    pub const MIGRATION: &'static str = include_str!("0001.sql");

    /// Records a result in the transaction of its effect. The record is kept for `ttl` from now.
    ///
    /// The transaction commits both or neither. It must be on the same database as the store. Call
    /// this method as the last step before the commit.
    ///
    /// **Roll back unless it returns [`StepOutcome::Applied`]**. It returns [`StepOutcome::Stale`]
    /// if the record is no longer in flight under this hold:
    ///
    /// - the lease has ended,
    /// - another owner has claimed the operation,
    /// - the operation is already completed. This includes a completion by this hold, because an
    ///   effect whose commit got no response must not happen twice.
    ///
    /// Claim the operation again to learn which case it is.
    ///
    /// Claim such an operation as [`Reserved`](ClaimMode::Reserved), and never mark it as started.
    /// Nothing happens until the commit, so the key is free again if the worker is lost. The
    /// setting `transactional` of the idempotency layer does this.
    ///
    /// Until the transaction ends, other steps on this record wait for it, and fail after two
    /// seconds. While the lease is valid, a claim by another owner does not wait, and returns
    /// [`ClaimOutcome::InFlight`]. The commit waits for the disk even in a session whose
    /// `synchronous_commit` is off.
    ///
    /// # Errors
    ///
    /// Returns the same errors as the steps of a [`Store`]. The transaction must then be rolled
    /// back.
    pub async fn complete_in(
        &self,
        transaction: &Transaction<'_>,
        hold: &Hold,
        completed: Completed<Vec<u8>>,
        ttl: Duration,
    ) -> Result<StepOutcome, StoreError> {
        let row = transaction
            .query_typed_one(
                COMPLETE,
                &[
                    (&&hold.key.as_bytes()[..], Type::BYTEA),
                    (&&hold.owner.as_bytes()[..], Type::BYTEA),
                    (&fence_sent(hold.fence), Type::INT8),
                    (&completed.payload, Type::BYTEA),
                    (&microseconds(ttl), Type::INT8),
                    (&true, Type::BOOL),
                ],
            )
            .await
            .map_err(refused)?;
        written(&row)
    }

    /// Runs a step as one statement, which is prepared once for each connection.
    async fn step(
        &self,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let lent = Lent(Some(self.pool.get().await.map_err(StoreError::unavailable)?));
        let answer = match &lent.0 {
            // The rows arrive only when the server is ready for the next statement, so it has
            // committed.
            Some(connection) => match connection.prepare_cached(statement).await {
                Ok(statement) => connection.query(&statement, parameters).await,
                Err(error) => Err(error),
            },
            None => Ok(Vec::new()),
        };
        lent.give_back();
        answer.map_err(refused)
    }

    async fn step_one(
        &self,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, StoreError> {
        let mut rows = self.step(statement, parameters).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(StoreError::Garbled("a result that is not one row")),
        }
    }

    async fn write(
        &self,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<StepOutcome, StoreError> {
        written(&self.step_one(statement, parameters).await?)
    }
}

/// A connection on loan from the pool.
///
/// If the step is dropped before it ends, the connection is closed instead of returned. Otherwise
/// the next user would wait for the response to the dropped step.
struct Lent(Option<Object>);

impl Lent {
    fn give_back(mut self) {
        self.0 = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

fn written(row: &Row) -> Result<StepOutcome, StoreError> {
    Ok(applied(get(row, 0)?))
}

fn applied(applied: bool) -> StepOutcome {
    match applied {
        true => StepOutcome::Applied,
        false => StepOutcome::Stale,
    }
}

impl Store for PostgresStore {
    type Payload = Vec<u8>;

    async fn claim(&self, claim: &Claim) -> Result<ClaimOutcome<Vec<u8>>, StoreError> {
        let begins = match claim.mode {
            ClaimMode::Started => true,
            ClaimMode::Reserved => false,
        };
        let takes_over = match claim.on_unknown {
            OnUnknown::TakeOver => true,
            OnUnknown::Keep => false,
        };
        let row = self
            .step_one(
                CLAIM,
                &[
                    &&claim.key.as_bytes()[..],
                    &&claim.scope.as_bytes()[..],
                    &&claim.owner.as_bytes()[..],
                    &&claim.fingerprint.to_bytes()[..],
                    &begins,
                    &takes_over,
                    &microseconds(claim.lease),
                    &microseconds(claim.unknown_for),
                ],
            )
            .await?;
        decode_answer(&row)
    }

    async fn mark_started(&self, hold: &Hold) -> Result<StepOutcome, StoreError> {
        self.write(
            MARK_STARTED,
            &[&&hold.key.as_bytes()[..], &&hold.owner.as_bytes()[..], &fence_sent(hold.fence)],
        )
        .await
    }

    async fn renew(&self, holds: &[Hold], lease: Duration) -> Result<Vec<StepOutcome>, StoreError> {
        if holds.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<&[u8]> = holds.iter().map(|hold| &hold.key.as_bytes()[..]).collect();
        let owners: Vec<&[u8]> = holds.iter().map(|hold| &hold.owner.as_bytes()[..]).collect();
        let fences: Vec<i64> = holds.iter().map(|hold| fence_sent(hold.fence)).collect();
        let row = self.step_one(RENEW, &[&keys, &owners, &fences, &microseconds(lease)]).await?;
        let renewed: Vec<bool> = get(&row, 0)?;
        if renewed.len() != holds.len() {
            return Err(StoreError::Garbled("a different number of results than leases"));
        }
        Ok(renewed.into_iter().map(applied).collect())
    }

    async fn checkpoint(
        &self,
        hold: &Hold,
        checkpoint: Vec<u8>,
    ) -> Result<StepOutcome, StoreError> {
        self.write(
            CHECKPOINT,
            &[
                &&hold.key.as_bytes()[..],
                &&hold.owner.as_bytes()[..],
                &fence_sent(hold.fence),
                &checkpoint,
            ],
        )
        .await
    }

    async fn complete(
        &self,
        hold: &Hold,
        completed: Completed<Vec<u8>>,
        ttl: Duration,
    ) -> Result<StepOutcome, StoreError> {
        self.write(
            COMPLETE,
            &[
                &&hold.key.as_bytes()[..],
                &&hold.owner.as_bytes()[..],
                &fence_sent(hold.fence),
                &completed.payload,
                &microseconds(ttl),
                &false,
            ],
        )
        .await
    }

    async fn release(
        &self,
        key: &StorageKey,
        owner: &Owner,
        unknown_for: Duration,
    ) -> Result<StepOutcome, StoreError> {
        self.write(
            RELEASE,
            &[&&key.as_bytes()[..], &&owner.as_bytes()[..], &microseconds(unknown_for)],
        )
        .await
    }

    async fn abandon(&self, hold: &Hold, unknown_for: Duration) -> Result<StepOutcome, StoreError> {
        self.write(
            ABANDON,
            &[
                &&hold.key.as_bytes()[..],
                &&hold.owner.as_bytes()[..],
                &fence_sent(hold.fence),
                &microseconds(unknown_for),
            ],
        )
        .await
    }

    async fn resolve(
        &self,
        key: &StorageKey,
        fence: u64,
        resolution: Resolution<Vec<u8>>,
    ) -> Result<StepOutcome, StoreError> {
        let (done, payload, ttl) = match resolution {
            Resolution::Completed(completed, ttl) => (true, completed.payload, ttl),
            Resolution::Never => (false, None, Duration::ZERO),
        };
        self.write(
            RESOLVE,
            &[&&key.as_bytes()[..], &fence_sent(fence), &done, &payload, &microseconds(ttl)],
        )
        .await
    }

    async fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Result<Vec<UnknownOperation>, StoreError> {
        let after: &[u8] = after.as_ref().map_or(&[], |after| after.as_bytes());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.step(UNKNOWN, &[&after, &limit]).await?.iter().map(decode_unknown).collect()
    }

    async fn count_unknown(&self) -> Result<u64, StoreError> {
        let count: i64 = get(&self.step_one(COUNT_UNKNOWN, &[]).await?, 0)?;
        u64::try_from(count).map_err(|_| StoreError::Garbled("a negative count"))
    }

    async fn sweep(&self, limit: usize) -> Result<usize, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let swept: i64 = get(&self.step_one(SWEEP, &[&limit]).await?, 0)?;
        usize::try_from(swept).map_err(|_| StoreError::Garbled("a negative count"))
    }
}

/// Runs the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
