//! Where the key of a request is, and which requests need one.

use std::{fmt, sync::Arc};

use http::{HeaderName, Method, Request};

use crate::{
    http::RequestHead,
    idempotency::{FindKey, InvalidKey, Key, RequestKey},
};

/// `idempotency-key`: the key that a client gave its request.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

type Guards = Arc<dyn Fn(RequestHead<'_>) -> bool + Send + Sync>;
type Route = Arc<dyn Fn(RequestHead<'_>) -> String + Send + Sync>;

/// Finds the key of a request in its header `Idempotency-Key`, which for gRPC is metadata.
///
/// Guarded are all requests whose method is not safe (GET, HEAD, OPTIONS, TRACE and QUERY are), and each of them
/// must have a key. Of gRPC that is every method, health checks and reflection too, which have none: leave them
/// out by [`only`](Self::only). `CONNECT` opens a tunnel, of which nothing could be given again: it is never guarded.
///
/// The key is quoted or bare, on one header line. Two lines, or a list, are refused even if they agree.
///
/// ```
/// use buttress::http::idempotency::HeaderKey;
///
/// let keys = HeaderKey::new()
///     .only(|head| head.uri().path().starts_with("/payments"))
///     .route(|_| "payments".to_owned());
/// # let _ = keys;
/// ```
#[derive(Clone)]
pub struct HeaderKey {
    header: HeaderName,
    optional: bool,
    only: Option<Guards>,
    route: Option<Route>,
}

impl HeaderKey {
    /// In `Idempotency-Key`, which every request must have whose method is not safe.
    pub fn new() -> Self {
        Self { header: IDEMPOTENCY_KEY, optional: false, only: None, route: None }
    }

    /// In another header.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    /// A request without a key is not guarded; by default it is refused.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Of the requests whose method is not safe, only those are guarded for which this is true: all, until it is
    /// set. Said again, the last counts.
    pub fn only<F>(mut self, guards: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.only = Some(Arc::new(guards));
        self
    }

    /// What the same key is another operation for, beside the method: the path, until it is set.
    ///
    /// Set it where paths are not what tells operations apart: beneath a router that cuts off the beginning of the
    /// path two of them may look the same here, and a server for several hosts has each path several times. What
    /// it says must not be longer or richer than the server's routes are: it is hashed, not kept.
    pub fn route<F>(mut self, route: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> String + Send + Sync + 'static,
    {
        self.route = Some(Arc::new(route));
        self
    }

    fn guards(&self, head: RequestHead<'_>) -> bool {
        let method = head.method();
        !method.is_safe()
            && method != Method::CONNECT
            && self.only.as_ref().is_none_or(|guards| guards(head))
    }
}

impl Default for HeaderKey {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> FindKey<Request<B>> for HeaderKey {
    fn find_key(&self, request: &Request<B>) -> Result<RequestKey, InvalidKey> {
        if !self.guards(request.into()) {
            return Ok(RequestKey::Unguarded);
        }
        let mut lines = request.headers().get_all(&self.header).iter();
        let line = match (lines.next(), lines.next()) {
            (None, _) if self.optional => return Ok(RequestKey::Unguarded),
            (None, _) => return Ok(RequestKey::Missing),
            (Some(_), Some(_)) => return Err(InvalidKey::Repeated),
            (Some(line), None) => line,
        };
        let line = line.to_str().map_err(|_| InvalidKey::Malformed)?;
        Key::parse(line).map(RequestKey::Key)
    }

    fn operation(&self, request: &Request<B>, add: &mut dyn FnMut(&[u8])) {
        add(request.method().as_str().as_bytes());
        match &self.route {
            Some(route) => add(route(request.into()).as_bytes()),
            None => add(request.uri().path().as_bytes()),
        }
    }
}

impl fmt::Debug for HeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderKey")
            .field("header", &self.header)
            .field("optional", &self.optional)
            .field("only", &self.only.as_ref().map(|_| format_args!("..")))
            .field("route", &self.route.as_ref().map(|_| format_args!("..")))
            .finish()
    }
}
