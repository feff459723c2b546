//! Parts of sentences that several cases have.

use super::diagnosis::Severity;
use crate::{
    snapshot::{Failing, PANIC, Snapshot, TIMED_OUT},
    words::{begin, of, rate, time, window},
};

/// The share of the limit from which usual durations are too close to a timeout.
const CLOSE: f64 = 0.7;
/// The factor by which a slow dependency exceeds its usual median.
const SLOW: f64 = 3.0;
/// The most seconds from failing attempts to the change of the circuit.
const REACTION: f64 = 60.0;
/// The fewest seconds by which a slow dependency exceeds its usual median.
const SLOW_BY: f64 = 0.02;

/// Returns the severity of lost calls: critical from 5 % of all calls.
///
/// A layer outside of a stack does not know the number of all calls.
pub(super) fn severity(snapshot: &Snapshot) -> Severity {
    let Some(calls) = &snapshot.calls else { return Severity::Critical };
    let lost = calls.failure + calls.rejected;
    if lost > 0 && lost >= calls.not_cancelled() / 20 {
        Severity::Critical
    } else {
        Severity::Warning
    }
}

/// Returns a sentence such as "503 from the dependency: 63 % of 412 attempts in 10 s failed."
pub(super) fn sentence_of_failures(snapshot: &Snapshot) -> String {
    let (sent, failed) = snapshot.sent_and_failed();
    let (what, share) = (what_fails(snapshot, snapshot.cause()), of(failed, sent, "attempt"));
    format!("{what}: {share} {} failed.", window(snapshot.seconds))
}

/// Returns the clause that says in which way the dependency fails.
pub(super) fn what_fails(snapshot: &Snapshot, cause: Option<&str>) -> String {
    let text = match (cause, snapshot.attempt_limit) {
        (Some(TIMED_OUT), Some(limit)) => {
            return format!("The dependency does not respond within {}", time(limit));
        }
        (Some(TIMED_OUT | "timeout"), _) => "The dependency does not respond in time",
        (Some("connect" | "connect_timeout"), _) => "No connection to the dependency",
        (Some("reset" | "closed" | "goaway"), _) => "The dependency breaks off connections",
        (Some("body"), _) => "The dependency breaks off responses",
        (Some("overloaded"), _) => "The dependency is overloaded",
        (Some("transient" | "permanent") | None, _) => "The dependency fails",
        (Some(PANIC), _) => "Calls panic in this process",
        // A status.
        (Some(cause), _) => return format!("{cause} from the dependency"),
    };
    text.to_owned()
}

/// Returns the share of failures for the middle of a sentence.
pub(super) fn failures(snapshot: &Snapshot) -> String {
    let (sent, failed) = snapshot.sent_and_failed();
    let cause = snapshot.cause().map_or_else(String::new, |cause| format!(" ({cause})"));
    format!("{} {} failed{cause}", of(failed, sent, "attempt"), window(snapshot.seconds))
}

/// Returns a sentence about the rejections for a reason, if there are any.
pub(super) fn rejecting(snapshot: &Snapshot, cause: &str) -> String {
    match snapshot.rejected(cause) {
        0 => String::new(),
        count => format!(" {} rejected.", rate(count, snapshot.seconds)),
    }
}

/// Returns the begin of a sentence about the duration of attempts.
///
/// Also returns `true` if they are slower than usual.
pub(super) fn takes(snapshot: &Snapshot) -> Option<(String, bool)> {
    let ended = snapshot.attempts.as_ref().or(snapshot.calls.as_ref())?;
    let p50 = ended.p50?;
    let takes = format!("The dependency takes {}", time(p50));
    Some(match ended.usual {
        Some(usual) if p50 >= SLOW * usual && p50 - usual >= SLOW_BY => {
            (format!("{takes} instead of {}", time(usual)), true)
        }
        Some(usual) if p50 <= 1.5 * usual => (format!("{takes}, as before"), false),
        _ => (takes, false),
    })
}

/// Returns the failing attempts that opened the circuit, and not those of an earlier outage.
pub(super) fn failing_before(snapshot: &Snapshot) -> Option<&Failing> {
    // A half-open circuit was open before, for a time that is not known.
    let breaker = snapshot.breaker.as_ref().filter(|it| it.state.as_deref() != Some("half_open"));
    let opened = breaker.and_then(|breaker| breaker.since);
    let is_of_it = |it: &&Failing| opened.is_none_or(|since| it.ago <= since + REACTION);
    snapshot.last_failing.as_ref().filter(is_of_it)
}

/// Returns the sentence about an attempt timeout that is close to the usual duration of attempts.
pub(super) fn close_limit(snapshot: &Snapshot) -> Option<String> {
    let limit = snapshot.attempt_limit?;
    let late = snapshot.timed_out("attempt_timeout");
    let by_timeout = match failing_before(snapshot) {
        _ if late > 0 => snapshot.cause() == Some(TIMED_OUT),
        Some(last) => last.cause.as_deref() == Some(TIMED_OUT) && !snapshot.is_failing(),
        None => false,
    };
    let attempts = snapshot.attempts.as_ref()?;
    // Of a dependency that hangs now and then, the other attempts are as fast as ever.
    let close = |it: &f64| *it < limit && *it >= CLOSE * limit;
    let of_now = attempts.success_p99.filter(close);
    let takes = attempts.usual.filter(close).or(of_now).filter(|_| by_timeout)?;
    let (limit, takes) = (time(limit), time(takes));
    let text =
        format!("Our attempt timeout of {limit} is too short for a dependency that takes {takes}.");
    if late == 0 {
        return Some(text);
    }
    let (sent, _) = snapshot.sent_and_failed();
    let share = of(late, sent.max(late), "attempt");
    Some(format!("{text} {} {} timed out.", begin(share), window(snapshot.seconds)))
}
