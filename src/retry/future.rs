use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower_service::Service;
use tracing::Span;

use super::{Replay, layer::Config, service::Parts};
use crate::{
    Attempt, CarryRejection, Classify, Fault, Hop, NotReady, Outcome, Rejection, RetryHint,
    backoff::between,
    budget::Withdrawal,
    deadline::{self, enter_attempt, poll_timer},
    outcome::{hint, judge},
    telemetry,
};

pin_project! {
    /// The future of a [`Retry`](super::Retry).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S: Service<Req>, Req, P, C> {
        #[pin]
        state: State<S, S::Future>,
        parts: Arc<Parts<S, P, C>>,
        session: Session<Req, S::Error>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F> {
        Calling { #[pin] future: F },
        Pausing { #[pin] timer: Sleep },
        Readying { service: S, end: Option<Instant>, #[pin] timer: Option<Sleep> },
        Done,
    }
}

/// What a call carries from one attempt to the next.
struct Session<Req, E> {
    /// What can be sent again; `None` if nothing can, or the last attempt has it.
    request: Option<Req>,
    /// The request may only be sent again if it is proven unsent.
    unsent_only: bool,
    attempt: Attempt,
    /// The error of the attempt before.
    kept: Option<E>,
    /// How many pauses the backoff has been asked for since it last began anew.
    step: u32,
    pause: Duration,
    /// Paid for the retry that is being prepared. Dropped before it is sent, it is paid back.
    withdrawal: Option<Withdrawal>,
    span: Span,
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

impl<S, Req, P, C> ResponseFuture<S, Req, P, C>
where
    S: Service<Req>,
    P: Replay<Req>,
{
    pub(super) fn begin(service: &mut S, request: Req, parts: &Arc<Parts<S, P, C>>) -> Self {
        let config = parts.config();
        if let Some(budget) = &config.budget {
            budget.deposit();
        }
        let mut session = Session {
            request: None,
            unsent_only: false,
            attempt: Attempt::FIRST,
            kept: None,
            step: 0,
            pause: Duration::ZERO,
            withdrawal: None,
            span: Span::none(),
        };
        let sent = session.prepare(request, config, parts.replay());
        let future = session.call(service, sent, config);
        Self { state: State::Calling { future }, parts: Arc::clone(parts), session }
    }
}

impl<Req, E> Session<Req, E> {
    /// What to send now: a copy while the original may be needed again, else the original.
    fn prepare<P: Replay<Req>>(&mut self, original: Req, config: &Config, replay: &P) -> Req {
        if self.attempt.number() > config.retries {
            return original;
        }
        let mut copy = if self.unsent_only { None } else { replay.replay(&original) };
        if copy.is_none() {
            copy = replay.replay_unsent(&original);
            self.unsent_only = true;
        }
        match copy {
            Some(copy) => {
                self.request = Some(original);
                copy
            }
            None => original,
        }
    }

    /// Calls the service for the attempt that has begun.
    fn call<S: Service<Req>>(&mut self, service: &mut S, sent: Req, config: &Config) -> S::Future {
        let pause = mem::take(&mut self.pause);
        self.span = telemetry::attempt_span(&config.name, self.attempt.number(), pause);
        self.pause = pause;
        let _attempt = enter_attempt(self.attempt);
        let _entered = self.span.enter();
        service.call(sent)
    }

    /// Decides whether a failure is retried, and after what pause. All that could end the retrying is
    /// looked at here, before the pause.
    fn decide(&mut self, config: &Config, fault: Fault, hint: RetryHint) -> Result<Duration, Stop> {
        if hint == RetryHint::Stop {
            return Err(Stop::Told);
        }
        if self.attempt.number() > config.retries {
            // A request that could not have been replayed anyway has not used up anything.
            return Err(if config.retries == 0 {
                Stop::NotReplayable
            } else {
                Stop::Spent("retries")
            });
        }
        if self.request.is_none() || (self.unsent_only && hint != RetryHint::Unsent) {
            return Err(Stop::NotReplayable);
        }
        let asked = match (hint, fault) {
            (RetryHint::After(pause), _) => Some(pause),
            (_, Fault::Overloaded { retry_after }) => retry_after,
            _ => None,
        };
        let pause = match asked {
            Some(asked) if asked > config.hint_cap => return Err(Stop::Spent("hint")),
            // Upwards only, or we would come before we are expected; and never all at once.
            Some(asked) => {
                self.step = 0;
                between(asked, asked.saturating_add(asked / 5), &mut rand::rng())
            }
            None => {
                self.step += 1;
                config.backoff.delay(self.step, self.pause, &mut rand::rng())
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
        Ok(pause)
    }

    fn give_up(&self, config: &Config, outcome: Outcome, stop: Stop) {
        let reason = match stop {
            Stop::NotReplayable => return,
            Stop::Told => {
                Hop::report_stop();
                "told to stop"
            }
            Stop::Spent(what) => {
                Hop::report_exhausted();
                what
            }
        };
        telemetry::gave_up(&config.name, self.attempt.number(), outcome, reason);
    }
}

impl<S, Req, P, C> Future for ResponseFuture<S, Req, P, C>
where
    S: Service<Req> + Clone,
    S::Error: CarryRejection,
    P: Replay<Req>,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let session = this.session;
        let config = this.parts.config();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Calling { future } => {
                    let result = {
                        let _attempt = enter_attempt(session.attempt);
                        let _entered = session.span.enter();
                        ready!(future.poll(cx))
                    };
                    let outcome = judge(this.parts.classifier(), result.as_ref());
                    let rejection = result.as_ref().err().and_then(CarryRejection::rejection);
                    telemetry::record_outcome(&session.span, outcome, rejection);
                    let refused = rejection.is_some() && outcome == Outcome::Ignored;
                    let fault = match outcome {
                        Outcome::Failure(
                            fault @ (Fault::Transient | Fault::TimedOut | Fault::Overloaded { .. }),
                        ) => fault,
                        _ => {
                            this.state.set(State::Done);
                            // A refusal says only that there was no other attempt.
                            let kept = if refused { session.kept.take() } else { None };
                            return Poll::Ready(kept.map_or(result, Err));
                        }
                    };
                    let hint = hint(this.parts.classifier(), result.as_ref());
                    match session.decide(config, fault, hint) {
                        Err(stop) => {
                            session.give_up(config, outcome, stop);
                            this.state.set(State::Done);
                            return Poll::Ready(result);
                        }
                        Ok(pause) => {
                            telemetry::retrying(
                                &config.name,
                                session.attempt.number(),
                                outcome,
                                pause,
                            );
                            session.pause = pause;
                            session.attempt = session.attempt.next(outcome);
                            session.span = Span::none();
                            // The attempt and its response go before the pause: they may hold a
                            // connection or a permit.
                            session.kept = result.err();
                            State::Pausing { timer: sleep(pause) }
                        }
                    }
                }
                StateProj::Pausing { timer } => {
                    ready!(timer.poll(cx));
                    let end = Instant::now().checked_add(config.readiness_wait);
                    State::Readying { service: this.parts.service(), end, timer: None }
                }
                StateProj::Readying { service, end, timer } => match service.poll_ready(cx) {
                    Poll::Ready(Ok(())) => {
                        let request = session.request.take();
                        let original = request.expect("a retry was decided with a request to send");
                        let sent = session.prepare(original, config, this.parts.replay());
                        if let Some(mut withdrawal) = session.withdrawal.take() {
                            withdrawal.finish(());
                        }
                        State::Calling { future: session.call(service, sent, config) }
                    }
                    Poll::Ready(Err(error)) => {
                        let error = session.kept.take().unwrap_or(error);
                        this.state.set(State::Done);
                        return Poll::Ready(Err(error));
                    }
                    Poll::Pending => {
                        let end = end.filter(|end| {
                            deadline::deadline().is_none_or(|deadline| *end < deadline)
                        });
                        let Some(end) = end else { return Poll::Pending };
                        ready!(poll_timer(timer, end, cx));
                        let error = session.kept.take().unwrap_or_else(|| {
                            let wait = config.readiness_wait;
                            let rejection =
                                Rejection::from(NotReady::new(config.name.clone(), wait));
                            telemetry::rejected(&rejection);
                            S::Error::from_rejection(rejection)
                        });
                        session.withdrawal = None;
                        this.state.set(State::Done);
                        return Poll::Ready(Err(error));
                    }
                },
                StateProj::Done => panic!("a response future was polled after it had ended"),
            };
            this.state.set(next);
        }
    }
}

impl<S: Service<Req>, Req, P, C> fmt::Debug for ResponseFuture<S, Req, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("retry::ResponseFuture")
            .field("attempt", &self.session.attempt)
            .finish_non_exhaustive()
    }
}
