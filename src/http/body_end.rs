//! The ways in which a response body ends, for the call and for the numbers of its client.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use super::{AutoClassifier, reporters::BodyOwner};
use crate::{
    Outcome,
    call::{catch_panic::Unwinding, completion::CallEnd},
    telemetry::CallOutcome,
};

/// The outcome of a response, and the cause of its failure.
pub(super) type Completed = (Outcome, Option<&'static str>);

/// The cause of a failure whose head was successful and whose body broke off.
pub(super) const BODY: &str = "body";

/// Counts the end of a body, if it is measured.
#[inline]
fn count(end: &mut CallEnd, outcome: CallOutcome, owner: &dyn BodyOwner) {
    if let Some(meter) = owner.bodies() {
        // A body that has failed while it was read ahead is counted already.
        if end.failure().is_none() {
            meter.count_body(outcome, end.head().elapsed());
        }
    }
}

/// Ends the call of a body that its reader gives up.
pub(super) fn give_up(
    end: &mut CallEnd,
    waiting_since: Option<Instant>,
    awaits_status: bool,
    owner: &dyn BodyOwner,
) {
    count(end, CallOutcome::Cancelled, owner);
    match waiting_since.map(|since| since.elapsed()) {
        // No read is pending, and the head has decided the outcome.
        None if !awaits_status => end.dropped_between_reads(),
        waited => end.dropped_while_reading(waited.unwrap_or_default()),
    }
}

/// Completes the call, the first time that it is called.
pub(super) fn finish(
    end: &mut Option<CallEnd>,
    (outcome, error_type): Completed,
    waited: Duration,
    owner: &dyn BodyOwner,
) {
    // Taking the end out would move it.
    if let Some(end) = end {
        let has_failed = matches!(outcome, Outcome::Failure(_));
        count(end, if has_failed { CallOutcome::Failure } else { CallOutcome::Success }, owner);
        end.complete_as(outcome, error_type, waited);
    }
    *end = None;
}

/// Returns the outcome of a response whose head was successful and whose body has ended.
pub(super) fn at_end(
    awaits_status: bool,
    owner: &dyn BodyOwner,
    trailers: Option<&HeaderMap>,
) -> Completed {
    match owner.classifier() {
        _ if !awaits_status => (Outcome::Success, None),
        Some(classifier) => classifier.grpc_end(trailers),
        None => AutoClassifier::new().grpc_end(trailers),
    }
}

/// Runs a part of the response, and reports a panic to the call.
pub(super) fn run<T>(
    end: &mut Option<CallEnd>,
    owner: &dyn BodyOwner,
    piece: impl FnOnce() -> T,
) -> T {
    let mut unwinding = Unwinding::noting(|| {
        if let Some(mut end) = end.take() {
            count(&mut end, CallOutcome::Failure, owner);
            end.panicked();
        }
    });
    let value = piece();
    unwinding.disarm();
    value
}
