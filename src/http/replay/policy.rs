use std::{fmt, sync::Arc};

use http::{Extensions, HeaderMap, Method, Request, Uri, Version};

use super::body::ReplayableBody;
use crate::{
    http::wire,
    retry::{HttpReplay, Replay},
};

/// A request without its body.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl<'a> RequestHead<'a> {
    /// The method.
    pub fn method(self) -> &'a Method {
        self.method
    }

    /// The address.
    pub fn uri(self) -> &'a Uri {
        self.uri
    }

    /// The version of HTTP.
    pub fn version(self) -> Version {
        self.version
    }

    /// The headers.
    pub fn headers(self) -> &'a HeaderMap {
        self.headers
    }

    /// The extensions.
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

/// An extension of a request: the layers of the client gave this call an idempotency key, the same for
/// all attempts, and know that the server honours it. Such a request is safe to repeat. An
/// [`SetIdempotencyKeyLayer`](crate::http::SetIdempotencyKeyLayer) puts it there.
///
/// The mere header `Idempotency-Key` says nothing of the kind: a caller may send one to any server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientKey;

type OfHead = Arc<dyn Fn(RequestHead<'_>) -> bool + Send + Sync>;
type OfPath = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Replays the HTTP requests that are safe to repeat:
///
/// - with an idempotent method: GET, HEAD, OPTIONS, TRACE, PUT or DELETE;
/// - with the extension [`ClientKey`];
/// - with a header `Idempotency-Key`, where
///   [`upstream_honours_key_fn`](Self::upstream_honours_key_fn) says so;
/// - gRPC calls, all of which are POSTs, only with [`ClientKey`] or where
///   [`grpc_methods_fn`](Self::grpc_methods_fn) says so;
/// - whatever [`also_fn`](Self::also_fn) says.
///
/// All others are sent again only if they are proven not to have been sent
/// ([`RetryHint::Unsent`](crate::RetryHint)). For that nothing is kept of their bodies, but of those of
/// gRPC calls: a gRPC client sends its first message at once, and a server may refuse a call after it.
///
/// A request is sent again with the method, address, version, headers and extensions that it had.
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
}

impl ReplaySafe {
    /// Creates the policy that replays only what is safe to repeat on any server.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds requests whose server honours an `Idempotency-Key`: it does only once what comes twice
    /// with the same key. Those that have the header are replayed.
    ///
    /// May be called several times: one function that returns `true` is enough.
    pub fn upstream_honours_key_fn<F>(mut self, honours: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.upstream_honours.push(Arc::new(honours));
        self
    }

    /// Adds gRPC methods that are safe to repeat, by their path, such as `/shop.Orders/Get`.
    ///
    /// May be called several times: one function that returns `true` is enough.
    pub fn grpc_methods_fn<F>(mut self, safe: F) -> Self
    where
        F: Fn(&str) -> bool + Send + Sync + 'static,
    {
        self.grpc_methods.push(Arc::new(safe));
        self
    }

    /// Adds other requests that are safe to repeat.
    ///
    /// May be called several times: one function that returns `true` is enough.
    pub fn also_fn<F>(mut self, safe: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.also.push(Arc::new(safe));
        self
    }

    fn is_safe(&self, head: RequestHead<'_>) -> bool {
        let by_itself = if head.extensions.get::<ClientKey>().is_some() {
            true
        } else if wire::is_grpc(head.headers) {
            self.grpc_methods.iter().any(|safe| safe(head.uri.path()))
        } else {
            is_idempotent(head.method)
                || head.headers.contains_key("idempotency-key")
                    && self.upstream_honours.iter().any(|honours| honours(head))
        };
        by_itself || self.also.iter().any(|safe| safe(head))
    }
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// The same request, with another body.
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
        // Too long to be kept, it can still be sent again if nothing was read of it.
        Some(rebuilt(request, buffered.or_else(|| body.copy_unstarted())?))
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
    /// Writes how many functions there are of each kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplaySafe")
            .field("upstream_honours_key_fn", &self.upstream_honours.len())
            .field("grpc_methods_fn", &self.grpc_methods.len())
            .field("also_fn", &self.also.len())
            .finish()
    }
}
