use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tower_service::Service;

use super::{
    FindKey, FindScope, IdempotencyLayer, ReadRequest, Record, ResponseFuture, SettleUnknown,
    Store, call,
};
use crate::CarryRejection;

/// Runs each operation once. See the [module docs](super).
pub struct Idempotency<S, L> {
    inner: S,
    layer: L,
}

impl<S, L> Idempotency<S, L> {
    pub(super) fn new(inner: S, layer: L) -> Self {
        Self { inner, layer }
    }
}

accessors!(Idempotency<S, L>);

impl<S: Clone, L: Clone> Clone for Idempotency<S, L> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S: fmt::Debug, L: fmt::Debug> fmt::Debug for Idempotency<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, Req, St, K, C, Q, R, U> Service<Req> for Idempotency<S, IdempotencyLayer<St, K, C, Q, R, U>>
where
    Req: Send + 'static,
    S: Service<Q::Request, Error: CarryRejection + Send, Response: Send, Future: Send>
        + Clone
        + Send
        + 'static,
    S::Response: 'static,
    S::Error: 'static,
    St: Store,
    K: FindKey<Req> + Send + Sync + 'static,
    C: FindScope<Req> + Send + Sync + 'static,
    Q: ReadRequest<Req, Request: Send + 'static> + Send + Sync + 'static,
    R: Record<S::Response, S::Error, Payload = St::Payload, Response: Send + 'static>
        + Send
        + Sync
        + 'static,
    U: SettleUnknown<S::Response> + Send + Sync + 'static,
{
    type Response = R::Response;
    type Error = S::Error;
    type Future = ResponseFuture<R::Response, S::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Most that comes twice never reaches the service: what it reserved would be held in vain.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let core = Arc::clone(&self.layer.core);
        ResponseFuture::new(call::serve(core, self.inner.clone(), request))
    }
}
