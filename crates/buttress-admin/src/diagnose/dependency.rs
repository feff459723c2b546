//! Dependencies that fail, are slow or do not respond.

use super::{
    diagnosis::{
        Found,
        Severity::{Critical, Ok as Healthy, Warning},
        Whose::{Nobody, Them, Us},
    },
    facts::{close_limit, sentence_of_failures, takes},
};
use crate::{
    snapshot::{PANIC, Snapshot},
    words::{Count, rate, time, window},
};

pub(super) fn failing(snapshot: &Snapshot) -> Found {
    if !snapshot.is_failing() {
        return None;
    }
    let calls = snapshot.calls.clone().unwrap_or_default();
    let lost = calls.failure + calls.rejected;
    let ended = calls.success + lost;
    let severity = if lost > 0 && lost >= ended / 20 { Critical } else { Warning };
    if let Some(text) = close_limit(snapshot) {
        return Some((Us, severity, text));
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
    Some((if snapshot.cause() == Some(PANIC) { Us } else { Them }, severity, text))
}

pub(super) fn slow(snapshot: &Snapshot) -> Found {
    let (takes, true) = takes(snapshot)? else { return None };
    Some((Them, Warning, format!("{takes}. No call is lost to that yet.")))
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

/// All calls were dropped by their callers.
pub(super) fn dropped(snapshot: &Snapshot) -> Found {
    let calls = snapshot.calls.as_ref()?;
    if calls.cancelled == 0 || calls.success + calls.failure + calls.rejected > 0 {
        return None;
    }
    let usual = match calls.usual {
        Some(usual) => format!(" Calls usually take {}.", time(usual)),
        None => String::new(),
    };
    let (dropped, window) = (Count(calls.cancelled, "call"), window(snapshot.seconds));
    let text = format!(
        "Callers dropped {dropped} {window} before a response, and no other call ended. Either the \
         dependency does not respond, or callers do not wait long enough.{usual}"
    );
    // As for a circuit breaker, silence counts against the dependency.
    Some((Them, Critical, text))
}

/// Calls are in flight, and none ends.
pub(super) fn waiting(snapshot: &Snapshot) -> Found {
    let (active, calls) = (snapshot.active?, snapshot.calls.as_ref()?);
    if active == 0 || calls.success + calls.failure + calls.rejected + calls.cancelled > 0 {
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
        _ => (Nobody, Healthy, text),
    })
}
