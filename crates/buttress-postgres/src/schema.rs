//! The creation of the schema.

use std::time::Duration;

use tokio_postgres::{Client, Error};

use crate::PostgresStore;

/// The lock held while creating the schema, so that two stores do not create it at once.
const MIGRATION_LOCK: i64 = 0x6275_7474_7265_7373;

/// Creates the schema if it does not exist.
pub(crate) async fn prepare(client: &mut Client, patience: Duration) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    // The timeouts of the session are for single steps.
    let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX).max(1);
    let limits =
        format!("SET LOCAL statement_timeout = {patience}; SET LOCAL lock_timeout = {patience}");
    transaction.batch_execute(&limits).await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
    // A separate statement, because it must see the commit of the previous holder of the lock.
    let there: bool = transaction
        .query_one("SELECT to_regclass('buttress_idempotency') IS NOT NULL", &[])
        .await?
        .try_get(0)?;
    if !there {
        transaction.batch_execute(PostgresStore::MIGRATION).await?;
    }
    transaction.commit().await
}
