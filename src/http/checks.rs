//! Checks of settings that several builders share.

use std::fmt;

use http::{HeaderName, header};

use crate::ConfigError;

/// Headers that have another meaning, or that belong to one connection.
const TAKEN: [HeaderName; 29] = [
    header::ACCEPT,
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::ACCEPT_ENCODING,
    header::COOKIE,
    header::DATE,
    header::EXPECT,
    HeaderName::from_static("grpc-timeout"),
    header::HOST,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    HeaderName::from_static("keep-alive"),
    header::ORIGIN,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::RANGE,
    header::REFERER,
    header::RETRY_AFTER,
    header::SET_COOKIE,
    header::TE,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::USER_AGENT,
];

/// Rejects a limit of zero bytes.
pub(super) fn unless_room(knob: &'static str, bytes: usize) -> Result<usize, ConfigError> {
    if bytes == 0 {
        return Err(ConfigError::new(knob, bytes, "it must be at least 1 byte"));
    }
    Ok(bytes)
}

/// Rejects a header that cannot hold an idempotency key.
pub(super) fn unless_free(knob: &'static str, name: HeaderName) -> Result<HeaderName, ConfigError> {
    if TAKEN.contains(&name) {
        let rule = "that header already has a meaning of its own";
        return Err(ConfigError::new(knob, name.as_str(), rule));
    }
    Ok(name)
}

const SET_TWICE: &str = "a second value would silently replace the first";

/// Sets a setting, and rejects a second value.
pub(super) fn set_once<T>(
    knob: &'static str,
    setting: &mut Option<T>,
    value: T,
) -> Result<(), ConfigError> {
    match setting.replace(value) {
        None => Ok(()),
        Some(_) => Err(ConfigError::new(knob, format_args!("set twice"), SET_TWICE)),
    }
}

/// A setting that may be set only once, because a second value would silently replace the first.
#[derive(Clone)]
pub(super) struct Once<T> {
    value: Option<T>,
    again: bool,
}

impl<T> Once<T> {
    pub(super) const UNSET: Self = Self { value: None, again: false };

    pub(super) fn set(&mut self, value: T) {
        self.again |= self.value.replace(value).is_some();
    }

    pub(super) fn is_set(&self) -> bool {
        self.value.is_some()
    }

    /// Returns the value, or `None` if it was not set. Rejects a value that was set twice.
    pub(super) fn get(self, knob: &'static str) -> Result<Option<T>, ConfigError> {
        if self.again {
            return Err(ConfigError::new(knob, format_args!("set twice"), SET_TWICE));
        }
        Ok(self.value)
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::UNSET
    }
}

/// Writes whether the setting was set, because its value may be a closure.
impl<T> fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "set" } else { "unset" })
    }
}
