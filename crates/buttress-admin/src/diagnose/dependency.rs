//! Dependencies that fail, are slow or do not respond.

use super::{
    diagnosis::{
        Found,
        Severity::{self, Critical, Ok as Healthy, Warning},
        Whose::{self, Nobody, Them, Us},
    },
    facts::{close_limit, failures, sentence_of_failures, severity, takes, what_fails},
};
use crate::{
    snapshot::{PANIC, Snapshot, TIMED_OUT},
    words::{Count, begin, of, rate, time, window},
};

/// The seconds after which calls are suspect if none has ever ended.
const PATIENCE: f64 = 5.0;

pub(super) fn failing(snapshot: &Snapshot) -> Found {
    let (sent, failed) = snapshot.sent_and_failed();
    // Few failures do not fill a bulkhead. Few timeouts do.
    let is_full = snapshot.rejected_as_full() > failed
        && failed < sent / 2
        && snapshot.cause() != Some(TIMED_OUT);
    (snapshot.is_failing() && !is_full).then(|| failures_of(snapshot))
}

fn failures_of(snapshot: &Snapshot) -> (Whose, Severity, String) {
    let severity = severity(snapshot);
    if let Some(text) = close_limit(snapshot) {
        return (Us, severity, text);
    }
    let mut text = sentence_of_failures(snapshot);
    if let Some(retry) = &snapshot.retry {
        let (saved, retried) = (retry.saved, retry.saved + retry.lost);
        if retried > 0 {
            text += &format!(" Retries saved {saved} of {}.", Count(retried, "call"));
        }
        if retry.ended.iter().any(|it| it.cause == "budget") {
            text += " The retry budget is spent.";
        }
    }
    if snapshot.rejected_as_full() > 0 {
        text += " Waiting for it also fills the bulkhead.";
    }
    (if snapshot.cause() == Some(PANIC) { Us } else { Them }, severity, text)
}

/// More than 1 % of the calls fail, or time out in their last attempt.
pub(super) fn losing(snapshot: &Snapshot) -> Found {
    let calls = snapshot.calls.as_ref()?;
    let ended = calls.not_cancelled();
    let timed_out = snapshot.timed_out("attempt_timeout").min(snapshot.rejected_when_closed());
    if calls.failure + timed_out <= ended / 100 {
        return None;
    }
    let (_, failed) = snapshot.sent_and_failed();
    if failed > 0 {
        return Some(failures_of(snapshot));
    }
    let share = of(calls.failure, ended, "call");
    let what = what_fails(snapshot, snapshot.cause());
    let text = format!("{what}: {share} {} failed.", window(snapshot.seconds));
    (calls.failure > 0).then(|| (Them, severity(snapshot), text))
}

pub(super) fn slow(snapshot: &Snapshot) -> Found {
    let (takes, true) = takes(snapshot)? else { return None };
    let mut text = format!("{takes}.");
    if snapshot.sent_and_failed().1 > 0 {
        text += &format!(" {}.", begin(failures(snapshot)));
    }
    let calls = snapshot.calls.clone().unwrap_or_default();
    if calls.cancelled > 0 {
        let window = window(snapshot.seconds);
        text += &format!(" Callers dropped {} {window}.", Count(calls.cancelled, "call"));
    }
    if calls.failure + calls.rejected + calls.cancelled == 0 {
        text += " No call is lost to that yet.";
    }
    Some((Them, Warning, text))
}

pub(super) fn store(snapshot: &Snapshot) -> Found {
    let down = snapshot.rejected("idempotency_store_unavailable");
    let full = snapshot.rejected("idempotency_full");
    if down > 0 {
        let rate = rate(down, snapshot.seconds);
        let text = format!("The idempotency store fails or does not respond. {rate} rejected.");
        return Some((Them, Critical, text));
    }
    (full > 0).then(|| {
        let rate = rate(full, snapshot.seconds);
        (Us, Critical, format!("The idempotency layer or its store is full. {rate} rejected."))
    })
}

/// Most calls were dropped by their callers.
pub(super) fn dropped(snapshot: &Snapshot) -> Found {
    let calls = snapshot.calls.as_ref()?;
    let others = calls.not_cancelled();
    if calls.cancelled <= others {
        return None;
    }
    let usual = match calls.usual {
        Some(usual) => format!(" Calls usually take {}.", time(usual)),
        None => String::new(),
    };
    let window = window(snapshot.seconds);
    let effect = match others {
        0 => {
            let dropped = Count(calls.cancelled, "call");
            format!("{dropped} {window} before a response, and no other call ended")
        }
        _ => {
            let share = of(calls.cancelled, calls.cancelled + others, "call");
            format!("{share} {window} before a response")
        }
    };
    let text = format!(
        "Callers dropped {effect}. Either the dependency does not respond, or callers do not wait \
         long enough.{usual}"
    );
    // As for a circuit breaker, silence counts against the dependency.
    Some((Them, Critical, text))
}

/// Calls are in flight, and none ends.
pub(super) fn waiting(snapshot: &Snapshot) -> Found {
    let (active, calls) = (snapshot.active?, snapshot.calls.as_ref()?);
    if active == 0 || calls.not_cancelled() + calls.cancelled > 0 {
        return None;
    }
    let (are, window) = (if active == 1 { "is" } else { "are" }, window(snapshot.seconds));
    let text = format!("{} {are} in flight, and none ended {window}.", Count(active, "call"));
    Some(match calls.usual {
        Some(usual) if usual * 10.0 <= snapshot.seconds => {
            let usual = time(usual);
            let text = format!("The dependency does not respond: {text} Usually it takes {usual}.");
            (Them, Warning, text)
        }
        // The first calls of a process may take their time, but not many of them.
        None if active > 1 && snapshot.seconds >= PATIENCE && snapshot.totals.is_zero() => {
            let text = format!(
                "{text} None has ended since the start, so the dependency may not respond."
            );
            (Nobody, Warning, text)
        }
        _ => (Nobody, Healthy, text),
    })
}

/// The cache gives older responses instead of failures.
pub(super) fn stale(snapshot: &Snapshot) -> Found {
    let degraded = snapshot.calls.as_ref()?.degraded;
    let fallback = snapshot.fallback.as_ref().map_or(0, |it| it.used + it.off);
    // A response that is renewed in time is no longer fresh either, but its call succeeds.
    let stale = snapshot.cache.as_ref()?.stale.min(degraded.saturating_sub(fallback));
    (stale > 0).then(|| {
        let (responses, window) = (Count(stale, "older response"), window(snapshot.seconds));
        let text = format!(
            "The dependency fails, or takes too long: the cache gave {responses} {window} instead."
        );
        (Them, Warning, text)
    })
}
