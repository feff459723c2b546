//! The check of a schema that exists already, against a server that the test starts.

use std::error::Error;

use buttress_postgres::{PostgresSetupError, PostgresStore};
use test_servers::PostgresServer;
use tokio_postgres::{Config, NoTls};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Changes to the schema, and what the error must name.
const HARMFUL: [(&str, &str); 18] = [
    (
        "ALTER TABLE buttress_idempotency SET UNLOGGED",
        "found `table buttress_idempotency: unlogged`",
    ),
    ("ALTER SEQUENCE buttress_fence SET UNLOGGED", "found `sequence buttress_fence: unlogged`"),
    ("ALTER TABLE buttress_idempotency ENABLE ROW LEVEL SECURITY", "permanent, row security`"),
    (
        "ALTER TABLE buttress_idempotency DROP COLUMN checkpoint",
        "missing `column checkpoint bytea`",
    ),
    (
        "ALTER TABLE buttress_idempotency ALTER COLUMN payload TYPE text USING NULL",
        "missing `column payload bytea`, found `column payload text`",
    ),
    (
        "ALTER TABLE buttress_idempotency ALTER COLUMN owner DROP NOT NULL",
        "missing `column owner bytea not null`, found `column owner bytea`",
    ),
    (
        "ALTER TABLE buttress_idempotency ADD COLUMN mine int NOT NULL",
        "found `column mine integer not null`",
    ),
    (
        "ALTER TABLE buttress_idempotency DROP CONSTRAINT buttress_idempotency_pkey",
        "missing `primary key using btree (key)`",
    ),
    ("DROP INDEX buttress_idempotency_until", "missing `index using btree (until)`"),
    ("DROP INDEX buttress_idempotency_unknown", "missing `index using btree (key) WHERE"),
    (
        "CREATE UNIQUE INDEX ON buttress_idempotency (scope)",
        "found `unique index using btree (scope)`",
    ),
    ("DROP SEQUENCE buttress_fence", "missing `sequence buttress_fence: permanent`"),
    ("ALTER SEQUENCE buttress_fence CACHE 10", "found `sequence of bigint by 1, cache 10`"),
    ("ALTER SEQUENCE buttress_fence INCREMENT -1", "found `sequence of bigint by -1, cache 1`"),
    ("DROP FUNCTION buttress_sweep", "missing `function buttress_sweep` with this body"),
    (
        "CREATE OR REPLACE FUNCTION buttress_span(microseconds bigint) RETURNS interval
         LANGUAGE sql IMMUTABLE AS $$ SELECT interval '0' $$",
        "missing `function buttress_span` with this body",
    ),
    (
        "CREATE OR REPLACE FUNCTION buttress_span(microseconds bigint) RETURNS interval
         LANGUAGE sql IMMUTABLE AS $$ SELECT microseconds -- * interval '1 microsecond'
         * interval '1 second' $$",
        "missing `function buttress_span` with this body",
    ),
    (
        "DROP INDEX buttress_idempotency_unknown; CREATE INDEX ON buttress_idempotency (key)
         WITH (fillfactor = 90) WHERE state IN (2, 3)",
        "missing `index using btree (key) WHERE",
    ),
];

/// Changes that no step of the store notices.
const HARMLESS: [&str; 9] = [
    "CREATE INDEX ON buttress_idempotency (scope)",
    "ALTER TABLE buttress_idempotency ADD COLUMN note text",
    "ALTER TABLE buttress_idempotency ADD COLUMN made timestamptz NOT NULL DEFAULT now()",
    "ALTER TABLE buttress_idempotency ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE buttress_idempotency ADD COLUMN size int NOT NULL
     GENERATED ALWAYS AS (octet_length(key)) STORED",
    "DROP INDEX buttress_idempotency_until;
     CREATE INDEX renamed ON buttress_idempotency (until) WITH (fillfactor = 90)",
    "DROP INDEX buttress_idempotency_unknown;
     CREATE INDEX ON buttress_idempotency (key) WITH (fillfactor = 90) WHERE state IN (2, 3, 5)",
    "ALTER INDEX buttress_idempotency_pkey SET (fillfactor = 90, deduplicate_items = off)",
    "CREATE OR REPLACE FUNCTION buttress_span(microseconds bigint) RETURNS interval
     LANGUAGE sql IMMUTABLE AS $$ -- A comment.
     SELECT microseconds /* of the
     client */ * interval '1 microsecond' -- Another one.
     $$",
];

/// Creates a schema of the given name with the migration, and makes a change to it.
async fn changed(server: &PostgresServer, name: &str, change: &str) -> Outcome<Config> {
    let mut config: Config = server.url().parse()?;
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    let migration = PostgresStore::MIGRATION;
    let script = format!(
        "CREATE SCHEMA {name}; SET search_path = {name}; BEGIN; {migration}; COMMIT; {change}"
    );
    client.batch_execute(&script).await?;
    config.options(format!("-c search_path={name}"));
    Ok(config)
}

#[tokio::test]
async fn a_schema_that_the_migration_does_not_make_is_refused_and_the_difference_named() -> Outcome
{
    let server = PostgresServer::start()?;
    for (number, (change, named)) in HARMFUL.into_iter().enumerate() {
        let config = changed(&server, &format!("harmful{number}"), change).await?;
        match PostgresStore::builder(config.clone()).build().await {
            Err(PostgresSetupError::Schema(difference)) => {
                assert!(difference.contains(named), "{change}: {difference}");
            }
            other => return Err(format!("{change}: {other:?}").into()),
        }
        let accepting_loss = PostgresStore::builder(config).accept_loss().build().await;
        assert_eq!(accepting_loss.is_ok(), change.ends_with("UNLOGGED"), "{change}");
    }
    for (number, change) in HARMLESS.into_iter().enumerate() {
        let config = changed(&server, &format!("harmless{number}"), change).await?;
        let built = PostgresStore::builder(config).build().await;
        assert!(built.is_ok(), "{change}: {built:?}");
    }
    Ok(())
}
