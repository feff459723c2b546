//! The builder of a store, and the checks of the server's settings.

use std::{collections::HashMap, sync::Arc, time::Duration};

use buttress::{BoxError, ConfigError, idempotency::StoreError};
use redis::{Pipeline, from_redis_value};

use crate::{RedisStore, connection::Connection, keys::Keys};

/// The settings that keep an acknowledged record when the server is killed.
const NEEDED: [(&str, &str); 3] =
    [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")];

/// The error returned when a [`RedisStore`] cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisSetupError {
    /// A setting of the builder is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address is not a valid Redis URL.
    #[error("the address of the server is invalid: {0}")]
    Url(#[source] BoxError),
    /// The server cannot be reached.
    #[error("the server cannot be reached: {0}")]
    Unavailable(#[source] BoxError),
    /// The server does not let `CONFIG GET` read its settings, so its durability is not known.
    #[error(
        "the server does not let `CONFIG GET` read its settings, which must be `appendonly yes`, \
         `appendfsync always` and `maxmemory-policy noeviction`; \
         `accept_loss()` does without the check: {0}"
    )]
    Unchecked(#[source] BoxError),
    /// The server is configured to lose records that it has acknowledged.
    #[error(
        "the server's `{setting}` is `{found}`, but it must be `{needed}`, or records that it has \
         acknowledged may be lost and operations run twice; `accept_loss()` takes that risk"
    )]
    Forgetful {
        /// The name of the server's setting.
        setting: &'static str,
        /// The value that the server has.
        found: String,
        /// The value that it must have.
        needed: &'static str,
    },
}

impl RedisStore {
    /// Returns a builder for a store on the server at `url`.
    ///
    /// Example: `redis://:password@host:6379/0`.
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url.into())
    }
}

/// A builder for a [`RedisStore`].
///
/// [`build`](Self::build) returns [`RedisSetupError::Config`] for an invalid setting.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct RedisStoreBuilder {
    url: String,
    prefix: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    accept_loss: bool,
}

impl RedisStoreBuilder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            prefix: "buttress:".to_owned(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(2),
            accept_loss: false,
        }
    }

    /// Sets the prefix of the names of all keys, which lets several stores share a server.
    ///
    /// Default: `buttress:`.
    ///
    /// It must not contain braces, because they decide in which slot a cluster keeps a key.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the time limit for connecting to the server.
    ///
    /// Default: `1 s`.
    ///
    /// It must be longer than zero. A step fails with [`StoreError::Unavailable`] if the server
    /// does not accept the connection in time.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the time limit for a response of the server.
    ///
    /// Default: `2 s`. This is longer than a busy disk takes to write a record, and far shorter
    /// than a lease.
    ///
    /// It must be longer than zero. A round trip may take at most this limit plus
    /// [`connect_timeout`](Self::connect_timeout). After that, the step fails with
    /// [`StoreError::Unavailable`]. A connection is replaced after its steps have waited for this
    /// time without a response, even if each of them was dropped earlier.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// Skips the check of the server's settings and accepts any server.
    ///
    /// Default: off. [`build`](Self::build) checks the settings.
    ///
    /// Without the check, records that the server has acknowledged may be lost. Their operations
    /// can then run again.
    pub fn accept_loss(mut self) -> Self {
        self.accept_loss = true;
        self
    }

    /// Connects to the server and checks its settings.
    ///
    /// The settings are checked once. Later changes are not noticed.
    ///
    /// # Errors
    ///
    /// Returns an error if:
    ///
    /// - a setting of the builder is invalid,
    /// - the address is not a Redis URL,
    /// - the server cannot be reached,
    /// - the server's settings do not keep acknowledged records, or cannot be read, unless
    ///   [`accept_loss`](Self::accept_loss) is set.
    ///
    /// # Panics
    ///
    /// Panics when polled outside a Tokio runtime with the I/O and time drivers enabled.
    pub async fn build(self) -> Result<RedisStore, RedisSetupError> {
        if self.prefix.contains(['{', '}']) {
            let rule = "it must not contain braces";
            return Err(ConfigError::new("prefix", self.prefix, rule).into());
        }
        let connect_timeout =
            ConfigError::require_positive("connect_timeout", self.connect_timeout)?;
        let response_timeout =
            ConfigError::require_positive("response_timeout", self.response_timeout)?;
        let connection = Connection::new(&self.url, connect_timeout, response_timeout)
            .map_err(|error| RedisSetupError::Url(error.into()))?;
        match self.accept_loss {
            true => ping(&connection).await?,
            false => check(&connection).await?,
        }
        Ok(RedisStore { connection: Arc::new(connection), keys: Keys::new(&self.prefix) })
    }
}

impl std::fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address is left out because it may hold a password.
        f.debug_struct("RedisStoreBuilder")
            .field("prefix", &self.prefix)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("accept_loss", &self.accept_loss)
            .finish_non_exhaustive()
    }
}

fn unavailable(error: StoreError) -> RedisSetupError {
    RedisSetupError::Unavailable(match error {
        StoreError::Unavailable(source) => source,
        other => other.into(),
    })
}

async fn ping(connection: &Connection) -> Result<(), RedisSetupError> {
    let answers = connection.send(Pipeline::new().cmd("PING")).await.map_err(unavailable)?;
    for answer in answers {
        answer.extract_error().map_err(|error| RedisSetupError::Unavailable(error.into()))?;
    }
    Ok(())
}

async fn check(connection: &Connection) -> Result<(), RedisSetupError> {
    let mut questions = Pipeline::new();
    for (setting, _) in NEEDED {
        questions.cmd("CONFIG").arg("GET").arg(setting);
    }
    let answers = connection.send(&questions).await.map_err(unavailable)?;
    for ((setting, needed), answer) in NEEDED.into_iter().zip(answers) {
        let answer =
            answer.extract_error().map_err(|error| RedisSetupError::Unchecked(error.into()))?;
        let mut settings: HashMap<String, String> =
            from_redis_value(answer).map_err(|error| RedisSetupError::Unchecked(error.into()))?;
        let found = settings.remove(setting).unwrap_or_default();
        if found != needed {
            return Err(RedisSetupError::Forgetful { setting, found, needed });
        }
    }
    Ok(())
}
