//! Circuits that are not closed, and dependencies that are switched off.

use super::{
    diagnosis::{
        Found,
        Severity::{Critical, Warning},
        Whose::{self, Hand, Them, Us},
    },
    facts::{close_limit, failing_before, failures, rejecting, sentence_of_failures, what_fails},
};
use crate::{
    snapshot::{Breaker, PANIC, Snapshot},
    words::{Count, age, of, time, window},
};

/// Returns the breaker and its state, which may be empty.
///
/// A breaker by key has a state for each key.
pub(super) fn state(snapshot: &Snapshot) -> Option<(&Breaker, &str)> {
    let breaker = snapshot.breaker.as_ref().filter(|breaker| breaker.keys.is_none())?;
    Some((breaker, breaker.state.as_deref().unwrap_or_default()))
}

/// Returns who changed the breaker, and when.
pub(super) fn by_hand(breaker: &Breaker) -> String {
    let actor = breaker.actor.as_deref().unwrap_or("hand");
    match breaker.since {
        Some(since) => format!("by {actor} {} ago", age(since)),
        None => format!("by {actor}"),
    }
}

/// Somebody switched the dependency off with its fallback.
pub(super) fn switched_off(snapshot: &Snapshot) -> Found {
    let fallback = snapshot.fallback.as_ref().filter(|fallback| fallback.is_off)?;
    let actor = fallback.actor.as_deref().unwrap_or("hand");
    let mut text = format!("Switched off by {actor}: no call reaches the dependency.");
    text += &rejecting(snapshot, "switched_off");
    text += " It stays off until somebody switches it on.";
    Some((Hand, Warning, text))
}

pub(super) fn forced_open(snapshot: &Snapshot) -> Found {
    let (breaker, "forced_open") = state(snapshot)? else { return None };
    let mut text = format!("Forced open {}: no call reaches the dependency.", by_hand(breaker));
    text += &rejecting(snapshot, "circuit_open");
    text += &match breaker.next_probe {
        Some(left) => format!(" It ends by itself in {}.", time(left)),
        None => " It stays open until somebody closes it.".to_owned(),
    };
    if snapshot.is_failing() {
        text += &format!(" Before that, {}.", failures(snapshot));
    }
    Some((Hand, Critical, text))
}

pub(super) fn disabled(snapshot: &Snapshot) -> Found {
    let (breaker, "disabled") = state(snapshot)? else { return None };
    let by = by_hand(breaker);
    Some((Hand, Warning, format!("The circuit breaker was disabled {by}. It protects nothing.")))
}

pub(super) fn open(snapshot: &Snapshot) -> Found {
    let breaker = snapshot.breaker.as_ref()?;
    let keys = breaker.keys.filter(|keys| *keys > 0);
    let open_keys = breaker.keys_open.unwrap_or_default();
    let by_hand = breaker.keys_forced_open.unwrap_or_default();
    let others: u64 = snapshot.other_rejections().map(|it| it.count).sum();
    let is_open = match (keys, breaker.state.as_deref()) {
        // Few keys do not hide the layers that reject the calls of the others.
        (Some(_), _) => open_keys > by_hand && others <= snapshot.rejected("circuit_open"),
        (None, Some(state)) => state == "open",
        // Without a state, only rejections show that it is open.
        (None, None) => snapshot.rejected("circuit_open") > 0,
    };
    if !is_open {
        return None;
    }
    let (whose, mut text) = cause_of_opening(snapshot, breaker);
    text += &match (keys, breaker.since) {
        (Some(keys), _) => {
            let hand = match by_hand {
                0 => String::new(),
                by_hand => format!(", {by_hand} of them by hand"),
            };
            format!(" The circuit is open for {open_keys} of {}{hand}.", Count(keys, "key"))
        }
        (None, Some(since)) => format!(" The circuit opened {} ago.", age(since)),
        (None, None) => " The circuit is open.".to_owned(),
    };
    text += &rejecting(snapshot, "circuit_open");
    if let Some(left) = breaker.next_probe {
        text += &format!(" Next probe in {}.", time(left));
    }
    Some((whose, Critical, text))
}

/// Somebody forced circuits of a breaker by key open.
pub(super) fn forced_open_keys(snapshot: &Snapshot) -> Found {
    let breaker = snapshot.breaker.as_ref()?;
    let (keys, forced) = (breaker.keys?, breaker.keys_forced_open.filter(|keys| *keys > 0)?);
    let (keys, calls) = (Count(keys, "key"), if forced == 1 { "its" } else { "their" });
    let mut text = format!(
        "The circuit is forced open by hand for {forced} of {keys}: none of {calls} calls reaches \
         the dependency."
    );
    text += &rejecting(snapshot, "circuit_open");
    Some((Hand, Critical, text))
}

fn cause_of_opening(snapshot: &Snapshot, breaker: &Breaker) -> (Whose, String) {
    if let Some(text) = close_limit(snapshot) {
        return (Us, text);
    }
    if snapshot.is_failing() {
        let whose = if snapshot.cause() == Some(PANIC) { Us } else { Them };
        return (whose, sentence_of_failures(snapshot));
    }
    if let Some(last) = failing_before(snapshot) {
        let (what, share) =
            (what_fails(snapshot, last.cause.as_deref()), of(last.failed, last.sent, "attempt"));
        let text = format!("{what}: {share} failed.");
        return (Them, text);
    }
    let reason = breaker.reason.as_deref().unwrap_or_default().replace('_', " ");
    let text = match &*reason {
        "slow call rate" => "The dependency is too slow.",
        "probes failed" => "The dependency still fails: the last probe did not pass.",
        "consecutive failures" => "The dependency failed several times in a row.",
        _ => "The dependency failed too often.",
    };
    (Them, text.to_owned())
}

pub(super) fn half_open(snapshot: &Snapshot) -> Found {
    let (breaker, "half_open") = state(snapshot)? else { return None };
    let (whose, mut text) = match close_limit(snapshot) {
        Some(text) => (Us, text + " "),
        None => (Them, String::new()),
    };
    text += "Recovering: the circuit is half-open and admits only probes.";
    let (passed, failed) = (breaker.probes_passed, breaker.probes_failed);
    if passed > 0 || failed > 0 {
        text += &format!(" {passed} passed and {failed} failed {}.", window(snapshot.seconds));
    }
    text += &rejecting(snapshot, "circuit_open");
    Some((whose, Warning, text))
}
