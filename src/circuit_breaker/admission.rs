//! One call that a breaker let through, and what becomes of it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    half_open::LeaseId,
    layer::Shared,
    state::{Core, Decision, Phase, Refusal},
    window::Sample,
};
use crate::{
    CarryRejection, Classify, Fault, Outcome, RetryHint,
    call::{
        account::{self, Account, End, How},
        admission::{Admission, Ledger},
        clock,
        completion::{Completion, end_of},
        deadline, patience,
    },
    outcome::{hint, judge, service_is_late},
};

/// What an admission belongs to: a breaker, alone or with its classifier.
pub trait Breaker {
    /// The breaker itself.
    fn core(&self) -> &Core;

    /// The breaker, to be held for longer than its classifier.
    fn share(this: &Arc<Self>) -> Arc<Core>;
}

impl Breaker for Core {
    fn core(&self) -> &Core {
        self
    }

    fn share(this: &Arc<Self>) -> Arc<Core> {
        Arc::clone(this)
    }
}

/// Where the classifier of a call is found.
pub trait Judge<B> {
    /// Who judges the result.
    type Classifier;

    /// The classifier, which lives in the breaker or here.
    fn classifier<'a>(&'a self, breaker: &'a B) -> &'a Self::Classifier;
}

/// Beside the breaker's state: a call then shares both by one reference count.
impl<C> Judge<Shared<C>> for () {
    type Classifier = C;

    fn classifier<'a>(&'a self, breaker: &'a Shared<C>) -> &'a C {
        breaker.classifier()
    }
}

/// Apart from it, where one classifier serves the breakers of all keys.
impl<C> Judge<Core> for Arc<C> {
    type Classifier = C;

    fn classifier<'a>(&'a self, _: &'a Core) -> &'a C {
        self
    }
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

/// A call that was let through by breaker `B`.
pub(super) type Admitted<B> = Admission<B>;

/// A call whose response went on after its head.
impl Account for Core {
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

impl Core {
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

fn verdict(core: &Core, outcome: Outcome, hint: impl FnOnce() -> RetryHint) -> Verdict {
    let (failed, hint) = match outcome {
        Outcome::Success => (Some(false), None),
        // What would fail anywhere, and what says nothing, neither trips nor heals.
        Outcome::Failure(Fault::Permanent | Fault::InProgress { .. }) | Outcome::Ignored => {
            (None, None)
        }
        Outcome::Failure(fault) => (Some(true), asked_for(fault, hint())),
    };
    let ended = core.config().slow_calls.map(|_| Instant::now());
    Verdict { failed, hint, ended, late_for: None }
}

/// The deadline that a service may have kept to which says that it was late.
fn late_for<Res, E: CarryRejection>(outcome: Outcome, result: Result<&Res, &E>) -> Option<Instant> {
    if service_is_late(outcome, result) { deadline::deadline() } else { None }
}

/// Puts a decision to let a call through into a guard; `Err` is the refusal.
#[inline]
pub(super) fn guard<B: Breaker>(
    breaker: &Arc<B>,
    decision: Decision,
) -> Result<Admitted<B>, Refusal> {
    let (phase, lease) = match decision {
        Decision::Admitted { phase } => (phase, None),
        Decision::Probe { phase, lease } => (phase, Some(lease)),
        Decision::Refused(refusal) => return Err(refusal),
    };
    Ok(admitted(breaker, phase, lease))
}

/// The guard of a call that was let through.
#[inline]
pub(super) fn admitted<B: Breaker>(
    breaker: &Arc<B>,
    phase: Phase,
    lease: Option<LeaseId>,
) -> Admitted<B> {
    let slow_calls = breaker.core().config().slow_calls;
    let began = clock::shared_now().or_else(|| slow_calls.map(|_| Instant::now()));
    Admission::new(Arc::clone(breaker), Stamp { phase, lease, began })
}

impl<B: Breaker> Admission<B> {
    /// Judges the result and counts it.
    #[inline]
    pub(super) fn settle<J, Res, E>(&mut self, judging: &J, result: Result<&Res, &E>)
    where
        J: Judge<B, Classifier: Classify<Res, E>>,
        E: CarryRejection,
    {
        self.finish(|breaker| {
            let classifier = judging.classifier(breaker);
            let outcome = judge(classifier, result);
            let late_for = late_for(outcome, result);
            Verdict { late_for, ..verdict(breaker.core(), outcome, || hint(classifier, result)) }
        });
    }

    /// The same, unless all that is known so far is that the response began well: then the body has
    /// the admission, and it is counted when that has ended.
    #[inline]
    pub(super) fn settle_or_hold<M, J, Res, E>(&mut self, judging: &J, result: &mut Result<Res, E>)
    where
        M: Completion<Res>,
        J: Judge<B, Classifier: Classify<Res, E>>,
        E: CarryRejection,
    {
        self.finish_if(|breaker| {
            let classifier = judging.classifier(breaker);
            let outcome = judge(classifier, result.as_ref());
            if outcome == Outcome::Success && end_of::<M, _, _>(result).is_some() {
                return None;
            }
            let late_for = late_for(outcome, result.as_ref());
            let verdict = verdict(breaker.core(), outcome, || hint(classifier, result.as_ref()));
            Some(Verdict { late_for, ..verdict })
        });
        if let (true, Some(end)) = (self.stamp().is_some(), end_of::<M, _, _>(result)) {
            if let Some((phase, lease)) = self.probe() {
                self.ledger().core().probe_is_answering(phase, lease);
            }
            let deadline = deadline::deadline();
            let is_timed = deadline.is_some() || self.ledger().core().config().slow_calls.is_some();
            let account = B::share(self.ledger());
            if let Some(Stamp { phase, lease, began }) = self.take() {
                let mut stamp = account::Stamp::new(phase.word(), lease);
                if is_timed {
                    // How long the response has taken is asked when it ends.
                    let head = end.head();
                    stamp = stamp.timed(head, began.or(Some(head)), deadline);
                }
                end.hold(account, stamp);
            }
        }
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

impl<B: Breaker> Ledger for B {
    type Stamp = Stamp;
    type Verdict = Verdict;

    #[inline]
    fn finished(&self, stamp: Stamp, verdict: Verdict) {
        if verdict.late_for.is_some() && patience::was_cut_short(stamp.began, verdict.late_for) {
            return self.abandoned(stamp, false);
        }
        let core = self.core();
        let slow = match (core.config().slow_calls, stamp.began, verdict.ended) {
            (Some(slow), Some(began), Some(ended)) => {
                ended.saturating_duration_since(began) >= slow.longer_than
            }
            _ => false,
        };
        match (stamp.lease, verdict.failed) {
            (None, None) => {}
            (None, Some(failed)) => {
                let sample = Sample { failed, slow };
                core.record(stamp.phase, sample, verdict.hint, verdict.ended);
            }
            (Some(lease), failed) => {
                let passed = failed.map(|failed| !failed && !slow);
                core.settle_probe(stamp.phase, lease, passed, verdict.hint);
            }
        }
    }

    fn abandoned(&self, stamp: Stamp, panicked: bool) {
        let core = self.core();
        let config = core.config();
        if let Some(lease) = stamp.lease {
            core.abandon_probe(stamp.phase, lease, None, panicked);
            return;
        }
        let now = Instant::now();
        let ran = stamp.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        if panicked || ran >= config.abandoned_after {
            let slow = config.slow_calls.is_some_and(|slow| ran >= slow.longer_than);
            core.record(stamp.phase, Sample { failed: true, slow }, None, Some(now));
        }
    }
}
