//! A call or an attempt, as its span tells it.

use std::{fmt, mem, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Span;

use super::{
    ended::{Ended, record},
    field,
    metrics::Meter,
    reporter::Reporter,
};
use crate::{
    CarryRejection, Classify, Fault, Outcome, Rejection,
    call::{
        account::How,
        clock::{self, nanos},
        completion::CallEnd,
        deadline,
        degraded::ResponseSource,
        held::{CountEnd, RecordEnd},
    },
    error::Name,
    outcome::was_given_back,
};

/// A call or an attempt, from its begin to its end.
///
/// It owns the span. It ends once. One that is dropped before its end was cancelled or cut.
pub(crate) struct Tracked<U: Unit> {
    /// `None` if it is neither recorded nor counted, and after the end.
    told: Option<Told<U>>,
}

/// A call or an attempt that is recorded or counted.
struct Told<U: Unit> {
    /// The span, which is disabled after the end.
    span: Span,
    /// The instant at which it began. `None` if it is not counted, and after the end.
    began: Option<Instant>,
    unit: U,
}

/// The unit of work that is tracked.
pub(crate) trait Unit {
    /// Returns the numbers of a layer that is registered.
    fn meter(&self) -> Option<&Arc<Meter>>;

    /// Returns `true` if the call around it ends with it, unless that waits.
    fn shares_end(&self) -> bool;

    /// Returns how it ended, for an outcome that is a failure for its caller or not.
    fn classified(outcome: Outcome, failed: bool) -> Ended;

    /// Returns how it ended, for a rejection with this outcome.
    fn rejected(outcome: Outcome) -> Ended;
}

/// A logical call.
pub(crate) struct Call<C> {
    pub(super) calls: Arc<Calls<C>>,
    /// The source of its response, if a layer has reported it.
    pub(super) source: Option<ResponseSource>,
}

/// The parts that the calls of one service share.
pub(crate) struct Calls<C> {
    pub(super) stack: Option<Name>,
    /// The numbers of a stack that is registered.
    pub(super) meter: Option<Arc<Meter>>,
    /// `true` if a layer of the user is around the others. Its time is part of the call, so the
    /// call reads the clock at its own end.
    pub(super) reads_end: bool,
    /// `true` if the calls of endpoints are settled with the call, because there is no retry.
    pub(super) settles: bool,
    /// The limit of the stack for each call or attempt, if it is known.
    pub(super) own_limit: Option<Duration>,
    pub(super) classifier: Arc<C>,
}

/// One attempt of a retried call.
pub(crate) struct Attempt {
    /// The reporter of a layer that is registered.
    pub(crate) reporter: Option<Arc<Reporter>>,
}

/// The cause of a panic.
const PANIC: &str = "panic";

impl<U: Unit> Tracked<U> {
    /// Begins a unit with this span. `unit` is called if it is recorded or counted.
    ///
    /// `is_counted` says that the layer is registered.
    #[inline(always)]
    pub(crate) fn begin(span: Span, is_counted: bool, unit: impl FnOnce() -> U) -> Self {
        if !is_counted && span.is_disabled() {
            return Self { told: None };
        }
        let began = is_counted.then(clock::now);
        Self { told: Some(Told { span, began, unit: unit() }) }
    }

    /// Returns the unit if it is recorded or counted.
    #[inline]
    pub(crate) fn told(&mut self) -> Option<&mut U> {
        self.told.as_mut().map(|told| &mut told.unit)
    }

    /// Runs a part of it in its span. If that panics, it ends as a panic.
    #[inline(always)]
    pub(crate) fn run<T>(&mut self, piece: impl FnOnce() -> T) -> T {
        let mut running = Running { tracked: self, panicked: true };
        let value = {
            let _entered = running.tracked.told.as_ref().map(|told| {
                clock::forget_end();
                told.span.enter()
            });
            piece()
        };
        running.panicked = false;
        value
    }

    /// Runs a part of it that classifies its result, outside of its span.
    #[inline(always)]
    pub(crate) fn classify<T>(&mut self, piece: impl FnOnce() -> T) -> T {
        let mut running = Running { tracked: self, panicked: true };
        let value = piece();
        running.panicked = false;
        value
    }

    /// Ends it with a result. `error_type` is the cause, or `None` if the classifier knows it.
    #[inline]
    pub(crate) fn end_with<C, T, E>(
        &mut self,
        classifier: &C,
        outcome: Outcome,
        error_type: Option<&'static str>,
        result: Result<&T, &E>,
    ) where
        C: Classify<T, E>,
        E: CarryRejection,
    {
        if outcome == Outcome::Success {
            self.end_well();
        } else {
            self.end_badly(classifier, outcome, error_type, result);
        }
    }

    #[cold]
    fn end_badly<C, T, E>(
        &mut self,
        classifier: &C,
        outcome: Outcome,
        error_type: Option<&'static str>,
        result: Result<&T, &E>,
    ) where
        C: Classify<T, E>,
        E: CarryRejection,
    {
        if let Some(rejection) = result.err().and_then(CarryRejection::rejection) {
            let ended = match rejection {
                // No layer rejected the call. It failed, and another caller has the error.
                Rejection::Shared(_) => U::classified(outcome, true),
                _ => U::rejected(outcome),
            };
            return self.end(ended, Some(rejection.cause()));
        }
        // An error that the classifier ignores is still one for the caller, and so is a request
        // that was given back.
        let failed = matches!(outcome, Outcome::Failure(_))
            || result.is_err()
            || self.classify(|| was_given_back(classifier, outcome, result));
        let cause = failed.then(|| {
            let of_result = || self.classify(|| classifier.error_type(result));
            let cause = error_type.or_else(of_result).filter(|cause| !cause.is_empty());
            cause.unwrap_or(outcome.as_str())
        });
        self.end(U::classified(outcome, failed), cause);
    }

    /// Ends it as a success.
    #[inline(never)]
    fn end_well(&mut self) {
        let Some(mut told) = self.told.take() else { return };
        if let (Some(began), Some(meter)) = (told.began.take(), told.unit.meter()) {
            meter.succeeded(clock::took_since(began));
            told.share_end();
        }
        if !told.span.is_disabled() {
            told.end(Ended::Success, None);
        }
    }

    /// Ends it. `error_type` is the cause of a failure.
    fn end(&mut self, ended: Ended, error_type: Option<&'static str>) {
        if let Some(mut told) = self.told.take() {
            told.end(ended, error_type);
        }
    }

    /// Lets it end with the body of the response.
    #[inline]
    pub(crate) fn hold(&mut self, end: &mut CallEnd) {
        self.hold_as(end, record_end::<U>, |meter| Arc::clone(meter) as _);
    }

    #[inline]
    fn hold_as(
        &mut self,
        end: &mut CallEnd,
        record: RecordEnd,
        count: impl FnOnce(&Arc<Meter>) -> Arc<dyn CountEnd>,
    ) {
        if let Some(mut told) = self.told.take().filter(Told::is_there) {
            let span = mem::replace(&mut told.span, Span::none());
            let counted = told.began.take().zip(told.unit.meter());
            let counted = counted.map(|(began, meter)| (count(meter), began));
            end.hold_span(span, record, counted);
        }
    }

    /// Ends it with a response that a layer gave, or lets it end with the body of this response.
    #[cold]
    pub(crate) fn end_degraded(&mut self, end: Option<&mut CallEnd>) {
        match end {
            Some(end) => self.hold_as(end, record_degraded_end::<U>, |meter| {
                Arc::new(DegradedCalls(Arc::clone(meter))) as _
            }),
            None => self.end(Ended::Degraded, None),
        }
    }

    /// Records the source of the response.
    #[cold]
    pub(crate) fn record_source(&self, source: ResponseSource) {
        if let Some(told) = &self.told {
            told.span.record(field::SOURCE, source.as_str());
        }
    }

    #[cold]
    fn end_as_panic(&mut self) {
        clock::forget_end();
        self.end(Ended::Panicked, Some(PANIC));
    }
}

impl<C> Tracked<Call<C>> {
    /// Begins a call with this span.
    #[inline(always)]
    pub(super) fn begin_call(span: Span, calls: &Arc<Calls<C>>) -> Self {
        let is_counted = calls.meter.is_some();
        if calls.settles && !is_counted && span.is_disabled() {
            // The classifier settles the calls of endpoints.
            let unit = Call { calls: Arc::clone(calls), source: None };
            return Self { told: Some(Told { span, began: None, unit }) };
        }
        Self::begin(span, is_counted, || Call { calls: Arc::clone(calls), source: None })
    }

    /// Returns `true` if the call is recorded or counted.
    pub(super) fn is_told_of(&self) -> bool {
        self.told.as_ref().is_some_and(Told::is_there)
    }
}

impl<U: Unit> Told<U> {
    /// Returns `true` if it is recorded or counted.
    #[inline]
    fn is_there(&self) -> bool {
        self.began.is_some() || !self.span.is_disabled()
    }

    /// Leaves the reading of the clock for the call around it, or forgets it.
    ///
    /// Code of the user may follow, and keep the thread busy before another call ends.
    #[inline]
    fn share_end(&self) {
        if !self.unit.shares_end() {
            clock::forget_end();
        }
    }

    #[inline(never)]
    fn end(&mut self, ended: Ended, error_type: Option<&'static str>) {
        if let Some((began, meter)) = self.began.take().zip(self.unit.meter()) {
            meter.ended(ended.outcome(error_type), error_type, clock::took_since(began));
            self.share_end();
        }
        if !self.span.is_disabled() {
            record(&mem::replace(&mut self.span, Span::none()), ended, error_type);
        }
    }

    #[cold]
    fn end_as_dropped(&mut self) {
        // The last reading may be that of another call.
        clock::forget_end();
        let is_over = deadline::deadline().is_some_and(|end| end <= Instant::now());
        let ended = if is_over { Ended::Cut } else { Ended::Cancelled };
        let cut = Outcome::Failure(Fault::TimedOut).as_str();
        self.end(ended, (ended == Ended::Cut).then_some(cut));
    }
}

impl<U: Unit> Drop for Told<U> {
    #[inline]
    fn drop(&mut self) {
        if self.is_there() {
            self.end_as_dropped();
        }
    }
}

/// A part that runs.
struct Running<'a, U: Unit> {
    tracked: &'a mut Tracked<U>,
    panicked: bool,
}

impl<U: Unit> Drop for Running<'_, U> {
    #[inline]
    fn drop(&mut self) {
        if self.panicked {
            self.tracked.end_as_panic();
        }
    }
}

impl<C> Unit for Call<C> {
    #[inline]
    fn meter(&self) -> Option<&Arc<Meter>> {
        self.calls.meter.as_ref()
    }

    #[inline]
    fn shares_end(&self) -> bool {
        false
    }

    fn classified(_: Outcome, failed: bool) -> Ended {
        if failed { Ended::Failure } else { Ended::Success }
    }

    fn rejected(_: Outcome) -> Ended {
        Ended::Rejected
    }
}

impl Unit for Attempt {
    #[inline]
    fn meter(&self) -> Option<&Arc<Meter>> {
        self.reporter.as_ref()?.meter()
    }

    #[inline]
    fn shares_end(&self) -> bool {
        // The stack counts its call too.
        self.reporter.as_ref().is_some_and(|reporter| reporter.is_of_stack())
    }

    fn classified(outcome: Outcome, _: bool) -> Ended {
        match outcome {
            Outcome::Success => Ended::Success,
            Outcome::Failure(Fault::Transient) => Ended::Transient,
            Outcome::Failure(Fault::TimedOut) => Ended::TimedOut,
            Outcome::Failure(Fault::Overloaded { .. }) => Ended::Overloaded,
            Outcome::Failure(Fault::InProgress { .. }) => Ended::InProgress,
            Outcome::Failure(Fault::Permanent) => Ended::Permanent,
            Outcome::Ignored => Ended::Ignored,
        }
    }

    fn rejected(outcome: Outcome) -> Ended {
        match outcome {
            // An attempt that times out is a failure of the service.
            Outcome::Failure(_) => Self::classified(outcome, true),
            _ => Ended::Rejected,
        }
    }
}

/// Returns how a response ended, and the cause of a failure.
fn end_of_response<U: Unit>(how: How) -> (Ended, Option<&'static str>) {
    match how {
        How::Complete(outcome, error_type) => {
            let failed = outcome != Outcome::Success;
            let cause = failed.then(|| error_type.unwrap_or(outcome.as_str()));
            (U::classified(outcome, failed), cause)
        }
        How::DroppedBetweenReads | How::DroppedWhileReading => (Ended::Cancelled, None),
        How::Panicked => (Ended::Panicked, Some(PANIC)),
    }
}

/// Returns how a response ended that a layer gave, and the cause of a failure.
fn end_of_degraded<U: Unit>(how: How) -> (Ended, Option<&'static str>) {
    match end_of_response::<U>(how) {
        (Ended::Success | Ended::Ignored, _) => (Ended::Degraded, None),
        other => other,
    }
}

/// Records the end of a response that a layer gave.
fn record_degraded_end<U: Unit>(span: &Span, how: How) {
    if !span.is_disabled() {
        let (ended, error_type) = end_of_degraded::<U>(how);
        record(span, ended, error_type);
    }
}

/// The numbers of a call whose response a layer gave.
struct DegradedCalls(Arc<Meter>);

/// Records the end of a response in the span.
fn record_end<U: Unit>(span: &Span, how: How) {
    if !span.is_disabled() {
        let (ended, error_type) = end_of_response::<U>(how);
        record(span, ended, error_type);
    }
}

impl CountEnd for Meter {
    fn ended(&self, began: Instant, how: How) {
        count_end(self, began, end_of_response::<Attempt>(how));
    }
}

impl CountEnd for DegradedCalls {
    fn ended(&self, began: Instant, how: How) {
        count_end(&self.0, began, end_of_degraded::<Attempt>(how));
    }
}

#[inline]
fn count_end(meter: &Meter, began: Instant, (ended, error_type): (Ended, Option<&'static str>)) {
    meter.ended(ended.outcome(error_type), error_type, nanos(began.elapsed()));
    // A breaker of the stack has shared its reading.
    clock::forget_end();
}

impl<U: Unit> fmt::Debug for Tracked<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.told.as_ref().map(|told| &told.span).fmt(f)
    }
}
