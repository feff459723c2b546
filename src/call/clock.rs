//! One reading of the clock for all layers that a call passes, and times in one word.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

use super::restore::Restore;

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The instant of the call that is being made, read once for all layers of a stack.
#[inline]
pub(crate) fn now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}

/// The same, where it has been read: for who can do without.
#[inline]
pub(crate) fn shared_now() -> Option<Instant> {
    NOW.get()
}

/// Lets the layers beneath use a clock reading. Only for the length of an inner `call`, which does
/// not wait: over a poll the reading would grow stale.
#[inline]
pub(crate) fn share_now(now: Instant) -> Restore<Option<Instant>> {
    Restore::after_setting(&NOW, Some(now))
}

/// Returns the nanoseconds of a duration; five hundred years and more are all the same.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
}
