//! The future of the retry service.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower_service::Service;

use super::{
    config::Config,
    replayable::Replayable,
    session::{FIRST, Numbers, Session, report_out_of_time},
    shared::Shared,
    span,
};
use crate::{
    CarryRejection, Classify, Rejection,
    call::{
        attempt::{Attempt, enter_attempt, enter_first},
        clock,
        completion::{AtHead, Completion},
        deadline,
        ended::polled_after_end,
        route,
        timer::poll_timer,
    },
    error::NotReady,
    replay::Replay,
    telemetry::{self, Tracked},
};

pin_project! {
    /// The future of a [`Retry`](super::Retry).
    ///
    /// The first attempt is stored in the future itself. The state of the retries is boxed once,
    /// when the first attempt has failed.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S: Service<Req>, Req, P, C, M: Completion<S::Response> = AtHead> {
        #[pin]
        state: State<S, S::Future, Req, S::Error, M::Unread>,
        shared: Arc<Shared<S, P, C>>,
        completion: PhantomData<fn() -> M>,
    }

    impl<S, Req, P, C, M> PinnedDrop for ResponseFuture<S, Req, P, C, M>
    where
        S: Service<Req>,
        M: Completion<S::Response>,
    {
        fn drop(this: Pin<&mut Self>) {
            // The caller's deadline may have dropped this call. The hop above must then learn of it
            // as if the attempt had failed at this instant.
            if let StateProj::Retrying { retrying } = this.project().state.project() {
                if deadline::deadline().is_some_and(|end| end <= Instant::now()) {
                    report_out_of_time(retrying.session.count());
                }
                span::record_attempts(retrying.session.sent());
            }
        }
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, Req, E, U> {
        First {
            #[pin]
            future: F,
            replay: Replayable<Req>,
            tracked: Tracked<telemetry::Attempt>,
            began: Option<Instant>,
            numbers: Numbers,
        },
        Retrying { retrying: Pin<Box<Retrying<S, F, Req, E, U>>> },
        Done,
    }
}

impl<S, Req, P, C, M> ResponseFuture<S, Req, P, C, M>
where
    S: Service<Req>,
    P: Replay<Req>,
    M: Completion<S::Response>,
{
    #[inline]
    pub(super) fn begin(service: &mut S, request: Req, shared: &Arc<Shared<S, P, C>>) -> Self {
        let config = shared.config();
        let (sent, replay) = Replayable::split(request, FIRST, config, shared.replay());
        let mut tracked = span::begin_attempt(config, FIRST, Duration::ZERO);
        let number = Attempt::first_number();
        let future = {
            let _attempt = enter_first(number);
            // The layers of a call may share a budget. The call pays in once.
            let _paid = route::paying(config.bucket(), || {
                if let Some(budget) = &config.budget {
                    budget.deposit();
                }
            });
            tracked.run(|| service.call(sent))
        };
        let numbers = Numbers::of(number);
        let state = State::First { future, replay, tracked, began: began(), numbers };
        Self { state, shared: Arc::clone(shared), completion: PhantomData }
    }
}

impl<S, Req, P, C, M> Future for ResponseFuture<S, Req, P, C, M>
where
    S: Service<Req> + Clone,
    S::Error: CarryRejection,
    P: Replay<Req>,
    C: Classify<S::Response, S::Error>,
    M: Completion<S::Response>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let retrying = match this.state.as_mut().project() {
                StateProj::First { future, replay, tracked, began, numbers } => {
                    let settling = route::settling(tracked, this.shared.config().bucket());
                    let polled = {
                        let _attempt = enter_first(numbers.first());
                        tracked.run(|| future.poll(cx))
                    };
                    let beneath = settling.ended();
                    if let Some(beneath) = &beneath {
                        numbers.read_back(beneath);
                    }
                    let mut result = ready!(polled);
                    let shared = &**this.shared;
                    let failed = match beneath {
                        None => {
                            shared.settle::<M, _, _>(&mut result, (), tracked, *began, FIRST, false)
                        }
                        Some(beneath) => shared.settle_endpoint::<M, _, _>(
                            &mut result,
                            beneath,
                            tracked,
                            *began,
                            FIRST,
                            false,
                        ),
                    };
                    let Some(failed) = failed else {
                        this.state.set(State::Done);
                        return Poll::Ready(result);
                    };
                    let replay = std::mem::replace(replay, Replayable::No);
                    let mut session = Session::new(replay, *numbers);
                    match session.next(shared, failed, result) {
                        Ok((pause, response)) => {
                            let step = Step::pause(pause, response.and_then(M::unread));
                            Box::pin(Retrying { step, session })
                        }
                        Err(result) => {
                            this.state.set(State::Done);
                            return Poll::Ready(result);
                        }
                    }
                }
                StateProj::Retrying { retrying } => {
                    let result = ready!(retrying.as_mut().poll::<M, _, _>(this.shared, cx));
                    span::record_attempts(retrying.session.sent());
                    this.state.set(State::Done);
                    return Poll::Ready(result);
                }
                StateProj::Done => polled_after_end(),
            };
            this.state.set(State::Retrying { retrying });
        }
    }
}

/// Returns the start time of an attempt, if its caller has a deadline.
///
/// In a stack with a total timeout, the first attempt does not read the clock again.
#[inline]
fn began() -> Option<Instant> {
    deadline::deadline().map(|_| clock::now())
}

pin_project! {
    /// A call whose first attempt has failed.
    struct Retrying<S, F, Req, E, U> {
        #[pin]
        step: Step<S, F, U>,
        session: Session<Req, E>,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<S, F, U> {
        // The response of the failed attempt is only drained. Its call has ended, so it holds no
        // permit.
        Pausing { unread: Option<U>, #[pin] timer: Sleep },
        Readying { service: S, end: Option<Instant>, #[pin] timer: Option<Sleep> },
        Calling { #[pin] future: F, tracked: Tracked<telemetry::Attempt>, began: Option<Instant> },
    }
}

impl<S, F, U> Step<S, F, U> {
    fn pause(pause: Duration, unread: Option<U>) -> Self {
        Self::Pausing { unread, timer: sleep(pause) }
    }
}

impl<S, F, Req, E, U> Retrying<S, F, Req, E, U>
where
    S: Service<Req, Future = F, Error = E> + Clone,
    F: Future<Output = Result<S::Response, E>>,
    E: CarryRejection,
{
    fn poll<M, P, C>(
        self: Pin<&mut Self>,
        shared: &Shared<S, P, C>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, E>>
    where
        M: Completion<S::Response, Unread = U>,
        P: Replay<Req>,
        C: Classify<S::Response, E>,
    {
        let mut this = self.project();
        let session = this.session;
        let config = shared.config();
        loop {
            let next = match this.step.as_mut().project() {
                StepProj::Pausing { unread, mut timer } => {
                    if unread.as_mut().is_some_and(|it| M::poll_drain(it, cx).is_ready()) {
                        *unread = None;
                    }
                    // A timer is pending even after its end if the response has used up the budget
                    // of the task.
                    if timer.as_mut().poll(cx).is_pending() && Instant::now() < timer.deadline() {
                        return Poll::Pending;
                    }
                    let end = Instant::now().checked_add(config.readiness_wait);
                    Step::Readying { service: shared.service(), end, timer: None }
                }
                StepProj::Readying { service, end, timer } => match service.poll_ready(cx) {
                    Poll::Ready(Ok(())) => send(session, service, shared),
                    Poll::Ready(Err(error)) => {
                        config.count_call(true, false);
                        return Poll::Ready(Err(session.kept_or(config, || error)));
                    }
                    Poll::Pending => {
                        // An ambient deadline that comes first ends the call, so no timer is
                        // needed.
                        let own_end = end.filter(|end| {
                            deadline::deadline().is_none_or(|deadline| *end < deadline)
                        });
                        let Some(end) = own_end else { return Poll::Pending };
                        ready!(poll_timer(timer, end, cx));
                        config.count_call(true, false);
                        let error = session.kept_or(config, || {
                            let reporter = config.reporter();
                            let name = Some(reporter.name().clone());
                            reporter.reject(NotReady::by(name, config.readiness_wait))
                        });
                        return Poll::Ready(Err(error));
                    }
                },
                StepProj::Calling { future, tracked, began } => {
                    let settling = route::settling(tracked, config.bucket());
                    let polled = {
                        let _attempt = enter_attempt(Some(session.attempt()));
                        let _tried = session.tried().enter();
                        tracked.run(|| future.poll(cx))
                    };
                    let beneath = settling.ended().unwrap_or_default();
                    session.read_back(&beneath);
                    let mut result = ready!(polled);
                    let failed = shared.settle_endpoint::<M, _, _>(
                        &mut result,
                        beneath,
                        tracked,
                        *began,
                        session.count(),
                        true,
                    );
                    let Some(failed) = failed else {
                        return Poll::Ready(kept_if_rejected(session, config, result));
                    };
                    match session.next(shared, failed, result) {
                        Ok((pause, response)) => Step::pause(pause, response.and_then(M::unread)),
                        Err(result) => return Poll::Ready(result),
                    }
                }
            };
            this.step.set(next);
        }
    }
}

/// Returns whether an inner layer rejected an attempt.
///
/// A timeout ends an attempt instead, and a shared failure is that of an attempt.
fn is_rejection<E: CarryRejection>(error: &E) -> bool {
    !matches!(
        error.rejection(),
        None | Some(Rejection::TimedOut(_) | Rejection::Elapsed(_) | Rejection::Shared(_))
    )
}

/// Returns the final result of a call that was retried.
fn kept_if_rejected<Req, T, E: CarryRejection>(
    session: &mut Session<Req, E>,
    config: &Config,
    result: Result<T, E>,
) -> Result<T, E> {
    match result {
        Err(error) if is_rejection(&error) => Err(session.kept_or(config, || error)),
        result => result,
    }
}

/// Sends the next attempt.
fn send<S, Req, P, C, U>(
    session: &mut Session<Req, S::Error>,
    service: &mut S,
    shared: &Shared<S, P, C>,
) -> Step<S, S::Future, U>
where
    S: Service<Req>,
    P: Replay<Req>,
{
    let sent = session.take_request(shared.config(), shared.replay());
    let mut tracked = span::begin_attempt(shared.config(), session.count(), session.pause());
    let _attempt = enter_attempt(Some(session.attempt()));
    let _paid = route::paying(shared.config().bucket(), || {});
    let _tried = session.tried().enter();
    let future = tracked.run(|| service.call(sent));
    Step::Calling { future, tracked, began: began() }
}

impl<S, Req, P, C, M> fmt::Debug for ResponseFuture<S, Req, P, C, M>
where
    S: Service<Req>,
    M: Completion<S::Response>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("retry::ResponseFuture").finish_non_exhaustive()
    }
}
