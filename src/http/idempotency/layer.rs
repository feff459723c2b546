//! The idempotency layer with the defaults of HTTP.

use super::{HeaderKey, ReadHttp, RecordHttp};
use crate::idempotency::{IdempotencyBuilder, IdempotencyLayer, NoScope, Store};

#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
impl<St: Store<Payload = Vec<u8>>> IdempotencyLayer<St, HeaderKey, (), ReadHttp, RecordHttp> {
    /// Returns a builder for an idempotency layer for HTTP requests.
    ///
    /// It uses [`HeaderKey`], [`ReadHttp`] and [`RecordHttp`] with their defaults. To change
    /// their settings, pass them to [`builder`](IdempotencyLayer::builder).
    pub fn http(store: St) -> IdempotencyBuilder<St, HeaderKey, NoScope, ReadHttp, RecordHttp> {
        IdempotencyLayer::builder(store, HeaderKey::new(), ReadHttp::new(), RecordHttp::new())
    }
}
