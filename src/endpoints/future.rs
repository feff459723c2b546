//! The future of a call to one of several endpoints.

use std::{
    fmt,
    future::Future,
    num::NonZeroU64,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{config::Config, endpoint::Endpoint, list::Entry};
use crate::{
    Classify, Error,
    call::{
        account::{Account, End, How},
        admission::{Admission, Ledger},
        ended::polled_after_end,
        ended_call::{EndedCall, Known, Measured},
        oneshot::Oneshot,
        route::Settler,
    },
    error::NoEndpoint,
    outcome::judge,
};

/// The identity of a call to an endpoint.
#[derive(Debug)]
pub(super) struct CallStamp {
    /// The time at which it began, in nanoseconds from the origin of the endpoint.
    ///
    /// Read lazily. A call that completes on its first poll counts as one that takes no time.
    began: Option<NonZeroU64>,
    /// The number of renewals of the service that is called.
    renewals: u32,
    /// The part that polled the call last. Only this part settles it.
    settler: Option<Settler>,
}

impl Ledger for Arc<Endpoint> {
    type Stamp = CallStamp;

    #[cold]
    fn abandoned(&self, stamp: CallStamp, panicked: bool) {
        if panicked {
            self.settle(
                measured(self, &stamp, Known::Failed).stamp(),
                &End::at_head(How::Panicked),
            );
        } else {
            end(self, &stamp, Known::Dropped);
        }
    }
}

/// Returns the time of an instant, and at least 1 ns.
#[inline]
fn time(endpoint: &Endpoint, at: Instant) -> NonZeroU64 {
    NonZeroU64::new(endpoint.time(at)).unwrap_or(NonZeroU64::MIN)
}

/// Returns the times of a call that ends now.
#[inline]
fn measured(endpoint: &Endpoint, stamp: &CallStamp, known: Known) -> Measured {
    let now = endpoint.time(Instant::now());
    let took = stamp.began.map_or(0, |began| now.saturating_sub(began.get()));
    Measured::new(took, now, known)
}

/// Ends a call, which the part of the call around settles, if there is one.
#[inline]
fn end(endpoint: &Arc<Endpoint>, stamp: &CallStamp, known: Known) {
    let is_at_once = stamp.began.is_none() && stamp.settler.is_none() && known == Known::Good;
    if is_at_once && endpoint.responded_at_once() {
        return;
    }
    let measured = measured(endpoint, stamp, known);
    match stamp.settler {
        Some(settler) => {
            let account = Arc::clone(endpoint) as _;
            EndedCall::new(account, measured, endpoint.mark).hand_over(settler);
        }
        None => endpoint.settle_known(measured.took(), measured.now(), known),
    }
}

/// Notes that the call is pending. Its time begins now, unless the clock was read before.
fn note_pending(admission: &mut Admission<Arc<Endpoint>>) {
    if admission.stamp().is_some_and(|stamp| stamp.began.is_none()) {
        let began = time(admission.ledger(), Instant::now());
        if let Some(stamp) = admission.stamp() {
            stamp.began = Some(began);
        }
    }
}

pin_project! {
    /// The future of a call to one of several [`Endpoints`](super::Endpoints).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S: Service<Req>, Req, C> {
        #[pin]
        state: State<S, Req>,
        classifier: Arc<C>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S: Service<Req>, Req> {
        Called {
            // Dropped before the admission, which then knows that there is no result.
            #[pin]
            call: Oneshot<S, Req>,
            admission: Admission<Arc<Endpoint>>,
        },
        Rejected { config: Arc<Config> },
        Done,
    }
}

impl<S: Service<Req>, Req, C> ResponseFuture<S, Req, C> {
    /// Creates the future of a call to this endpoint, which has begun.
    #[inline]
    pub(super) fn called(
        Entry { endpoint, slot }: Entry<S>,
        request: Req,
        now: Option<Instant>,
        classifier: Arc<C>,
    ) -> Self
    where
        S: Clone,
    {
        let began = now.map(|now| time(&endpoint, now));
        let stamp = CallStamp { began, renewals: 0, settler: None };
        let mut admission = Admission::new(endpoint, stamp);
        // If the clone panics, the call has ended.
        let (service, renewals) = admission.run(|_| slot.service());
        if let Some(stamp) = admission.stamp() {
            stamp.renewals = renewals;
        }
        let call = Oneshot::waiting(service, request);
        Self { state: State::Called { call, admission }, classifier }
    }

    /// Returns the address that is called.
    pub(super) fn address(&self) -> Option<&dyn fmt::Display> {
        match &self.state {
            State::Called { admission, .. } => Some(admission.ledger().address()),
            State::Rejected { .. } | State::Done => None,
        }
    }

    pub(super) fn rejected(config: Arc<Config>, classifier: Arc<C>) -> Self {
        Self { state: State::Rejected { config }, classifier }
    }
}

impl<S, Req, C> Future for ResponseFuture<S, Req, C>
where
    S: Service<Req>,
    C: Classify<S::Response, Error<S::Error>>,
{
    type Output = Result<S::Response, Error<S::Error>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = match this.state.as_mut().project() {
            StateProj::Called { mut call, admission } => {
                if let Some(stamp) = admission.stamp() {
                    stamp.settler = Settler::current();
                }
                let polled = admission.run(|_| match call.as_mut().poll_call(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(error)) => Poll::Ready((Err(error), false)),
                    Poll::Ready(Ok(())) => call.poll(cx).map(|result| (result, true)),
                });
                let Poll::Ready((result, is_ready)) = polled else {
                    note_pending(admission);
                    return Poll::Pending;
                };
                let result = result.map_err(Error::Service);
                // If it panics, the call ends as one that is dropped. That is no failure.
                let known = Known::of(judge(&**this.classifier, result.as_ref()));
                if let Some(stamp) = admission.take() {
                    let endpoint = admission.ledger();
                    if !is_ready {
                        endpoint.renew(stamp.renewals);
                    }
                    end(endpoint, &stamp, known);
                }
                result
            }
            StateProj::Rejected { config } => {
                let rejection = NoEndpoint::by(config.reporter.name().cloned());
                Err(config.reporter.get().reject(rejection))
            }
            StateProj::Done => polled_after_end(),
        };
        this.state.set(State::Done);
        Poll::Ready(result)
    }
}

impl<S: Service<Req>, Req, C> fmt::Debug for ResponseFuture<S, Req, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("endpoints::ResponseFuture").finish_non_exhaustive()
    }
}
