//! Connects, checks what the promise rests on, and makes the schema.

use std::{fmt, time::Duration};

use buttress::{BoxError, ConfigError};
use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{
    Config, NoTls, Socket,
    tls::{MakeTlsConnect, TlsConnect},
};

use crate::PostgresStore;

/// Whoever makes the schema has this lock: two that connect to an empty database at once do not collide.
const MIGRATION_LOCK: i64 = 0x6275_7474_7265_7373;

/// Sent as a connection begins, so that it costs no trip. Every statement of ours finds its rows by an
/// index: the last keeps a plan that was made for a small table from reading all of what it has become.
const SESSION: &str = "-c synchronous_commit=on \
                       -c default_transaction_isolation=read\\ committed \
                       -c lock_timeout=2s \
                       -c enable_seqscan=off";

/// The most that PostgreSQL accepts as `max_connections`.
const MOST_CONNECTIONS: u32 = 262_143;

impl PostgresStore {
    /// Returns the builder of a store on a server. A [`Config`] is parsed from an address, or built.
    pub fn builder(config: tokio_postgres::Config) -> PostgresStoreBuilder {
        PostgresStoreBuilder {
            config,
            connections: 16,
            connect_timeout: Duration::from_secs(5),
            accept_loss: false,
            tls: NoTls,
        }
    }
}

/// Sets up a [`PostgresStore`].
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct PostgresStoreBuilder<T = NoTls> {
    config: Config,
    connections: u32,
    connect_timeout: Duration,
    accept_loss: bool,
    tls: T,
}

/// The error returned when a [`PostgresStore`] could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresSetupError {
    /// A setting of the builder cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server, or our session on it, is set so that the store's promise would not hold.
    #[error(
        "the server has `{setting} = {found}`, but acknowledged records are only kept \
         with `{needed}`: change it, or call `accept_loss()`"
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
    #[error("the store could not be set up")]
    Server(#[source] BoxError),
}

impl PostgresSetupError {
    fn server(error: impl Into<BoxError>) -> Self {
        Self::Server(error.into())
    }
}

impl<T> PostgresStoreBuilder<T> {
    /// Sets the maximum number of connections.
    ///
    /// Default: `16`.
    ///
    /// From 1 to 262143, the most that a server accepts. Steps that find all of them in use wait for
    /// one.
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// Sets the time limit of a step for its turn, and then for connecting.
    ///
    /// Default: 5 s each.
    ///
    /// After it the store is [unavailable](buttress::idempotency::StoreError::Unavailable) for the
    /// step. It must be longer than zero.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Accepts a server that is set so that it may lose what it has acknowledged.
    ///
    /// Default: off.
    ///
    /// An operation may then run twice.
    pub fn accept_loss(mut self) -> Self {
        self.accept_loss = true;
        self
    }

    /// Sets the TLS connector, such as that of `postgres-native-tls` or `tokio-postgres-rustls`.
    ///
    /// Default: [`NoTls`].
    ///
    /// The `sslmode` of the configuration says whether TLS is used.
    pub fn tls<U>(self, tls: U) -> PostgresStoreBuilder<U> {
        let Self { config, connections, connect_timeout, accept_loss, tls: _ } = self;
        PostgresStoreBuilder { config, connections, connect_timeout, accept_loss, tls }
    }

    /// Connects, checks the server, and makes the schema if it is not there.
    ///
    /// # Errors
    ///
    /// If a setting is invalid, the server cannot be reached, its settings do not hold what the store
    /// promises, or the schema cannot be made.
    pub async fn build(mut self) -> Result<PostgresStore, PostgresSetupError>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let connections = ConfigError::require_nonzero("connections", self.connections)?;
        if connections > MOST_CONNECTIONS {
            let rule = "it must be at most 262143, the most that a server accepts";
            return Err(ConfigError::new("connections", connections, rule).into());
        }
        let patience = ConfigError::require_positive("connect_timeout", self.connect_timeout)?;
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
        let pool = Pool::builder(Manager::from_config(self.config, self.tls, recycling))
            .max_size(connections as usize)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(patience))
            .create_timeout(Some(patience))
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

impl<T> fmt::Debug for PostgresStoreBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStoreBuilder")
            .field("config", &self.config)
            .field("connections", &self.connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("accept_loss", &self.accept_loss)
            .finish_non_exhaustive()
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
