//! The state that a service shares with its clones and their calls.

use std::{
    any::type_name,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::{config::Config, decide::Failed};
use crate::{
    CarryRejection, Classify, Fault, Outcome, RetryHint,
    budget::Budget,
    call::{
        account::Stamp,
        completion::{CallEnd, Completion, end_of},
        deadline,
        lock::lock,
        patience::{is_own, was_cut_short},
        route::{Beneath, Tried},
    },
    outcome::{hint as hint_of, judge, service_is_late, was_given_back},
    telemetry::{Attempt, Event, Tracked},
};

/// The state that a call may need for a retry.
///
/// It is shared, so a call that is not retried costs one reference count instead of a clone of
/// the whole inner service.
pub(super) struct Shared<S, P, C> {
    config: Arc<Config>,
    replay: Arc<P>,
    classifier: Arc<C>,
    /// The limit of the stack for each call or attempt.
    own_limit: Option<Duration>,
    /// The service that is cloned for each retry, in a lock because it need not be `Sync`.
    spare: Mutex<S>,
}

impl<S, P, C> Shared<S, P, C> {
    pub(super) fn new(
        config: Arc<Config>,
        replay: Arc<P>,
        classifier: Arc<C>,
        service: S,
        own_limit: Option<Duration>,
    ) -> Arc<Self> {
        Arc::new(Self { config, replay, classifier, own_limit, spare: Mutex::new(service) })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn replay(&self) -> &P {
        &self.replay
    }

    pub(super) fn classifier(&self) -> &C {
        &self.classifier
    }

    /// Returns a clone of the service, which is not ready yet.
    pub(super) fn service(&self) -> S
    where
        S: Clone,
    {
        // The service's `clone` runs under this lock. It cannot deadlock, because the service has
        // no access to the lock.
        lock(&self.spare).clone()
    }

    /// Records the outcome of an attempt. Returns it if the attempt may be retried.
    ///
    /// For a streaming response with a successful head, the outcome is recorded at its end.
    /// `retried` says that the call was retried before.
    #[inline]
    pub(super) fn settle<M, T, E>(
        &self,
        result: &mut Result<T, E>,
        ended: impl SettleEndpoint,
        tracked: &mut Tracked<Attempt>,
        began: Option<Instant>,
        attempt: u32,
        retried: bool,
    ) -> Option<Failed>
    where
        M: Completion<T>,
        C: Classify<T, E>,
        E: CarryRejection,
    {
        let mut outcome = tracked.classify(|| judge(self.classifier(), result.as_ref()));
        let (mut hint, mut error_type) = (RetryHint::Unstated, None);
        if outcome != Outcome::Success {
            hint = hint_of(self.classifier(), result.as_ref());
        } else if let Some(end) = end_of::<M, _, _>(result) {
            // The head is a success. The outcome of the whole attempt is known at the end of the
            // body, or already if the body was read ahead and failed.
            let Some(failure) = end.failure() else {
                self.hold(end, tracked, began, retried);
                ended.hold(end, self.own_limit);
                return None;
            };
            (outcome, error_type) = failure;
            // Other hints of such a head are not about this failure. A 202 says when to ask again.
            if hint_of(self.classifier(), result.as_ref()) == RetryHint::Stop {
                hint = RetryHint::Stop;
            }
        }
        let given_back = was_given_back(self.classifier(), outcome, result.as_ref());
        let retryable = is_retryable(outcome, hint, given_back);
        let cut_short =
            service_is_late(outcome, result.as_ref()) && was_cut_short(began, deadline::deadline());
        let tried = ended.settle(outcome, result.as_ref(), self.own_limit);
        let throttle = self.throttle().filter(|budget| {
            if outcome.is_response() {
                // Without a deadline, no attempt can be cut short.
                budget.heard(began.map(|began| began.elapsed()));
            } else if outcome == Outcome::Ignored && result.is_ok() {
                budget.heard(None);
            }
            !(cut_short && self.is_hurried(budget, began))
        });
        if let Some(budget) = throttle {
            match hint {
                _ if given_back => budget.given_back(began),
                // It counts only if the request is not resent at once, or if it is resent after a
                // permanent failure. Both are decided later.
                RetryHint::Unprocessed if retryable => {}
                RetryHint::Stop if outcome == Outcome::Failure(Fault::Permanent) => budget.failed(),
                _ => budget.observe(outcome),
            }
        }
        // A response that says nothing about the service is what its caller asked for.
        let is_success = !matches!(outcome, Outcome::Failure(_)) && result.is_ok();
        if retried && !retryable {
            // Before the attempt, because other successes are a difference of the two.
            self.config().count_call(true, is_success);
        }
        if tracked.told().is_some() {
            tracked.end_with(self.classifier(), outcome, error_type, result.as_ref());
        }
        let cause = || self.cause(outcome, error_type, result.as_ref());
        if !retryable && outcome != Outcome::Success {
            if !retried {
                self.config().count_call(false, is_success);
            }
            // A layer that has rejected the call has reported it.
            if result.as_ref().err().and_then(CarryRejection::rejection).is_none() {
                self.report_final(outcome, cause, hint, attempt);
            }
        }
        retryable.then(|| Failed { outcome, error_type: cause(), hint, cut_short, tried })
    }

    /// Records the outcome of an attempt that has called endpoints, as [`settle`](Self::settle).
    #[inline(never)]
    pub(super) fn settle_endpoint<M, T, E>(
        &self,
        result: &mut Result<T, E>,
        beneath: Beneath,
        tracked: &mut Tracked<Attempt>,
        began: Option<Instant>,
        attempt: u32,
        retried: bool,
    ) -> Option<Failed>
    where
        M: Completion<T>,
        C: Classify<T, E>,
        E: CarryRejection,
    {
        self.settle::<M, _, _>(result, beneath, tracked, began, attempt, retried)
    }

    /// Returns the cause of a failed attempt.
    #[cold]
    fn cause<T, E>(
        &self,
        outcome: Outcome,
        error_type: Option<&'static str>,
        result: Result<&T, &E>,
    ) -> &'static str
    where
        C: Classify<T, E>,
        E: CarryRejection,
    {
        match result.err().and_then(CarryRejection::rejection) {
            Some(rejection) => rejection.cause(),
            None => {
                let cause = error_type.or_else(|| self.classifier().error_type(result));
                cause.filter(|cause| !cause.is_empty()).unwrap_or(outcome.as_str())
            }
        }
    }

    /// Reports a failure that would not be retried whatever the request is.
    #[cold]
    fn report_final(
        &self,
        outcome: Outcome,
        cause: impl FnOnce() -> &'static str,
        hint: RetryHint,
        attempt: u32,
    ) {
        if hint == RetryHint::Stop {
            self.config().count_hint("stop");
        }
        let (counted, reason) = match hint {
            RetryHint::Stop => ("stop_hint", "stop_hint"),
            _ => ("not_retryable", outcome.as_str()),
        };
        let event = || Event::NotRetried { attempt, outcome, error_type: cause(), reason };
        self.config().reporter().emit_not_retried(counted, event);
    }

    /// Lets a response hold what is settled at its end.
    #[inline]
    fn hold(
        &self,
        end: &mut CallEnd,
        tracked: &mut Tracked<Attempt>,
        began: Option<Instant>,
        retried: bool,
    ) {
        if self.config().reporter.meter().is_some() {
            end.hold(Arc::clone(&self.config) as _, Stamp::new(retried.into(), None));
        }
        tracked.hold(end);
        if let Some(budget) = self.throttle() {
            // Without a deadline, no attempt can be cut short.
            let (stamp, took) = match (deadline::deadline(), began) {
                (Some(deadline), Some(began)) => {
                    let took = end.head().saturating_duration_since(began);
                    let left = deadline.saturating_duration_since(end.head());
                    let own = is_own(left.saturating_add(took), self.own_limit);
                    (Stamp::default().timed(took, Some(left), own), Some(took))
                }
                _ => (Stamp::default(), None),
            };
            budget.heard(took);
            end.hold(budget.account(), stamp);
        }
    }

    /// Returns `true` if an attempt that was cut short says nothing about the service.
    ///
    /// Callers with short deadlines would otherwise use up the budget that all callers share.
    #[cold]
    fn is_hurried(&self, budget: &Budget, began: Option<Instant>) -> bool {
        let now = Instant::now();
        let began = began.unwrap_or(now);
        let time = deadline::deadline().map(|deadline| deadline.saturating_duration_since(began));
        let ran = now.saturating_duration_since(began);
        time.is_some_and(|time| !is_own(time, self.own_limit))
            && !budget.counts_cut(ran, now, self.own_limit)
    }

    /// Returns the budget if the outcome of attempts changes its balance.
    pub(super) fn throttle(&self) -> Option<&Budget> {
        self.config().budget.as_ref().filter(|budget| budget.is_throttle())
    }
}

#[inline]
fn is_retryable(outcome: Outcome, hint: RetryHint, given_back: bool) -> bool {
    match outcome {
        Outcome::Success => false,
        Outcome::Failure(Fault::Permanent) => hint == RetryHint::Unprocessed,
        Outcome::Failure(_) => true,
        Outcome::Ignored => given_back,
    }
}

/// Settles the calls to endpoints of an attempt, if there are any.
///
/// It is a type parameter, because most attempts have none, and then nothing of it is left.
pub(super) trait SettleEndpoint {
    /// Lets the response hold the call to an endpoint until its end.
    fn hold(self, end: &mut CallEnd, own_limit: Option<Duration>);

    /// Settles the call to an endpoint. Returns the endpoints that the attempt has called.
    fn settle<T, E: CarryRejection>(
        self,
        outcome: Outcome,
        result: Result<&T, &E>,
        own_limit: Option<Duration>,
    ) -> Tried;
}

impl SettleEndpoint for () {
    #[inline]
    fn hold(self, _: &mut CallEnd, _: Option<Duration>) {}

    #[inline]
    fn settle<T, E>(self, _: Outcome, _: Result<&T, &E>, _: Option<Duration>) -> Tried {
        Tried::NONE
    }
}

impl SettleEndpoint for Beneath {
    fn hold(self, end: &mut CallEnd, own_limit: Option<Duration>) {
        if let Some(call) = self.call {
            call.hold(end, deadline::deadline(), own_limit);
        }
    }

    fn settle<T, E: CarryRejection>(
        self,
        outcome: Outcome,
        result: Result<&T, &E>,
        own_limit: Option<Duration>,
    ) -> Tried {
        if let Some(call) = self.call {
            call.settle(outcome, result, deadline::deadline(), own_limit);
        }
        self.tried
    }
}

impl<S, P, C> fmt::Debug for Shared<S, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", self.config())
            .field("replay", &format_args!("{}", type_name::<P>()))
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish_non_exhaustive()
    }
}
