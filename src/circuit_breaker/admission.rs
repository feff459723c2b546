//! The admission of one call by a breaker, and its outcome.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    breaker::{Breaker, Phase},
    half_open::LeaseId,
    shared::Handle,
    window::Sample,
};
use crate::{
    CarryRejection, Classify, Fault, Outcome, RetryHint,
    call::{
        account::{self, Account, End, How},
        admission::{Admission, Ledger},
        clock,
        completion::{CallEnd, Completion, end_of},
        deadline, patience,
    },
    outcome::{hint, judge, service_is_late, was_ended},
};

/// The identity of an admitted call.
#[derive(Debug)]
pub(crate) struct CallStamp {
    phase: Phase,
    /// The lease, if the call is a probe.
    lease: Option<LeaseId>,
    /// The instant at which the call began.
    ///
    /// It is read lazily unless slow calls are counted. A call that completes on its first poll
    /// then never reads the clock.
    began: Option<Instant>,
}

/// The evidence that a result gives about the dependency.
#[derive(Clone, Copy)]
struct Evidence {
    outcome: Outcome,
    /// The time for which the dependency asks not to be called.
    asked_for: Option<Duration>,
    /// The caller's deadline, if the service reports a timeout.
    ///
    /// The service may have ended the call early to respect this deadline.
    late_for: Option<Instant>,
    /// A limit of another crate ended the call, as if the caller had dropped it.
    ended: bool,
}

impl Evidence {
    fn new(outcome: Outcome) -> Self {
        Self { outcome, asked_for: None, late_for: None, ended: false }
    }

    #[inline]
    fn of<C, Res, E>(classifier: &C, result: Result<&Res, &E>) -> Self
    where
        C: Classify<Res, E>,
        E: CarryRejection,
    {
        let outcome = judge(classifier, result);
        match outcome {
            Outcome::Success | Outcome::Failure(Fault::Permanent | Fault::InProgress { .. }) => {
                Self::new(outcome)
            }
            Outcome::Ignored => Self { ended: was_ended(result), ..Self::new(outcome) },
            Outcome::Failure(fault) => {
                let late = service_is_late(outcome, result);
                let late_for = if late { deadline::deadline() } else { None };
                let asked_for = asked_for(fault, hint(classifier, result));
                Self { asked_for, late_for, ..Self::new(outcome) }
            }
        }
    }

    /// Returns `true` if the dependency failed, and `None` if the result says nothing about it.
    ///
    /// A response is evidence of health, even if it says that the request is wrong or still runs.
    /// Only an ignored result neither opens nor closes a breaker.
    fn failed(self) -> Option<bool> {
        match self.outcome {
            Outcome::Ignored => None,
            outcome => Some(!outcome.is_response()),
        }
    }
}

/// Settles a call whose response continued after its head.
impl Account for Breaker {
    fn settle(&self, held: account::Stamp, end: &End) {
        let phase = Phase::from_word(held.word);
        let stamp = CallStamp { phase, lease: held.lease, began: held.began(end) };
        match end.how {
            How::Complete(outcome) => self.complete(stamp, outcome, held.deadline(end), end),
            How::DroppedBetweenReads => self.complete(stamp, Outcome::Success, None, end),
            How::DroppedWhileReading => {
                // Time in which the caller did not read is not time of the service.
                let waited_since = Instant::now().checked_sub(end.waited);
                match held.lease {
                    Some(lease) => self.abandon_probe(phase, lease, waited_since, false),
                    None => self.abandoned(CallStamp { began: waited_since, ..stamp }, false),
                }
            }
            How::Panicked => self.abandoned(stamp, true),
        }
    }
}

impl Breaker {
    /// Counts a call whose response ran to its end, or was dropped between two reads.
    fn complete(&self, stamp: CallStamp, outcome: Outcome, deadline: Option<Instant>, end: &End) {
        let began = stamp.began.and_then(|began| {
            // Time in which the caller did not read is not time of the service.
            let unread = end.since_head().saturating_sub(end.waited);
            began.checked_add(unread)
        });
        let late = outcome == Outcome::Failure(Fault::TimedOut);
        let late_for = deadline.filter(|_| late);
        self.count(CallStamp { began, ..stamp }, Evidence { late_for, ..Evidence::new(outcome) });
    }

    /// Counts a call that ran to its end.
    #[inline]
    fn count(&self, stamp: CallStamp, evidence: Evidence) {
        let cut_short = |end: Option<_>| end.is_some() && patience::was_cut_short(stamp.began, end);
        if evidence.ended || cut_short(evidence.late_for) {
            return self.abandoned(stamp, false);
        }
        let slow_calls = self.config().slow_calls;
        let ended = slow_calls.map(|_| Instant::now());
        let slow = match (slow_calls, stamp.began, ended) {
            (Some(slow), Some(began), Some(ended)) => {
                ended.saturating_duration_since(began) >= slow.longer_than
            }
            _ => false,
        };
        match (stamp.lease, evidence.failed()) {
            (None, None) => {}
            (None, Some(failed)) => {
                self.record(stamp.phase, Sample { failed, slow }, evidence.asked_for, ended);
            }
            (Some(lease), failed) => {
                let passed = failed.map(|failed| !failed && !slow);
                self.settle_probe(stamp.phase, lease, passed, evidence.asked_for);
            }
        }
    }

    /// Accounts for a call that was dropped before its end.
    fn abandoned(&self, stamp: CallStamp, panicked: bool) {
        if let Some(lease) = stamp.lease {
            self.abandon_probe(stamp.phase, lease, None, panicked);
            return;
        }
        let config = self.config();
        let now = Instant::now();
        let ran = stamp.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        if panicked || ran >= config.abandoned_after {
            let slow = config.slow_calls.is_some_and(|slow| ran >= slow.longer_than);
            self.record(stamp.phase, Sample { failed: true, slow }, None, Some(now));
        }
    }
}

/// Creates the admission of a call.
#[inline]
pub(super) fn admitted<H: Handle>(handle: H, phase: Phase, lease: Option<LeaseId>) -> Admission<H> {
    let slow_calls = handle.breaker().config().slow_calls;
    let began = clock::shared_now().or_else(|| slow_calls.map(|_| Instant::now()));
    Admission::new(handle, CallStamp { phase, lease, began })
}

impl<H: Handle> Admission<H> {
    /// Classifies the result and counts it.
    #[inline]
    pub(super) fn settle<Res, E>(&mut self, result: Result<&Res, &E>)
    where
        H::Classifier: Classify<Res, E>,
        E: CarryRejection,
    {
        let evidence = self.run(|handle| Evidence::of(handle.classifier(), result));
        self.count(evidence);
    }

    /// Settles the call, or hands its admission to the body of a response with a good head.
    ///
    /// The call is then counted at the end of the body.
    #[inline]
    pub(super) fn settle_or_hold<M, Res, E>(&mut self, result: &mut Result<Res, E>)
    where
        M: Completion<Res>,
        H::Classifier: Classify<Res, E>,
        E: CarryRejection,
    {
        let evidence = self.run(|handle| Evidence::of(handle.classifier(), result.as_ref()));
        let end = match evidence.outcome {
            // `end_of` runs foreign code of the response, which may panic.
            Outcome::Success => self.run(|_| end_of::<M, _, _>(result)),
            _ => None,
        };
        match end {
            Some(end) => self.hold(end),
            None => self.count(evidence),
        }
    }

    #[inline]
    fn count(&mut self, evidence: Evidence) {
        if let Some(stamp) = self.take() {
            self.ledger().breaker().count(stamp, evidence);
        }
    }

    /// Hands the admission to the body of the response.
    fn hold(&mut self, end: &mut CallEnd) {
        let Some(CallStamp { phase, lease, began }) = self.take() else { return };
        let breaker = self.ledger().breaker();
        if let Some(lease) = lease {
            breaker.probe_is_answering(phase, lease);
        }
        let mut stamp = account::Stamp::new(phase.word(), lease);
        let deadline = deadline::deadline();
        if deadline.is_some() || breaker.config().slow_calls.is_some() {
            // The duration of the response is computed when it ends.
            let (head, age) = end.head_and_age();
            // An inner account may have read the head earlier. The layers in between took time
            // since then, which is time of the call.
            let began = began.map_or(Some(head), |began| began.checked_sub(age));
            stamp = stamp.timed(head, began, deadline);
        }
        end.hold(self.ledger().account(), stamp);
    }

    /// Records that the call has to wait. From now on its duration matters.
    pub(super) fn has_to_wait(&mut self) {
        if let Some(stamp) = self.stamp() {
            stamp.began.get_or_insert_with(Instant::now);
        }
    }

    /// Returns the lease, if the call is a probe.
    pub(super) fn probe(&mut self) -> Option<(Phase, LeaseId)> {
        let stamp = self.stamp()?;
        stamp.lease.map(|lease| (stamp.phase, lease))
    }
}

/// Returns the time for which the dependency asks not to be called.
fn asked_for(fault: Fault, hint: RetryHint) -> Option<Duration> {
    match (hint, fault) {
        (RetryHint::After(time), _) => Some(time),
        (_, Fault::Overloaded { retry_after }) => retry_after,
        _ => None,
    }
}

impl<H: Handle> Ledger for H {
    type Stamp = CallStamp;

    fn abandoned(&self, stamp: CallStamp, panicked: bool) {
        self.breaker().abandoned(stamp, panicked);
    }
}
