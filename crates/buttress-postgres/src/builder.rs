//! The builder of a store, which connects, checks the settings and creates the schema.

use std::{fmt, time::Duration};

use buttress::ConfigError;
use deadpool_postgres::{Manager, ManagerConfig, QueueMode, RecyclingMethod, Runtime};
use tokio::time::timeout;
use tokio_postgres::{
    Config, NoTls, Socket,
    tls::{MakeTlsConnect, TlsConnect},
};

use crate::{
    PostgresStore,
    error::PostgresSetupError,
    pool::{NoConnection, Pool},
    schema,
    session::Session,
};

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
            step_timeout: Duration::from_millis(900),
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
    step_timeout: Duration,
    accept_loss: bool,
    tls: T,
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
    /// Default: `5 s`. The limit applies to each of the two. After it has connected,
    /// [`build`](Self::build) has twice as long to check the settings and to prepare the schema.
    ///
    /// It must be longer than zero. After the limit, the step fails with
    /// [`StoreError::Unavailable`](buttress::idempotency::StoreError::Unavailable).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the time limit of a step on the server, including its waits for locks.
    ///
    /// Default: `900 ms`, just below the default `store_timeout` of the idempotency layer. The
    /// server then ends a step that its caller no longer waits for.
    ///
    /// Set it just below that timeout if you change it. It must be between 1 ms and 24 days, the
    /// limit of the server, which counts whole milliseconds. It becomes the `statement_timeout` of
    /// the store's sessions, and nine tenths of it become their `lock_timeout`. It also limits a
    /// [`sweep`](buttress::idempotency::Store::sweep), whose limit must be small enough for it.
    pub fn step_timeout(mut self, timeout: Duration) -> Self {
        self.step_timeout = timeout;
        self
    }

    /// Skips the check of the settings, and accepts a server that may lose acknowledged records.
    ///
    /// Default: off. [`build`](Self::build) checks the settings.
    ///
    /// It also accepts an unlogged table and sequence, whose records are gone after a crash.
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
        let Self { config, connections, connect_timeout, step_timeout, accept_loss, tls: _ } = self;
        PostgresStoreBuilder {
            config,
            connections,
            connect_timeout,
            step_timeout,
            accept_loss,
            tls,
        }
    }

    /// Connects to the server, checks its settings, and creates or checks the schema.
    ///
    /// # Errors
    ///
    /// Returns an error if:
    ///
    /// - a setting of the builder is invalid,
    /// - the server cannot be reached,
    /// - a setting of the server or the session does not keep acknowledged records, unless
    ///   [`accept_loss`](Self::accept_loss) is set,
    /// - a pooler drops or rejects the options of the sessions,
    /// - the schema cannot be created,
    /// - the schema exists, but is not the one that the migration creates. Additional indexes and
    ///   nullable columns of your own are accepted.
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
        let session = Session::new(self.step_timeout)?;
        // Appended to the user's options, because the last value of an option wins.
        let options = match self.config.get_options() {
            Some(options) => format!("{options} {}", session.options()),
            None => session.options(),
        };
        self.config.options(options);
        if self.config.get_application_name().is_none() {
            self.config.application_name("buttress");
        }
        if self.config.get_tcp_user_timeout().is_none() {
            // Otherwise a host that is gone would keep its connections busy for about 15 minutes.
            self.config.tcp_user_timeout(Duration::from_secs(30));
        }

        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(self.config, self.tls.clone(), recycling);
        let pool = deadpool_postgres::Pool::builder(manager)
            .max_size(connections as usize)
            // The connection of the last step has its statements prepared.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(patience))
            .build()
            .map_err(|error| PostgresSetupError::Server(error.into()))?;
        let mut first = pool.get().await.map_err(NoConnection::Failed)?;
        let preparing = async {
            session.check(&first, self.accept_loss).await?;
            Ok::<_, PostgresSetupError>(schema::prepare(&mut first, patience).await?)
        };
        // The server ends a statement after half of it, with an error that says more.
        let limit = patience.saturating_mul(2);
        let found = timeout(limit, preparing).await.map_err(|_| NoConnection::Late)??;
        drop(first);
        if let Some(difference) = schema::difference(&found, self.accept_loss) {
            return Err(PostgresSetupError::Schema(difference));
        }
        Ok(PostgresStore { pool: Pool::new(pool, self.tls, patience) })
    }
}

impl<T> fmt::Debug for PostgresStoreBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStoreBuilder")
            .field("config", &self.config)
            .field("connections", &self.connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("step_timeout", &self.step_timeout)
            .field("accept_loss", &self.accept_loss)
            .finish_non_exhaustive()
    }
}
