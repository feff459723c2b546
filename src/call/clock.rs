//! A clock reading that the layers of a stack share, and times in one word.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

use super::restore::Restore;

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Returns the shared reading of the clock, or reads the clock.
#[inline]
pub(crate) fn now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}

/// Returns the shared reading of the clock, or `None` if there is none.
///
/// It is for callers that do not need the time.
#[inline]
pub(crate) fn shared_now() -> Option<Instant> {
    NOW.get()
}

/// Shares a reading of the clock with the layers beneath.
///
/// Keep the result only during an inner `call`, which does not wait. During a wait, the reading
/// would become stale.
#[inline]
pub(crate) fn share_now(now: Instant) -> Restore<Option<Instant>> {
    Restore::after_setting(&NOW, Some(now))
}

/// Returns a duration in nanoseconds, capped at about five hundred years.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
}
