use std::time::Duration;

use http::StatusCode;

use crate::{ConfigError, error::Name};

/// The choice of the caller's headers that a server uses.
///
/// A caller can only shorten its own time. No header of a request lengthens a limit, forces or
/// forbids a retry, or makes a request replayable. No header changes state that callers share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The server uses the time that the caller has left, and the number of its attempt.
    ///
    /// This is the default. The time can shorten the server's own limit. The attempt is available
    /// as [`Attempt::current`](crate::context::Attempt::current).
    #[default]
    Inbound,
    /// The server reads none of these headers.
    None,
}

/// The settings of a server.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// The name that was set for the server.
    pub(super) name: Option<Name>,
    pub(super) trust: Trust,
    pub(super) limit: Option<Duration>,
    /// The status of a rejection by the bulkhead, or `None` for the status in the table.
    pub(super) full: Option<StatusCode>,
    pub(super) for_envoy: bool,
    pub(super) body_deadline: bool,
    pub(super) body_idle: Option<Duration>,
    pub(super) body_unread: Duration,
    pub(super) without_drain: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            trust: Trust::default(),
            limit: None,
            full: None,
            for_envoy: false,
            body_deadline: false,
            body_idle: None,
            body_unread: Duration::from_secs(30),
            without_drain: false,
        }
    }
}

impl Config {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let unread = Some(self.body_unread);
        let times = [("limit", self.limit), ("body_idle", self.body_idle), ("body_unread", unread)];
        for (knob, time) in times {
            if let Some(time) = time {
                ConfigError::require_positive(knob, time)?;
            }
        }
        if let Some(status) = self.full {
            if !status.is_client_error() && !status.is_server_error() {
                let rule = "it must be an error status, 400 to 599";
                return Err(ConfigError::new("full_status", status.as_u16(), rule));
            }
        }
        Ok(())
    }
}
