use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::{answer, body::HttpServerBody, inbound::Inbound, shared::Shared};
use crate::{
    Error, Rejection,
    call::{
        attempt::enter_attempt,
        deadline::{self, narrow},
        hop::Hop,
        oneshot::Oneshot,
        patience::ending,
        rejectable::Rejectable,
        timer::poll_timer,
    },
    error::{DeadlineExceeded, TimedOut},
    http::{
        reporters::HttpReporters,
        uploads::{self, Uploads},
    },
    telemetry::{Event, Reporter},
};

pin_project! {
    /// The future of an [`HttpServer`](super::HttpServer). It enforces the request's deadline.
    #[must_use = "futures do nothing unless polled"]
    pub struct HttpServerFuture<F> {
        // Rejected if the time was over before the handler was called.
        #[pin]
        call: Rejectable<F>,
        #[pin]
        timer: Option<Sleep>,
        shared: Arc<Shared>,
        inbound: Inbound,
        hop: Hop,
        // `None` if the rest of the request is dropped when it is rejected.
        uploads: Option<Uploads>,
    }

    impl<F> PinnedDrop for HttpServerFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.call.is_running() {
                let call = this.call.as_mut();
                // The caller has left, so there is nobody to drain a request for. A server around
                // this one must not do it either.
                Uploads::enter(&mut None, || this.inbound.enter(this.hop, || call.end()));
            }
        }
    }
}

impl Inbound {
    /// Runs a part of the request with its deadline, its attempt and its hop ambient.
    pub(super) fn enter<T>(&self, hop: &mut Hop, piece: impl FnOnce() -> T) -> T {
        let _deadline = narrow(self.end);
        let _attempt = enter_attempt(self.attempt);
        hop.run(piece)
    }
}

impl<F> HttpServerFuture<F> {
    pub(super) fn begin<B: Body + Send + 'static>(
        shared: Arc<Shared>,
        inbound: Inbound,
        mut uploads: Option<Uploads>,
        request: Request<B>,
        call: impl FnOnce(&mut Hop, Request<B>) -> F,
    ) -> Self {
        let mut hop = Hop::default();
        let call = Uploads::enter(&mut uploads, || {
            if inbound.end.is_some_and(|end| end <= inbound.began) {
                uploads::discard(request);
                Rejectable::rejected(())
            } else {
                Rejectable::running(call(&mut hop, request), ())
            }
        });
        Self { call, timer: None, shared, inbound, hop, uploads }
    }
}

impl<S, B, R> Future for HttpServerFuture<Oneshot<S, Request<B>>>
where
    S: Service<Request<B>, Response = Response<R>, Error = Error<Infallible>>,
    B: Body + Send + 'static,
{
    type Output = Result<Response<HttpServerBody<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (inbound, reporters) = (*this.inbound, &this.shared.reporters);
        let outer = deadline::deadline();
        // A request that waits does not begin at its deadline. Others free their slots then.
        let over = this.timer.as_ref().as_pin_ref().is_some_and(|timer| timer.is_elapsed());
        let mut own_limit = None;
        let result = match this.call.as_mut().as_running() {
            None => Err(this.call.as_mut().reject(|()| too_late(reporters))),
            Some((future, ())) if over && future.is_waiting() => Err(too_late(reporters)),
            Some((mut future, ())) => match Uploads::enter(this.uploads, || {
                inbound.enter(this.hop, || future.as_mut().poll(cx))
            }) {
                Poll::Ready(Ok(response)) => Ok(response),
                Poll::Ready(Err(Error::Rejected(rejection))) => Err(rejection),
                Poll::Ready(Err(Error::Service(never))) => match never {},
                Poll::Pending => {
                    let ours = inbound.end.filter(|end| outer.is_none_or(|outer| *end < outer));
                    let Some(end) = ours else { return Poll::Pending };
                    ready!(poll_timer(this.timer, end, cx));
                    let limit = end.saturating_duration_since(inbound.began);
                    // Not if it is the caller's deadline.
                    own_limit = this.shared.config.limit.filter(|own| *own == limit);
                    let is_waiting = future.is_waiting();
                    Err(if is_waiting { too_late(reporters) } else { timed_out(reporters, limit) })
                }
            },
        };
        // The call is dropped before the response is created, because the drop may still report
        // something to the hop.
        let _ended_by = own_limit.map(|limit| ending(Some(limit)));
        Uploads::enter(this.uploads, || {
            if let Some((future, ())) = this.call.as_mut().as_running() {
                if let Some(request) = future.take_waiting() {
                    uploads::discard(request);
                }
            }
            inbound.enter(this.hop, || this.call.end());
        });
        Poll::Ready(Ok(answer::answer(&this.shared.config, inbound.grpc, *this.hop, result)))
    }
}

fn timed_out(reporters: &HttpReporters, limit: Duration) -> Rejection {
    let reporter = reporters.layer();
    report(reporter, TimedOut::by(Some(reporter.name().clone()), limit))
}

/// Rejects a request whose time was over before the stack was called.
fn too_late(reporters: &HttpReporters) -> Rejection {
    let reporter = reporters.layer();
    report(reporter, DeadlineExceeded::by(Some(reporter.name().clone())))
}

fn report(reporter: &Reporter, reason: impl Into<Rejection>) -> Rejection {
    let rejection = reason.into();
    reporter.emit(Event::Rejected { rejection: &rejection });
    rejection
}

impl<F> fmt::Debug for HttpServerFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServerFuture").field("inbound", &self.inbound).finish_non_exhaustive()
    }
}
