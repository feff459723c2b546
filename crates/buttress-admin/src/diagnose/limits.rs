//! Limits of this process that are too small.

use super::{
    diagnosis::{
        Found,
        Severity::Warning,
        Whose::{Them, Us},
    },
    facts::{failures, severity, takes},
};
use crate::{
    snapshot::{Ended, Snapshot},
    words::{Count, begin, of, rate, time, were, window},
};

/// The bulkhead rejects calls, or lets them wait.
pub(super) fn full(snapshot: &Snapshot) -> Found {
    let rejected = snapshot.rejected_as_full();
    let bulkhead = snapshot.bulkhead.as_ref();
    let (active, limit) = bulkhead.and_then(|it| it.active.zip(it.limit)).unwrap_or_default();
    let queued = bulkhead.and_then(|it| it.queued).unwrap_or_default();
    let waits = limit > 0 && active >= limit && queued > 0;
    if rejected == 0 && !waits {
        return None;
    }
    let slots = match limit {
        0 => String::new(),
        // A call may have ended between the rejections and this reading.
        _ if active < limit => format!(": it has {}", Count(limit, "slot")),
        _ => format!(": {active} of {} taken", Count(limit, "slot")),
    };
    let mut effect = String::new();
    if rejected > 0 {
        effect += &format!(" {} rejected.", rate(rejected, snapshot.seconds));
    }
    if queued > 0 {
        let wait = if queued == 1 { "waits" } else { "wait" };
        effect += &format!(" {} {wait} for a slot.", Count(queued, "call"));
    }
    let (text, whose) = match takes(snapshot) {
        Some((takes, true)) => (format!("{takes}, which fills the bulkhead{slots}.{effect}"), Them),
        Some((takes, false)) => (format!("Our bulkhead is full{slots}.{effect} {takes}."), Us),
        None => (format!("Our bulkhead is full{slots}.{effect}"), Us),
    };
    let text = match snapshot.sent_and_failed() {
        (_, 0) => text,
        _ => format!("{text} {}.", begin(failures(snapshot))),
    };
    Some((whose, if rejected > 0 { severity(snapshot) } else { Warning }, text))
}

pub(super) fn total_timeout(snapshot: &Snapshot) -> Found {
    let late = snapshot.timed_out("total_timeout");
    if late == 0 {
        return None;
    }
    let ended = snapshot.calls.as_ref().map_or(0, Ended::not_cancelled);
    let share = of(late, ended.max(late), "call");
    let limit = snapshot.total_limit.map_or_else(String::new, |it| format!(" of {}", time(it)));
    let share = begin(share);
    let text = format!("{share} {} exceeded the total timeout{limit}.", window(snapshot.seconds));
    let attempts = snapshot.attempts.as_ref();
    let p99 = attempts.and_then(|it| it.p99);
    let (whose, text) = match (takes(snapshot), p99.zip(snapshot.total_limit)) {
        (Some((takes, true)), _) => (Them, format!("{takes}. {text}")),
        // Attempts are fast, so the time is spent in this process.
        (_, Some((p99, limit))) if p99 * 4.0 <= limit => {
            let p99 = time(p99);
            let rest = format!("Attempts take up to {p99}, so the rest is pauses and queues.");
            (Us, format!("{text} {rest}"))
        }
        (Some((takes, false)), _) => (Us, format!("{text} {takes}.")),
        (None, _) => (Them, format!("The dependency does not respond. {text}")),
    };
    Some((whose, severity(snapshot), text))
}

/// The deadlines of callers were too near.
pub(super) fn too_late(snapshot: &Snapshot) -> Found {
    let late = snapshot.rejected("deadline_exceeded");
    (late > 0).then(|| {
        let (calls, window) = (Count(late, "call"), window(snapshot.seconds));
        let text = format!("{calls} {window} came with too little time left before the deadline.");
        (Us, severity(snapshot), text)
    })
}

pub(super) fn budget(snapshot: &Snapshot) -> Found {
    let retry = snapshot.retry.as_ref()?;
    let spent = retry.ended.iter().find(|it| it.cause == "budget")?;
    let (calls, window) = (Count(spent.count, "failed call"), window(snapshot.seconds));
    let were = were(spent.count);
    let text = format!("Our retry budget is spent: {calls} {window} {were} not retried.");
    Some((Us, Warning, text))
}
