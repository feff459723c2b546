//! The choice of the sentence.

use super::{
    breaker::{
        by_hand, disabled, forced_open, forced_open_keys, half_open, open, state, switched_off,
    },
    chaos,
    dependency::{dropped, failing, losing, slow, stale, store, waiting},
    diagnosis::{
        Diagnosis, Found,
        Severity::{self, Critical, Ok as Healthy, Warning},
        Whose::{self, Hand, Nobody, Us},
    },
    endpoints::{none_usable, some_out},
    limits::{budget, full, too_late, total_timeout},
};
use crate::{
    snapshot::Snapshot,
    words::{Count, age, of, percent, were, window},
};

/// The time for which a closed circuit counts as just recovered.
const RECOVERED: f64 = 60.0;

/// Says whose fault it is.
///
/// It reads only the snapshot, so the same numbers have the same diagnosis.
///
/// ```
/// use buttress_admin::{Breaker, Snapshot, Whose, diagnose};
///
/// let mut breaker = Breaker::default();
/// breaker.state = Some("forced_open".to_owned());
/// breaker.since = Some(52.0 * 60.0);
/// let mut snapshot = Snapshot::default();
/// snapshot.breaker = Some(breaker);
///
/// let diagnosis = diagnose(&snapshot);
/// assert_eq!(diagnosis.whose, Whose::Hand);
/// assert!(diagnosis.sentence.starts_with("Forced open by hand 52 min ago"));
/// ```
pub fn diagnose(snapshot: &Snapshot) -> Diagnosis {
    // The first that applies. A case that hides others comes before them.
    let found = chaos::armed(snapshot)
        .or_else(|| switched_off(snapshot))
        .or_else(|| none_usable(snapshot))
        .or_else(|| forced_open(snapshot))
        .or_else(|| open(snapshot))
        .or_else(|| half_open(snapshot))
        .or_else(|| store(snapshot))
        .or_else(|| failing(snapshot))
        .or_else(|| full(snapshot))
        .or_else(|| total_timeout(snapshot))
        .or_else(|| dropped(snapshot))
        .or_else(|| slow(snapshot))
        .or_else(|| too_late(snapshot))
        .or_else(|| losing(snapshot))
        .or_else(|| some_out(snapshot))
        .or_else(|| stale(snapshot))
        .or_else(|| rejecting_otherwise(snapshot))
        .or_else(|| budget(snapshot))
        .or_else(|| forced_open_keys(snapshot))
        .or_else(|| disabled(snapshot))
        .or_else(|| waiting(snapshot));
    let (whose, severity, sentence) = found.unwrap_or_else(|| healthy(snapshot));
    with_notes(snapshot, Diagnosis { whose, severity, sentence })
}

fn healthy(snapshot: &Snapshot) -> (Whose, Severity, String) {
    let window = window(snapshot.seconds);
    let Some(calls) = &snapshot.calls else { return outside_of_a_stack(snapshot) };
    let ended = calls.not_cancelled();
    if ended == 0 {
        let when = if snapshot.totals.is_zero() { "yet" } else { &window };
        return (Nobody, Healthy, format!("No calls {when}."));
    }
    let recovered = state(snapshot)
        .filter(|(breaker, state)| *state == "closed" && breaker.opened > 0)
        .and_then(|(breaker, _)| breaker.since.filter(|since| *since < RECOVERED))
        .map_or_else(|| "Healthy".to_owned(), |since| format!("Recovered {} ago", age(since)));
    let mut text = match calls.success == ended {
        true => format!("{recovered}: {} {window}, none failed.", Count(ended, "call")),
        false => format!("{recovered}: {} {window} succeeded.", of(calls.success, ended, "call")),
    };
    let (sent, failed) = snapshot.sent_and_failed();
    if let Some(retry) = snapshot.retry.as_ref().filter(|retry| retry.saved > 0) {
        text += &format!(" Retries saved {}.", retry.saved);
    } else if failed > 0 {
        text += &format!(" {} of attempts failed.", percent(failed, sent));
    }
    (Nobody, Healthy, text)
}

fn outside_of_a_stack(snapshot: &Snapshot) -> (Whose, Severity, String) {
    rejecting_otherwise(snapshot).unwrap_or_else(|| {
        (Nobody, Healthy, format!("Nothing was rejected {}.", window(snapshot.seconds)))
    })
}

/// Layers reject calls for reasons that no other case tells.
fn rejecting_otherwise(snapshot: &Snapshot) -> Found {
    let (first, rejected) = match &snapshot.calls {
        None => (snapshot.rejections.first()?, snapshot.rejections.iter().map(|it| it.count).sum()),
        Some(calls) => {
            let rejected: u64 = snapshot.other_rejections().map(|it| it.count).sum();
            // A retry may have repeated the call.
            let rejected = rejected.min(snapshot.rejected_when_closed());
            if rejected <= calls.not_cancelled() / 100 {
                return None;
            }
            (snapshot.other_rejections().next()?, rejected)
        }
    };
    let (calls, were, window) = (Count(rejected, "call"), were(rejected), window(snapshot.seconds));
    let text = format!("{calls} {were} rejected {window}, most as {}.", first.cause);
    Some((Nobody, Warning, text))
}

/// Adds what is true beside the diagnosis.
fn with_notes(snapshot: &Snapshot, mut diagnosis: Diagnosis) -> Diagnosis {
    if let Some((breaker, "disabled")) = state(snapshot).filter(|_| diagnosis.whose != Hand) {
        let by = by_hand(breaker);
        diagnosis.sentence += &format!(" The circuit breaker was disabled {by}.");
    }
    if let Some(calls) = snapshot.calls.as_ref().filter(|calls| calls.degraded > 0) {
        let share = of(calls.degraded, calls.not_cancelled(), "call");
        diagnosis.sentence += &format!(" {share} got a degraded response.");
    }
    let Some(idempotency) = &snapshot.idempotency else { return diagnosis };
    let operations = |count| Count(count, "operation");
    if idempotency.unknown > 0 {
        let (operations, window) = (operations(idempotency.unknown), window(snapshot.seconds));
        diagnosis.sentence +=
            &format!(" The outcome of {operations} {window} is unknown. Resolve them by hand.");
        diagnosis.severity = Critical;
        if diagnosis.whose == Nobody {
            diagnosis.whose = Us;
        }
    } else if idempotency.unknown_total > 0 {
        let operations = operations(idempotency.unknown_total);
        diagnosis.sentence +=
            &format!(" Since the start, the outcome of {operations} was unknown.");
    }
    diagnosis
}
