//! Connects, checks what the promise rests on, and makes the schema.

use std::{num::NonZeroUsize, time::Duration};

use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{
    Config, NoTls, Socket,
    tls::{MakeTlsConnect, TlsConnect},
};

use super::PostgresStore;
use crate::BoxError;

/// Whoever makes the schema has this lock: two that connect to an empty database at once do not collide.
const MIGRATION_LOCK: i64 = 0x6275_7474_7265_7373;

/// Sent as a connection begins, so that it costs no trip. Every statement of ours finds its rows by an
/// index: the last keeps a plan that was made for a small table from reading all of what it has become.
const SESSION: &str = "-c synchronous_commit=on \
                       -c default_transaction_isolation=read\\ committed \
                       -c lock_timeout=2s \
                       -c enable_seqscan=off";

impl PostgresStore {
    /// Connects to a server. A [`Config`] is parsed from an address, or built.
    pub fn builder(config: tokio_postgres::Config) -> PostgresStoreBuilder {
        PostgresStoreBuilder::new(config)
    }
}

/// Makes a [`PostgresStore`].
#[derive(Clone, Debug)]
#[must_use = "call `build`"]
pub struct PostgresStoreBuilder {
    config: Config,
    connections: NonZeroUsize,
    connect_timeout: Duration,
    accept_loss: bool,
}

/// Why a [`PostgresStore`] could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresSetupError {
    /// The server, or our session on it, is set so that the store's promise would not hold.
    #[error(
        "the server has `{setting} = {found}`, where `{needed}` is needed to keep what was \
         acknowledged: change it, or call `accept_loss()`"
    )]
    Forgetful {
        /// Which setting.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it has to be.
        needed: &'static str,
    },
    /// The server could not be reached, or refused to make the schema.
    #[error("the store could not be made ready")]
    Server(#[source] BoxError),
}

impl PostgresSetupError {
    fn server(error: impl Into<BoxError>) -> Self {
        Self::Server(error.into())
    }
}

impl PostgresStoreBuilder {
    pub(super) fn new(config: Config) -> Self {
        const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(16).unwrap();
        Self {
            config,
            connections: CONNECTIONS,
            connect_timeout: Duration::from_secs(5),
            accept_loss: false,
        }
    }

    /// How many connections there may be at once, 16 by default. Steps that find all of them in use wait for
    /// one.
    pub fn connections(mut self, connections: NonZeroUsize) -> Self {
        self.connections = connections;
        self
    }

    /// For how long a step may wait for its turn, and then for how long until it is connected: 5 s each by
    /// default. After that it finds the store [unavailable](crate::idempotency::StoreError::Unavailable).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Uses the server also if it is set so that it may lose what it has acknowledged. Then an operation may
    /// run twice.
    pub fn accept_loss(mut self) -> Self {
        self.accept_loss = true;
        self
    }

    /// Connects without TLS, checks the server, and makes the schema if it is not there.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, its settings do not hold what the store promises, or the schema
    /// cannot be made.
    pub async fn build(self) -> Result<PostgresStore, PostgresSetupError> {
        self.build_with_tls(NoTls).await
    }

    /// As [`build`](Self::build), with TLS if the server and the `sslmode` of the configuration want it.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub async fn build_with_tls<T>(mut self, tls: T) -> Result<PostgresStore, PostgresSetupError>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        // Behind what the user has set, so that ours is what holds.
        let options = match self.config.get_options() {
            Some(options) => format!("{options} {SESSION}"),
            None => SESSION.to_owned(),
        };
        self.config.options(options);
        if self.config.get_application_name().is_none() {
            self.config.application_name("buttress");
        }
        if self.config.get_tcp_user_timeout().is_none() {
            // A host that is gone would keep its connections busy for a quarter of an hour.
            self.config.tcp_user_timeout(Duration::from_secs(30));
        }

        // To try each connection out before it is used would be a trip more for each step.
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let pool = Pool::builder(Manager::from_config(self.config, tls, recycling))
            .max_size(self.connections.get())
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(self.connect_timeout))
            .create_timeout(Some(self.connect_timeout))
            .build()
            .map_err(PostgresSetupError::server)?;
        let mut client = pool.get().await.map_err(PostgresSetupError::server)?;
        if !self.accept_loss {
            check(&client).await?;
        }
        migrate(&mut client).await.map_err(PostgresSetupError::server)?;
        drop(client);
        Ok(PostgresStore { pool })
    }
}

/// Whether what the store promises holds on this server. A pooler between may have left out what we set.
async fn check(client: &Client) -> Result<(), PostgresSetupError> {
    for (setting, needed) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("default_transaction_isolation", "read committed"),
    ] {
        let found = client
            .query_one("SELECT current_setting($1)", &[&setting])
            .await
            .and_then(|row| row.try_get::<_, String>(0))
            .map_err(PostgresSetupError::server)?;
        if found != needed {
            return Err(PostgresSetupError::Forgetful { setting, found, needed });
        }
    }
    Ok(())
}

/// Makes the schema, unless it is there.
async fn migrate(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
    // A statement of its own, so that it sees what the holder of the lock before us has committed.
    let there: bool = transaction
        .query_one("SELECT to_regclass('buttress_idempotency') IS NOT NULL", &[])
        .await?
        .try_get(0)?;
    if !there {
        transaction.batch_execute(PostgresStore::MIGRATION).await?;
    }
    transaction.commit().await
}
