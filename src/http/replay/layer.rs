use std::task::{Context, Poll};

use http::Request;
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{body::ReplayBody, kept_bytes::KeptBytes};

/// Makes the bodies of requests [`ReplayBody`]s. The outermost layer, around the
/// [retry](crate::retry); see the [module docs](super) for an example.
///
/// Clones of the layer, and all services that it makes, share one count of bytes and its limits.
#[derive(Clone, Debug, Default)]
pub struct ReplayBodyLayer {
    kept_bytes: KeptBytes,
}

impl ReplayBodyLayer {
    /// Keeps up to 64 KiB of one request, and 16 MiB of all.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much is kept of one request at most. Of a longer one nothing is, and it is sent only once.
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.kept_bytes.config.max_request = bytes;
        self
    }

    /// How much is kept of all requests at most. One that would need more is sent only once.
    pub fn max_total_bytes(mut self, bytes: usize) -> Self {
        self.kept_bytes.config.max_total = bytes;
        self
    }

    /// Bytes that are kept now, of all requests.
    pub fn buffered(&self) -> usize {
        self.kept_bytes.held()
    }
}

impl<S> Layer<S> for ReplayBodyLayer {
    type Service = ReplayBodies<S>;

    fn layer(&self, inner: S) -> ReplayBodies<S> {
        ReplayBodies { inner, kept_bytes: self.kept_bytes.clone() }
    }
}

/// Makes the bodies of requests [`ReplayBody`]s. Made by [`ReplayBodyLayer`].
#[derive(Clone, Debug)]
pub struct ReplayBodies<S> {
    inner: S,
    kept_bytes: KeptBytes,
}

accessors!(ReplayBodies<S>);

impl<S, B> Service<Request<B>> for ReplayBodies<S>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let kept_bytes = self.kept_bytes.clone();
        self.inner.call(request.map(|body| ReplayBody::counted_in(body, kept_bytes)))
    }
}
