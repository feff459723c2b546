//! What is kept of a response, and how it is given again.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body;

use super::{
    GuardedBody,
    envelope::{self, Envelope},
    read::{Read, read},
};
use crate::{
    CarryRejection, ConfigError,
    http::{
        checks::{Once, unless_room},
        head::ResponseShape,
        wire,
    },
    idempotency::{Completed, Record, Recorded, RunOutcome, StoreError},
};

/// `idempotency-replayed`: the response was recorded when the request was run.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// What is kept of every response. The encodings are there because without them nobody could read the body.
const KEPT: [HeaderName; 10] = [
    header::CONTENT_TYPE,
    header::CONTENT_LANGUAGE,
    header::CONTENT_ENCODING,
    header::LOCATION,
    header::ETAG,
    header::RETRY_AFTER,
    wire::GRPC_STATUS,
    wire::GRPC_MESSAGE,
    GRPC_STATUS_DETAILS,
    GRPC_ENCODING,
];

/// What is of one connection, of one moment or secret, and is never kept. `set-cookie` may be allowed, and `trailer`
/// is kept with the trailers that it names.
const NEVER_KEPT: [HeaderName; 14] = [
    header::SET_COOKIE,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::DATE,
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    IDEMPOTENCY_REPLAYED,
];

/// What the payload of a record may take beside the body and what seals it.
const HEAD_ROOM: usize = 8 << 10;

/// By how much a payload may grow when it is sealed.
const SEAL_ROOM: usize = 1 << 10;

/// An extension of a response: nothing of the operation has begun, so its key is free again.
///
/// For what a handler answers by its own checks before it does anything: 400, 401, 403, 429. A handler that
/// passes on the response of another service must take it off, unless it has itself done nothing. In axum
/// `Extension(NotStarted)` is a part of a response. What a framework refuses before the handler, such as a body
/// that is no JSON or a path that is no route, does not have it, and is recorded as any answer.
///
/// ```
/// use buttress::http::idempotency::NotStarted;
/// use http::{Response, StatusCode};
///
/// let mut refused = Response::new("the amount is missing");
/// *refused.status_mut() = StatusCode::BAD_REQUEST;
/// refused.extensions_mut().insert(NotStarted);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotStarted;

type Seal = Arc<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>;
type Open = Arc<dyn Fn(Vec<u8>) -> Option<Vec<u8>> + Send + Sync>;

/// Records HTTP responses as bytes, and gives them again.
///
/// Every response is recorded, whatever its status, unless it says [`NotStarted`]. Kept are the status; of the
/// headers `content-type`, `content-language`, `content-encoding`, `location`, `etag`, `retry-after`, gRPC's
/// `grpc-status`, `grpc-message`, `grpc-status-details-bin` and `grpc-encoding`, and those that
/// [`keep_header`](RecordHttpBuilder::keep_header) names; up to 64 KiB of body; the trailers.
///
/// Recorded as done, but not to be given again, are responses with a longer body, those whose kept headers and trailers
/// take more than 8 KiB, upgrades, and those with `set-cookie` unless
/// [it is allowed](RecordHttpBuilder::allow_set_cookie). Their bodies stream.
///
/// Any other body is read to its end, or to the cap, before the caller sees its head, and within the run limit: a
/// stream that is silent for longer, such as one of events, must not be guarded.
///
/// A response that is given again has the header `idempotency-replayed: true`. Its `content-length` is left to the
/// server, which knows it from the body; over HTTP/1 a response with trailers is sent in chunks, and with those
/// trailers that its `trailer` header names.
#[derive(Clone)]
pub struct RecordHttp {
    config: Arc<Config>,
}

#[derive(Clone)]
struct Config {
    max_body_bytes: usize,
    more_headers: Vec<HeaderName>,
    set_cookie: bool,
    sealed: Option<(Seal, Open)>,
}

impl RecordHttp {
    /// Creates one with the defaults of [`builder`](Self::builder).
    pub fn new() -> Self {
        Self { config: Arc::new(Config::default()) }
    }

    /// Returns a builder.
    pub fn builder() -> RecordHttpBuilder {
        RecordHttpBuilder { config: Config::default(), sealed: Once::UNSET }
    }

    /// What is recorded of a response whose body is there: for a handler that writes the record itself, in the
    /// transaction of its effect.
    ///
    /// It is exactly what the guard would record of the response.
    pub fn encode<T: AsRef<[u8]>>(&self, response: &Response<T>) -> Completed<Vec<u8>> {
        let body = response.body().as_ref();
        if !self.may_keep(response) || body.len() > self.config.max_body_bytes {
            return Completed::not_replayable();
        }
        let ends_at_head = ResponseShape::Whole.ends_at_head(response.status());
        let body = if ends_at_head { &[] } else { body };
        self.completed(response.status(), response.headers(), body, None)
    }

    fn may_keep<B>(&self, response: &Response<B>) -> bool {
        !response.status().is_informational()
            && (self.config.set_cookie || !response.headers().contains_key(header::SET_COOKIE))
    }

    fn completed(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        trailers: Option<&HeaderMap>,
    ) -> Completed<Vec<u8>> {
        let payload = self.payload(status, headers, body, trailers);
        payload.map_or_else(Completed::not_replayable, |payload| {
            let size = payload.len();
            Completed::replayable(payload, size)
        })
    }

    fn payload(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        trailers: Option<&HeaderMap>,
    ) -> Option<Vec<u8>> {
        let kept: Vec<_> = headers
            .iter()
            .filter(|(name, _)| {
                let kept = self.config.keeps(name) && !is_of_connection(name, headers);
                kept || trailers.is_some() && **name == header::TRAILER
            })
            .collect();
        let trailers: Vec<_> =
            trailers.into_iter().flatten().filter(|(name, _)| !NEVER_KEPT.contains(name)).collect();
        let most = self.config.max_body_bytes.saturating_add(HEAD_ROOM);
        let payload = envelope::encode(status, &kept, body, &trailers, most)?;
        let Some((seal, _)) = &self.config.sealed else { return Some(payload) };
        Some(seal(payload)).filter(|sealed| sealed.len() <= self.config.max_bytes())
    }

    fn open(&self, payload: Vec<u8>) -> Result<Envelope, StoreError> {
        let payload = match &self.config.sealed {
            None => payload,
            Some((_, open)) => open(payload)
                .ok_or(StoreError::Garbled("a recorded response that `open` rejects"))?,
        };
        envelope::decode(payload)
    }
}

/// Whether the `connection` header says that this one is for the next hop only.
fn is_of_connection(name: &HeaderName, headers: &HeaderMap) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|line| {
        let mut options = line.as_bytes().split(|byte| *byte == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    })
}

impl Default for RecordHttp {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { max_body_bytes: 64 << 10, more_headers: Vec::new(), set_cookie: false, sealed: None }
    }
}

impl Config {
    fn keeps(&self, name: &HeaderName) -> bool {
        KEPT.contains(name)
            || self.more_headers.contains(name)
            || self.set_cookie && *name == header::SET_COOKIE
    }

    fn max_bytes(&self) -> usize {
        let seal = if self.sealed.is_some() { SEAL_ROOM } else { 0 };
        self.max_body_bytes.saturating_add(HEAD_ROOM + seal)
    }
}

impl<B, E> Record<Response<B>, E> for RecordHttp
where
    B: Body<Data = Bytes> + Send,
    B::Error: Send,
    E: CarryRejection,
{
    type Payload = Vec<u8>;
    type Response = Response<GuardedBody<B>>;

    fn classify(&self, result: Result<&Response<B>, &E>) -> RunOutcome {
        match result {
            Ok(response) if response.extensions().get::<NotStarted>().is_some() => {
                RunOutcome::NotStarted
            }
            Ok(_) => RunOutcome::Completed,
            Err(error) => RunOutcome::of_error(error),
        }
    }

    async fn record(&self, response: Response<B>) -> Recorded<Vec<u8>, Self::Response> {
        let most = self.config.max_body_bytes;
        let too_long = response.body().size_hint().lower() > most as u64;
        let ended =
            ResponseShape::Whole.ends_at_head(response.status()) || response.body().is_end_stream();
        if !self.may_keep(&response) || too_long && !ended {
            return Recorded::new(response.map(GuardedBody::new), Completed::not_replayable());
        }
        if ended {
            let completed = self.completed(response.status(), response.headers(), &[], None);
            return Recorded::new(response.map(GuardedBody::new), completed);
        }
        let (head, body) = response.into_parts();
        // On the heap, for it may have to go on after the guard.
        let mut body = Box::pin(body);
        match read(body.as_mut(), most).await {
            Read::Whole { data, trailers } => {
                let completed =
                    self.completed(head.status, &head.headers, &data, trailers.as_ref());
                let body = GuardedBody::whole(data, trailers);
                Recorded::new(Response::from_parts(head, body), completed)
            }
            Read::TooLong { data, over } => {
                let body = GuardedBody::begun(data, over, body);
                Recorded::new(Response::from_parts(head, body), Completed::not_replayable())
            }
            Read::Broken { data, error } => {
                Recorded::broken(Response::from_parts(head, GuardedBody::broken(data, error)))
            }
        }
    }

    fn pass(&self, response: Response<B>) -> Self::Response {
        response.map(GuardedBody::new)
    }

    fn replay(&self, payload: Vec<u8>) -> Result<Self::Response, StoreError> {
        let Envelope { status, headers, body, trailers } = self.open(payload)?;
        let trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
        let mut response = Response::new(GuardedBody::whole(body, trailers));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        let replayed = HeaderValue::from_static("true");
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, replayed);
        Ok(response)
    }

    fn max_bytes(&self) -> usize {
        self.config.max_bytes()
    }
}

impl fmt::Debug for RecordHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordHttp").field("config", &self.config).finish()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("max_body_bytes", &self.max_body_bytes)
            .field("more_headers", &self.more_headers)
            .field("set_cookie", &self.set_cookie)
            .field("sealed", &self.sealed.is_some())
            .finish()
    }
}

/// Settings of a [`RecordHttp`].
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct RecordHttpBuilder {
    config: Config,
    sealed: Once<(Seal, Open)>,
}

impl RecordHttpBuilder {
    /// Sets the maximum number of bytes of a body that are kept.
    ///
    /// Default: 64 KiB (65,536).
    ///
    /// As much and 8 KiB are set aside before the service is called. A response with a longer body
    /// is recorded as done, but cannot be given again. Zero is an error.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.config.max_body_bytes = bytes;
        self
    }

    /// Keeps this header of a response too. May be called several times.
    ///
    /// A header that is never kept is an error, see [`build`](Self::build).
    pub fn keep_header(mut self, name: HeaderName) -> Self {
        self.config.more_headers.push(name);
        self
    }

    /// Records responses with `set-cookie`, and gives the cookies again with them.
    ///
    /// Default: such a response is not given again. Everyone with the key would get the session,
    /// and the store would have it.
    pub fn allow_set_cookie(mut self) -> Self {
        self.config.set_cookie = true;
        self
    }

    /// Sets the functions that encrypt what is kept: `seal` before it goes to the store, and `open`
    /// when it comes back. `open` returns `None` for what was not sealed so.
    ///
    /// Default: what is kept is not encrypted.
    ///
    /// `seal` may add up to 1 KiB; a response that takes more cannot be given again. Records that
    /// are older than this setting, or sealed with another secret, must still be opened until their
    /// time to live is over, or else a retry of what they recorded is answered 503. A second pair
    /// of functions is an error.
    pub fn seal_fn<S, O>(mut self, seal: S, open: O) -> Self
    where
        S: Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
        O: Fn(Vec<u8>) -> Option<Vec<u8>> + Send + Sync + 'static,
    {
        self.sealed.set((Arc::new(seal), Arc::new(open)));
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// - A [`max_body_bytes`](Self::max_body_bytes) of zero.
    /// - A [`keep_header`](Self::keep_header) that is never kept: what is of one connection or one
    ///   moment (such as `connection`, `transfer-encoding`, `date` and `content-length`),
    ///   `authorization`, and `set-cookie`, which is [allowed](Self::allow_set_cookie) and not
    ///   named.
    /// - A [`seal_fn`](Self::seal_fn) that was set twice.
    pub fn build(mut self) -> Result<RecordHttp, ConfigError> {
        unless_room("max_body_bytes", self.config.max_body_bytes)?;
        for name in &self.config.more_headers {
            if *name == header::SET_COOKIE {
                let rule = "cookies are recorded by `allow_set_cookie`";
                return Err(ConfigError::new("keep_header", name.as_str(), rule));
            }
            if NEVER_KEPT.contains(name) {
                let rule = "it belongs to one connection or one moment, or is a secret";
                return Err(ConfigError::new("keep_header", name.as_str(), rule));
            }
        }
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
            .field("seal_fn", &self.sealed.is_set())
            .finish()
    }
}
