//! Reads a request, so that it can be told from another with the same key.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, header::CONTENT_TYPE};
use http_body::Body;
use tokio::time::Instant;

use super::{
    GuardedBody,
    read::{Read, read},
};
use crate::{
    ConfigError,
    call::timer::poll_timer,
    error::IdempotencyReason,
    http::checks::unless_room,
    idempotency::{Digests, ReadRequest, Run},
};

/// What other kinds of fingerprints of HTTP requests must not begin with.
const VERSION: &[u8] = b"http 1";

/// Reads HTTP requests: the same are those with the same method, path, query, content type, body and trailers.
///
/// The body is read before anything is claimed: up to 1 MiB, and for up to 30 s. The service gets it whole, and
/// finds the [`Run`] among the extensions of its request.
///
/// A request whose body is longer is answered 413, one whose body does not come in time or breaks off 408.
#[derive(Clone, Debug)]
pub struct ReadHttp {
    max_body_bytes: usize,
    body_timeout: Duration,
    without_body: bool,
}

impl ReadHttp {
    const MAX_BODY_BYTES: usize = 1 << 20;
    const BODY_TIMEOUT: Duration = Duration::from_secs(30);

    /// Creates one with the defaults of [`builder`](Self::builder).
    pub fn new() -> Self {
        Self {
            max_body_bytes: Self::MAX_BODY_BYTES,
            body_timeout: Self::BODY_TIMEOUT,
            without_body: false,
        }
    }

    /// Returns a builder.
    pub fn builder() -> ReadHttpBuilder {
        ReadHttpBuilder::default()
    }
}

impl Default for ReadHttp {
    fn default() -> Self {
        Self::new()
    }
}

/// Settings of a [`ReadHttp`].
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it is built"]
pub struct ReadHttpBuilder {
    max_body_bytes: Option<usize>,
    body_timeout: Option<Duration>,
    without_body: bool,
}

impl ReadHttpBuilder {
    /// Sets the maximum number of bytes of the body of a guarded request.
    ///
    /// Default: 1 MiB (1,048,576).
    ///
    /// That much is held in memory for each request that is read. Zero is an error.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = Some(bytes);
        self
    }

    /// Sets how long the body of a guarded request may take to arrive, from when it is first waited
    /// for.
    ///
    /// Default: 30 s.
    ///
    /// A time of zero is an error. `Duration::MAX` is no limit.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = Some(timeout);
        self
    }

    /// Does not read bodies, for uploads: they go to the service as they come. Two requests that
    /// differ only in their bodies are then taken for the same one.
    ///
    /// Default: bodies are read. A limit of a body that is not read is an error.
    pub fn without_body(mut self) -> Self {
        self.without_body = true;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// A limit of zero, and a limit together with [`without_body`](Self::without_body).
    pub fn build(self) -> Result<ReadHttp, ConfigError> {
        let unread = "`without_body` does not read bodies";
        if let Some(bytes) = self.max_body_bytes {
            unless_room("max_body_bytes", bytes)?;
            if self.without_body {
                return Err(ConfigError::new("max_body_bytes", bytes, unread));
            }
        }
        if let Some(timeout) = self.body_timeout {
            ConfigError::require_positive("body_timeout", timeout)?;
            if self.without_body {
                return Err(ConfigError::new("body_timeout", timeout, unread));
            }
        }
        Ok(ReadHttp {
            max_body_bytes: self.max_body_bytes.unwrap_or(ReadHttp::MAX_BODY_BYTES),
            body_timeout: self.body_timeout.unwrap_or(ReadHttp::BODY_TIMEOUT),
            without_body: self.without_body,
        })
    }
}

impl<B> ReadRequest<Request<B>> for ReadHttp
where
    B: Body<Data = Bytes> + Send,
    B::Error: Send,
{
    type Request = Request<GuardedBody<B>>;

    async fn read(
        &self,
        request: Request<B>,
        mut digests: Digests,
    ) -> Result<(Self::Request, Digests), IdempotencyReason> {
        let (head, body) = request.into_parts();
        digests.part(VERSION);
        digests.part(head.method.as_str());
        digests.part(head.uri.path());
        either(&mut digests, head.uri.query().map(str::as_bytes));
        lines(&mut digests, &head.headers, CONTENT_TYPE.as_str());
        if self.without_body {
            either(&mut digests, None);
            return Ok((Request::from_parts(head, GuardedBody::new(body)), digests));
        }
        if body.size_hint().lower() > self.max_body_bytes as u64 {
            return Err(IdempotencyReason::BodyTooLarge);
        }
        let reading = async { read(pin!(body), self.max_body_bytes).await };
        let (data, trailers) = match within(self.body_timeout, reading).await {
            Some(Read::Whole { data, trailers }) => (data, trailers),
            Some(Read::TooLong { .. }) => return Err(IdempotencyReason::BodyTooLarge),
            Some(Read::Broken { .. }) | None => return Err(IdempotencyReason::BodyIncomplete),
        };
        either(&mut digests, Some(&data));
        if let Some(trailers) = &trailers {
            all_lines(&mut digests, trailers);
        }
        Ok((Request::from_parts(head, GuardedBody::whole(data, trailers)), digests))
    }

    fn pass(&self, request: Request<B>) -> Self::Request {
        request.map(GuardedBody::new)
    }

    fn hand_over(&self, request: &mut Self::Request, run: &Run) {
        request.extensions_mut().insert(run.clone());
    }
}

/// What a future comes to, if it does in time.
async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = pin!(None);
    let mut end = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // What is there at once costs no timer, and no look at the clock.
        let end = end.get_or_insert_with(|| Instant::now().checked_add(limit));
        let Some(end) = *end else { return Poll::Pending };
        ready!(poll_timer(timer.as_mut(), end, cx));
        Poll::Ready(None)
    })
    .await
}

/// A part that need not be there: an empty one is another than none.
fn either(digests: &mut Digests, part: Option<&[u8]>) {
    digests.part([u8::from(part.is_some())]);
    if let Some(part) = part {
        digests.part(part);
    }
}

/// The lines of a header, and how many there are, so that they are told from what comes next.
fn lines(digests: &mut Digests, headers: &HeaderMap, name: &str) {
    let lines = headers.get_all(name);
    digests.part((lines.iter().count() as u64).to_be_bytes());
    lines.iter().for_each(|line| digests.part(line));
}

/// All lines, whatever order their names came in: that says nothing.
fn all_lines(digests: &mut Digests, fields: &HeaderMap) {
    let mut names: Vec<_> = fields.keys().collect();
    names.sort_unstable_by_key(|name| name.as_str());
    for name in names {
        digests.part(name.as_str());
        lines(digests, fields, name.as_str());
    }
}
