//! How a store is set up, and what it asks of its server.

use std::{collections::HashMap, sync::Arc, time::Duration};

use buttress::{BoxError, ConfigError, idempotency::StoreError};
use redis::{Pipeline, from_redis_value};

use crate::{RedisStore, connection::Connection, keys::Keys};

/// What keeps an acknowledged record when the server is killed.
const NEEDED: [(&str, &str); 3] =
    [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")];

/// The error returned when a [`RedisStore`] was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisSetupError {
    /// A setting of the builder cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address is not one of Redis.
    #[error("the address of the server is invalid")]
    Url(#[source] BoxError),
    /// The server cannot be reached.
    #[error("the server cannot be reached")]
    Unavailable(#[source] BoxError),
    /// The server does not say how it is set up, so nobody knows what it keeps.
    #[error(
        "the server does not let `CONFIG GET` read its settings, which must be `appendonly yes`, \
         `appendfsync always` and `maxmemory-policy noeviction`; \
         `accept_loss()` does without the check"
    )]
    Unchecked(#[source] BoxError),
    /// The server is set up to forget records that it has acknowledged.
    #[error(
        "the server's `{setting}` is `{found}`, but it must be `{needed}`, or records that it has \
         acknowledged may be lost and operations run twice; `accept_loss()` takes that risk"
    )]
    Forgetful {
        /// The setting of the server.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        needed: &'static str,
    },
}

impl RedisStore {
    /// Returns the builder of a store on the server with this address, such as
    /// `redis://:password@host:6379/0`.
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url.into())
    }
}

/// Sets up a [`RedisStore`].
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

    /// Sets the prefix of the names of all keys, so that several stores can share a server.
    ///
    /// Default: `buttress:`.
    ///
    /// It must not contain braces, which decide where a cluster keeps a key.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the time limit for connecting.
    ///
    /// Default: 1 s.
    ///
    /// A server that does not accept within it is down for this request. It must be longer than zero.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the time limit for a response.
    ///
    /// Default: 2 s.
    ///
    /// The default is longer than a busy disk takes to write a record, and far shorter than a lease. A
    /// step takes at most this and the time to connect together. It must be longer than zero.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// Accepts any server, however it is set up, without a check.
    ///
    /// Default: off.
    ///
    /// Records that the server has acknowledged may then be lost, and their operations run again.
    pub fn accept_loss(mut self) -> Self {
        self.accept_loss = true;
        self
    }

    /// Connects, and checks how the server is set up. Later changes of its settings are not seen.
    ///
    /// # Errors
    ///
    /// If a setting cannot work, the server cannot be reached, or, without
    /// [`accept_loss`](Self::accept_loss), it is not set up to keep what it acknowledges or does not say.
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
        // Without the address, which may hold a password.
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
