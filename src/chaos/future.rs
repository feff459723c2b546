//! The future of the [`Chaos`](super::Chaos) service.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::pause::Pause;
use crate::call::{ended::polled_after_end, oneshot::Oneshot};

type Output<S, Req> = Result<<S as Service<Req>>::Response, <S as Service<Req>>::Error>;

pin_project! {
    /// The future of a [`Chaos`](super::Chaos).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S: Service<Req>, Req> {
        #[pin]
        call: Call<S::Future, Pin<Box<Faulty<S, Req>>>>,
    }
}

pin_project! {
    #[project = CallProj]
    enum Call<F, B> {
        Untouched { #[pin] future: F },
        // Boxed, so that a call without a fault does not make room for one.
        Faulty { faulty: B },
    }
}

pin_project! {
    /// A call with a fault.
    #[project = FaultyProj]
    pub(super) enum Faulty<S: Service<Req>, Req> {
        // The service is not called.
        Made { result: Option<Output<S, Req>> },
        // The service is called after the pause.
        Late { #[pin] pause: Option<Pause>, #[pin] call: Oneshot<S, Req> },
        // The service was called, and its response is held. A `delay` begins with the response.
        Held {
            #[pin] pause: Pause,
            delay: Option<Duration>,
            #[pin] call: Oneshot<S, Req>,
            response: Option<S::Response>,
        },
        Ended,
    }
}

impl<S: Service<Req>, Req> ResponseFuture<S, Req> {
    #[inline]
    pub(super) fn untouched(future: S::Future) -> Self {
        Self { call: Call::Untouched { future } }
    }

    fn faulty(faulty: Faulty<S, Req>) -> Self {
        Self { call: Call::Faulty { faulty: Box::pin(faulty) } }
    }

    pub(super) fn made(result: Output<S, Req>) -> Self {
        Self::faulty(Faulty::Made { result: Some(result) })
    }

    pub(super) fn late(pause: Pause, service: S, request: Req) -> Self {
        let call = Oneshot::waiting(service, request);
        Self::faulty(Faulty::Late { pause: Some(pause), call })
    }

    pub(super) fn held(pause: Pause, delay: Option<Duration>, future: S::Future) -> Self {
        let call = Oneshot::called(future);
        Self::faulty(Faulty::Held { pause, delay, call, response: None })
    }
}

impl<S: Service<Req>, Req> Future for ResponseFuture<S, Req> {
    type Output = Output<S, Req>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().call.project() {
            CallProj::Untouched { future } => future.poll(cx),
            CallProj::Faulty { faulty } => poll_faulty(faulty.as_mut(), cx),
        }
    }
}

// Not inlined, so that the path of a call without a fault stays short enough to be inlined.
#[cold]
#[inline(never)]
fn poll_faulty<S: Service<Req>, Req>(
    faulty: Pin<&mut Faulty<S, Req>>,
    cx: &mut Context<'_>,
) -> Poll<Output<S, Req>> {
    faulty.poll(cx)
}

impl<S: Service<Req>, Req> Future for Faulty<S, Req> {
    type Output = Output<S, Req>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match self.as_mut().project() {
            FaultyProj::Made { result } => result.take(),
            FaultyProj::Late { mut pause, call } => {
                if let Some(waiting) = pause.as_mut().as_pin_mut() {
                    ready!(waiting.poll(cx));
                    pause.set(None);
                }
                Some(ready!(call.poll(cx)))
            }
            FaultyProj::Held { mut pause, delay, call, response } => {
                if response.is_none() {
                    match ready!(call.poll(cx)) {
                        Ok(arrived) => *response = Some(arrived),
                        Err(error) => {
                            self.set(Self::Ended);
                            return Poll::Ready(Err(error));
                        }
                    }
                    if let Some(delay) = *delay {
                        pause.as_mut().begin(delay);
                    }
                }
                ready!(pause.poll(cx));
                response.take().map(Ok)
            }
            FaultyProj::Ended => None,
        };
        self.set(Self::Ended);
        Poll::Ready(result.unwrap_or_else(|| polled_after_end()))
    }
}

impl<S: Service<Req>, Req> fmt::Debug for ResponseFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faulty = matches!(self.call, Call::Faulty { .. });
        f.debug_struct("chaos::ResponseFuture").field("faulty", &faulty).finish_non_exhaustive()
    }
}
