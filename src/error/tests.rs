use std::{collections::HashSet, convert::Infallible, time::Duration};

use super::*;
use crate::Outcome;

#[test]
fn a_rejection_is_three_words() {
    assert_eq!(size_of::<Rejection>(), 24);
    assert_eq!(size_of::<Result<u64, Error<Infallible>>>(), 24);
}

#[test]
fn times_in_a_rejection_are_kept_to_the_nanosecond_and_capped() {
    for time in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(86_400)] {
        assert_eq!(CircuitOpen::by(None, Some(time)).retry_after(), Some(time));
    }
    assert!(TimedOut::by(None, Duration::MAX).limit() > Duration::from_secs(86_400 * 365 * 500));
    assert_eq!(CircuitOpen::by(None, None).retry_after(), None);
}

#[test]
fn a_rejection_says_when_to_retry_in_whole_seconds_rounded_up() {
    for (time, text) in [
        (None, "orders: the circuit is open"),
        (Some(Duration::ZERO), "orders: the circuit is open, retry in 0 s"),
        (Some(Duration::from_nanos(1)), "orders: the circuit is open, retry in 1 s"),
        (Some(Duration::from_secs(12)), "orders: the circuit is open, retry in 12 s"),
        (Some(Duration::from_millis(12_001)), "orders: the circuit is open, retry in 13 s"),
    ] {
        assert_eq!(CircuitOpen::new("orders", time).to_string(), text);
    }
    let limited = RateLimited::new("quota", Some(Duration::from_secs(2)));
    assert_eq!(limited.to_string(), "quota: the rate limit was exceeded, retry in 2 s");
}

const RUNBOOK: &str = include_str!("../../docs/runbook.md");

/// Returns `true` if the runbook has an entry for this kind.
fn is_in_the_runbook(kind: &str) -> bool {
    RUNBOOK.contains(&format!("\n### `{kind}`\n"))
}

/// Returns the name of a variant as the table spells it.
fn variant(value: impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split('(').next().unwrap().to_owned()
}

#[test]
fn each_rejection_has_a_kind_of_its_own_and_the_default_name_of_its_layer() {
    let time = Duration::from_secs(1);
    let limited = RateLimited::new("", None);
    let table: [(Rejection, &str, &str); 13] = [
        (TimedOut::by(None, time).into(), "timed_out", "timeout"),
        (DeadlineExceeded::by(None).into(), "deadline_exceeded", "deadline"),
        (CircuitOpen::by(None, None).into(), "circuit_open", "circuit_breaker"),
        (BulkheadFull::by(None, 1).into(), "bulkhead_full", "bulkhead"),
        (QueueTimedOut::by(None, time).into(), "queue_timed_out", "bulkhead"),
        (SwitchedOff::by(None).into(), "switched_off", "fallback"),
        (NotReady::by(None, time).into(), "not_ready", "retry"),
        (NoEndpoint::by(None).into(), "no_endpoint", "endpoints"),
        // No layer of this crate creates one, and it always has a name.
        (limited.into(), "rate_limited", ""),
        (LoadShed::unnamed().into(), "load_shed", "load_shed"),
        (Elapsed::unnamed().into(), "elapsed", "tower_timeout"),
        (
            IdempotencyRejected::by(None, IdempotencyReason::Full, None).into(),
            "idempotency_full",
            "idempotency",
        ),
        (
            SharedFailure::by(None, Outcome::Ignored, None, "reset".into()).into(),
            "shared_failure",
            "cache",
        ),
    ];
    let tested: Vec<_> = table.iter().map(|(rejection, ..)| variant(rejection)).collect();
    assert_eq!(tested, Rejection::VARIANTS, "a row for each, here and in `tests/rejections.rs`");
    for (rejection, kind, name) in table {
        assert_eq!((rejection.kind(), rejection.name()), (kind, name));
        assert!(is_in_the_runbook(kind), "{kind}");
    }
}

#[test]
fn each_reason_of_the_guard_has_a_kind_of_its_own() {
    use IdempotencyReason::*;
    let reasons = [
        KeyMissing,
        KeyMalformed,
        ScopeMissing,
        BodyTooLarge,
        BodyIncomplete,
        Mismatch,
        InFlight,
        NotReplayable,
        Unknown,
        StoreUnavailable,
        Full,
    ];
    let tested = reasons.map(variant);
    assert_eq!(tested, *IdempotencyReason::VARIANTS, "each, here and in `tests/rejections.rs`");
    let kinds: HashSet<_> = reasons.map(IdempotencyReason::as_str).into();
    assert_eq!(kinds.len(), reasons.len());
    for reason in reasons {
        let rejection = Rejection::from(IdempotencyRejected::by(None, reason, None));
        assert_eq!((rejection.kind(), rejection.name()), (reason.as_str(), "idempotency"));
        assert!(is_in_the_runbook(reason.as_str()), "{reason:?}");
    }
    // The kinds of rejections of the layer are those of its reasons.
    let entries = Rejection::VARIANTS.len() - 1 + reasons.len();
    assert_eq!(RUNBOOK.matches("\n### `").count(), entries, "an entry is of no kind");
}
