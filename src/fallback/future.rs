//! The futures of the fallback.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

pub use super::other_service::ServiceFuture;
use super::{shared::Shared, source::Respond, state::State as FallbackState};
use crate::{
    CarryRejection, Classify, Outcome, Rejection,
    call::{
        catch_panic::Unwinding,
        completion::{AtHead, Completion},
        deadline,
        degraded::{Degraded, DegradedBy, Reason, ResponseSource},
        ended::polled_after_end,
        rejected_by::RejectedBy,
        reserve::Reserved,
        route,
    },
    outcome::judge,
};

pin_project! {
    /// The future of a [`Fallback`](super::Fallback).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, R, C, M = AtHead>
    where
        S: Service<Req>,
        R: Respond<Req, S::Response>,
    {
        #[pin]
        state: State<S::Future, R::Future, R::Kept, S::Response, S::Error>,
        shared: Arc<Shared<R, C>>,
        completion: PhantomData<fn() -> M>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateOwn]
    enum State<F, A, K, T, E> {
        // A call without a deadline. There is only one other variant, so that one comparison tells
        // it apart, and it writes no other fields.
        Calling { #[pin] future: F, kept: K },
        Staged { #[pin] stage: Stage<F, A, K, T, E> },
    }
}

pin_project! {
    #[project = StageProj]
    #[project_replace = StageOwn]
    enum Stage<F, A, K, T, E> {
        // A call beneath a deadline.
        Reserved { #[pin] call: Reserved<F>, kept: K },
        // The service is switched off, and was not called.
        Off { kept: K },
        Responding { #[pin] response: Reserved<A>, failed: Failed<T, E> },
        Done,
    }
}

/// A call that falls back.
struct Failed<T, E> {
    reason: Reason,
    /// The breaker or bulkhead that rejected the call.
    rejected_by: Option<RejectedBy>,
    without: Without<T, E>,
}

/// The result of a call without its fallback.
enum Without<T, E> {
    /// The result of the service, or of a layer beneath. A response holds nothing of its layers.
    Result(Result<T, E>),
    /// This layer ended the call, to have time for the fallback.
    Ended(Rejection),
    Off,
}

impl<S, Req, R, C, M> ResponseFuture<S, Req, R, C, M>
where
    S: Service<Req>,
    R: Respond<Req, S::Response>,
{
    #[inline(always)]
    pub(super) fn calling(future: S::Future, kept: R::Kept, shared: Arc<Shared<R, C>>) -> Self {
        Self { state: State::Calling { future, kept }, shared, completion: PhantomData }
    }

    pub(super) fn reserved(
        call: Reserved<S::Future>,
        kept: R::Kept,
        shared: Arc<Shared<R, C>>,
    ) -> Self {
        let stage = Stage::Reserved { call, kept };
        Self { state: State::Staged { stage }, shared, completion: PhantomData }
    }

    pub(super) fn off(kept: R::Kept, shared: Arc<Shared<R, C>>) -> Self {
        let stage = Stage::Off { kept };
        Self { state: State::Staged { stage }, shared, completion: PhantomData }
    }
}

impl<S, Req, R, C, M> Future for ResponseFuture<S, Req, R, C, M>
where
    S: Service<Req>,
    S::Error: CarryRejection,
    R: Respond<Req, S::Response>,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.as_mut().project().state;
        let (future, kept) = match state.as_mut().project() {
            StateProj::Calling { future, kept } => (future, kept),
            StateProj::Staged { .. } => return self.poll_stage(cx),
        };
        let result = ready!(watch::<R, _, _, _>(kept, || future.poll(cx)));
        // The service's future is dropped before code of the user runs. If that panics, the call
        // has ended.
        let done = State::Staged { stage: Stage::Done };
        let StateOwn::Calling { kept, .. } = state.project_replace(done) else {
            polled_after_end()
        };
        self.conclude(kept, result, cx)
    }
}

/// Polls the service's future. The layers that reject the call from now on are noted.
#[inline]
fn watch<R: Respond<Req, T>, Req, T, P>(kept: &mut R::Kept, poll: impl FnOnce() -> P) -> P {
    if R::WAITS {
        RejectedBy::forget();
    }
    R::watch(kept, poll)
}

impl<S, Req, R, C, M> ResponseFuture<S, Req, R, C, M>
where
    S: Service<Req>,
    S::Error: CarryRejection,
    R: Respond<Req, S::Response>,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response>,
{
    /// Returns the result of the service, or begins the fallback if the result is a failure.
    #[inline(always)]
    fn conclude(
        self: Pin<&mut Self>,
        kept: R::Kept,
        mut result: Result<S::Response, S::Error>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        match self.shared.reason::<M, _, _>(&mut result) {
            None => Poll::Ready(result),
            Some(reason) => self.fall_back(kept, reason, Without::Result(result), cx),
        }
    }

    /// Polls a call beneath a deadline, or one that is no longer with the service.
    // Not inlined, so that the path of a call without a deadline stays short.
    #[inline(never)]
    fn poll_stage(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        let this = self.as_mut().project();
        let StateProj::Staged { mut stage } = this.state.project() else { polled_after_end() };
        let ended = match stage.as_mut().project() {
            StageProj::Reserved { call, kept } => {
                Some(ready!(watch::<R, _, _, _>(kept, || call.poll_call(cx))))
            }
            StageProj::Responding { response, failed } => {
                let given = ready!(this.shared.poll_response::<M, _, _, _>(failed, response, cx));
                if let Some(response) = given {
                    stage.set(Stage::Done);
                    return Poll::Ready(Ok(response));
                }
                None
            }
            StageProj::Off { .. } | StageProj::Done => None,
        };
        match (stage.project_replace(Stage::Done), ended) {
            (StageOwn::Reserved { kept, .. }, Some(Ok(result))) => self.conclude(kept, result, cx),
            (StageOwn::Reserved { kept, .. }, Some(Err(reached))) => {
                route::settle_cut();
                let name = self.shared.state.config.reporter.name().cloned();
                let rejection = Rejection::from(reached.by(name));
                let reason = Reason::Rejected(rejection.clone());
                self.fall_back(kept, reason, Without::Ended(rejection), cx)
            }
            (StageOwn::Off { kept }, _) => self.fall_back(kept, Reason::Off, Without::Off, cx),
            (StageOwn::Responding { failed, .. }, _) => {
                Poll::Ready(self.shared.state.without(failed.without))
            }
            (StageOwn::Reserved { .. } | StageOwn::Done, _) => polled_after_end(),
        }
    }

    /// Begins the fallback of a call, and polls it for the first time.
    #[cold]
    fn fall_back(
        mut self: Pin<&mut Self>,
        kept: R::Kept,
        reason: Reason,
        without: Without<S::Response, S::Error>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        let mut this = self.as_mut().project();
        let nothing_began = match &without {
            Without::Result(result) => this.shared.nothing_began(&reason, result),
            Without::Ended(_) => false,
            Without::Off => true,
        };
        let by_a_layer = R::WAITS && matches!(without, Without::Result(_));
        let rejected_by = RejectedBy::last().filter(|_| by_a_layer);
        let mut failed = Failed { reason, rejected_by, without };
        match this.shared.begin::<M, _, _, _>(kept, &mut failed, nothing_began) {
            Some(response) => {
                let stage = Stage::Responding { response, failed };
                this.state.set(State::Staged { stage });
                self.poll_stage(cx)
            }
            None => Poll::Ready(this.shared.state.without(failed.without)),
        }
    }
}

impl FallbackState {
    /// Returns the result of a call that has no fallback.
    #[cold]
    fn without<T, E: CarryRejection>(&self, without: Without<T, E>) -> Result<T, E> {
        match without {
            Without::Result(result) => result,
            Without::Ended(rejection) => Err(self.config.reporter.get().reject(rejection)),
            Without::Off => Err(self.reject_off()),
        }
    }
}

impl<R, C> Shared<R, C> {
    /// Begins the fallback of a call. Returns `None` if there is none.
    #[cold]
    fn begin<M, Req, T, E>(
        &self,
        kept: R::Kept,
        failed: &mut Failed<T, E>,
        nothing_began: bool,
    ) -> Option<Reserved<R::Future>>
    where
        R: Respond<Req, T>,
        M: Completion<T>,
    {
        // Nobody waits for the response any more. If this layer has ended the call, the caller
        // waits at least for this poll, even if the timer was late.
        let is_own_end = matches!(failed.without, Without::Ended(_));
        if !is_own_end && deadline::deadline().is_some_and(|end| end <= Instant::now()) {
            return None;
        }
        // A response that failed must not hold a slot that the fallback needs.
        if let Without::Result(Ok(response)) = &mut failed.without {
            drop(M::end(response).map(mem::take));
        }
        let respond = || self.source.respond(kept, &failed.reason, nothing_began);
        let future = self.noting_panic(&failed.reason, respond);
        if future.is_none() {
            self.state.declined();
        }
        let limit = || if R::WAITS { self.state.limit_now() } else { Duration::MAX };
        future.map(|future| Reserved::within(limit(), future))
    }

    /// Polls the fallback. The output is `None` if it gives no response.
    #[cold]
    fn poll_response<M, Req, T, E>(
        &self,
        failed: &Failed<T, E>,
        response: Pin<&mut Reserved<R::Future>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<T>>
    where
        R: Respond<Req, T>,
        C: Classify<T, E>,
        E: CarryRejection,
        M: Completion<T>,
    {
        let Failed { reason, rejected_by, .. } = failed;
        RejectedBy::forget();
        let Ok(given) = ready!(self.noting_panic(reason, || response.poll_call(cx))) else {
            route::settle_cut();
            self.state.failed(reason, "limit");
            return Poll::Ready(None);
        };
        // Two services that share a breaker or a bulkhead are out of reach together.
        let is_same = rejected_by.is_some() && RejectedBy::last() == *rejected_by;
        let Some(mut given) = given else {
            route::settle_known();
            if is_same {
                self.state.failed(reason, "same_layer");
            } else if R::CAN_FAIL {
                self.state.failed(reason, "error");
            } else {
                self.state.declined();
            }
            return Poll::Ready(None);
        };
        if R::CAN_FAIL {
            let mut outcome = judge(&*self.classifier, Ok::<_, &E>(&given));
            // A body that was read ahead may have failed.
            if let Some((failure, _)) = M::end(&mut given).and_then(|end| end.failure()) {
                outcome = failure;
            }
            if !(outcome.is_response() || outcome == Outcome::Ignored) {
                // The other service has not served the request.
                route::settle_replaced(outcome, Ok::<_, &E>(&given), deadline::deadline());
                self.state.failed(reason, if is_same { "same_layer" } else { "response" });
                return Poll::Ready(None);
            }
        }
        let by = match reason {
            Reason::Off => DegradedBy::Off,
            _ => DegradedBy::Fallback,
        };
        M::mark_degraded(&mut given, Degraded::new(by, reason.clone()));
        ResponseSource::Degraded(by).report();
        self.state.used(reason);
        Poll::Ready(Some(given))
    }

    /// Runs code of the fallback. A panic counts as a failed fallback.
    fn noting_panic<T>(&self, reason: &Reason, piece: impl FnOnce() -> T) -> T {
        let mut unwinding = Unwinding::noting(|| self.state.failed(reason, "panic"));
        let value = piece();
        unwinding.disarm();
        value
    }
}

impl<S, Req, R, C, M> fmt::Debug for ResponseFuture<S, Req, R, C, M>
where
    S: Service<Req>,
    R: Respond<Req, S::Response>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("fallback::ResponseFuture").finish_non_exhaustive()
    }
}
