use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::Response;
use http_body::Body;
use tower_service::Service;

use super::{
    body::{BodyFault, ChaosBody, Drawn},
    future::ResponseFuture,
};
use crate::chaos::{draw::Shares, switch::Switch};

/// The state that the services of one layer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) switch: Arc<Switch>,
    pub(super) shares: Shares<BodyFault>,
}

/// A service whose bodies have faults while its layer is armed, created by a
/// [`BodyChaosLayer`](super::BodyChaosLayer). It forwards readiness.
///
/// See the [module docs](super).
#[derive(Clone, Debug)]
pub struct BodyChaos<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> BodyChaos<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }

    #[cold]
    fn draw(&self) -> Option<Box<Drawn>> {
        let ticket = self.shared.switch.admit()?;
        let number = self.shared.switch.number(ticket)?;
        let fault = self.shared.shares.draw(number)?;
        let switch = Arc::clone(&self.shared.switch);
        Some(Box::new(Drawn { fault, number, switch, ticket }))
    }
}

accessors!(BodyChaos<S>);

impl<S, Req, B> Service<Req> for BodyChaos<S>
where
    S: Service<Req, Response = Response<B>>,
    B: Body,
{
    type Response = Response<ChaosBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let fault = if self.shared.switch.may_be_armed() { self.draw() } else { None };
        ResponseFuture::new(self.inner.call(request), fault)
    }
}
