//! One call that a breaker let through, and what becomes of it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{breaker::Breaker, half_open::LeaseId, phase::Phase, window::Sample};
use crate::{
    CarryRejection, Classify, Fault, Outcome, RetryHint,
    call::{
        account::{self, Account, End, How},
        admission::{Admission, Ledger},
        clock,
        completion::{CallEnd, Completion, end_of},
        deadline, patience,
    },
    outcome::{hint, judge, service_is_late},
};

/// A handle to a breaker and to the classifier of its results.
pub(crate) trait Handle {
    /// The type of the classifier.
    type Classifier;

    /// Returns the breaker.
    fn breaker(&self) -> &Breaker;

    /// Returns the classifier.
    fn classifier(&self) -> &Self::Classifier;

    /// Returns the breaker as the account of a response, which may outlive the classifier.
    fn account(&self) -> Arc<dyn Account>;
}

/// What identifies a call that was let through.
#[derive(Debug)]
pub(crate) struct Stamp {
    phase: Phase,
    /// The lease, if it is a probe.
    lease: Option<LeaseId>,
    /// When it began. Read late where only a drop asks for it: an answer that is there at once then
    /// costs no look at the clock.
    began: Option<Instant>,
}

/// What a call that ran to its end says of the dependency.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// `None` if it says nothing.
    failed: Option<bool>,
    hint: Option<Duration>,
    ended: Option<Instant>,
    /// The caller's deadline, where the service says that it was late.
    late_for: Option<Instant>,
}

/// A call whose response went on after its head.
impl Account for Breaker {
    fn settle(&self, held: account::Stamp, end: &End) {
        let phase = Phase::from_word(held.word);
        let stamp = Stamp { phase, lease: held.lease, began: held.began(end) };
        match end.how {
            How::Complete(outcome) => self.complete(stamp, outcome, held.deadline(end), end),
            How::DroppedBetweenReads => self.complete(stamp, Outcome::Success, None, end),
            How::DroppedWhileReading => {
                // Time in which nobody read is the reader's.
                let waited_since = Instant::now().checked_sub(end.waited);
                match held.lease {
                    Some(lease) => self.abandon_probe(phase, lease, waited_since, false),
                    None => self.abandoned(Stamp { began: waited_since, ..stamp }, false),
                }
            }
            How::Panicked => self.abandoned(stamp, true),
        }
    }
}

impl Breaker {
    /// Counts a call whose response ran to its end.
    fn complete(&self, stamp: Stamp, outcome: Outcome, deadline: Option<Instant>, end: &End) {
        let began = stamp.began.and_then(|began| {
            // Time in which nobody read is the reader's.
            let unread = end.since_head().saturating_sub(end.waited);
            began.checked_add(unread)
        });
        let late = outcome == Outcome::Failure(Fault::TimedOut);
        let verdict = verdict(self, outcome, || RetryHint::Unstated);
        let late_for = deadline.filter(|_| late);
        self.finished(Stamp { began, ..stamp }, Verdict { late_for, ..verdict });
    }
}

fn verdict(breaker: &Breaker, outcome: Outcome, hint: impl FnOnce() -> RetryHint) -> Verdict {
    let (failed, hint) = match outcome {
        Outcome::Success => (Some(false), None),
        // What would fail anywhere, and what says nothing, neither trips nor heals.
        Outcome::Failure(Fault::Permanent | Fault::InProgress { .. }) | Outcome::Ignored => {
            (None, None)
        }
        Outcome::Failure(fault) => (Some(true), asked_for(fault, hint())),
    };
    let ended = breaker.config().slow_calls.map(|_| Instant::now());
    Verdict { failed, hint, ended, late_for: None }
}

/// The deadline that a service may have kept to which says that it was late.
fn late_for<Res, E: CarryRejection>(outcome: Outcome, result: Result<&Res, &E>) -> Option<Instant> {
    if service_is_late(outcome, result) { deadline::deadline() } else { None }
}

/// Opens the admission of a call that was let through.
#[inline]
pub(super) fn admitted<H: Handle>(handle: H, phase: Phase, lease: Option<LeaseId>) -> Admission<H> {
    let slow_calls = handle.breaker().config().slow_calls;
    let began = clock::shared_now().or_else(|| slow_calls.map(|_| Instant::now()));
    Admission::new(handle, Stamp { phase, lease, began })
}

impl<H: Handle> Admission<H> {
    /// Classifies the result and counts it.
    #[inline]
    pub(super) fn settle<Res, E>(&mut self, result: Result<&Res, &E>)
    where
        H::Classifier: Classify<Res, E>,
        E: CarryRejection,
    {
        self.finish(|handle| {
            let classifier = handle.classifier();
            let outcome = judge(classifier, result);
            let late_for = late_for(outcome, result);
            let verdict = verdict(handle.breaker(), outcome, || hint(classifier, result));
            Verdict { late_for, ..verdict }
        });
    }

    /// The same, unless all that is known so far is that the response began well: then the body has
    /// the admission, and it is counted when that has ended.
    #[inline]
    pub(super) fn settle_or_hold<M, Res, E>(&mut self, result: &mut Result<Res, E>)
    where
        M: Completion<Res>,
        H::Classifier: Classify<Res, E>,
        E: CarryRejection,
    {
        self.finish_if(|handle| {
            let classifier = handle.classifier();
            let outcome = judge(classifier, result.as_ref());
            if outcome == Outcome::Success && end_of::<M, _, _>(result).is_some() {
                return None;
            }
            let late_for = late_for(outcome, result.as_ref());
            let verdict = verdict(handle.breaker(), outcome, || hint(classifier, result.as_ref()));
            Some(Verdict { late_for, ..verdict })
        });
        if let (true, Some(end)) = (self.stamp().is_some(), end_of::<M, _, _>(result)) {
            self.hold(end);
        }
    }

    /// Leaves the admission to the body of the response.
    fn hold(&mut self, end: &mut CallEnd) {
        let Some(Stamp { phase, lease, began }) = self.take() else { return };
        let breaker = self.ledger().breaker();
        if let Some(lease) = lease {
            breaker.probe_is_answering(phase, lease);
        }
        let mut stamp = account::Stamp::new(phase.word(), lease);
        let deadline = deadline::deadline();
        if deadline.is_some() || breaker.config().slow_calls.is_some() {
            // How long the response has taken is asked when it ends.
            let head = end.head();
            stamp = stamp.timed(head, began.or(Some(head)), deadline);
        }
        end.hold(self.ledger().account(), stamp);
    }

    /// The call has to wait: from now on it matters how long.
    pub(super) fn has_to_wait(&mut self) {
        if let Some(stamp) = self.stamp() {
            stamp.began.get_or_insert_with(Instant::now);
        }
    }

    /// The lease, if this is a probe.
    pub(super) fn probe(&mut self) -> Option<(Phase, LeaseId)> {
        let stamp = self.stamp()?;
        stamp.lease.map(|lease| (stamp.phase, lease))
    }
}

/// How long the dependency asks to be left alone.
fn asked_for(fault: Fault, hint: RetryHint) -> Option<Duration> {
    match (hint, fault) {
        (RetryHint::After(time), _) => Some(time),
        (_, Fault::Overloaded { retry_after }) => retry_after,
        _ => None,
    }
}

impl Breaker {
    #[inline]
    fn finished(&self, stamp: Stamp, verdict: Verdict) {
        if verdict.late_for.is_some() && patience::was_cut_short(stamp.began, verdict.late_for) {
            return self.abandoned(stamp, false);
        }
        let slow = match (self.config().slow_calls, stamp.began, verdict.ended) {
            (Some(slow), Some(began), Some(ended)) => {
                ended.saturating_duration_since(began) >= slow.longer_than
            }
            _ => false,
        };
        match (stamp.lease, verdict.failed) {
            (None, None) => {}
            (None, Some(failed)) => {
                let sample = Sample { failed, slow };
                self.record(stamp.phase, sample, verdict.hint, verdict.ended);
            }
            (Some(lease), failed) => {
                let passed = failed.map(|failed| !failed && !slow);
                self.settle_probe(stamp.phase, lease, passed, verdict.hint);
            }
        }
    }

    fn abandoned(&self, stamp: Stamp, panicked: bool) {
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

impl<H: Handle> Ledger for H {
    type Stamp = Stamp;
    type Verdict = Verdict;

    #[inline]
    fn finished(&self, stamp: Stamp, verdict: Verdict) {
        self.breaker().finished(stamp, verdict);
    }

    fn abandoned(&self, stamp: Stamp, panicked: bool) {
        self.breaker().abandoned(stamp, panicked);
    }
}
