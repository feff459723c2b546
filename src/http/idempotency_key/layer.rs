use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tower_layer::Layer;

use super::{service::IdempotencyKey, uuid::Uuid};
use crate::{
    http::{ClientKey, RequestHead, wire},
    idempotency::Key,
};

/// What a key is sent in, unless another header is set.
const HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// An extension of a request: the key that this call is to have, in place of a new one.
///
/// For keys that must survive the process or that come from elsewhere: the id of a payment, or a
/// [child key](crate::idempotency::Run::child_key). An [`IdempotencyKeyLayer`] takes it out of the
/// extensions and sends it, in place of whatever the header says. Two calls that are not the same must not
/// have the same key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GivenKey(pub Key);

impl From<Key> for GivenKey {
    fn from(key: Key) -> Self {
        Self(key)
    }
}

/// Makes [`IdempotencyKey`]s, which give each call a key. See the [module docs](super) for an example.
#[derive(Clone, Debug, Default)]
pub struct IdempotencyKeyLayer {
    config: Arc<Config>,
}

type ForRequests = dyn Fn(RequestHead<'_>) -> bool + Send + Sync;
type Generate = dyn Fn(RequestHead<'_>) -> Key + Send + Sync;

#[derive(Clone)]
pub(super) struct Config {
    header: HeaderName,
    bare: bool,
    trust_header: bool,
    for_requests: Option<Arc<ForRequests>>,
    generate: Option<Arc<Generate>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            header: HEADER,
            bare: false,
            trust_header: false,
            for_requests: None,
            generate: None,
        }
    }
}

impl IdempotencyKeyLayer {
    /// A new random UUID in `Idempotency-Key`, quoted, for each POST and each PATCH but those of gRPC.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which header the key is sent in. The default is `Idempotency-Key`.
    pub fn header(self, name: HeaderName) -> Self {
        self.with(|config| config.header = name)
    }

    /// Sends keys without quotes, as Stripe and others have them. The default is a quoted string of
    /// RFC 8941. A key that would be read as another without them keeps its quotes: one that begins with a
    /// quote, has a comma, or has a space at either end.
    pub fn bare(self) -> Self {
        self.with(|config| config.bare = true)
    }

    /// For which requests the server honours a key: those that get one. The default is POST and PATCH,
    /// but not gRPC. Said again, the last counts.
    pub fn for_requests<F>(self, honoured: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.with(|config| config.for_requests = Some(Arc::new(honoured)))
    }

    /// Lets a request be sent again that came with a key in its header, if that is a single valid one and
    /// the server honours it ([`for_requests`](Self::for_requests)). For clients whose requests are all made by
    /// code of one's own: what a proxy passes on may have the key of another request. The default is not to.
    pub fn trust_header(self) -> Self {
        self.with(|config| config.trust_header = true)
    }

    /// Makes the keys, in place of random ones. It must not give two calls the same key, or the second has
    /// no effect. Said again, the last counts.
    pub fn generate<F>(self, generate: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> Key + Send + Sync + 'static,
    {
        self.with(|config| config.generate = Some(Arc::new(generate)))
    }

    fn with(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S> Layer<S> for IdempotencyKeyLayer {
    type Service = IdempotencyKey<S>;

    fn layer(&self, inner: S) -> IdempotencyKey<S> {
        IdempotencyKey::new(inner, Arc::clone(&self.config))
    }
}

impl Config {
    /// Gives a request its key, if it is to have one.
    pub(super) fn prepare<B>(&self, request: &mut http::Request<B>) {
        let value = if let Some(GivenKey(key)) = request.extensions_mut().remove() {
            self.value(key.as_str())
        } else {
            let head = RequestHead::from(&*request);
            if head.headers().contains_key(&self.header) {
                if self.trust_header && self.is_honoured(head) && self.has_one_key(head.headers()) {
                    request.extensions_mut().insert(ClientKey);
                }
                return;
            }
            if !self.is_honoured(head) {
                return;
            }
            match &self.generate {
                Some(generate) => self.value(generate(head).as_str()),
                None => self.value(Uuid::random().as_str()),
            }
        };
        // Without the header it must not be sent again.
        if let Some(value) = value {
            request.headers_mut().insert(self.header.clone(), value);
            request.extensions_mut().insert(ClientKey);
        }
    }

    fn is_honoured(&self, head: RequestHead<'_>) -> bool {
        match &self.for_requests {
            Some(honoured) => honoured(head),
            None => {
                matches!(*head.method(), Method::POST | Method::PATCH)
                    && !wire::is_grpc(head.headers())
            }
        }
    }

    /// Whether the header is one line that is a key, and not two, or none, of which a server may take
    /// either.
    fn has_one_key(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(&self.header).iter();
        let line = lines.next().and_then(|line| line.to_str().ok());
        lines.next().is_none() && line.is_some_and(|line| Key::parse(line).is_ok())
    }

    fn value(&self, key: &str) -> Option<HeaderValue> {
        if self.bare && !needs_quotes(key) {
            return HeaderValue::from_str(key).ok();
        }
        let is_special = |byte: &u8| matches!(byte, b'"' | b'\\');
        // No longer than it has to be, or it is copied on its way into the header.
        let escapes = key.bytes().filter(is_special).count();
        let mut quoted = Vec::with_capacity(key.len() + escapes + 2);
        quoted.push(b'"');
        for byte in key.bytes() {
            if is_special(&byte) {
                quoted.push(b'\\');
            }
            quoted.push(byte);
        }
        quoted.push(b'"');
        HeaderValue::try_from(quoted).ok()
    }
}

/// Whether a bare key would be read as another one.
fn needs_quotes(key: &str) -> bool {
    key.starts_with(['"', ' ']) || key.ends_with(' ') || key.contains(',')
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("header", &self.header)
            .field("bare", &self.bare)
            .field("trust_header", &self.trust_header)
            .field("for_requests", &self.for_requests.is_some())
            .field("generate", &self.generate.is_some())
            .finish()
    }
}
