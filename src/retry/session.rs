//! The state of a call between two attempts.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    config::Config,
    decide::{Failed, Pause, Stop, decide},
    replayable::Replayable,
    shared::Shared,
};
use crate::{
    Fault, Outcome, RetryHint,
    backoff::Backoff,
    budget::Withdrawal,
    call::{
        attempt::Attempt,
        deadline,
        hop::Hop,
        random::{between, draw},
        route::{Beneath, Tried, report_number},
    },
    replay::Replay,
    telemetry::Event,
};

/// The count of the first attempt.
pub(super) const FIRST: u32 = 1;

/// The numbers that an attempt has used, which retries beneath it continue.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    first: u32,
    last: u32,
}

impl Numbers {
    pub(super) fn of(attempt: u32) -> Self {
        Self { first: attempt, last: attempt }
    }

    /// Returns the number of the attempt itself.
    #[inline]
    pub(super) fn first(self) -> u32 {
        self.first
    }

    /// Reads back the numbers that retries beneath have used.
    #[inline]
    pub(super) fn read_back(&mut self, beneath: &Beneath) {
        self.last = self.last.max(beneath.number);
    }
}

/// The state that a call keeps from one attempt to the next.
pub(super) struct Session<Req, E> {
    replay: Replayable<Req>,
    /// The current attempt, or the next one during a pause. Its number continues those of the
    /// attempts of other layers.
    attempt: Attempt,
    /// The count of the attempts of this layer, with the current or the next one.
    count: u32,
    /// The count of the attempts that were sent.
    sent: u32,
    numbers: Numbers,
    /// The endpoints that attempts have failed at.
    tried: Tried,
    /// The error of the previous attempt.
    kept: Option<E>,
    /// The cause of its failure.
    error_type: &'static str,
    /// The number of delays drawn from the backoff since it last started over.
    drawn: u32,
    pause: Duration,
    /// `true` if the call was retried.
    retried: bool,
    /// `true` if the request was already resent, without counting as an attempt, because it was
    /// not sent.
    resent_unsent: bool,
    /// The same, because the service had not processed it.
    resent_unprocessed: bool,
    /// `true` if a permanent failure was already retried.
    retried_permanent: bool,
    /// The token for the next retry. It is paid back if dropped before the retry is sent.
    withdrawal: Option<Withdrawal>,
}

impl<Req, E> Session<Req, E> {
    /// Creates the state of a call whose first attempt has used these numbers.
    pub(super) fn new(replay: Replayable<Req>, numbers: Numbers) -> Self {
        Self {
            replay,
            attempt: Attempt::numbered(numbers.first),
            count: FIRST,
            sent: FIRST,
            numbers,
            tried: Tried::NONE,
            kept: None,
            error_type: "",
            drawn: 0,
            pause: Duration::ZERO,
            retried: false,
            resent_unsent: false,
            resent_unprocessed: false,
            retried_permanent: false,
            withdrawal: None,
        }
    }

    /// Returns the current attempt, or the next one during a pause.
    pub(super) fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Returns the count of the attempts of this layer, with the current or the next one.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Reads back the numbers that retries beneath have used.
    pub(super) fn read_back(&mut self, beneath: &Beneath) {
        self.numbers.read_back(beneath);
    }

    /// Returns the number of attempts that were sent.
    pub(super) fn sent(&self) -> u32 {
        self.sent
    }

    /// Returns the endpoints that the attempts have failed at.
    pub(super) fn tried(&self) -> Tried {
        self.tried
    }

    /// Returns the pause before the attempt.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Prepares the attempt after a failed one.
    ///
    /// Returns the pause before it, and the response of the failed attempt. If there is no further
    /// attempt, returns the result of the call.
    pub(super) fn next<S, P, C, T>(
        &mut self,
        shared: &Shared<S, P, C>,
        failed: Failed,
        result: Result<T, E>,
    ) -> Result<(Duration, Option<T>), Result<T, E>>
    where
        P: Replay<Req>,
    {
        let config = shared.config();
        let Failed { outcome, error_type, hint, tried, .. } = failed;
        self.error_type = error_type;
        self.tried.add_all(tried);
        let attempts = self.count;
        let permanent = outcome == Outcome::Failure(Fault::Permanent);
        let transparent = match hint {
            RetryHint::Unprocessed => !permanent,
            // A failed connection is an ordinary failure.
            RetryHint::Unsent => outcome == Outcome::Ignored,
            _ => false,
        };
        let decided = if permanent && std::mem::replace(&mut self.retried_permanent, true) {
            Err(Stop::Spent("retries"))
        } else if transparent && self.resend(shared.replay(), hint) {
            self.attempt = self.attempt.resent(self.numbers.last);
            Ok(Duration::ZERO)
        } else {
            // What was given back has been counted by another rule.
            let counts = transparent && outcome != Outcome::Ignored;
            if let Some(budget) = shared.throttle().filter(|_| counts) {
                budget.failed();
            }
            self.attempt = Attempt::next(self.numbers.last, outcome);
            self.count = attempts.saturating_add(1);
            self.retry(attempts, config, shared.replay(), failed)
        };
        match decided {
            Ok(pause) => {
                let (attempt, delay) = (attempts, pause);
                config.reporter().emit(Event::Retrying { attempt, outcome, error_type, delay });
                Hop::report_resent();
                (self.pause, self.retried) = (pause, true);
                let (response, error) = match result {
                    Ok(response) => (Some(response), None),
                    Err(error) => (None, Some(error)),
                };
                self.kept = error;
                Ok((pause, response))
            }
            Err(stop) => {
                self.tried.report();
                self.report_stop(stop, attempts, outcome, shared);
                config.count_call(self.retried, false);
                Err(result)
            }
        }
    }

    /// Reports why there is no further attempt, to the log and to the hop above.
    fn report_stop<S, P: Replay<Req>, C>(
        &self,
        stop: Stop,
        attempts: u32,
        outcome: Outcome,
        shared: &Shared<S, P, C>,
    ) {
        let reporter = shared.config().reporter();
        let error_type = self.error_type;
        let reason = match stop {
            Stop::Disabled | Stop::NotReplayable | Stop::NotPrepared => {
                let reason = || match stop {
                    Stop::Disabled => "retries_disabled",
                    Stop::NotPrepared => "body_not_kept",
                    _ => self.replay.reason(shared.replay()),
                };
                let counted = match stop {
                    Stop::Disabled => "retries_disabled",
                    _ => "not_replayable",
                };
                let attempt = attempts;
                let event = || Event::NotRetried { attempt, outcome, error_type, reason: reason() };
                return reporter.emit_not_retried(counted, event);
            }
            Stop::Told => {
                shared.config().count_hint("stop");
                Hop::report_stop();
                "stop_hint"
            }
            Stop::Spent(what) => {
                Hop::report_exhausted();
                what
            }
            Stop::OverCap => {
                shared.config().count_hint("over_cap");
                Hop::report_exhausted();
                "hint_over_cap"
            }
            Stop::OutOfTime => {
                report_out_of_time(attempts);
                "deadline"
            }
        };
        reporter.emit(Event::RetriesExhausted { attempts, outcome, error_type, reason });
    }

    /// Returns whether the request is resent without counting as an attempt.
    ///
    /// This happens once per call for each of the two hints, and only if the request was kept. A
    /// connection that the server is closing may reject a request, and then be the one that gives
    /// back the resent request.
    fn resend<P: Replay<Req>>(&mut self, replay: &P, hint: RetryHint) -> bool {
        let resent = match hint {
            RetryHint::Unsent => &mut self.resent_unsent,
            _ => &mut self.resent_unprocessed,
        };
        !std::mem::replace(resent, true) && self.replay.prepare(replay)
    }

    /// Prepares the retry after attempt `number` and returns the pause before it.
    ///
    /// Everything that could end the retries is checked here, before the pause.
    fn retry<P: Replay<Req>>(
        &mut self,
        number: u32,
        config: &Config,
        replay: &P,
        failed: Failed,
    ) -> Result<Duration, Stop> {
        let decided = decide(number, config, failed, self.replay.may_follow(failed.hint))?;
        let pause = match decided {
            Pause::Asked { least, most } => {
                self.drawn = 0;
                draw(|rng| between(least, most, rng))
            }
            Pause::Backoff => self.back_off(&config.backoff),
        };
        if let Some(deadline) = deadline::deadline() {
            let sent_at = Instant::now().checked_add(pause);
            if sent_at.is_none_or(|sent_at| sent_at >= deadline) {
                return Err(Stop::OutOfTime);
            }
        }
        if let Some(budget) = &config.budget {
            let withdrawal = budget.withdraw().ok_or(Stop::Spent("budget"))?;
            self.withdrawal = Some(withdrawal);
        }
        if !self.replay.prepare(replay) {
            self.withdrawal = None;
            return Err(Stop::NotPrepared);
        }
        let uncounted = matches!(
            failed.outcome,
            Outcome::Ignored | Outcome::Failure(Fault::InProgress { .. } | Fault::Permanent)
        );
        if let Some(budget) = config.budget.as_ref().filter(|_| uncounted) {
            // No failure was counted so far. A throttle charges nothing for a retry, so without
            // this it would not limit these retries.
            budget.failed();
        }
        if matches!(decided, Pause::Asked { .. }) {
            config.count_hint("kept");
        }
        Ok(pause)
    }

    /// Draws the next delay of the backoff.
    fn back_off(&mut self, backoff: &Backoff) -> Duration {
        // A decorrelated backoff grows by its own delays, not by the pauses that a server asked
        // for.
        let previous = if self.drawn == 0 { Duration::ZERO } else { self.pause };
        self.drawn = self.drawn.saturating_add(1);
        draw(|rng| backoff.delay(self.drawn, previous, rng))
    }

    /// Takes the request of the next attempt, which counts as sent from now on.
    pub(super) fn take_request<P: Replay<Req>>(&mut self, config: &Config, replay: &P) -> Req {
        let (Replayable::Yes(original) | Replayable::IfUnsent(original)) =
            std::mem::replace(&mut self.replay, Replayable::No)
        else {
            unreachable!("a retry is decided only with a request to send");
        };
        let (sent, kept) = Replayable::split(original, self.count, config, replay);
        self.replay = kept;
        self.sent = self.count;
        self.numbers = Numbers::of(self.attempt.number());
        report_number(self.attempt.number());
        if let Some(mut withdrawal) = self.withdrawal.take() {
            withdrawal.take();
        }
        sent
    }

    /// Returns the error of a call whose next attempt was rejected or could not be sent.
    ///
    /// This is the kept error if there is one. It says why the call failed, instead of why it
    /// could not be retried.
    pub(super) fn kept_or(&mut self, config: &Config, rejection: impl FnOnce() -> E) -> E {
        if let Some(outcome) = self.attempt.previous() {
            Hop::report_exhausted();
            let attempts = self.count - 1;
            let (error_type, reason) = (self.error_type, "rejected");
            let event = Event::RetriesExhausted { attempts, outcome, error_type, reason };
            config.reporter().emit(event);
        }
        self.kept.take().unwrap_or_else(rejection)
    }
}

/// Tells the hop above that the deadline ended the retries after this attempt, if there were any.
///
/// The deadline may be that of one attempt of the hop above. It may retry a request that was not
/// retried here. Otherwise no hop would retry a request that hangs.
pub(super) fn report_out_of_time(attempts: u32) {
    if attempts > FIRST {
        Hop::report_exhausted();
    }
}
