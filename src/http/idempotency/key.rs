//! Where the key of a request is, and which requests need one.

use std::{fmt, sync::Arc};

use http::{HeaderName, Method, Request};

use crate::{
    ConfigError,
    http::{
        RequestHead,
        checks::{Once, unless_free},
    },
    idempotency::{FindKey, InvalidKey, Key, RequestKey},
};

/// `idempotency-key`: the key that a client gave its request.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

type Guards = Arc<dyn Fn(RequestHead<'_>) -> bool + Send + Sync>;
type Route = Arc<dyn Fn(RequestHead<'_>) -> String + Send + Sync>;

/// Finds the key of a request in its header `Idempotency-Key`, which for gRPC is metadata.
///
/// Guarded are all requests whose method is not safe (GET, HEAD, OPTIONS, TRACE and QUERY are), and
/// each of them must have a key. Of gRPC that is every method, health checks and reflection too,
/// which have none: leave them out by [`only_fn`](HeaderKeyBuilder::only_fn). `CONNECT` opens a
/// tunnel, of which nothing could be given again: it is never guarded.
///
/// The key is quoted or bare, on one header line. Two lines, or a list, are refused even if they agree.
///
/// ```
/// use buttress::http::idempotency::HeaderKey;
///
/// let keys = HeaderKey::builder()
///     .only_fn(|head| head.uri().path().starts_with("/payments"))
///     .route_fn(|_| "payments".to_owned())
///     .build()?;
/// # let _ = keys;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct HeaderKey {
    header: HeaderName,
    optional: bool,
    only: Option<Guards>,
    route: Option<Route>,
}

impl HeaderKey {
    /// Creates one with the defaults of [`builder`](Self::builder).
    pub fn new() -> Self {
        Self { header: IDEMPOTENCY_KEY, optional: false, only: None, route: None }
    }

    /// Returns a builder.
    pub fn builder() -> HeaderKeyBuilder {
        HeaderKeyBuilder {
            header: IDEMPOTENCY_KEY,
            optional: false,
            only: Once::UNSET,
            route: Once::UNSET,
        }
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

/// Settings of a [`HeaderKey`].
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct HeaderKeyBuilder {
    header: HeaderName,
    optional: bool,
    only: Once<Guards>,
    route: Once<Route>,
}

impl HeaderKeyBuilder {
    /// Sets the header that has the key.
    ///
    /// Default: `Idempotency-Key`.
    ///
    /// A header that means something else, such as `authorization` or `content-type`, is an error.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    /// Passes a request without a key on, unguarded.
    ///
    /// Default: it is rejected.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Sets which of the requests whose method is not safe are guarded.
    ///
    /// Default: all.
    ///
    /// A second function is an error.
    pub fn only_fn<F>(mut self, guards: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.only.set(Arc::new(guards));
        self
    }

    /// Sets the route of a request. On another route, or with another method, the same key is
    /// another operation.
    ///
    /// Default: the path.
    ///
    /// Set it where the path does not tell operations apart. Beneath a router that cuts off the
    /// beginning of the path two of them may look the same, and a server for several hosts has each
    /// path several times. The function must not return more than the server's routes: what it
    /// returns is hashed, not kept. A second function is an error.
    pub fn route_fn<F>(mut self, route: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> String + Send + Sync + 'static,
    {
        self.route.set(Arc::new(route));
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// A [`header`](Self::header) that means something else, and a function that was set twice.
    pub fn build(self) -> Result<HeaderKey, ConfigError> {
        Ok(HeaderKey {
            header: unless_free("header", self.header)?,
            optional: self.optional,
            only: self.only.get("only_fn")?,
            route: self.route.get("route_fn")?,
        })
    }
}

impl fmt::Debug for HeaderKeyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderKeyBuilder")
            .field("header", &self.header)
            .field("optional", &self.optional)
            .field("only_fn", &self.only.is_set())
            .field("route_fn", &self.route.is_set())
            .finish()
    }
}
