//! The decision whether a failed attempt is followed by another.

use std::time::Duration;

use super::config::Config;
use crate::{Fault, Outcome, RetryHint, backoff::Jitter, call::route::Tried};

/// An attempt that may be retried. A permanent failure may be retried only once.
#[derive(Clone, Copy)]
pub(super) struct Failed {
    /// A failure, or ignored if the service did not get the request.
    pub(super) outcome: Outcome,
    /// The cause of the failure.
    pub(super) error_type: &'static str,
    /// The hint of the result about retries.
    pub(super) hint: RetryHint,
    /// The attempt timed out only because the caller's deadline ended.
    pub(super) cut_short: bool,
    /// The endpoints that the attempt has failed at.
    pub(super) tried: Tried,
}

/// The reason why a failure is not retried.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    /// Retries are disabled.
    Disabled,
    /// The policy does not replay the request.
    NotReplayable,
    /// The policy could not prepare the kept request for another attempt.
    NotPrepared,
    /// The server said that the request must not be retried.
    Told,
    /// The call would be retried, but something is exhausted. The hop above must know this.
    Spent(&'static str),
    /// The call would be retried, but the server asked for a longer pause than the cap.
    OverCap,
    /// The call would be retried, but its deadline is near.
    OutOfTime,
}

/// The pause before a retry, before the random delay is drawn.
#[derive(Clone, Copy)]
pub(super) enum Pause {
    /// A pause that the server asked for.
    Asked { least: Duration, most: Duration },
    /// The next pause of the backoff.
    Backoff,
}

/// Decides whether the failure of attempt `number` may be retried, and after which pause.
///
/// This function is pure. The session then checks the deadline and the budget, which may still
/// end the retries.
#[inline]
pub(super) fn decide(
    number: u32,
    config: &Config,
    Failed { outcome, hint, cut_short, .. }: Failed,
    replayable: bool,
) -> Result<Pause, Stop> {
    if hint == RetryHint::Stop {
        return Err(Stop::Told);
    }
    if config.retries == 0 {
        return Err(Stop::Disabled);
    }
    if number > config.retries {
        return Err(Stop::Spent("retries"));
    }
    if !replayable {
        return Err(Stop::NotReplayable);
    }
    if cut_short {
        return Err(Stop::OutOfTime);
    }
    let asked = match (hint, outcome) {
        (RetryHint::After(pause), _) => Some(pause),
        (
            _,
            Outcome::Failure(Fault::Overloaded { retry_after } | Fault::InProgress { retry_after }),
        ) => retry_after,
        _ => None,
    };
    let Some(least) = asked else { return Ok(Pause::Backoff) };
    if least > config.hint_cap {
        return Err(Stop::OverCap);
    }
    // Jitter only lengthens the pause, because the server does not expect an earlier retry.
    // Without jitter, all clients would retry at the same moment. A pause of zero asks this one
    // call to retry at once, so it gets no jitter.
    let spread = match config.backoff.jitter() {
        _ if hint == RetryHint::After(Duration::ZERO) => Duration::ZERO,
        Jitter::None => Duration::ZERO,
        _ => config.backoff.ceiling(1).max(least / 5),
    };
    Ok(Pause::Asked { least, most: least.saturating_add(spread) })
}
