//! The options of the store's sessions.

use std::time::Duration;

use buttress::ConfigError;
use tokio_postgres::{Client, Error};

use crate::error::PostgresSetupError;

/// The longest timeout of a server, in milliseconds.
const LONGEST: u128 = i32::MAX as u128;

/// The options of every session, sent when a connection starts, which costs no round trip.
pub(crate) struct Session {
    statement_timeout: u128,
    lock_timeout: u128,
}

impl Session {
    pub(crate) fn new(step_timeout: Duration) -> Result<Self, ConfigError> {
        let invalid =
            |rule| Err(ConfigError::new("step_timeout", format!("{step_timeout:?}"), rule));
        match step_timeout.as_millis() {
            0 => invalid("it must be at least 1 ms"),
            millis if millis > LONGEST => invalid("it must be at most 24 days"),
            // The shorter one, so that the error names the lock.
            millis => Ok(Self { statement_timeout: millis, lock_timeout: millis - millis / 10 }),
        }
    }

    /// Returns the options in the form of a startup parameter.
    ///
    /// Every statement of the store can find its rows by an index. `enable_seqscan=off` prevents a
    /// plan that was made for a small table from scanning the grown table.
    pub(crate) fn options(&self) -> String {
        format!(
            "-c synchronous_commit=on -c default_transaction_isolation=read\\ committed \
             -c statement_timeout={} -c lock_timeout={} -c enable_seqscan=off",
            self.statement_timeout, self.lock_timeout
        )
    }

    /// Checks the settings of a session. A pooler may have dropped the options.
    ///
    /// With `accept_loss`, it skips those that keep acknowledged records.
    pub(crate) async fn check(
        &self,
        client: &Client,
        accept_loss: bool,
    ) -> Result<(), PostgresSetupError> {
        for (setting, needed) in [
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("default_transaction_isolation", "read committed"),
        ] {
            let found = value(client, setting).await?;
            if found != needed && !accept_loss {
                return Err(PostgresSetupError::Forgetful { setting, found, needed });
            }
        }
        for (setting, needed) in [
            ("statement_timeout", self.statement_timeout.to_string()),
            ("lock_timeout", self.lock_timeout.to_string()),
        ] {
            let found = value(client, setting).await?;
            if found != needed {
                return Err(PostgresSetupError::OptionDropped { setting, found, needed });
            }
        }
        Ok(())
    }
}

/// Returns the value of a setting, in its unit.
async fn value(client: &Client, setting: &str) -> Result<String, Error> {
    let query = "SELECT setting FROM pg_settings WHERE name = $1";
    client.query_one(query, &[&setting]).await?.try_get(0)
}
