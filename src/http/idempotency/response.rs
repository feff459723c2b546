//! Records a response, and replays it.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;

use super::{
    envelope::{self, Envelope},
    headers::{
        IDEMPOTENCY_REPLAYED, accepts_encoding, forbid_retry, forbid_retry_in_trailers, is_kept,
        is_never_kept, is_of_connection, mark_replayed_trailers,
    },
};
use crate::{
    CarryRejection, ConfigError,
    call::hop::Hop,
    http::{
        BufferedBody,
        checks::set_once,
        head::ResponseShape,
        read::{self, FromRead},
    },
    idempotency::{Completed, Record, RunOutcome, StoreError},
    keep::{Keep, Kept},
};

/// The maximum size of a payload in addition to the body, before it is sealed.
const HEAD_ROOM: usize = 8 << 10;

/// The maximum size that sealing may add to a payload.
const SEAL_ROOM: usize = 1 << 10;

/// A response extension that marks the operation as not started, which frees its key.
///
/// Use it for a response that a handler sends before it has any effect, such as a 400, 401, 403 or
/// 429 after its own checks. In axum, return `Extension(NotStarted)` as a part of the response.
///
/// A handler that forwards the response of another service must remove the extension, unless the
/// handler itself has done nothing.
///
/// A response that a framework sends before the handler runs does not have the extension, and is
/// recorded like any other. Examples are the responses to a body that is not valid JSON and to a
/// path without a route, and the 429 of a rate limiter. With
/// [`not_started`](super::RecordHttpBuilder::not_started), the layer recognizes them.
///
/// ```
/// use buttress::http::idempotency::NotStarted;
/// use http::{Response, StatusCode};
///
/// let mut rejected = Response::new("the amount is missing");
/// *rejected.status_mut() = StatusCode::BAD_REQUEST;
/// rejected.extensions_mut().insert(NotStarted);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotStarted;

pub(super) type Seal = Arc<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>;
pub(super) type Open = Arc<dyn Fn(Vec<u8>) -> Option<Vec<u8>> + Send + Sync>;
pub(super) type BeforeStart = Arc<dyn Fn(StatusCode, &HeaderMap) -> bool + Send + Sync>;

/// Records HTTP responses as bytes, and replays them.
///
/// Every response is recorded, whatever its status, unless it has the extension [`NotStarted`] or
/// [`not_started`](super::RecordHttpBuilder::not_started) selects it. The record contains:
///
/// - the status;
/// - the headers listed below, and those added by
///   [`keep_header`](super::RecordHttpBuilder::keep_header);
/// - the body, up to 64 KiB;
/// - the trailers.
///
/// The recorded headers are needed by
///
/// - the status: `accept`, `accept-patch`, `accept-post`, `allow`, `location`, `retry-after` and
///   `www-authenticate`;
/// - the body: `accept-ranges`, `cache-control`, `content-disposition`, `content-digest`,
///   `content-encoding`, `content-language`, `content-location`, `content-range`, `content-type`,
///   `etag`, `last-modified`, `link`, `preference-applied`, `repr-digest`, `vary` and
///   `x-content-type-options`;
/// - browsers: `access-control-allow-credentials`, `access-control-allow-origin`,
///   `access-control-expose-headers`, `content-security-policy`, `cross-origin-embedder-policy`,
///   `cross-origin-opener-policy`, `cross-origin-resource-policy`, `permissions-policy`,
///   `referrer-policy`, `timing-allow-origin` and `x-frame-options`;
/// - gRPC: `grpc-encoding`, `grpc-message`, `grpc-status` and `grpc-status-details-bin`.
///
/// Some responses are recorded as done, but cannot be replayed:
///
/// - responses with a longer body;
/// - upgrades;
/// - responses with `set-cookie`, unless [cookies are
///   allowed](super::RecordHttpBuilder::allow_set_cookie);
/// - responses whose record would need more than 8 KiB in addition to the maximum body size.
///
/// If the head already shows one of the first three, the body is streamed. Any other body is read
/// to its end, or to the limit, before the caller receives the head. The time to read it counts
/// towards the [`run_limit`](crate::idempotency::IdempotencyBuilder::run_limit). Do not guard a
/// response that may be silent for longer than this limit, such as a stream of events.
///
/// A response with a `content-encoding` or a `grpc-encoding` is not replayed to a request whose
/// `accept-encoding` or `grpc-accept-encoding` leaves an encoding out. The request is rejected with
/// [`NotReplayable`](crate::error::IdempotencyReason::NotReplayable). A request without the header
/// accepts every encoding. Put compression and CORS outside the idempotency layer. They then fit
/// each replayed response to its request.
///
/// A recorded failure is final, because every retry gets it again. Its first response and each
/// replay therefore say so: a 4xx or 5xx by `x-should-retry: false`, and a gRPC call by
/// `grpc-retry-pushback-ms: -1`, with its status. A stack with `http()` then does not retry. Its
/// breaker counts the first response as a failure, if it is one, and no replay.
///
/// A replayed response has the header `idempotency-replayed: true`. The server sets its
/// `content-length` from the body. Over HTTP/1, a response with trailers is sent in chunks, with
/// the trailers that its `trailer` header names.
#[derive(Clone)]
pub struct RecordHttp {
    pub(super) config: Arc<Config>,
}

#[derive(Clone)]
pub(super) struct Config {
    pub(super) max_body_bytes: usize,
    pub(super) more_headers: Vec<HeaderName>,
    pub(super) set_cookie: bool,
    pub(super) not_started: Option<BeforeStart>,
    pub(super) sealed: Option<(Seal, Open)>,
}

impl RecordHttp {
    /// Creates a `RecordHttp` with the defaults of [`builder`](Self::builder).
    pub fn new() -> Self {
        Self { config: Arc::new(Config::default()) }
    }

    /// Encodes the record of a response whose body is in memory.
    ///
    /// Use it in a handler that writes the record itself, in the transaction of its effect. The
    /// result is the same record that the idempotency layer would write.
    pub fn encode<T: AsRef<[u8]>>(&self, response: &Response<T>) -> Completed<Vec<u8>> {
        let body = response.body().as_ref();
        if !self.may_keep(response) || body.len() > self.config.max_body_bytes {
            return Completed::not_replayable();
        }
        let ends_at_head = ResponseShape::Whole.ends_at_head(response.status());
        let body = if ends_at_head { &[] } else { body };
        let payload = self.payload(response.status(), response.headers(), body, None);
        payload.map_or_else(Completed::not_replayable, |payload| {
            let size = payload.len();
            Completed::replayable(payload, size)
        })
    }

    /// Sets the function that selects the responses of operations that did not start.
    pub(super) fn set_not_started<F>(&mut self, not_started: F) -> Result<(), ConfigError>
    where
        F: Fn(StatusCode, &HeaderMap) -> bool + Send + Sync + 'static,
    {
        let not_started: BeforeStart = Arc::new(not_started);
        set_once("not_started", &mut Arc::make_mut(&mut self.config).not_started, not_started)
    }

    /// Returns whether nothing was done before this response.
    fn is_not_started<B>(&self, response: &Response<B>) -> bool {
        if response.extensions().get::<NotStarted>().is_some() {
            return true;
        }
        let Some(not_started) = &self.config.not_started else { return false };
        // An earlier attempt of a retry beneath may have done something.
        !Hop::is_resent() && not_started(response.status(), response.headers())
    }

    fn may_keep<B>(&self, response: &Response<B>) -> bool {
        !response.status().is_informational()
            && (self.config.set_cookie || !response.headers().contains_key(header::SET_COOKIE))
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
            trailers.into_iter().flatten().filter(|(name, _)| !is_never_kept(name)).collect();
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

impl Default for RecordHttp {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_body_bytes: 64 << 10,
            more_headers: Vec::new(),
            set_cookie: false,
            not_started: None,
            sealed: None,
        }
    }
}

impl Config {
    fn keeps(&self, name: &HeaderName) -> bool {
        is_kept(name)
            || self.more_headers.contains(name)
            || self.set_cookie && *name == header::SET_COOKIE
    }

    fn max_bytes(&self) -> usize {
        let seal = if self.sealed.is_some() { SEAL_ROOM } else { 0 };
        self.max_body_bytes.saturating_add(HEAD_ROOM + seal)
    }
}

impl<B> Keep<Response<B>> for RecordHttp
where
    B: Body<Data = Bytes> + Send,
    B::Error: Send,
{
    type Payload = Vec<u8>;
    type Response = Response<BufferedBody<B>>;
    type Error = StoreError;

    async fn keep(&self, response: Response<B>) -> Kept<Vec<u8>, Self::Response> {
        let may_keep = self.may_keep(&response);
        let response = response.map(BufferedBody::new);
        if !may_keep {
            return Kept::not_kept(response);
        }
        // The number of runs bounds the memory of responses.
        read::keep(response, self.config.max_body_bytes, &mut (), |head, body, trailers| {
            let payload = self.payload(head.status, &head.headers, body, trailers)?;
            let bytes = payload.len();
            Some((payload, bytes))
        })
        .await
    }

    fn replay(&self, payload: Vec<u8>) -> Result<Self::Response, StoreError> {
        let Envelope { status, headers, body, trailers } = self.open(payload)?;
        let trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
        let mut response = Response::new(BufferedBody::whole(body, trailers));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

impl<Q, B, E> Record<Request<Q>, Response<B>, E> for RecordHttp
where
    B: Body<Data = Bytes> + Send,
    B::Error: Send,
    E: CarryRejection,
{
    fn classify(&self, result: Result<&Response<B>, &E>) -> RunOutcome {
        match result {
            Ok(response) if self.is_not_started(response) => RunOutcome::NotStarted,
            Ok(_) => RunOutcome::Completed,
            Err(error) => RunOutcome::of_error(error),
        }
    }

    fn pass(&self, response: Response<B>) -> Self::Response {
        response.map(BufferedBody::new)
    }

    fn mark_done(&self, response: &mut Self::Response) {
        forbid_retry(response.status(), response.headers_mut());
        response.body_mut().change_trailers(forbid_retry_in_trailers);
    }

    fn mark_replayed(&self, response: &mut Self::Response) {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        forbid_retry(response.status(), response.headers_mut());
        response.body_mut().change_trailers(mark_replayed_trailers);
    }

    fn can_read(&self, request: &Request<Q>, replayed: &Self::Response) -> bool {
        accepts_encoding(request.headers(), replayed.headers())
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
            .field("not_started", &self.not_started.is_some())
            .field("sealed", &self.sealed.is_some())
            .finish()
    }
}
