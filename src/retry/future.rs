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
use tracing::Span;

use super::{config::Config, events, replay::Replay, shared::Shared};
use crate::{
    Attempt, CarryRejection, Classify, Fault, Hop, NotReady, Outcome, Rejection, RetryHint,
    backoff::Jitter,
    budget::{Budget, Withdrawal},
    call::{
        account::Stamp,
        attempt::enter_attempt,
        clock,
        completion::{AtHead, Completion, end_of},
        deadline,
        patience::{PATIENCE, was_cut_short},
        random::{between, draw},
        timer::poll_timer,
    },
    outcome::{hint, judge, service_is_late},
    telemetry,
};

pin_project! {
    /// The future of a [`Retry`](super::Retry).
    ///
    /// The first attempt lives in the future itself. What only a retry needs is boxed, once, when the
    /// first attempt has failed.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S: Service<Req>, Req, P, C, M = AtHead> {
        #[pin]
        state: State<S, S::Future, Req, S::Error>,
        shared: Arc<Shared<S, P, C>>,
        completion: PhantomData<fn() -> M>,
    }

    impl<S: Service<Req>, Req, P, C, M> PinnedDrop for ResponseFuture<S, Req, P, C, M> {
        fn drop(this: Pin<&mut Self>) {
            // Cut short by a deadline it has spent its time, as if the attempt had failed at that instant.
            let would_retry = match this.project().state.project() {
                StateProj::First { replay, .. } => matches!(replay, Replayable::Yes(_)),
                StateProj::Retrying { .. } => true,
                StateProj::Done => false,
            };
            if would_retry && deadline::deadline().is_some_and(|end| end <= Instant::now()) {
                Hop::report_exhausted();
            }
        }
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, Req, E> {
        First { #[pin] future: F, replay: Replayable<Req>, span: Span, began: Option<Instant> },
        Retrying { retrying: Pin<Box<Retrying<S, F, Req, E>>> },
        Done,
    }
}

/// The request, for as long as it may be needed again.
enum Replayable<Req> {
    /// It cannot be sent again, or the last attempt has it.
    No,
    /// Only if the attempt before is proven not to have reached the service.
    IfUnsent(Req),
    Yes(Req),
}

impl<Req> Replayable<Req> {
    /// What to send in an attempt, and what stays for the next.
    #[inline]
    fn split<P>(original: Req, attempt: u32, config: &Config, replay: &P) -> (Req, Self)
    where
        P: Replay<Req>,
    {
        if attempt > config.retries {
            return (original, Self::No);
        }
        if let Some(copy) = replay.replay(&original) {
            return (copy, Self::Yes(original));
        }
        match replay.replay_unsent(&original) {
            Some(copy) => (copy, Self::IfUnsent(original)),
            None => (original, Self::No),
        }
    }

    /// Makes a kept request ready to be sent again; `false` if it was not kept, or can no more be sent.
    fn prepare<P: Replay<Req>>(&self, replay: &P) -> bool {
        match self {
            Self::No => false,
            Self::IfUnsent(original) | Self::Yes(original) => replay.prepare(original),
        }
    }
}

impl<S, Req, P, C, M> ResponseFuture<S, Req, P, C, M>
where
    S: Service<Req>,
    P: Replay<Req>,
{
    #[inline]
    pub(super) fn begin(service: &mut S, request: Req, shared: &Arc<Shared<S, P, C>>) -> Self {
        let config = shared.config();
        if let Some(budget) = &config.budget {
            budget.deposit();
        }
        let attempt = Attempt::FIRST;
        let (sent, replay) = Replayable::split(request, attempt.number(), config, shared.replay());
        let span = events::attempt_span(config.name(), attempt.number(), Duration::ZERO);
        let future = {
            let _attempt = enter_attempt(attempt);
            let _entered = span.enter();
            service.call(sent)
        };
        let state = State::First { future, replay, span, began: began() };
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
                StateProj::First { future, replay, span, began } => {
                    let mut result = {
                        let _attempt = enter_attempt(Attempt::FIRST);
                        let _entered = span.enter();
                        ready!(future.poll(cx))
                    };
                    let verdict = this.shared.verdict::<M, _, _>(&mut result, span, *began);
                    let Some(failed) = verdict else {
                        this.state.set(State::Done);
                        return Poll::Ready(result);
                    };
                    let replay = std::mem::replace(replay, Replayable::No);
                    let mut session = Session::new(replay);
                    match session.next(this.shared, failed, result) {
                        Ok(pause) => Retrying::pause(session, pause),
                        Err(result) => {
                            this.state.set(State::Done);
                            return Poll::Ready(result);
                        }
                    }
                }
                StateProj::Retrying { retrying } => {
                    let result = ready!(retrying.as_mut().poll::<M, _, _>(this.shared, cx));
                    this.state.set(State::Done);
                    return Poll::Ready(result);
                }
                StateProj::Done => panic!("a response future was polled after it had ended"),
            };
            this.state.set(State::Retrying { retrying });
        }
    }
}

/// How an attempt failed that may be retried.
#[derive(Clone, Copy)]
struct Failed {
    fault: Fault,
    /// It was given no more time: the caller's is over.
    cut_short: bool,
}

/// Since when an attempt is under way, where its caller has a deadline. In a stack with a total timeout
/// the first costs no look at the clock.
#[inline]
fn began() -> Option<Instant> {
    deadline::deadline().map(|_| clock::now())
}

impl<S, P, C> Shared<S, P, C> {
    /// How an attempt failed, if that may be retried.
    #[inline]
    fn verdict<M, T, E>(
        &self,
        result: &mut Result<T, E>,
        span: &Span,
        began: Option<Instant>,
    ) -> Option<Failed>
    where
        M: Completion<T>,
        C: Classify<T, E>,
        E: CarryRejection,
    {
        let outcome = judge(self.classifier(), result.as_ref());
        if outcome == Outcome::Success {
            if let Some(end) = end_of::<M, _, _>(result) {
                // It began well: how it went is known when it has ended.
                if !span.is_disabled() {
                    end.hold_span(span.clone(), events::record_attempt_end);
                }
                if let Some(budget) = self.throttle() {
                    // Without a deadline nothing was cut short.
                    let stamp = match deadline::deadline() {
                        None => Stamp::default(),
                        deadline => Stamp::default().timed(end.head(), began, deadline),
                    };
                    end.hold(budget.account(), stamp);
                }
                return None;
            }
        }
        let fault = match outcome {
            Outcome::Failure(
                fault @ (Fault::Transient
                | Fault::TimedOut
                | Fault::Overloaded { .. }
                | Fault::InProgress { .. }),
            ) => Some(fault),
            _ => None,
        };
        let cut_short =
            service_is_late(outcome, result.as_ref()) && was_cut_short(began, deadline::deadline());
        // Else callers in a hurry would spend the budget that all share.
        let hurried = cut_short && began.is_none_or(|began| began.elapsed() < PATIENCE);
        if let Some(budget) = self.throttle().filter(|_| !hurried) {
            match hint(self.classifier(), result.as_ref()) {
                // It counts only if the request is not sent again at once, which is decided later.
                RetryHint::Unprocessed if fault.is_some() => {}
                RetryHint::Stop if outcome == Outcome::Failure(Fault::Permanent) => budget.failed(),
                _ => budget.observe(outcome),
            }
        }
        telemetry::record_outcome(span, outcome, || {
            result.as_ref().err().and_then(CarryRejection::rejection)
        });
        fault.map(|fault| Failed { fault, cut_short })
    }

    /// The budget, if the outcome of attempts moves it.
    fn throttle(&self) -> Option<&Budget> {
        self.config().budget.as_ref().filter(|budget| budget.is_throttle())
    }
}

pin_project! {
    /// A call whose first attempt has failed.
    struct Retrying<S, F, Req, E> {
        #[pin]
        step: Step<S, F>,
        session: Session<Req, E>,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<S, F> {
        Pausing { #[pin] timer: Sleep },
        Readying { service: S, end: Option<Instant>, #[pin] timer: Option<Sleep> },
        Calling { #[pin] future: F, span: Span, began: Option<Instant> },
    }
}

/// What a call carries from one attempt to the next.
struct Session<Req, E> {
    replay: Replayable<Req>,
    attempt: Attempt,
    /// The error of the attempt before.
    kept: Option<E>,
    /// How many pauses the backoff has been asked for since it last began anew.
    drawn: u32,
    pause: Duration,
    /// Whether the request was already sent again without counting as an attempt.
    resent: bool,
    /// Paid for the retry that is being prepared. Dropped before it is sent, it is paid back.
    withdrawal: Option<Withdrawal>,
}

/// Why a failure is not retried.
#[derive(Clone, Copy)]
enum Stop {
    /// The request cannot be sent again.
    NotReplayable,
    /// The server said so.
    Told,
    /// It would be, but something is spent: that is what the hop above must know.
    Spent(&'static str),
}

impl<Req, E: CarryRejection> Session<Req, E> {
    fn new(replay: Replayable<Req>) -> Self {
        Self {
            replay,
            attempt: Attempt::FIRST,
            kept: None,
            drawn: 0,
            pause: Duration::ZERO,
            resent: false,
            withdrawal: None,
        }
    }

    /// Prepares the attempt after one that failed: the pause before it, or the answer to give if there
    /// is none.
    fn next<S, P, C, T>(
        &mut self,
        shared: &Shared<S, P, C>,
        failed: Failed,
        result: Result<T, E>,
    ) -> Result<Duration, Result<T, E>>
    where
        P: Replay<Req>,
        C: Classify<T, E>,
    {
        let config = shared.config();
        let outcome = Outcome::Failure(failed.fault);
        let hint = hint(shared.classifier(), result.as_ref());
        let attempt = self.attempt;
        let decided = if hint == RetryHint::Unprocessed && self.resend(shared.replay()) {
            Ok(Duration::ZERO)
        } else {
            if let Some(budget) = shared.throttle().filter(|_| hint == RetryHint::Unprocessed) {
                budget.failed();
            }
            self.attempt = attempt.next(outcome);
            self.decide(attempt.number(), config, shared.replay(), failed, hint)
        };
        match decided {
            Ok(pause) => {
                events::retrying(config.name(), attempt.number(), outcome, pause);
                Hop::report_resent();
                self.pause = pause;
                // A response goes before the pause: it may hold a connection or a permit.
                self.kept = result.err();
                Ok(pause)
            }
            Err(stop) => {
                let reason = match stop {
                    Stop::NotReplayable => return Err(result),
                    Stop::Told => {
                        Hop::report_stop();
                        "told to stop"
                    }
                    Stop::Spent(what) => {
                        Hop::report_exhausted();
                        what
                    }
                };
                events::gave_up(config.name(), attempt.number(), outcome, reason);
                Err(result)
            }
        }
    }

    /// Whether the request is sent again as if it had not been sent: once, and only if it was kept.
    fn resend<P: Replay<Req>>(&mut self, replay: &P) -> bool {
        !std::mem::replace(&mut self.resent, true) && self.replay.prepare(replay)
    }

    /// Decides whether the failure of attempt `number` is retried, and after what pause. All that could
    /// end the retrying is looked at here, before the pause.
    fn decide<P: Replay<Req>>(
        &mut self,
        number: u32,
        config: &Config,
        replay: &P,
        Failed { fault, cut_short }: Failed,
        hint: RetryHint,
    ) -> Result<Duration, Stop> {
        if hint == RetryHint::Stop {
            return Err(Stop::Told);
        }
        if config.retries == 0 {
            return Err(Stop::NotReplayable);
        }
        if number > config.retries {
            return Err(Stop::Spent("retries"));
        }
        let unsent = matches!(hint, RetryHint::Unsent | RetryHint::Unprocessed);
        match self.replay {
            Replayable::Yes(_) => {}
            Replayable::IfUnsent(_) if unsent => {}
            Replayable::IfUnsent(_) | Replayable::No => return Err(Stop::NotReplayable),
        }
        if cut_short {
            return Err(Stop::Spent("deadline"));
        }
        let asked = match (hint, fault) {
            (RetryHint::After(pause), _) => Some(pause),
            (_, Fault::Overloaded { retry_after } | Fault::InProgress { retry_after }) => {
                retry_after
            }
            _ => None,
        };
        let pause = match asked {
            Some(asked) if asked > config.hint_cap => return Err(Stop::Spent("hint")),
            // Upwards only, or we would come before we are expected; and not all at once, unless that
            // is just what was asked of this call.
            Some(asked) => {
                self.drawn = 0;
                let spread = match config.backoff.jitter() {
                    _ if hint == RetryHint::After(Duration::ZERO) => Duration::ZERO,
                    Jitter::None => Duration::ZERO,
                    _ => config.backoff.ceiling(1).max(asked / 5),
                };
                draw(|rng| between(asked, asked.saturating_add(spread), rng))
            }
            None => {
                // A decorrelated backoff grows by its own pauses, and not by those that were asked for.
                let previous = if self.drawn == 0 { Duration::ZERO } else { self.pause };
                self.drawn = self.drawn.saturating_add(1);
                draw(|rng| config.backoff.delay(self.drawn, previous, rng))
            }
        };
        if let Some(deadline) = deadline::deadline() {
            let sent_at = Instant::now().checked_add(pause);
            if sent_at.is_none_or(|sent_at| sent_at >= deadline) {
                return Err(Stop::Spent("deadline"));
            }
        }
        if let Some(budget) = &config.budget {
            let withdrawal = budget.withdraw().ok_or(Stop::Spent("budget"))?;
            self.withdrawal = Some(withdrawal);
        }
        if !self.replay.prepare(replay) {
            self.withdrawal = None;
            return Err(Stop::NotReplayable);
        }
        if let (Fault::InProgress { .. }, Some(budget)) = (fault, &config.budget) {
            // A throttle, in which retries cost nothing, would not bound these: nothing has failed so far.
            budget.failed();
        }
        Ok(pause)
    }

    /// What to answer when there was no other attempt: why the call failed, not why it could not be
    /// tried again.
    fn kept_or(&mut self, config: &Config, refusal: impl FnOnce() -> E) -> E {
        if let Some(outcome) = self.attempt.previous() {
            Hop::report_exhausted();
            let attempts = self.attempt.number() - 1;
            events::gave_up(config.name(), attempts, outcome, "refused");
        }
        self.kept.take().unwrap_or_else(refusal)
    }
}

impl<S, F, Req, E> Retrying<S, F, Req, E> {
    fn pause(session: Session<Req, E>, pause: Duration) -> Pin<Box<Self>> {
        Box::pin(Self { step: Step::Pausing { timer: sleep(pause) }, session })
    }
}

impl<S, F, Req, E> Retrying<S, F, Req, E>
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
        M: Completion<S::Response>,
        P: Replay<Req>,
        C: Classify<S::Response, E>,
    {
        let mut this = self.project();
        let session = this.session;
        let config = shared.config();
        loop {
            let next = match this.step.as_mut().project() {
                StepProj::Pausing { timer } => {
                    ready!(timer.poll(cx));
                    let end = Instant::now().checked_add(config.readiness_wait);
                    Step::Readying { service: shared.service(), end, timer: None }
                }
                StepProj::Readying { service, end, timer } => match service.poll_ready(cx) {
                    Poll::Ready(Ok(())) => session.call(service, shared),
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(session.kept_or(config, || error)));
                    }
                    Poll::Pending => {
                        // Past an ambient deadline nobody has to wait: its owner ends the call.
                        let own_end = end.filter(|end| {
                            deadline::deadline().is_none_or(|deadline| *end < deadline)
                        });
                        let Some(end) = own_end else { return Poll::Pending };
                        ready!(poll_timer(timer, end, cx));
                        let error = session.kept_or(config, || {
                            telemetry::refuse(NotReady::by(
                                config.name.clone(),
                                config.readiness_wait,
                            ))
                        });
                        return Poll::Ready(Err(error));
                    }
                },
                StepProj::Calling { future, span, began } => {
                    let mut result = {
                        let _attempt = enter_attempt(session.attempt);
                        let _entered = span.enter();
                        ready!(future.poll(cx))
                    };
                    let verdict = shared.verdict::<M, _, _>(&mut result, span, *began);
                    let Some(failed) = verdict else {
                        return Poll::Ready(match result {
                            Err(error) if is_refusal(&error) => {
                                Err(session.kept_or(config, || error))
                            }
                            result => result,
                        });
                    };
                    match session.next(shared, failed, result) {
                        Ok(pause) => Step::Pausing { timer: sleep(pause) },
                        Err(result) => return Poll::Ready(result),
                    }
                }
            };
            this.step.set(next);
        }
    }
}

/// Whether a layer beneath did not let an attempt through.
fn is_refusal<E: CarryRejection>(error: &E) -> bool {
    !matches!(error.rejection(), None | Some(Rejection::TimedOut(_)))
}

impl<Req, E> Session<Req, E> {
    /// Sends the next attempt.
    fn call<S, P, C>(&mut self, service: &mut S, shared: &Shared<S, P, C>) -> Step<S, S::Future>
    where
        S: Service<Req, Error = E>,
        P: Replay<Req>,
    {
        let config = shared.config();
        let number = self.attempt.number();
        let (Replayable::Yes(original) | Replayable::IfUnsent(original)) =
            std::mem::replace(&mut self.replay, Replayable::No)
        else {
            unreachable!("a retry is decided only with a request to send");
        };
        let (sent, replay) = Replayable::split(original, number, config, shared.replay());
        self.replay = replay;
        if let Some(mut withdrawal) = self.withdrawal.take() {
            withdrawal.finish(|_| ());
        }
        let span = events::attempt_span(config.name(), number, self.pause);
        let _attempt = enter_attempt(self.attempt);
        let future = span.in_scope(|| service.call(sent));
        Step::Calling { future, span, began: began() }
    }
}

impl<S: Service<Req>, Req, P, C, M> fmt::Debug for ResponseFuture<S, Req, P, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("retry::ResponseFuture").finish_non_exhaustive()
    }
}
