//! A clock reading that the layers of a stack share, and times in one word.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

use super::restore::Restore;

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The instant at which the service beneath has ended the call, in this poll.
    static ENDED: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The begin of the last call that ended in this poll, and its duration in nanoseconds.
    static TOOK: Cell<(Option<Instant>, u64)> = const { Cell::new((None, 0)) };
}

/// Forgets the end of an earlier call. Call it before a service is polled.
#[inline]
pub(crate) fn forget_end() {
    ENDED.set(None);
    TOOK.set((None, 0));
}

/// Returns the nanoseconds from this instant to the end of a call that has just ended.
///
/// The layers of a stack share the reading, and calls that began at one instant the result. The
/// caller must have called [`forget_end`] before it polled the service.
#[inline]
pub(crate) fn took_since(began: Instant) -> u64 {
    let (same, took) = TOOK.get();
    if same == Some(began) { took } else { measure(began) }
}

#[inline(never)]
fn measure(began: Instant) -> u64 {
    let ended = ENDED.get().unwrap_or_else(Instant::now);
    let took = nanos(ended.saturating_duration_since(began));
    ENDED.set(Some(ended));
    TOOK.set((Some(began), took));
    took
}

/// Shares a reading of the clock right after a call has ended, with the layers of its stack.
///
/// The outermost of them [forgets](forget_end) it.
#[inline]
pub(crate) fn share_end(now: Instant) {
    ENDED.set(Some(now));
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

/// Returns the instant after this time, or one in thirty years if the clock cannot express it.
pub(crate) fn after(now: Instant, time: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
    now.checked_add(time).unwrap_or_else(|| now + FAR)
}

/// Returns the nanoseconds from one instant to another, which are less than five hundred years.
#[inline]
pub(crate) fn nanos_since(origin: Instant, at: Instant) -> u64 {
    at.saturating_duration_since(origin).as_nanos() as u64
}

/// Returns a duration in nanoseconds, capped at about five hundred years.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
}
