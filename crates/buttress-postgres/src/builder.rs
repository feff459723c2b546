//! The builder of a store, which connects, checks the settings and creates the schema.

use std::{fmt, time::Duration};

use buttress::{BoxError, ConfigError};
use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{
    Config, NoTls, Socket,
    tls::{MakeTlsConnect, TlsConnect},
};

use crate::PostgresStore;

/// The lock held while creating the schema, so that two stores do not create it at once.
const MIGRATION_LOCK: i64 = 0x6275_7474_7265_7373;

/// The options of every session, sent when a connection starts, which costs no round trip.
///
/// Every statement of the store can find its rows by an index. `enable_seqscan=off` prevents a
/// plan that was made for a small table from scanning the grown table.
const SESSION: &str = "-c synchronous_commit=on \
                       -c default_transaction_isolation=read\\ committed \
                       -c lock_timeout=2s \
                       -c enable_seqscan=off";

/// The largest value that PostgreSQL accepts as `max_connections`.
const MOST_CONNECTIONS: u32 = 262_143;

impl PostgresStore {
    /// Returns a builder for a store on the server of `config`.
    ///
    /// Parse a [`Config`] from an address, or build one. If it does not set them, the store sets
    /// the `application_name` to `buttress` and the `tcp_user_timeout` to 30 s.
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

/// A builder for a [`PostgresStore`].
///
/// [`build`](Self::build) returns [`PostgresSetupError::Config`] for an invalid setting.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct PostgresStoreBuilder<T = NoTls> {
    config: Config,
    connections: u32,
    connect_timeout: Duration,
    accept_loss: bool,
    tls: T,
}

/// The error returned when a [`PostgresStore`] cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresSetupError {
    /// A setting of the builder is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting of the server, or of the store's session, may lose acknowledged records.
    #[error(
        "the server has `{setting} = {found}`, but acknowledged records are only kept \
         with `{needed}`: change it, or call `accept_loss()`"
    )]
    Forgetful {
        /// The name of the setting.
        setting: &'static str,
        /// The value that it has.
        found: String,
        /// The value that it must have.
        needed: &'static str,
    },
    /// The server cannot be reached, or the schema cannot be created.
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
    /// It must be between 1 and 262143, the maximum that a server accepts. A step waits for a
    /// connection while all of them are in use.
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// Sets the time limit for waiting for a free connection, and for opening a new one.
    ///
    /// Default: `5 s`. The limit applies to each of the two.
    ///
    /// It must be longer than zero. After the limit, the step fails with
    /// [`StoreError::Unavailable`](buttress::idempotency::StoreError::Unavailable).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Skips the check of the settings, and accepts a server that may lose acknowledged records.
    ///
    /// Default: off. [`build`](Self::build) checks the settings.
    ///
    /// Without the check, an operation whose record is lost can run twice.
    pub fn accept_loss(mut self) -> Self {
        self.accept_loss = true;
        self
    }

    /// Sets the TLS connector, for example from `postgres-native-tls` or `tokio-postgres-rustls`.
    ///
    /// Default: `NoTls`, which does not support TLS.
    ///
    /// The `sslmode` of the configuration decides whether TLS is used.
    pub fn tls<U>(self, tls: U) -> PostgresStoreBuilder<U> {
        let Self { config, connections, connect_timeout, accept_loss, tls: _ } = self;
        PostgresStoreBuilder { config, connections, connect_timeout, accept_loss, tls }
    }

    /// Connects to the server, checks its settings, and creates the schema if it does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if:
    ///
    /// - a setting of the builder is invalid,
    /// - the server cannot be reached,
    /// - a setting of the server or the session does not keep acknowledged records, unless
    ///   [`accept_loss`](Self::accept_loss) is set,
    /// - the schema cannot be created.
    ///
    /// # Panics
    ///
    /// Panics when polled outside a Tokio runtime with the I/O and time drivers enabled.
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
        // Appended to the user's options, because the last value of an option wins.
        let options = match self.config.get_options() {
            Some(options) => format!("{options} {SESSION}"),
            None => SESSION.to_owned(),
        };
        self.config.options(options);
        if self.config.get_application_name().is_none() {
            self.config.application_name("buttress");
        }
        if self.config.get_tcp_user_timeout().is_none() {
            // Otherwise a host that is gone would keep its connections busy for about 15 minutes.
            self.config.tcp_user_timeout(Duration::from_secs(30));
        }

        // Checking each connection before use would cost a round trip for each step.
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

/// Checks that the settings keep acknowledged records. A pooler may have dropped the options.
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

/// Creates the schema if it does not exist.
async fn migrate(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
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
