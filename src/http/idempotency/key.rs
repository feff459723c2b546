//! Finds the key of a request, and selects the requests that need one.

use std::{fmt, sync::Arc};

use http::{HeaderName, Method, Request};

use crate::{
    ConfigError,
    http::{
        RequestHead,
        checks::{Once, set_once, unless_free},
    },
    idempotency::{FindKey, InvalidKey, Key, RequestKey},
};

/// The header `idempotency-key`, with the key that a client gave its request.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

type Guards = Arc<dyn Fn(RequestHead<'_>) -> bool + Send + Sync>;
type Route = Arc<dyn Fn(RequestHead<'_>) -> String + Send + Sync>;

/// Finds the key of a request in its `Idempotency-Key` header, which for gRPC is metadata.
///
/// Every request whose method is not safe is guarded, and must have a key. The safe methods are
/// GET, HEAD, OPTIONS, TRACE and, since version 1.5 of the `http` crate, QUERY. For gRPC every
/// method is guarded, including health checks and reflection, which have no key. Exclude them
/// with [`only_fn`](HeaderKeyBuilder::only_fn). `CONNECT` is never guarded, because it opens a
/// tunnel, which cannot be replayed.
///
/// The key may be quoted or bare. It must be on one header line. Two lines, or a list of keys, are
/// rejected even if their keys are equal.
///
/// The same key on another path is another operation. Beneath a router that strips a prefix of the
/// path, such as axum's `nest`, set [`route_fn`](HeaderKeyBuilder::route_fn). Otherwise, one route
/// may get the response of another.
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
    /// Creates a `HeaderKey` with the defaults of [`builder`](Self::builder).
    pub fn new() -> Self {
        Self { header: IDEMPOTENCY_KEY, optional: false, only: None, route: None }
    }

    /// Returns a builder, to change the defaults.
    pub fn builder() -> HeaderKeyBuilder {
        HeaderKeyBuilder {
            header: IDEMPOTENCY_KEY,
            optional: false,
            only: Once::UNSET,
            route: Once::UNSET,
        }
    }

    /// Sets the function that returns the route of a request.
    pub(super) fn set_route<F>(&mut self, route: F) -> Result<(), ConfigError>
    where
        F: Fn(RequestHead<'_>) -> String + Send + Sync + 'static,
    {
        let route: Route = Arc::new(route);
        set_once("route_fn", &mut self.route, route)
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

/// A builder for a [`HeaderKey`].
///
/// [`build`](Self::build) returns a [`ConfigError`] for an invalid setting.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct HeaderKeyBuilder {
    header: HeaderName,
    optional: bool,
    only: Once<Guards>,
    route: Once<Route>,
}

impl HeaderKeyBuilder {
    /// Sets the header that carries the key.
    ///
    /// Default: `Idempotency-Key`.
    ///
    /// [`build`](Self::build) rejects a header with another meaning, such as `authorization` or
    /// `content-type`.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    /// Accepts requests without a key, and passes them to the service unguarded.
    ///
    /// Default: off. A request without a key is rejected.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Sets the function that selects the guarded requests, among those whose method is not safe.
    ///
    /// Default: none. All requests whose method is not safe are guarded.
    ///
    /// Beneath a router that strips a prefix of the path, the function sees the rest of the path.
    /// [`build`](Self::build) rejects a second function.
    pub fn only_fn<F>(mut self, guards: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.only.set(Arc::new(guards));
        self
    }

    /// Sets the function that returns the route of a request.
    ///
    /// Default: none. The route is the path.
    ///
    /// With another route, or another method, the same key means another operation. Set this
    /// function if the path does not identify the operation:
    ///
    /// - Beneath a router that strips a prefix of the path, two operations may have the same path.
    ///   One of axum's `nest` keeps the whole path in its extension `OriginalUri`, as
    ///   [the guide](crate::guide::idempotency#nested-routers) shows.
    /// - A server for several hosts may have the same path on each host.
    ///
    /// The function must return the same route for a request and its duplicates. It must not return
    /// more different routes than the server has. The route is hashed, not kept.
    /// [`build`](Self::build) rejects a second function.
    pub fn route_fn<F>(mut self, route: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> String + Send + Sync + 'static,
    {
        self.route.set(Arc::new(route));
        self
    }

    /// Validates the settings and returns the `HeaderKey`.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if the [`header`](Self::header) has another meaning, or if a
    /// function was set twice.
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
