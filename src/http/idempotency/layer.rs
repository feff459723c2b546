//! The idempotency layer with the defaults of HTTP.

use http::{HeaderMap, StatusCode};

use super::{HeaderKey, ReadHttp, RecordHttp};
use crate::{
    http::RequestHead,
    idempotency::{IdempotencyBuilder, IdempotencyLayer, NoScope, Store},
};

#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
impl<St: Store<Payload = Vec<u8>>> IdempotencyLayer<St, HeaderKey, (), ReadHttp, RecordHttp> {
    /// Returns a builder for an idempotency layer for HTTP requests.
    ///
    /// It uses [`HeaderKey`], [`ReadHttp`] and [`RecordHttp`] with their defaults. To change
    /// their settings, pass them to [`builder`](IdempotencyLayer::builder).
    ///
    /// Beneath a router that strips a prefix of the path, such as axum's `nest`, set
    /// [`route_fn`](IdempotencyBuilder::route_fn). Otherwise, `/us/payments` and `/eu/payments` are
    /// the same operation, and one may get the response of the other.
    pub fn http(store: St) -> IdempotencyBuilder<St, HeaderKey, NoScope, ReadHttp, RecordHttp> {
        IdempotencyLayer::builder(store, HeaderKey::new(), ReadHttp::new(), RecordHttp::new())
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
impl<St, C, Q, R, U> IdempotencyBuilder<St, HeaderKey, C, Q, R, U> {
    /// Sets the function that returns the route of a request.
    ///
    /// Default: none. The route is the path.
    ///
    /// See [`HeaderKeyBuilder::route_fn`](super::HeaderKeyBuilder::route_fn), which is the same
    /// setting. [`build`](Self::build) rejects a second function.
    ///
    /// ```
    /// use buttress::idempotency::{IdempotencyLayer, store::MemoryStore};
    ///
    /// /// The path before a prefix was stripped, as the outer router has stored it.
    /// #[derive(Clone)]
    /// struct WholePath(String);
    ///
    /// let layer = IdempotencyLayer::http(MemoryStore::new())
    ///     .route_fn(|head| match head.extensions().get() {
    ///         Some(WholePath(path)) => path.clone(),
    ///         None => head.uri().path().to_owned(),
    ///     })
    ///     .single_tenant()
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn route_fn<F>(self, route: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> String + Send + Sync + 'static,
    {
        self.change(|find_key, _| find_key.set_route(route))
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
impl<St, K, C, Q, U> IdempotencyBuilder<St, K, C, Q, RecordHttp, U> {
    /// Sets the function that selects the responses of operations that did not start.
    ///
    /// Default: none. Only responses with the extension [`NotStarted`](super::NotStarted) are not
    /// recorded.
    ///
    /// See [`RecordHttpBuilder::not_started`](super::RecordHttpBuilder::not_started), which is the
    /// same setting. [`build`](Self::build) rejects a second function.
    pub fn not_started<F>(self, not_started: F) -> Self
    where
        F: Fn(StatusCode, &HeaderMap) -> bool + Send + Sync + 'static,
    {
        self.change(|_, record| record.set_not_started(not_started))
    }
}
