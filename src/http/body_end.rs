//! The ways in which a response body ends, for the call and for the numbers of its client.

use std::{pin::Pin, sync::Arc, time::Duration};

use http::HeaderMap;
use http_body::Body;
use tokio::time::Instant;

use super::{AutoClassifier, reporters::BodyOwner};
use crate::{
    Outcome,
    call::{catch_panic::Unwinding, completion::CallEnd},
    error::Nanos,
    telemetry::CallOutcome,
};

/// The outcome of a response, and the cause of its failure.
pub(super) type Completed = (Outcome, Option<&'static str>);

/// The cause of a failure whose head was successful and whose body broke off.
pub(super) const BODY: &str = "body";

/// A body that holds the end of its call.
pub(super) trait EndingBody: Body {
    /// Returns the [`CallEnd`] that the body holds, or `None` if the call has ended.
    fn call_end(&mut self) -> Option<&mut CallEnd>;

    /// Does the same for a body that can no longer be moved.
    fn pinned_call_end(self: Pin<&mut Self>) -> Option<&mut CallEnd>;
}

/// Counts the end of a body that is measured, the first time that it is called.
///
/// `measured` is the time from the beginning of the call to the head.
#[inline]
pub(super) fn count(
    measured: &mut Option<Nanos>,
    outcome: CallOutcome,
    began: Instant,
    owner: &Arc<dyn BodyOwner>,
) {
    if let Some(head) = measured.take() {
        count_measured(head, outcome, began, owner);
    }
}

/// Returns the time since a call began.
#[cold]
pub(super) fn since(began: Instant) -> Nanos {
    began.elapsed().into()
}

#[cold]
fn count_measured(head: Nanos, outcome: CallOutcome, began: Instant, owner: &Arc<dyn BodyOwner>) {
    if let Some(meter) = owner.bodies() {
        meter.count_body(outcome, began.elapsed().saturating_sub(head.into()));
    }
}

/// Returns the outcome of a body that has ended.
#[inline]
pub(super) fn call_outcome(outcome: Outcome) -> CallOutcome {
    match outcome {
        Outcome::Failure(_) => CallOutcome::Failure,
        _ => CallOutcome::Success,
    }
}

/// Ends the call of a body that its reader gives up.
#[inline]
pub(super) fn give_up(end: &mut CallEnd, waiting_since: Option<Instant>, awaits_status: bool) {
    match waiting_since.map(|since| since.elapsed()) {
        // No read is pending, and the head has decided the outcome.
        None if !awaits_status => end.dropped_between_reads(),
        waited => end.dropped_while_reading(waited.unwrap_or_default()),
    }
}

/// Completes the call, the first time that it is called.
#[inline]
pub(super) fn finish(
    end: &mut Option<CallEnd>,
    (outcome, error_type): Completed,
    waited: Duration,
) {
    // Taking the end out would move it.
    if let Some(end) = end {
        end.complete_as(outcome, error_type, waited);
    }
    *end = None;
}

/// Returns the outcome of a response whose head was successful and whose body has ended.
#[inline]
pub(super) fn at_end(
    awaits_status: bool,
    owner: &Arc<dyn BodyOwner>,
    trailers: Option<&HeaderMap>,
) -> Completed {
    if !awaits_status {
        return (Outcome::Success, None);
    }
    match owner.classifier() {
        Some(classifier) => classifier.grpc_end(trailers),
        None => AutoClassifier::new().grpc_end(trailers),
    }
}

/// Runs a part of the response, and reports a panic to the call.
#[inline]
pub(super) fn run<T>(end: &mut Option<CallEnd>, piece: impl FnOnce() -> T) -> T {
    let mut unwinding = Unwinding::noting(|| {
        if let Some(mut end) = end.take() {
            end.panicked();
        }
    });
    let value = piece();
    unwinding.disarm();
    value
}
