//! A timer that costs nothing until a call waits for it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Polls a timer, which is created when a call first waits for it.
#[inline]
pub(crate) fn poll_timer(
    mut timer: Pin<&mut Option<Sleep>>,
    at: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if timer.is_none() {
        timer.set(Some(sleep_until(at)));
        // Most timers are polled only once. Only the later polls read the clock.
        return timer.as_pin_mut().map_or(Poll::Ready(()), |timer| timer.poll(cx));
    }
    let polled = timer.as_pin_mut().map_or(Poll::Ready(()), |timer| timer.poll(cx));
    // A timer is pending even after its end if the future polled before it has used up the
    // budget of the task.
    if polled.is_pending() && Instant::now() >= at { Poll::Ready(()) } else { polled }
}
