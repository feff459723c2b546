use std::{fmt, sync::Arc};

use http::{Extensions, HeaderMap, HeaderName, Method, Request, Uri, Version, request::Parts};

use super::body::ReplayableBody;
use crate::{
    http::wire,
    retry::{HttpReplay, Replay},
};

/// The head of a request, without its body.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl<'a> RequestHead<'a> {
    /// Returns the method.
    pub fn method(self) -> &'a Method {
        self.method
    }

    /// Returns the URI.
    pub fn uri(self) -> &'a Uri {
        self.uri
    }

    /// Returns the version of HTTP.
    pub fn version(self) -> Version {
        self.version
    }

    /// Returns the headers.
    pub fn headers(self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the extensions.
    pub fn extensions(self) -> &'a Extensions {
        self.extensions
    }
}

impl<'a, B> From<&'a Request<B>> for RequestHead<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

impl<'a> From<&'a Parts> for RequestHead<'a> {
    fn from(head: &'a Parts) -> Self {
        Self {
            method: &head.method,
            uri: &head.uri,
            version: head.version,
            headers: &head.headers,
            extensions: &head.extensions,
        }
    }
}

/// A request extension that marks the request as safe to repeat because of its idempotency key.
///
/// The extension says that the client gave this call one key for all its attempts, and that the
/// server honours the key. A [`SetIdempotencyKeyLayer`](crate::http::SetIdempotencyKeyLayer)
/// inserts it.
///
/// The header `Idempotency-Key` alone does not mark a request, because a caller may send it to
/// any server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientKey;

type OfHead = Arc<dyn Fn(RequestHead<'_>) -> bool + Send + Sync>;
type OfPath = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A replay policy for HTTP requests that are safe to repeat.
///
/// It replays:
///
/// - requests with an idempotent method: GET, HEAD, OPTIONS, TRACE, PUT or DELETE. A conditional
///   PUT or DELETE is not replayed;
/// - requests with the extension [`ClientKey`];
/// - requests with the header `Idempotency-Key`, if
///   [`upstream_honours_key_fn`](Self::upstream_honours_key_fn) returns `true`;
/// - gRPC calls for which [`grpc_methods_fn`](Self::grpc_methods_fn) returns `true`;
/// - requests for which [`also_fn`](Self::also_fn) returns `true`.
///
/// The first and the third rule do not apply to gRPC calls, whose method is always POST. None of
/// the rules applies to requests for which [`except_fn`](Self::except_fn) returns `true`.
///
/// A conditional write has the header `If-Match`, `If-None-Match`, `If-Unmodified-Since`, `If`
/// (WebDAV), `If-Schedule-Tag-Match` (CalDAV), or one like `x-goog-if-generation-match`. If its
/// first attempt succeeded but the response was lost, a replay gets a 412. The caller would believe
/// that somebody else had changed the resource. A key avoids this, because the server then repeats
/// its first response. If you can tell the two cases apart, add the request with `also_fn`.
///
/// All other requests are replayed only if it is proven that the service has not processed them
/// ([`RetryHint::Unsent`](crate::RetryHint::Unsent) or
/// [`RetryHint::Unprocessed`](crate::RetryHint::Unprocessed)). A body that is `Clone` is cloned for
/// that. A [`ReplayBody`](crate::http::ReplayBody) is not kept, so the request can be replayed only
/// while nothing of its body was read. The bodies of gRPC calls are kept, because a gRPC client
/// sends its first message at once, and a server may still reject the call after it.
///
/// A replayed request has the same method, URI, version, headers and extensions.
///
/// ```
/// use buttress::http::ReplaySafe;
///
/// let policy = ReplaySafe::new()
///     .upstream_honours_key_fn(|head| head.uri().path().starts_with("/payments"))
///     .grpc_methods_fn(|path| matches!(path, "/shop.Orders/Get" | "/shop.Orders/List"));
/// # let _ = policy;
/// ```
#[derive(Clone, Default)]
pub struct ReplaySafe {
    upstream_honours: Vec<OfHead>,
    grpc_methods: Vec<OfPath>,
    also: Vec<OfHead>,
    except: Vec<OfHead>,
}

impl ReplaySafe {
    /// Creates a policy that replays only requests that are safe to repeat on any server.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds requests whose server honours an `Idempotency-Key`.
    ///
    /// Such a server processes two requests with the same key only once. A request is replayed if
    /// it has the header and any of these functions returns `true`. The functions are not called
    /// for gRPC calls. This method may be called several times.
    ///
    /// Default: none.
    pub fn upstream_honours_key_fn<F>(mut self, honours: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.upstream_honours.push(Arc::new(honours));
        self
    }

    /// Adds gRPC methods that are safe to repeat, by their path, such as `/shop.Orders/Get`.
    ///
    /// A call is replayed if any of these functions returns `true`. This method may be called
    /// several times.
    ///
    /// Default: none.
    pub fn grpc_methods_fn<F>(mut self, safe: F) -> Self
    where
        F: Fn(&str) -> bool + Send + Sync + 'static,
    {
        self.grpc_methods.push(Arc::new(safe));
        self
    }

    /// Adds other requests that are safe to repeat.
    ///
    /// A request is replayed if any of these functions returns `true`. This method may be called
    /// several times.
    ///
    /// Default: none.
    pub fn also_fn<F>(mut self, safe: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.also.push(Arc::new(safe));
        self
    }

    /// Excludes requests that are not safe to repeat, whatever the other rules say.
    ///
    /// Such a request is replayed only if it is proven that the service has not processed it. A
    /// request is excluded if any of these functions returns `true`. This method may be called
    /// several times.
    ///
    /// Default: none.
    ///
    /// ```
    /// use buttress::http::ReplaySafe;
    ///
    /// // This service runs a job on each GET, and its conditions are in the query.
    /// let policy = ReplaySafe::new()
    ///     .except_fn(|head| head.uri().path() == "/jobs/run")
    ///     .except_fn(|head| head.uri().query().is_some_and(|query| query.contains("ifVersion=")));
    /// # let _ = policy;
    /// ```
    pub fn except_fn<F>(mut self, unsafe_to_repeat: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.except.push(Arc::new(unsafe_to_repeat));
        self
    }

    /// Returns the reason why a request is not replayed.
    fn reason_of(&self, head: RequestHead<'_>) -> &'static str {
        if self.except.iter().any(|except| except(head)) {
            "excluded"
        } else if self.is_safe(head) {
            "body_not_kept"
        } else if wire::is_grpc(head.headers) {
            "grpc_method"
        } else if head.method.is_idempotent() {
            "conditional_request"
        } else if head.headers.contains_key("idempotency-key") {
            "key_not_honoured"
        } else {
            "method"
        }
    }

    fn is_safe(&self, head: RequestHead<'_>) -> bool {
        if self.except.iter().any(|except| except(head)) {
            return false;
        }
        let by_itself = is_safe_everywhere(head)
            || if wire::is_grpc(head.headers) {
                self.grpc_methods.iter().any(|safe| safe(head.uri.path()))
            } else {
                head.headers.contains_key("idempotency-key")
                    && self.upstream_honours.iter().any(|honours| honours(head))
            };
        by_itself || self.also.iter().any(|safe| safe(head))
    }
}

/// Returns whether a request is safe to repeat without a setting of its client.
pub(in crate::http) fn is_safe_everywhere(head: RequestHead<'_>) -> bool {
    head.extensions.get::<ClientKey>().is_some()
        || !wire::is_grpc(head.headers) && is_repeatable(head)
}

/// Returns whether any server gives a repeated request the same response.
fn is_repeatable(head: RequestHead<'_>) -> bool {
    match *head.method {
        Method::PUT | Method::DELETE => !head.headers.keys().any(is_condition),
        _ => head.method.is_safe(),
    }
}

/// Returns whether a header makes a write conditional on the state that the write changes.
///
/// `If-Modified-Since` and `If-Range` apply only to reads.
fn is_condition(name: &HeaderName) -> bool {
    match name.as_str() {
        "if" | "if-match" | "if-none-match" | "if-unmodified-since" | "if-schedule-tag-match" => {
            true
        }
        // The headers of the large object stores.
        name => name.starts_with("x-") && name.contains("-if-"),
    }
}

/// Returns the same request with another body.
fn rebuilt<B>(request: &Request<B>, body: B) -> Request<B> {
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

impl<B: ReplayableBody> Replay<Request<B>> for ReplaySafe {
    fn replay(&self, request: &Request<B>) -> Option<Request<B>> {
        if !self.is_safe(request.into()) {
            return None;
        }
        Some(rebuilt(request, request.body().copy()?))
    }

    fn replay_unsent(&self, request: &Request<B>) -> Option<Request<B>> {
        let body = request.body();
        let buffered = if wire::is_grpc(request.headers()) { body.copy() } else { None };
        // A body too long to be kept can still be replayed if nothing of it was read.
        Some(rebuilt(request, buffered.or_else(|| body.copy_unstarted())?))
    }

    fn reason(&self, request: &Request<B>) -> &'static str {
        self.reason_of(request.into())
    }

    fn prepare(&self, request: &Request<B>) -> bool {
        request.body().end_copies()
    }
}

impl HttpReplay for ReplaySafe {
    fn needs_http(&self) -> bool {
        true
    }
}

impl fmt::Debug for ReplaySafe {
    /// Writes the number of functions of each kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplaySafe")
            .field("upstream_honours_key_fn", &self.upstream_honours.len())
            .field("grpc_methods_fn", &self.grpc_methods.len())
            .field("also_fn", &self.also.len())
            .field("except_fn", &self.except.len())
            .finish()
    }
}
