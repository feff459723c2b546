//! The error of a set-up.

use buttress::{BoxError, ConfigError};
use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::pool::NoConnection;

/// The error returned when a [`PostgresStore`](crate::PostgresStore) cannot be built.
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
    /// A session does not have an option that the store has set.
    #[error(
        "a session has `{setting} = {found}` instead of `{needed}`: a pooler has dropped the \
         options of the session, so set them for the role"
    )]
    OptionDropped {
        /// The name of the option.
        setting: &'static str,
        /// The value that it has.
        found: String,
        /// The value that it must have. Timeouts are in milliseconds.
        needed: String,
    },
    /// A pooler does not accept the options that the store sets for its sessions.
    #[error(
        "a pooler rejects the options of the store's sessions: let it ignore the startup \
         parameter `options`, and set the options for the role: {}",
        with_causes(.0)
    )]
    OptionsRejected(#[source] BoxError),
    /// The schema in the database is not the one that the
    /// [migration](crate::PostgresStore::MIGRATION) creates.
    #[error("the schema is not the one that the migration creates: {0}")]
    Schema(String),
    /// The server cannot be reached, or the schema cannot be created.
    #[error("the store could not be set up: {}", with_causes(.0))]
    Server(#[source] BoxError),
}

/// Returns the message of an error and those of its causes, because the client's says only which
/// step failed.
fn with_causes(error: &BoxError) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let why = cause.to_string();
        // Some errors write their cause themselves.
        if !message.ends_with(&why) {
            message = format!("{message}: {why}");
        }
        source = cause.source();
    }
    message
}

impl From<tokio_postgres::Error> for PostgresSetupError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error.into())
    }
}

impl From<NoConnection> for PostgresSetupError {
    fn from(error: NoConnection) -> Self {
        match error {
            NoConnection::Failed(PoolError::Backend(error)) if rejects_options(&error) => {
                Self::OptionsRejected(error.into())
            }
            error => Self::Server(error.into()),
        }
    }
}

/// Returns whether a pooler, such as PgBouncer, has rejected the startup parameter `options`.
fn rejects_options(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        *error.code() == SqlState::PROTOCOL_VIOLATION
            && error.message().contains("startup parameter")
    })
}
