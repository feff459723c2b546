//! The key of an HTTP request.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body::Body;

use crate::{
    cache::{KeyHasher, Probe, Selected},
    http::{ClientKey, idempotency::IDEMPOTENCY_KEY},
    sealed::Sealed,
};

const ALWAYS_COUNT: usize = 3;
/// The headers of a request that are in every key.
pub(super) const ALWAYS: [HeaderName; ALWAYS_COUNT] =
    [header::ACCEPT, header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE];

/// The key of an HTTP request in a cache: the method, the whole URI, and some headers.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpKey {
    is_head: bool,
    uri: Uri,
    /// The header `host`. Over HTTP/1, it counts, and the authority of the URI does not.
    host: Option<HeaderValue>,
    scope: Option<Box<str>>,
    values: [Option<HeaderValue>; ALWAYS_COUNT],
    /// Empty unless more headers were set.
    more: Vec<Option<HeaderValue>>,
}

impl HttpKey {
    /// Returns the bytes of the key on the heap.
    pub(super) fn bytes(&self) -> usize {
        let value = |value: &Option<HeaderValue>| value.as_ref().map_or(0, HeaderValue::len);
        let uri = self.uri.authority().map_or(0, |it| it.as_str().len())
            + self.uri.path_and_query().map_or(0, |it| it.as_str().len());
        let values = self.values.iter().chain(&self.more).chain([&self.host]);
        size_of::<Self>()
            + uri
            + self.scope.as_ref().map_or(0, |scope| scope.len())
            + values.map(value).sum::<usize>()
            + self.more.len() * size_of::<Option<HeaderValue>>()
    }
}

/// The key of a request, which borrows from it.
pub struct HttpProbe<'a> {
    is_head: bool,
    uri: &'a Uri,
    host: Option<&'a HeaderValue>,
    scope: Option<String>,
    headers: &'a HeaderMap,
    keys: &'a Keys,
}

impl fmt::Debug for HttpProbe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpProbe").field("path", &self.uri.path()).finish_non_exhaustive()
    }
}

impl Sealed for HttpProbe<'_> {}

impl Probe<HttpKey> for HttpProbe<'_> {
    fn is(&self, key: &HttpKey) -> bool {
        let same = |names: &[HeaderName], values: &[Option<HeaderValue>]| {
            let mut pairs = names.iter().zip(values);
            pairs.all(|(name, value)| self.headers.get(name) == value.as_ref())
        };
        self.is_head == key.is_head
            && *self.uri == key.uri
            && self.host == key.host.as_ref()
            && self.scope.as_deref() == key.scope.as_deref()
            && same(&ALWAYS, &key.values)
            && same(&self.keys.more, &key.more)
    }

    /// Copies the parts of the request.
    ///
    /// Those of a request that was received share the buffer of its connection, which would stay in
    /// memory with the entry.
    fn into_key(self) -> HttpKey {
        let value = |name: &HeaderName| self.headers.get(name).map(copy);
        HttpKey {
            is_head: self.is_head,
            uri: self.uri.to_string().parse().unwrap_or_else(|_| self.uri.clone()),
            host: self.host.map(copy),
            values: ALWAYS.each_ref().map(value),
            more: self.keys.more.iter().map(value).collect(),
            scope: self.scope.map(String::into_boxed_str),
        }
    }
}

/// Returns the same header value in memory of its own.
pub(super) fn copy(value: &HeaderValue) -> HeaderValue {
    let copied = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
    sensitive(copied, value.is_sensitive())
}

fn sensitive(mut value: HeaderValue, is_sensitive: bool) -> HeaderValue {
    value.set_sensitive(is_sensitive);
    value
}

impl fmt::Debug for HttpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Queries and scopes do not belong in logs.
        f.debug_struct("HttpKey").field("path", &self.uri.path()).finish_non_exhaustive()
    }
}

type Scope = Arc<dyn Fn(&HeaderMap, &Extensions) -> Option<String> + Send + Sync>;

/// The rules that make keys.
#[derive(Clone, Default)]
pub(super) struct Keys {
    /// More headers that are in each key.
    pub(super) more: Vec<HeaderName>,
    pub(super) scope: Option<Scope>,
}

impl Keys {
    /// Returns all headers that are in each key.
    pub(super) fn headers(&self) -> Vec<HeaderName> {
        ALWAYS.into_iter().chain(self.more.iter().cloned()).collect()
    }

    pub(super) fn select<'a, B: Body>(
        &'a self,
        request: &'a Request<B>,
        hasher: &KeyHasher,
    ) -> Selected<HttpProbe<'a>> {
        let (headers, uri) = (request.headers(), request.uri());
        let is_head = match *request.method() {
            Method::GET => false,
            Method::HEAD => true,
            Method::OPTIONS | Method::TRACE => return Selected::Bypass,
            // RFC 9111, section 4.4. All callers that ask for the URI get the change.
            _ => return Selected::Forget { tag: tag(uri, headers.get(header::HOST), hasher) },
        };
        let scope = self.scope.as_ref().and_then(|scope| scope(headers, request.extensions()));
        if must_bypass(request, scope.is_some()) {
            return Selected::Bypass;
        }
        let host = headers.get(header::HOST);
        let tag = tag(uri, host, hasher);
        let mut hash = hasher.build();
        (tag, is_head, &scope).hash(&mut hash);
        for name in ALWAYS.iter().chain(&self.more).chain([&header::HOST]) {
            let mut lines = headers.get_all(name).iter();
            lines.next().map(HeaderValue::as_bytes).hash(&mut hash);
            if lines.next().is_some() {
                return Selected::Bypass;
            }
        }
        let probe = HttpProbe { is_head, uri, host, scope, headers, keys: self };
        Selected::Key { probe, hash: hash.finish(), tag }
    }
}

/// The number of bytes of a host that are hashed together.
const PIECE: usize = 64;

/// Returns the tag of all requests for a URI, whatever their methods and other headers.
///
/// The tag is the same for all spellings of the host, and for both ways to name it. A server gets
/// the host in the URI over HTTP/2, and in the header over HTTP/1. Keys that share a tag without
/// need forget each other, which costs a call.
pub(super) fn tag(uri: &Uri, host: Option<&HeaderValue>, hasher: &KeyHasher) -> u64 {
    let mut hash = hasher.build();
    let host = host.map(HeaderValue::as_bytes);
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str().as_bytes()));
    if let Some(host) = host {
        // Hashed in pieces, because that is faster than byte by byte.
        for piece in without_default_port(host).chunks(PIECE) {
            let mut lower = [0; PIECE];
            let lower = &mut lower[..piece.len()];
            lower.copy_from_slice(piece);
            lower.make_ascii_lowercase();
            hash.write(lower);
        }
    }
    (uri.path(), uri.query()).hash(&mut hash);
    hash.finish()
}

/// Returns the host of an authority, and its port unless that is a default one.
fn without_default_port(authority: &[u8]) -> &[u8] {
    let host = authority.iter().rposition(|byte| *byte == b'@').map_or(0, |at| at + 1);
    let host = &authority[host..];
    let mut default = [&b":80"[..], b":443", b":"].into_iter();
    default.find_map(|port| host.strip_suffix(port)).unwrap_or(host)
}

/// Returns `true` if the response is for this request only.
fn must_bypass<B: Body>(request: &Request<B>, is_scoped: bool) -> bool {
    /// The headers that say who asks.
    const CREDENTIALS: [HeaderName; 3] =
        [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION];
    /// The headers that ask for another response than the whole current one.
    const OTHER: [HeaderName; 10] = [
        header::RANGE,
        header::IF_RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::CACHE_CONTROL,
        header::PRAGMA,
        header::UPGRADE,
        header::EXPECT,
    ];
    let headers = request.headers();
    let is_keyed =
        headers.contains_key(IDEMPOTENCY_KEY) || request.extensions().get::<ClientKey>().is_some();
    let names_user =
        || request.uri().authority().is_some_and(|authority| authority.as_str().contains('@'));
    is_keyed
        || !request.body().is_end_stream()
        || OTHER.iter().any(|name| headers.contains_key(name))
        || !is_scoped && (CREDENTIALS.iter().any(|name| headers.contains_key(name)) || names_user())
}
