//! Reads a request and computes its fingerprint.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, request::Parts};
use http_body::Body;
use tokio::time::Instant;

use super::{
    digest::{all_lines, content, either},
    memory::{BodyMemory, NoMemory, ReadMemory},
};
use crate::{
    ConfigError,
    call::timer::poll_timer,
    error::IdempotencyReason,
    http::{
        BufferedBody, RequestHead,
        checks::{Once, unless_room},
        read::{FromRead, Read, read},
        uploads::{self, Reading, Uploads},
    },
    idempotency::{Digests, ReadRequest, Run},
};

/// The version of the fingerprint. Fingerprints of another kind must not begin with it.
const VERSION: &[u8] = b"http 1";
const CUSTOM: &[u8] = b"http by function";

type AddContent = Arc<dyn Fn(RequestHead<'_>, &[u8], &mut Digests) + Send + Sync>;

/// Reads HTTP requests and computes their fingerprints.
///
/// Two requests are the same if they have the same method, path, query, content type, body and
/// trailers. The order of the parameters of the content type does not count, and neither do quotes
/// around their values. With [`fingerprint_fn`](ReadHttpBuilder::fingerprint_fn), you decide what
/// counts.
///
/// The boundary of a multipart body does not count, neither in the content type nor in the body,
/// because a client may choose a new one for each attempt. The exceptions are bodies with more than
/// 1,000 delimiters, and those in which the boundary stands anywhere but in a delimiter of RFC
/// 2046. A multipart body within another is content, and its boundary counts.
///
/// The body is read before the key is claimed. By default it may have up to 1 MiB, and must arrive
/// within 30 s. The service receives the complete body, and finds the [`Run`] among the extensions
/// of its request.
///
/// A request with a longer body is rejected with
/// [`BodyTooLarge`](IdempotencyReason::BodyTooLarge) (413). A request whose body does not arrive
/// in time, or breaks off, is rejected with [`BodyIncomplete`](IdempotencyReason::BodyIncomplete)
/// (408).
///
/// # Memory
///
/// The bodies of all requests may hold 64 MiB together by default. A body holds memory while it is
/// read, while its request waits, and until the service takes its data. If there is no memory for
/// another frame, one of the bodies that wait for data is ended: the one that progressed least.
/// Its request is rejected with [`BodyIncomplete`](IdempotencyReason::BodyIncomplete). A caller
/// that sends its body is therefore served, even if many others stall.
///
/// The least progress is the most memory for the longest time, measured by the bytes that others
/// receive. A body progresses when it grows by more than 1/8. Complete bodies are never ended. If
/// they hold all memory, a request is rejected with [`Full`](IdempotencyReason::Full) (503).
///
/// Clones share this memory, and so do all services of a layer.
#[derive(Clone)]
pub struct ReadHttp {
    max_body_bytes: usize,
    memory: Arc<BodyMemory>,
    body_timeout: Duration,
    without_body: bool,
    add_content: Option<AddContent>,
}

impl ReadHttp {
    const MAX_BODY_BYTES: usize = 1 << 20;
    const MAX_TOTAL_BYTES: usize = 64 << 20;
    const BODY_TIMEOUT: Duration = Duration::from_secs(30);

    /// Creates a `ReadHttp` with the defaults of [`builder`](Self::builder).
    pub fn new() -> Self {
        Self {
            max_body_bytes: Self::MAX_BODY_BYTES,
            memory: BodyMemory::new(Self::MAX_TOTAL_BYTES),
            body_timeout: Self::BODY_TIMEOUT,
            without_body: false,
            add_content: None,
        }
    }

    /// Returns the number of bytes that the bodies of all requests hold now.
    pub fn buffered(&self) -> usize {
        self.memory.held()
    }

    /// Returns a builder, to change the defaults.
    pub fn builder() -> ReadHttpBuilder {
        ReadHttpBuilder {
            max_body_bytes: None,
            max_total_bytes: None,
            body_timeout: None,
            without_body: false,
            add_content: Once::UNSET,
        }
    }
}

impl Default for ReadHttp {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ReadHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadHttp")
            .field("max_body_bytes", &self.max_body_bytes)
            .field("memory", &self.memory)
            .field("body_timeout", &self.body_timeout)
            .field("without_body", &self.without_body)
            .field("fingerprint_fn", &self.add_content.as_ref().map(|_| format_args!("..")))
            .finish()
    }
}

/// A builder for a [`ReadHttp`].
///
/// [`build`](Self::build) returns a [`ConfigError`] for an invalid setting.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct ReadHttpBuilder {
    max_body_bytes: Option<usize>,
    max_total_bytes: Option<usize>,
    body_timeout: Option<Duration>,
    without_body: bool,
    add_content: Once<AddContent>,
}

impl ReadHttpBuilder {
    /// Sets the maximum number of bytes of the body of a guarded request.
    ///
    /// Default: `1 MiB` (1,048,576 bytes).
    ///
    /// It must be at least 1. A longer body is rejected with
    /// [`BodyTooLarge`](IdempotencyReason::BodyTooLarge).
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = Some(bytes);
        self
    }

    /// Sets the maximum number of bytes that the bodies of all guarded requests hold together.
    ///
    /// Default: `64 MiB` (67,108,864 bytes), or `max_body_bytes` if that is more.
    ///
    /// At the maximum, the body that progressed least is [ended](ReadHttp#memory). The maximum must
    /// be at least [`max_body_bytes`](Self::max_body_bytes).
    pub fn max_total_bytes(mut self, bytes: usize) -> Self {
        self.max_total_bytes = Some(bytes);
        self
    }

    /// Sets the maximum time in which the body of a guarded request must arrive.
    ///
    /// Default: `30 s`.
    ///
    /// The time starts when the layer first waits for the body. It must be longer than zero.
    /// `Duration::MAX` sets no limit. A body that takes longer is rejected with
    /// [`BodyIncomplete`](IdempotencyReason::BodyIncomplete).
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = Some(timeout);
        self
    }

    /// Leaves bodies unread and passes them to the service as they arrive. Use it for uploads.
    ///
    /// Default: off. Bodies are read.
    ///
    /// Two requests that differ only in their bodies then count as the same request.
    /// [`build`](Self::build) rejects this setting together with
    /// [`max_body_bytes`](Self::max_body_bytes), [`max_total_bytes`](Self::max_total_bytes) or
    /// [`body_timeout`](Self::body_timeout).
    pub fn without_body(mut self) -> Self {
        self.without_body = true;
        self
    }

    /// Sets the function that decides what makes two requests the same.
    ///
    /// Default: none. The content that [`ReadHttp`] lists is compared.
    ///
    /// The function gets the head and the body of a request, and adds everything that a duplicate
    /// must share with it. Nothing else is compared. Use it if clients send the same request in
    /// different bytes, such as JSON with its keys in another order, or with a new signature in the
    /// query. A request that differs in what the function leaves out gets the recorded response of
    /// the first one.
    ///
    /// The body is empty if it is [not read](Self::without_body). After a change of the function, a
    /// retry of an earlier request may be rejected with a
    /// [`Mismatch`](IdempotencyReason::Mismatch). [`build`](Self::build) rejects a second function.
    ///
    /// ```
    /// use buttress::http::idempotency::ReadHttp;
    ///
    /// let read = ReadHttp::builder()
    ///     .fingerprint_fn(|head, body, parts| {
    ///         parts.part(head.method().as_str());
    ///         // The query has a signature, which is new each time.
    ///         parts.part(head.uri().path());
    ///         parts.part(body);
    ///     })
    ///     .build()?;
    /// # let _ = read;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn fingerprint_fn<F>(mut self, add_content: F) -> Self
    where
        F: Fn(RequestHead<'_>, &[u8], &mut Digests) + Send + Sync + 'static,
    {
        self.add_content.set(Arc::new(add_content));
        self
    }

    /// Validates the settings and returns the `ReadHttp`.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if a limit is zero, if it is set together with
    /// [`without_body`](Self::without_body), if `max_total_bytes` is less than `max_body_bytes`, or
    /// if a function was set twice.
    pub fn build(self) -> Result<ReadHttp, ConfigError> {
        let unread = "`without_body` does not read bodies";
        if let Some(bytes) = self.max_body_bytes {
            unless_room("max_body_bytes", bytes)?;
            if self.without_body {
                return Err(ConfigError::new("max_body_bytes", bytes, unread));
            }
        }
        if let Some(bytes) = self.max_total_bytes {
            unless_room("max_total_bytes", bytes)?;
            if self.without_body {
                return Err(ConfigError::new("max_total_bytes", bytes, unread));
            }
        }
        if let Some(timeout) = self.body_timeout {
            ConfigError::require_positive("body_timeout", timeout)?;
            if self.without_body {
                return Err(ConfigError::new("body_timeout", timeout, unread));
            }
        }
        let max_body_bytes = self.max_body_bytes.unwrap_or(ReadHttp::MAX_BODY_BYTES);
        let total = self.max_total_bytes.unwrap_or(max_body_bytes.max(ReadHttp::MAX_TOTAL_BYTES));
        if total < max_body_bytes {
            let rule = "it must be at least `max_body_bytes`";
            return Err(ConfigError::new("max_total_bytes", total, rule));
        }
        Ok(ReadHttp {
            max_body_bytes,
            memory: BodyMemory::new(total),
            body_timeout: self.body_timeout.unwrap_or(ReadHttp::BODY_TIMEOUT),
            without_body: self.without_body,
            add_content: self.add_content.get("fingerprint_fn")?,
        })
    }
}

impl Default for ReadHttpBuilder {
    fn default() -> Self {
        ReadHttp::builder()
    }
}

impl fmt::Debug for ReadHttpBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadHttpBuilder")
            .field("max_body_bytes", &self.max_body_bytes)
            .field("max_total_bytes", &self.max_total_bytes)
            .field("body_timeout", &self.body_timeout)
            .field("without_body", &self.without_body)
            .field("fingerprint_fn", &self.add_content.is_set())
            .finish()
    }
}

impl ReadHttp {
    /// Adds the content that a duplicate must share with a request. An unread body is `None`.
    fn add_to(
        &self,
        digests: &mut Digests,
        head: &Parts,
        body: Option<&[u8]>,
        trailers: Option<&HeaderMap>,
    ) {
        if let Some(add_content) = &self.add_content {
            digests.part(CUSTOM);
            return add_content(head.into(), body.unwrap_or_default(), digests);
        }
        digests.part(VERSION);
        digests.part(head.method.as_str());
        digests.part(head.uri.path());
        either(digests, head.uri.query().map(str::as_bytes));
        content(digests, &head.headers, body);
        if let Some(trailers) = trailers {
            all_lines(digests, trailers);
        }
    }
}

impl<B> ReadRequest<Request<B>> for ReadHttp
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    type Request = Request<BufferedBody<B>>;

    async fn read(
        &self,
        request: Request<B>,
        mut digests: Digests,
    ) -> Result<(Self::Request, Digests), IdempotencyReason> {
        let (head, body) = request.into_parts();
        if self.without_body {
            self.add_to(&mut digests, &head, None, None);
            return Ok((Request::from_parts(head, BufferedBody::new(body)), digests));
        }
        if body.size_hint().lower() > self.max_body_bytes as u64 {
            uploads::discard(Request::from_parts(head, body));
            return Err(IdempotencyReason::BodyTooLarge);
        }
        let mut memory = ReadMemory::of(&self.memory);
        let mut body = pin!(Reading::new(body));
        let reading = read(body.as_mut(), self.max_body_bytes, &mut memory);
        let read = within(self.body_timeout, reading).await;
        let (data, trailers) = match read.transpose().map_err(NoMemory::reason)? {
            Some(Read::Whole { data, trailers }) => (data, trailers),
            Some(Read::TooLong { .. }) => return Err(IdempotencyReason::BodyTooLarge),
            Some(Read::Broken { .. }) | None => return Err(IdempotencyReason::BodyIncomplete),
        };
        let held = memory.finish().map_err(NoMemory::reason)?;
        self.add_to(&mut digests, &head, Some(&data), trailers.as_ref());
        let body = BufferedBody::whole(data, trailers).holding(held);
        Ok((Request::from_parts(head, body), digests))
    }

    fn pass(&self, request: Request<B>) -> Self::Request {
        request.map(BufferedBody::new)
    }

    fn hand_over(&self, request: &mut Self::Request, run: &Run) {
        request.extensions_mut().insert(run.clone());
        if request.body().is_unread() {
            // The run is a task of its own, in which a layer may reject the request.
            if let Some(uploads) = Uploads::current() {
                request.extensions_mut().insert(uploads);
            }
        }
    }

    fn discard(&self, request: Self::Request) {
        if request.body().is_unread() {
            uploads::discard(request);
        }
    }
}

/// Returns the output of a future, or `None` if it exceeds the limit.
async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = pin!(None);
    let mut end = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // A future that is ready at once needs no timer, and never reads the clock.
        let end = end.get_or_insert_with(|| Instant::now().checked_add(limit));
        let Some(end) = *end else { return Poll::Pending };
        ready!(poll_timer(timer.as_mut(), end, cx));
        Poll::Ready(None)
    })
    .await
}
