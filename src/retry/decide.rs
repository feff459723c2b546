//! The decision about the attempt after one that failed.

use std::time::Duration;

use super::config::Config;
use crate::{Fault, RetryHint, backoff::Jitter};

/// How an attempt failed that may be retried.
#[derive(Clone, Copy)]
pub(super) struct Failed {
    pub(super) fault: Fault,
    /// It was given no more time: the caller's is over.
    pub(super) cut_short: bool,
}

/// Why a failure is not retried.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    /// The request cannot be sent again.
    NotReplayable,
    /// The server said so.
    Told,
    /// It would be, but something is spent: that is what the hop above must know.
    Spent(&'static str),
}

/// The pause before a retry, not drawn yet.
#[derive(Clone, Copy)]
pub(super) enum Pause {
    /// The server asked for one.
    Asked { least: Duration, most: Duration },
    /// The next of the backoff.
    Backoff,
}

/// Decides whether the failure of attempt `number` may be retried, and after what pause.
///
/// Pure: the deadline and the budget, which may still end the retrying, are for the session to ask.
#[inline]
pub(super) fn decide(
    number: u32,
    config: &Config,
    Failed { fault, cut_short }: Failed,
    hint: RetryHint,
    replayable: bool,
) -> Result<Pause, Stop> {
    if hint == RetryHint::Stop {
        return Err(Stop::Told);
    }
    if config.retries == 0 {
        return Err(Stop::NotReplayable);
    }
    if number > config.retries {
        return Err(Stop::Spent("retries"));
    }
    if !replayable {
        return Err(Stop::NotReplayable);
    }
    if cut_short {
        return Err(Stop::Spent("deadline"));
    }
    let asked = match (hint, fault) {
        (RetryHint::After(pause), _) => Some(pause),
        (_, Fault::Overloaded { retry_after } | Fault::InProgress { retry_after }) => retry_after,
        _ => None,
    };
    let Some(least) = asked else { return Ok(Pause::Backoff) };
    if least > config.hint_cap {
        return Err(Stop::Spent("hint over cap"));
    }
    // Upwards only, or we would come before we are expected; and not all at once, unless that is
    // just what was asked of this call.
    let spread = match config.backoff.jitter() {
        _ if hint == RetryHint::After(Duration::ZERO) => Duration::ZERO,
        Jitter::None => Duration::ZERO,
        _ => config.backoff.ceiling(1).max(least / 5),
    };
    Ok(Pause::Asked { least, most: least.saturating_add(spread) })
}
