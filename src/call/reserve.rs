//! The time of a caller that a layer reserves for a degraded response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::{
    clock::{self, share_now},
    deadline::{deadline, narrow},
    ended::polled_after_end,
    timer::poll_timer,
};
use crate::{
    ConfigError,
    error::{Name, TimedOut},
};

/// The share of the caller's time that a layer keeps for a degraded response.
///
/// Without it, the caller's own deadline ends the call before the layer can respond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reserve {
    /// The share of the time that is left, at least 0 and less than 1.
    ratio: f64,
    /// The most that is reserved.
    most: Duration,
}

impl Reserve {
    /// The default share.
    pub(crate) const RATIO: f64 = 0.1;

    /// Creates the default reserve of a layer that needs at most `most` for its response.
    pub(crate) const fn up_to(most: Duration) -> Self {
        Self { ratio: Self::RATIO, most }
    }

    /// Creates the reserve of a layer that needs at most `most` for its response.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] for `knob` if the share is negative, 1 or more, or no number.
    pub(crate) fn new(knob: &'static str, ratio: f64, most: Duration) -> Result<Self, ConfigError> {
        if (0.0..1.0).contains(&ratio) {
            Ok(Self { ratio, most })
        } else {
            Err(ConfigError::new(knob, ratio, "it must be at least 0 and less than 1"))
        }
    }

    /// Returns the deadline of the caller, if a part of its time is reserved.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match deadline() {
            Some(deadline) if self.ratio > 0.0 => Some(deadline),
            _ => None,
        }
    }

    /// Makes an inner call, which must end before a deadline by the reserve.
    pub(crate) fn call<F>(&self, deadline: Instant, call: impl FnOnce() -> F) -> Reserved<F> {
        let began = clock::now();
        let time = self.time_before(deadline, began);
        let end = End { at: began + time, time };
        let _ambient = (share_now(began), narrow(Some(end.at)));
        Reserved { future: Some(call()), end: Some(end), timer: None }
    }

    /// Returns the time that a call has from `now` on, before a deadline.
    pub(crate) fn time_before(&self, deadline: Instant, now: Instant) -> Duration {
        let left = deadline.saturating_duration_since(now);
        left - left.mul_f64(self.ratio).min(self.most).min(left)
    }
}

/// The end of a call beneath a reserve.
#[derive(Clone, Copy, Debug)]
struct End {
    at: Instant,
    /// The time that the call had.
    time: Duration,
}

pin_project! {
    /// A call that ends before the caller's deadline, or within a limit.
    ///
    /// It is the owner of the earlier deadline. If the task that polls has less time than that, the
    /// owner of that deadline ends the call.
    pub(crate) struct Reserved<F> {
        #[pin]
        future: Option<F>,
        end: Option<End>,
        #[pin]
        timer: Option<Sleep>,
    }

    impl<F> PinnedDrop for Reserved<F> {
        fn drop(this: Pin<&mut Self>) {
            if this.future.is_some() {
                this.end();
            }
        }
    }
}

impl<F> Reserved<F> {
    /// Limits a call that is not beneath a reserve, from now on. `Duration::MAX` is no limit.
    pub(crate) fn within(limit: Duration, future: F) -> Self {
        let at = (limit < Duration::MAX).then(|| Instant::now().checked_add(limit)).flatten();
        let end = at.map(|at| End { at, time: limit });
        Self { future: Some(future), end, timer: None }
    }

    /// Drops the call. It can still read its deadline meanwhile.
    pub(crate) fn end(self: Pin<&mut Self>) {
        let mut this = self.project();
        let _deadline = this.end.map(|end| narrow(Some(end.at)));
        this.future.set(None);
        this.timer.set(None);
    }

    /// Polls the call, and drops it once it has ended.
    ///
    /// Returns an error if it has reached its end. Beneath a reserve, the error becomes the result
    /// of the call if there is no degraded response. Panics after the end.
    #[inline]
    pub(crate) fn poll_call(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<F::Output, ReserveReached>>
    where
        F: Future,
    {
        let this = self.as_mut().project();
        let Some(future) = this.future.as_pin_mut() else { polled_after_end() };
        let Some(end) = *this.end else {
            let polled = future.poll(cx).map(Ok);
            if polled.is_ready() {
                self.project().future.set(None);
            }
            return polled;
        };
        let is_own = deadline().is_none_or(|outer| end.at < outer);
        let narrowed = narrow(Some(end.at));
        if let Poll::Ready(output) = future.poll(cx) {
            drop(narrowed);
            self.end();
            return Poll::Ready(Ok(output));
        }
        drop(narrowed);
        if !is_own {
            return Poll::Pending;
        }
        ready!(poll_timer(this.timer, end.at, cx));
        self.end();
        Poll::Ready(Err(ReserveReached { time: end.time }))
    }
}

/// The end of a call that has used all of its time, which is that of its caller but the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReserveReached {
    time: Duration,
}

impl ReserveReached {
    /// Returns the rejection by the layer with this name.
    pub(crate) fn by(self, name: Option<Name>) -> TimedOut {
        TimedOut::by(name, self.time)
    }
}

impl<F> fmt::Debug for Reserved<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserved").field("end", &self.end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn reserve() -> Reserve {
        Reserve::new("reserve", Reserve::RATIO, SECOND).unwrap()
    }

    /// Makes a call as a layer does.
    fn called<F>(reserve: Reserve, call: impl FnOnce() -> F) -> Reserved<F> {
        match reserve.deadline() {
            Some(deadline) => reserve.call(deadline, call),
            None => Reserved::within(Duration::MAX, call()),
        }
    }

    /// Runs a poll of a call under the deadline that is `left` from now.
    fn before<T>(left: Duration, piece: impl FnOnce() -> T) -> T {
        let _deadline = narrow(Some(Instant::now() + left));
        piece()
    }

    #[test]
    fn a_share_is_less_than_the_whole() {
        for ratio in [0.0, 0.1, 0.999] {
            assert!(Reserve::new("reserve", ratio, SECOND).is_ok());
        }
        for ratio in [-0.1, 1.0, 2.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Reserve::new("reserve", ratio, SECOND).unwrap_err().knob(), "reserve");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenth_of_the_time_is_kept_and_at_most_the_limit_of_the_layer() {
        let hour = 3_600 * SECOND;
        for (left, time) in [(SECOND, SECOND * 9 / 10), (hour, hour - SECOND)] {
            let call = before(left, || called(reserve(), deadline));
            assert_eq!(call.future, Some(Some(Instant::now() + time)));
        }
        let none = Reserve::new("reserve", 0.0, SECOND).unwrap();
        let call = before(SECOND, || called(none, deadline));
        assert_eq!(call.future, Some(Some(Instant::now() + SECOND)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_ends_when_the_reserve_is_reached() {
        let end = Instant::now() + SECOND;
        let call = {
            let _deadline = narrow(Some(end));
            called(reserve(), pending::<()>)
        };
        let mut call = task::spawn(call);
        let _deadline = narrow(Some(end));
        assert_pending!(call.enter(|cx, call| call.poll_call(cx)));
        advance(SECOND * 9 / 10 - Duration::from_millis(1)).await;
        assert!(!call.is_woken());
        advance(Duration::from_millis(1)).await;
        assert!(call.is_woken());
        let reached = assert_ready_err!(call.enter(|cx, call| call.poll_call(cx)));
        assert_eq!(reached.by(None).limit(), SECOND * 9 / 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_that_is_ready_at_the_reserve_is_returned() {
        let call = before(SECOND, || called(reserve(), || tokio::time::sleep(SECOND * 9 / 10)));
        let mut call = task::spawn(call);
        assert_pending!(before(SECOND, || call.enter(|cx, call| call.poll_call(cx))));
        advance(SECOND * 9 / 10).await;
        assert_ready_ok!(before(SECOND / 10, || call.enter(|cx, call| call.poll_call(cx))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_with_less_time_than_the_call_ends_it_by_itself() {
        let call = before(SECOND, || called(reserve(), pending::<()>));
        let mut call = task::spawn(call);
        assert_pending!(before(SECOND / 2, || call.enter(|cx, call| call.poll_call(cx))));
        call.enter(|_, call| assert!(call.timer.is_none()));
        advance(SECOND).await;
        assert!(!call.is_woken());
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_ambient_while_the_call_is_dropped() {
        struct Watching(Option<Instant>);

        impl Drop for Watching {
            fn drop(&mut self) {
                assert_eq!(deadline(), self.0);
            }
        }

        for left in [None, Some(SECOND)] {
            let end = left.map(|left| Instant::now() + left * 9 / 10);
            let _deadline = narrow(left.map(|left| Instant::now() + left));
            drop(called(reserve(), || Watching(end)));
            let mut call = std::pin::pin!(called(reserve(), || Watching(end)));
            call.as_mut().end();
            assert!(call.future.is_none());
        }
    }
}
