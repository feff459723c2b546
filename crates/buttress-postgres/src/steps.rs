//! The steps of the store. Each is one statement that calls a function of the schema.

use std::time::Duration;

use buttress::idempotency::{
    Claim, ClaimMode, ClaimOutcome, Completed, Hold, OnUnknown, Owner, Resolution, StepOutcome,
    StorageKey, Store, StoreError, UnknownOperation,
};
use tokio_postgres::{
    Row, Transaction,
    types::{ToSql, Type},
};

use crate::{
    PostgresStore,
    wire::{decode_answer, decode_unknown, fence_sent, get, microseconds, refused},
};

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
    /// Until the transaction ends, other steps on this record wait for it, and fail after the
    /// [`step_timeout`](crate::PostgresStoreBuilder::step_timeout). While the lease is valid, a
    /// claim by another owner does not wait, and returns [`InFlight`](ClaimOutcome::InFlight).
    /// The commit waits for the disk even in a session whose `synchronous_commit` is off.
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

    /// Runs a step as one statement. A step on a single record names its key.
    async fn step(
        &self,
        key: Option<&StorageKey>,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let mut lease = self.pool.lease(key).await.map_err(StoreError::unavailable)?;
        lease.query(statement, parameters).await.map_err(refused)
    }

    async fn step_one(
        &self,
        key: Option<&StorageKey>,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, StoreError> {
        let mut rows = self.step(key, statement, parameters).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(StoreError::Garbled("a result that is not one row")),
        }
    }

    async fn write(
        &self,
        key: &StorageKey,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<StepOutcome, StoreError> {
        written(&self.step_one(Some(key), statement, parameters).await?)
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
                Some(&claim.key),
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
            &hold.key,
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
        let row =
            self.step_one(None, RENEW, &[&keys, &owners, &fences, &microseconds(lease)]).await?;
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
            &hold.key,
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
            &hold.key,
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
            key,
            RELEASE,
            &[&&key.as_bytes()[..], &&owner.as_bytes()[..], &microseconds(unknown_for)],
        )
        .await
    }

    async fn abandon(&self, hold: &Hold, unknown_for: Duration) -> Result<StepOutcome, StoreError> {
        self.write(
            &hold.key,
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
            key,
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
        self.step(None, UNKNOWN, &[&after, &limit]).await?.iter().map(decode_unknown).collect()
    }

    async fn count_unknown(&self) -> Result<u64, StoreError> {
        let count: i64 = get(&self.step_one(None, COUNT_UNKNOWN, &[]).await?, 0)?;
        u64::try_from(count).map_err(|_| StoreError::Garbled("a negative count"))
    }

    async fn sweep(&self, limit: usize) -> Result<usize, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let swept: i64 = get(&self.step_one(None, SWEEP, &[&limit]).await?, 0)?;
        usize::try_from(swept).map_err(|_| StoreError::Garbled("a negative count"))
    }
}
