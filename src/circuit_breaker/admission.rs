//! The admission of one call by a breaker, and its outcome.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    breaker::{Breaker, Phase},
    effects::Hint,
    half_open::{Dropped, LeaseId},
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
        deadline,
        patience::{self, Cut},
        route,
    },
    outcome::{hint, judge, service_is_late, was_ended, was_given_back},
};

/// The identity of an admitted call.
#[derive(Debug)]
pub(crate) struct CallStamp {
    /// The phase, and in the first bit whether the call had to wait.
    ///
    /// The duration of a call that had to wait says how long responses take.
    word: u64,
    /// The lease, if the call is a probe.
    lease: Option<LeaseId>,
    /// The instant at which the call began.
    ///
    /// It is read lazily unless slow calls are counted. A call that completes on its first poll
    /// then never reads the clock.
    began: Option<Instant>,
}

const PENDED: u64 = 1 << 63;

impl CallStamp {
    #[inline]
    fn new(phase: Phase, lease: Option<LeaseId>, began: Option<Instant>) -> Self {
        Self { word: phase.word(), lease, began }
    }

    #[inline]
    fn phase(&self) -> Phase {
        Phase::from_word(self.word & !PENDED)
    }

    /// Returns the time for which the call has run, or zero if its beginning was not read.
    fn ran(&self, now: Instant) -> Duration {
        self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began))
    }

    /// Returns `true` if the duration of the call is included in the estimate.
    ///
    /// That of a probe is not, because it would cost one more reading of the clock.
    #[inline]
    fn is_measured(&self) -> bool {
        self.word & PENDED != 0 && self.lease.is_none()
    }
}

/// The evidence that a result gives about the dependency.
struct Evidence {
    outcome: Outcome,
    /// The time for which the dependency asks not to be called.
    asked_for: Option<Hint>,
    /// The caller's deadline, if the service reports a timeout.
    ///
    /// The service may have ended the call early to respect this deadline.
    late_for: Option<Instant>,
    /// A limit of another crate ended the call, as if the caller had dropped it.
    ended: bool,
    /// The request was given back, because the dependency has provably not processed it.
    given_back: bool,
    /// The result is a response, which ends the silence although it is ignored otherwise.
    ignored_response: bool,
}

impl Evidence {
    fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            asked_for: None,
            late_for: None,
            ended: false,
            given_back: false,
            ignored_response: false,
        }
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
            Outcome::Ignored => {
                let (ended, ignored_response) = (was_ended(result), result.is_ok());
                let given_back = !ignored_response && was_given_back(classifier, outcome, result);
                Self { ended, given_back, ignored_response, ..Self::new(outcome) }
            }
            // The dependency is still there.
            Outcome::Failure(_) if route::is_relieved() => Self::new(Outcome::Ignored),
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
    fn failed(&self) -> Option<bool> {
        match self.outcome {
            Outcome::Ignored => None,
            outcome => Some(!outcome.is_response()),
        }
    }
}

/// Settles a call whose response continued after its head.
impl Account for Breaker {
    fn settle(&self, held: account::Stamp, end: &End) {
        let stamp = |began| CallStamp::new(Phase::from_word(held.word()), held.lease, began);
        match end.how {
            How::Complete(outcome, _) => {
                let stamp = stamp(held.began_reading(end));
                let late = outcome == Outcome::Failure(Fault::TimedOut);
                if late && held.was_cut_by_caller(end) {
                    self.left(stamp);
                } else {
                    self.complete(stamp, outcome);
                }
            }
            How::DroppedBetweenReads => {
                self.complete(stamp(held.began_reading(end)), Outcome::Success);
            }
            // Time in which the caller did not read is not time of the service.
            How::DroppedWhileReading => self.left(stamp(Instant::now().checked_sub(end.waited))),
            How::Panicked => self.panicked(stamp(held.began(end))),
        }
    }
}

impl Breaker {
    /// Counts a call whose response ran to its end, or was dropped between two reads.
    fn complete(&self, stamp: CallStamp, outcome: Outcome) {
        let ended = self.config().slow_calls.map(|_| Instant::now());
        self.count(stamp, &Evidence::new(outcome), ended);
    }

    /// Counts a call that ended with its result.
    #[inline]
    fn finished(&self, stamp: CallStamp, evidence: &Evidence) {
        let responded = evidence.outcome.is_response();
        if responded || evidence.ignored_response {
            self.patience.heard();
        }
        let ended = if responded && stamp.is_measured() {
            Some(self.measure(stamp.began))
        } else {
            self.config().slow_calls.map(|_| Instant::now())
        };
        self.count(stamp, evidence, ended);
    }

    /// Counts a call whose service reported a timeout, which is the caller's if its time was almost
    /// over.
    #[cold]
    fn timed_out(&self, stamp: CallStamp, evidence: &Evidence, own_limit: Option<Duration>) {
        let began = stamp.began.unwrap_or_else(Instant::now);
        let own = evidence.late_for.is_some_and(|deadline| {
            patience::is_own(deadline.saturating_duration_since(began), own_limit)
        });
        if !own && patience::was_cut_short(stamp.began, evidence.late_for) {
            self.cut(stamp, own_limit);
        } else {
            self.finished(stamp, evidence);
        }
    }

    /// Includes a call that had to wait in the estimate, and returns when it ended.
    #[inline(never)]
    fn measure(&self, began: Option<Instant>) -> Instant {
        let ended = Instant::now();
        if let Some(began) = began {
            self.patience.learn(ended.saturating_duration_since(began));
        }
        ended
    }

    /// Counts a call that ran to its end.
    #[inline]
    fn count(&self, stamp: CallStamp, evidence: &Evidence, ended: Option<Instant>) {
        let slow = match (self.config().slow_calls, stamp.began, ended) {
            (Some(slow), Some(began), Some(ended)) => {
                ended.saturating_duration_since(began) >= slow.longer_than
            }
            _ => false,
        };
        match (stamp.lease, evidence.failed()) {
            (None, None) => {}
            (None, Some(failed)) => {
                self.record(stamp.phase(), Sample { failed, slow }, evidence.asked_for, ended);
            }
            (Some(lease), failed) => {
                let passed = failed.map(|failed| !failed && !slow);
                self.settle_probe(stamp.phase(), lease, passed, evidence.asked_for);
            }
        }
    }

    /// Counts a call that panicked.
    fn panicked(&self, stamp: CallStamp) {
        match stamp.lease {
            Some(lease) => self.abandon_probe(stamp.phase(), lease, Dropped::Panicked),
            None => self.failed_after(stamp, Instant::now()),
        }
    }

    /// Accounts for a call that was cut before its response, by its caller or by a deadline that
    /// its caller set.
    ///
    /// It has failed at once if it ran for the whole limit of its stack, or for the time that was
    /// set by `abandoned_after`. Otherwise it has failed only if nobody had a response for a while,
    /// and if it ran longer than responses take.
    fn cut(&self, stamp: CallStamp, own_limit: Option<Duration>) {
        let config = self.config();
        let floor = own_limit.unwrap_or(patience::FLOOR);
        let at_once = config.fails_after(own_limit, &self.patience);
        if let Some(lease) = stamp.lease {
            let long = self.patience.long(floor).max(floor);
            let fails_after = at_once.min(if config.ignores_cuts() { at_once } else { long });
            let dropped = Dropped::Cut { waited_since: None, fails_after };
            return self.abandon_probe(stamp.phase(), lease, dropped);
        }
        let phase = stamp.phase();
        if config.ignores_cuts() || self.phase() != phase || !phase.is_closed() {
            return;
        }
        let now = Instant::now();
        let ran = stamp.ran(now);
        let cut = Cut { ran, now: now.saturating_duration_since(config.origin) };
        let in_silence = self.patience.cut(cut, config.silence, floor);
        if in_silence || ran >= at_once {
            self.failed_after(stamp, now);
        }
    }

    /// Accounts for a call whose request was given back.
    ///
    /// It is nobody's failure while others have responses. A dependency that gives back everything
    /// has failed. A probe releases its slot until then.
    #[cold]
    fn given_back(&self, stamp: CallStamp) {
        let phase = stamp.phase();
        if self.phase() != phase {
            return;
        }
        let (config, now) = (self.config(), Instant::now());
        let ran = stamp.ran(now);
        let cut = Cut { ran, now: now.saturating_duration_since(config.origin) };
        let in_silence = self.patience.given_back(cut, config.silence);
        match stamp.lease {
            Some(lease) => self.settle_probe(phase, lease, in_silence.then_some(false), None),
            None if in_silence => self.failed_after(stamp, now),
            None => {}
        }
    }

    /// Accounts for a call whose response began, and whose reader left before its end.
    ///
    /// The response was heard at its head. The reader says nothing about the service, unless
    /// `abandoned_after` sets how long it may be kept waiting. A probe has passed otherwise. Once
    /// there was a failure, the response counts as a success, because a share of failures needs the
    /// number of all responses.
    fn left(&self, stamp: CallStamp) {
        let fails_after = self.config().fails_after(None, &self.patience);
        let now = Instant::now();
        let ran = stamp.ran(now);
        match stamp.lease {
            Some(lease) => {
                let dropped = Dropped::Cut { waited_since: stamp.began, fails_after };
                self.abandon_probe(stamp.phase(), lease, dropped);
            }
            None if ran >= fails_after => self.failed_after(stamp, now),
            None if self.cold.get().is_some() => {
                let slow = self.is_slow(ran);
                self.record(stamp.phase(), Sample { failed: false, slow }, None, Some(now));
            }
            None => {}
        }
    }

    /// Counts a failure of a call without a result.
    fn failed_after(&self, stamp: CallStamp, now: Instant) {
        let ran = stamp.ran(now);
        let slow = self.is_slow(ran);
        self.record(stamp.phase(), Sample { failed: true, slow }, None, Some(now));
    }

    fn is_slow(&self, ran: Duration) -> bool {
        self.config().slow_calls.is_some_and(|slow| ran >= slow.longer_than)
    }
}

/// Creates the admission of a call.
#[inline]
pub(super) fn admitted<H: Handle>(handle: H, phase: Phase, lease: Option<LeaseId>) -> Admission<H> {
    let slow_calls = handle.breaker().config().slow_calls;
    let began = clock::shared_now().or_else(|| slow_calls.map(|_| Instant::now()));
    Admission::new(handle, CallStamp::new(phase, lease, began))
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
            let handle = self.ledger();
            match evidence.late_for {
                None if evidence.ended => handle.breaker().cut(stamp, handle.own_limit()),
                None if evidence.given_back => handle.breaker().given_back(stamp),
                None => handle.breaker().finished(stamp, &evidence),
                Some(_) => handle.breaker().timed_out(stamp, &evidence, handle.own_limit()),
            }
        }
    }

    /// Hands the admission to the body of the response.
    fn hold(&mut self, end: &mut CallEnd) {
        let Some(call) = self.take() else { return };
        let CallStamp { lease, began, .. } = call;
        let (breaker, phase) = (self.ledger().breaker(), call.phase());
        if let Some(lease) = lease {
            breaker.probe_is_answering(phase, lease);
        }
        let mut stamp = account::Stamp::new(phase.word(), lease);
        let deadline = deadline::deadline();
        let times_matter = deadline.is_some() || breaker.config().slow_calls.is_some();
        breaker.patience.heard();
        if times_matter || call.is_measured() {
            let (head, age) = end.head_and_age();
            // An inner account may have read the head earlier. The layers in between took time
            // since then, which is time of the call.
            let to_head = began.map_or(age, |began| head.saturating_duration_since(began) + age);
            if call.is_measured() {
                breaker.patience.learn(to_head);
            }
            if times_matter {
                // The duration of the response is computed when it ends.
                let left = deadline.map(|deadline| deadline.saturating_duration_since(head));
                let own = left.is_some_and(|left| {
                    patience::is_own(left.saturating_add(to_head), self.ledger().own_limit())
                });
                stamp = stamp.timed(to_head, left, own);
            }
        }
        end.hold(self.ledger().account(), stamp);
    }

    /// Records that the call has to wait. From now on its duration matters.
    pub(super) fn has_to_wait(&mut self) {
        if let Some(stamp) = self.stamp() {
            stamp.began.get_or_insert_with(Instant::now);
            stamp.word |= PENDED;
        }
    }

    /// Returns the lease, if the call is a probe.
    pub(super) fn probe(&mut self) -> Option<(Phase, LeaseId)> {
        let stamp = self.stamp()?;
        stamp.lease.map(|lease| (stamp.phase(), lease))
    }
}

/// Returns the time for which the dependency asks not to be called.
fn asked_for(fault: Fault, hint: RetryHint) -> Option<Hint> {
    let time = match (hint, fault) {
        (RetryHint::After(time), _) => Some(time),
        (_, Fault::Overloaded { retry_after }) => retry_after,
        _ => None,
    };
    let overload = matches!(fault, Fault::Overloaded { .. });
    time.map(|time| Hint { time, overload })
}

impl<H: Handle> Ledger for H {
    type Stamp = CallStamp;

    fn abandoned(&self, stamp: CallStamp, panicked: bool) {
        match panicked {
            true => self.breaker().panicked(stamp),
            false => self.breaker().cut(stamp, self.own_limit()),
        }
    }
}
