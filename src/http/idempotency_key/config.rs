//! The configuration of the layer. It selects the requests and writes their keys.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::uuid::Uuid;
use crate::{
    http::{ClientKey, RequestHead, wire},
    idempotency::Key,
};

/// The default header of the key.
const HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// A request extension with the key of this call, which is used instead of a new one.
///
/// Use it for keys that must survive the process or that come from elsewhere, such as the id of a
/// payment or a [child key](crate::idempotency::Run::child_key). A
/// [`SetIdempotencyKeyLayer`](crate::http::SetIdempotencyKeyLayer) removes it from the extensions
/// and sends the key, replacing any header of the request. Two different calls must not have the
/// same key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GivenKey(Key);

impl GivenKey {
    /// Creates the extension.
    pub fn new(key: Key) -> Self {
        Self(key)
    }

    /// Returns the key.
    pub fn key(&self) -> &Key {
        &self.0
    }
}

impl From<Key> for GivenKey {
    fn from(key: Key) -> Self {
        Self(key)
    }
}

pub(super) type ForRequests = dyn Fn(RequestHead<'_>) -> bool + Send + Sync;
pub(super) type Generate = dyn Fn(RequestHead<'_>) -> Key + Send + Sync;

#[derive(Clone)]
pub(super) struct Config {
    pub(super) header: HeaderName,
    pub(super) bare: bool,
    pub(super) trust_header: bool,
    pub(super) for_requests: Option<Arc<ForRequests>>,
    pub(super) generate: Option<Arc<Generate>>,
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

impl Config {
    /// Sets the key of a request that gets one.
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
        // Without the header, the request must not be marked as safe to repeat.
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

    /// Returns whether the header is exactly one line with a valid key.
    ///
    /// A server may read either of two lines, and a line may be without a valid key.
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
        // The capacity is exact, because the header would copy a larger buffer.
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

/// Returns whether a server would read the key without quotes as a different key.
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
