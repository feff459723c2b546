//! The builder of a recorder.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, StatusCode, header};

use super::{
    headers::is_never_kept,
    response::{BeforeStart, Config, Open, RecordHttp, Seal},
};
use crate::{
    ConfigError,
    http::checks::{Once, unless_room},
};

impl RecordHttp {
    /// Returns a builder, to change the defaults.
    pub fn builder() -> RecordHttpBuilder {
        let (not_started, sealed) = (Once::UNSET, Once::UNSET);
        RecordHttpBuilder { config: Config::default(), not_started, sealed }
    }
}

/// A builder for a [`RecordHttp`].
///
/// [`build`](Self::build) returns a [`ConfigError`] for an invalid setting.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct RecordHttpBuilder {
    config: Config,
    not_started: Once<BeforeStart>,
    sealed: Once<(Seal, Open)>,
}

impl RecordHttpBuilder {
    /// Sets the maximum number of bytes kept of a response body.
    ///
    /// Default: `64 KiB` (65,536 bytes).
    ///
    /// It must be at least 1. This size plus 8 KiB (9 KiB with [`seal_fn`](Self::seal_fn)) is
    /// reserved in the store before the service is called. A response with a longer body is
    /// recorded as done, but cannot be replayed.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.config.max_body_bytes = bytes;
        self
    }

    /// Adds a response header to the record.
    ///
    /// Default: none. Only the headers that [`RecordHttp`] lists are recorded.
    ///
    /// This method may be called several times. [`build`](Self::build) rejects a header that is
    /// never recorded.
    pub fn keep_header(mut self, name: HeaderName) -> Self {
        self.config.more_headers.push(name);
        self
    }

    /// Records responses with `set-cookie`, and replays them with their cookies.
    ///
    /// Default: off. Responses with `set-cookie` cannot be replayed, because every caller with
    /// the key would get the session, and the store would contain it.
    pub fn allow_set_cookie(mut self) -> Self {
        self.config.set_cookie = true;
        self
    }

    /// Sets the function that selects the responses of operations that did not start.
    ///
    /// Default: none. Only responses with the extension [`NotStarted`](super::NotStarted) are not
    /// recorded.
    ///
    /// The function gets the status and the headers of each response of the service. If it returns
    /// `true`, the response is not recorded, and its key is free. Use it for responses that
    /// something beneath the layer sends instead of calling the handler, such as the 429 of a rate
    /// limiter or the 415 of an extractor. The handler must never send such a response after it has
    /// begun, or a retry runs the operation twice. If in doubt, let the function look for a header
    /// that only the rate limiter sets.
    ///
    /// The function is not called if a retry layer beneath has sent the request again, because an
    /// earlier attempt may have had an effect. [`build`](Self::build) rejects a second function.
    ///
    /// ```
    /// use buttress::http::idempotency::RecordHttp;
    /// use http::StatusCode;
    ///
    /// let record = RecordHttp::builder()
    ///     .not_started(|status, headers| {
    ///         status == StatusCode::TOO_MANY_REQUESTS && headers.contains_key("x-ratelimit-limit")
    ///     })
    ///     .build()?;
    /// # let _ = record;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn not_started<F>(mut self, not_started: F) -> Self
    where
        F: Fn(StatusCode, &HeaderMap) -> bool + Send + Sync + 'static,
    {
        self.not_started.set(Arc::new(not_started));
        self
    }

    /// Sets the functions that encrypt and decrypt the records.
    ///
    /// Default: none. Records are not encrypted.
    ///
    /// `seal` encrypts a record before it is stored, and may add up to 1 KiB. A response that
    /// needs more cannot be replayed.
    ///
    /// `open` decrypts a record, and returns `None` for bytes that it cannot decrypt. It must also
    /// open older records, which were stored before this setting or sealed with another secret,
    /// until their time to live is over. Otherwise a replay of such a record fails, and the caller
    /// receives a 503.
    ///
    /// [`build`](Self::build) rejects a second pair of functions.
    pub fn seal_fn<S, O>(mut self, seal: S, open: O) -> Self
    where
        S: Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
        O: Fn(Vec<u8>) -> Option<Vec<u8>> + Send + Sync + 'static,
    {
        self.sealed.set((Arc::new(seal), Arc::new(open)));
        self
    }

    /// Validates the settings and returns the `RecordHttp`.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if:
    ///
    /// - [`max_body_bytes`](Self::max_body_bytes) is zero;
    /// - [`keep_header`](Self::keep_header) names a header that is never recorded, because it
    ///   belongs to one connection or one moment (such as `connection`, `transfer-encoding`, `date`
    ///   and `content-length`) or is a secret (such as `authorization`);
    /// - [`keep_header`](Self::keep_header) names `set-cookie`, which needs
    ///   [`allow_set_cookie`](Self::allow_set_cookie) instead;
    /// - [`not_started`](Self::not_started) or [`seal_fn`](Self::seal_fn) was set twice.
    pub fn build(mut self) -> Result<RecordHttp, ConfigError> {
        unless_room("max_body_bytes", self.config.max_body_bytes)?;
        for name in &self.config.more_headers {
            if *name == header::SET_COOKIE {
                let rule = "cookies are recorded by `allow_set_cookie`";
                return Err(ConfigError::new("keep_header", name.as_str(), rule));
            }
            if is_never_kept(name) {
                let rule = "it belongs to one connection or one moment, or is a secret";
                return Err(ConfigError::new("keep_header", name.as_str(), rule));
            }
        }
        self.config.not_started = self.not_started.get("not_started")?;
        self.config.sealed = self.sealed.get("seal_fn")?;
        Ok(RecordHttp { config: Arc::new(self.config) })
    }
}

impl fmt::Debug for RecordHttpBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordHttpBuilder")
            .field("max_body_bytes", &self.config.max_body_bytes)
            .field("more_headers", &self.config.more_headers)
            .field("set_cookie", &self.config.set_cookie)
            .field("not_started", &self.not_started.is_set())
            .field("seal_fn", &self.sealed.is_set())
            .finish()
    }
}
