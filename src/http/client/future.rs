use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{buffer::Reading, config::Config};
use crate::{
    CarryRejection,
    call::ended::polled_after_end,
    error::DeadlineExceeded,
    http::{ResponseBody, body_end::since, pending_body::PendingBody, wire},
    telemetry::Reporter,
};

pin_project! {
    /// The future of an [`HttpClient`](super::HttpClient).
    #[must_use = "futures do nothing unless polled"]
    pub struct HttpClientFuture<F, R: Body> {
        #[pin]
        state: State<F, R>,
        // This and the next are `None` after the end.
        config: Option<Arc<Config>>,
        call: Option<PendingBody>,
    }
}

pin_project! {
    // There are two variants, as in `Rejectable`.
    #[project = StateProj]
    enum State<F, R: Body> {
        Calling { #[pin] future: F },
        // `None` for a call that is rejected, and after the end.
        Reading { reading: Option<Box<Reading<R>>> },
    }
}

impl<F, R: Body> HttpClientFuture<F, R> {
    /// Creates the future of a call. Without an inner future the call is rejected.
    pub(super) fn new(future: Option<F>, config: Arc<Config>, call: PendingBody) -> Self {
        let state = match future {
            Some(future) => State::Calling { future },
            None => State::Reading { reading: None },
        };
        Self { state, config: Some(config), call: Some(call) }
    }
}

impl<F, R, E> Future for HttpClientFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
    E: CarryRejection,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.as_mut().project();
        let result = match this.state.as_mut().project() {
            StateProj::Calling { future } => ready!(future.poll(cx)),
            StateProj::Reading { reading } => {
                return poll_reading(reading, this.config, this.call, cx);
            }
        };
        this.state.set(State::Reading { reading: None });
        let Some(config) = this.config.take() else { polled_after_end() };
        let Some(call) = this.call.take() else { polled_after_end() };
        let grpc = result.as_ref().is_ok_and(|response| {
            let grpc = wire::is_grpc(response.headers());
            config.read(response, grpc);
            grpc
        });
        let buffer = config.buffer.as_ref().filter(|buffer| {
            let response = result.as_ref().ok();
            response
                .is_some_and(|it| call.may_read(it, grpc) && buffer.takes(it, &config.classifier))
        });
        if let Some(buffer) = buffer {
            let limits = call.limits_ahead(config.idle);
            let reading = Reading::new(result?, buffer.most, limits, config.reporters.meter());
            this.state.set(State::Reading { reading: Some(Box::new(reading)) });
            (*this.config, *this.call) = (Some(config), Some(call));
            return self.poll(cx);
        }
        let measured = config.reporters.meter().map(|_| since(call.began()));
        Poll::Ready(result.map(|response| {
            let to_the_last = config.body_deadline;
            call.into_response(response, grpc, to_the_last, measured, config)
        }))
    }
}

/// Reads a body, and returns its response. Rejects a call that was not sent.
#[inline(never)]
fn poll_reading<R: Body, E: CarryRejection>(
    place: &mut Option<Box<Reading<R>>>,
    config: &mut Option<Arc<Config>>,
    call: &mut Option<PendingBody>,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<ResponseBody<R>>, E>> {
    // Taken out, so that a body that panics is not polled again.
    let (taken, Some(pending), Some(owner)) = (place.take(), call.take(), config.take()) else {
        polled_after_end()
    };
    let Some(mut reading) = taken else {
        return Poll::Ready(Err(reject(owner.reporters.layer())));
    };
    let Poll::Ready(read) = reading.poll(&*owner, cx) else {
        (*place, *call, *config) = (Some(reading), Some(pending), Some(owner));
        return Poll::Pending;
    };
    Poll::Ready(match read {
        Ok(read) => {
            let response = reading.into_response();
            let to_the_last = owner.body_deadline;
            Ok(pending.into_read(response, read, to_the_last, owner))
        }
        Err(late) => Err(E::from_rejection(late)),
    })
}

fn reject<E: CarryRejection>(reporter: &Reporter) -> E {
    reporter.reject(DeadlineExceeded::by(Some(reporter.name().clone())))
}

impl<F, R: Body> fmt::Debug for HttpClientFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClientFuture").finish_non_exhaustive()
    }
}
