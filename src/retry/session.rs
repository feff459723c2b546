//! A call between two attempts.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    config::Config,
    decide::{Failed, Pause, Stop, decide},
    events,
    replay::Replay,
    replayable::Replayable,
    shared::Shared,
};
use crate::{
    CarryRejection, Classify, Fault, Outcome, RetryHint,
    backoff::Backoff,
    budget::Withdrawal,
    call::{
        attempt::Attempt,
        deadline,
        hop::Hop,
        random::{between, draw},
    },
    outcome::hint,
};

/// What a call carries from one attempt to the next.
pub(super) struct Session<Req, E> {
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

impl<Req, E> Session<Req, E> {
    pub(super) fn new(replay: Replayable<Req>) -> Self {
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

    /// The attempt that is under way, or is next.
    pub(super) fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The pause before it.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Prepares the attempt after one that failed: the pause before it, or the answer to give if
    /// there is none.
    pub(super) fn next<S, P, C, T>(
        &mut self,
        shared: &Shared<S, P, C>,
        failed: Failed,
        result: Result<T, E>,
    ) -> Result<Duration, Result<T, E>>
    where
        E: CarryRejection,
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
            self.retry(attempt.number(), config, shared.replay(), failed, hint)
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
                        "stop hint"
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

    /// Prepares the retry of attempt `number` and returns the pause before it. All that could end
    /// the retrying is looked at here, before the pause.
    fn retry<P: Replay<Req>>(
        &mut self,
        number: u32,
        config: &Config,
        replay: &P,
        failed: Failed,
        hint: RetryHint,
    ) -> Result<Duration, Stop> {
        let pause = match decide(number, config, failed, hint, self.replay.may_follow(hint))? {
            Pause::Asked { least, most } => {
                self.drawn = 0;
                draw(|rng| between(least, most, rng))
            }
            Pause::Backoff => self.back_off(&config.backoff),
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
        if let (Fault::InProgress { .. }, Some(budget)) = (failed.fault, &config.budget) {
            // A throttle, in which retries cost nothing, would not bound these: nothing has failed
            // so far.
            budget.failed();
        }
        Ok(pause)
    }

    /// Draws the next pause of the backoff.
    fn back_off(&mut self, backoff: &Backoff) -> Duration {
        // A decorrelated backoff grows by its own pauses, and not by those that were asked for.
        let previous = if self.drawn == 0 { Duration::ZERO } else { self.pause };
        self.drawn = self.drawn.saturating_add(1);
        draw(|rng| backoff.delay(self.drawn, previous, rng))
    }

    /// Takes the request of the next attempt, which from here on counts as sent.
    pub(super) fn take_request<P: Replay<Req>>(&mut self, config: &Config, replay: &P) -> Req {
        let (Replayable::Yes(original) | Replayable::IfUnsent(original)) =
            std::mem::replace(&mut self.replay, Replayable::No)
        else {
            unreachable!("a retry is decided only with a request to send");
        };
        let (sent, kept) = Replayable::split(original, self.attempt.number(), config, replay);
        self.replay = kept;
        if let Some(mut withdrawal) = self.withdrawal.take() {
            withdrawal.take();
        }
        sent
    }

    /// What to answer when there was no other attempt: why the call failed, not why it could not be
    /// tried again.
    pub(super) fn kept_or(&mut self, config: &Config, rejection: impl FnOnce() -> E) -> E {
        if let Some(outcome) = self.attempt.previous() {
            Hop::report_exhausted();
            let attempts = self.attempt.number() - 1;
            events::gave_up(config.name(), attempts, outcome, "rejected");
        }
        self.kept.take().unwrap_or_else(rejection)
    }
}
