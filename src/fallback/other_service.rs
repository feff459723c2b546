//! Another service as the source of responses.

use std::{
    any::type_name,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::source::{FallbackSource, Respond};
use crate::{
    call::{degraded::Reason, hop::Hop, oneshot::Oneshot},
    replay::Replay,
    sealed::Sealed,
};

/// Another service, which gets a copy of the request. [`service`] creates it.
#[derive(Clone, Copy)]
pub struct FallbackService<P, B> {
    replay: P,
    service: B,
}

/// Creates a source that sends a copy of the request to another service.
///
/// `replay` copies the requests, like that of a [retry](crate::retry). A request that it does not
/// [replay](Replay::replay) goes to the other service only if nothing began, for example because
/// the circuit was open, and if the policy copies it with [`replay_unsent`](Replay::replay_unsent).
///
/// The other service must share no breaker and no bulkhead with the call. It may be
/// [`Endpoints`](crate::endpoints::Endpoints) without a stack.
pub fn service<P, B>(replay: P, service: B) -> FallbackService<P, B> {
    FallbackService { replay, service }
}

impl<P, B> Sealed for FallbackService<P, B> {}

impl<P, B> FallbackSource for FallbackService<P, B> {
    const DESCRIPTION: &'static str = "another service";
    const CAN_FAIL: bool = true;
}

/// A copy of a request for another service.
#[derive(Debug)]
pub struct Copied<Req> {
    copy: Copy<Req>,
    /// The findings of the retry layers beneath.
    hop: Hop,
}

#[derive(Debug)]
enum Copy<Req> {
    /// It may be sent even after the service has processed the request.
    Repeatable(Req),
    IfNothingBegan(Req),
    None,
}

impl<P, B, Req, Res> Respond<Req, Res> for FallbackService<P, B>
where
    P: Replay<Req>,
    B: Service<Req, Response = Res> + Clone,
{
    type Kept = Copied<Req>;
    type Future = ServiceFuture<B, Req>;

    fn keep(&self, request: &Req) -> Copied<Req> {
        let unsent = || self.replay.replay_unsent(request).map_or(Copy::None, Copy::IfNothingBegan);
        let copy = self.replay.replay(request).map_or_else(unsent, Copy::Repeatable);
        Copied { copy, hop: Hop::default() }
    }

    fn watch<T>(kept: &mut Copied<Req>, piece: impl FnOnce() -> T) -> T {
        let value = kept.hop.run(piece);
        // A server around the call learns of them too.
        kept.hop.report_again();
        value
    }

    fn respond(&self, kept: Copied<Req>, _: &Reason, nothing_began: bool) -> Option<Self::Future> {
        let copy = match kept.copy {
            Copy::Repeatable(copy) => self.replay.prepare(&copy).then_some(copy),
            // A rejection is about the last attempt. An earlier one may have begun.
            Copy::IfNothingBegan(copy) => (nothing_began && !kept.hop.resent()).then_some(copy),
            Copy::None => None,
        };
        copy.map(|copy| ServiceFuture::new(Oneshot::waiting(self.service.clone(), copy)))
    }
}

impl<P, B> fmt::Debug for FallbackService<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FallbackService({}, {})", type_name::<P>(), type_name::<B>())
    }
}

pin_project! {
    /// The future of a [`FallbackService`](super::FallbackService).
    #[must_use = "futures do nothing unless polled"]
    pub struct ServiceFuture<B: Service<Req>, Req> {
        #[pin]
        call: Oneshot<B, Req>,
    }
}

impl<B: Service<Req>, Req> ServiceFuture<B, Req> {
    fn new(call: Oneshot<B, Req>) -> Self {
        Self { call }
    }
}

impl<B: Service<Req>, Req> Future for ServiceFuture<B, Req> {
    type Output = Option<B::Response>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Its own error never replaces the reason for the fallback.
        self.project().call.poll(cx).map(Result::ok)
    }
}

impl<B: Service<Req>, Req> fmt::Debug for ServiceFuture<B, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceFuture").finish_non_exhaustive()
    }
}
