//! The guard with the defaults of HTTP.

use super::{HeaderKey, ReadHttp, RecordHttp};
use crate::idempotency::{IdempotencyBuilder, IdempotencyLayer, NoScope, Store};

#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
impl<St: Store<Payload = Vec<u8>>> IdempotencyLayer<St, HeaderKey, (), ReadHttp, RecordHttp> {
    /// A guard of HTTP requests, with the defaults of [`HeaderKey`], [`ReadHttp`] and [`RecordHttp`]. With settings of
    /// one's own they go to [`builder`](IdempotencyLayer::builder).
    pub fn http(store: St) -> IdempotencyBuilder<St, HeaderKey, NoScope, ReadHttp, RecordHttp> {
        IdempotencyLayer::builder(store, HeaderKey::new(), ReadHttp::new(), RecordHttp::new())
    }
}
