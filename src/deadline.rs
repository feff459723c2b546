//! What is ambient while a call runs: its deadline, its attempt, and what became of the hop.
//!
//! A [timeout](crate::timeout) ends a call, and it also tells everything beneath it when that will
//! be: while it polls what it wraps, [`Deadline::current`] returns the nearest instant. So a retry
//! does not sleep past it and a queue does not wait past it. Only the owner of a deadline enforces
//! it; the others just do not begin what cannot end in time.
//!
//! All of it is thread-local and set only while a future is polled, called or dropped. It does not
//! follow `tokio::spawn`, and there is no public guard: held over an await it would leak into other
//! tasks. [`Deadline::scope`] and [`Deadline::detached`] wrap a future instead.

use std::{
    cell::Cell,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    thread::LocalKey,
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::Outcome;

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    static ATTEMPT: Cell<Option<Attempt>> = const { Cell::new(None) };
    static HOP: Cell<Option<Hop>> = const { Cell::new(None) };
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Puts back what was ambient before, also when what runs in between panics.
#[must_use]
pub(crate) struct Restore<T: Copy + 'static> {
    cell: &'static LocalKey<Cell<T>>,
    previous: T,
}

impl<T: Copy> Restore<T> {
    #[inline]
    fn after_setting(cell: &'static LocalKey<Cell<T>>, value: T) -> Self {
        Self { cell, previous: cell.replace(value) }
    }
}

impl<T: Copy> Drop for Restore<T> {
    #[inline]
    fn drop(&mut self) {
        self.cell.set(self.previous);
    }
}

/// Narrows the ambient deadline to `at`, if `at` is the nearer one.
#[inline]
pub(crate) fn narrow(at: Option<Instant>) -> Restore<Option<Instant>> {
    let outer = DEADLINE.get();
    let nearest = match (outer, at) {
        (Some(outer), Some(at)) => Some(outer.min(at)),
        (outer, at) => outer.or(at),
    };
    Restore::after_setting(&DEADLINE, nearest)
}

/// The ambient deadline.
#[inline]
pub(crate) fn deadline() -> Option<Instant> {
    DEADLINE.get()
}

/// Makes `attempt` the ambient one.
#[inline]
pub(crate) fn enter_attempt(attempt: Attempt) -> Restore<Option<Attempt>> {
    Restore::after_setting(&ATTEMPT, Some(attempt))
}

/// What was ambient when a call was made, for what goes on after its future has ended.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ambient {
    deadline: Option<Instant>,
    attempt: Option<Attempt>,
}

#[cfg(feature = "http")]
impl Ambient {
    #[inline]
    pub(crate) fn capture() -> Self {
        Self { deadline: deadline(), attempt: ATTEMPT.get() }
    }

    /// The deadline, if there was one.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Makes it ambient again. The nearest deadline counts: whoever polls may have less time.
    #[inline]
    pub(crate) fn enter(&self) -> (Restore<Option<Instant>>, Restore<Option<Attempt>>) {
        (narrow(self.deadline), Restore::after_setting(&ATTEMPT, self.attempt))
    }
}

/// Makes the attempt ambient that a caller said it was making.
#[cfg(feature = "http")]
pub(crate) fn enter_received(attempt: Option<Attempt>) -> Restore<Option<Attempt>> {
    Restore::after_setting(&ATTEMPT, attempt)
}

/// Whether a service that says a call took too long was just not given more time: it was told when the
/// caller's deadline is, and answers a little earlier.
pub(crate) fn was_cut_short(began: Option<Instant>, deadline: Option<Instant>) -> bool {
    let Some(deadline) = deadline else { return false };
    let now = Instant::now();
    let whole = deadline.saturating_duration_since(began.unwrap_or(now));
    // As much as five servers, one behind the other, keep of it to answer in.
    let kept = (whole / 4).clamp(Duration::from_millis(5), Duration::from_millis(500));
    deadline.saturating_duration_since(now) <= kept
}

/// The time that a caller must have given a call before its end says anything of the service: less is
/// the caller's impatience, and callers in a hurry must not move what all share.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

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

/// The instant by which a call must have ended.
///
/// ```
/// use buttress::Deadline;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let work = async { Deadline::current().map(|deadline| deadline.remaining()) };
/// let in_a_second = Deadline::after(Duration::from_secs(1));
/// assert_eq!(Deadline::scope(in_a_second, work).await, Ok(Some(Duration::from_secs(1))));
/// assert_eq!(Deadline::current(), None);
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    at: Instant,
}

impl Deadline {
    /// The deadline `limit` from now. A limit beyond what the clock can express is cut to thirty years.
    pub fn after(limit: Duration) -> Self {
        let now = Instant::now();
        Self { at: now.checked_add(limit).unwrap_or_else(|| now + FAR_AWAY) }
    }

    /// The nearest deadline of the call that is being polled; `None` if there is none.
    ///
    /// Read it when it is needed: a future that moves between callers sees the deadline of the one
    /// that polls it.
    pub fn current() -> Option<Self> {
        deadline().map(|at| Self { at })
    }

    /// How much time is left; zero once it has passed.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Runs a future under a deadline: it sees the nearest of `at` and the ambient one, and is
    /// dropped at `at`.
    ///
    /// # Errors
    ///
    /// [`DeadlineElapsed`] if the future has not ended by then. A future that is ready wins over
    /// its deadline.
    pub fn scope<F: Future>(at: Self, future: F) -> Scope<F> {
        Scope { at: at.at, future: Some(future), timer: None }
    }

    /// Runs a future outside the caller's deadline, attempt and hop: for work that several callers
    /// share, which must not be cut short for the one that happens to poll it.
    pub fn detached<F: Future>(future: F) -> Detached<F> {
        Detached { future }
    }
}

/// A future was ended by the deadline of its [`Deadline::scope`]. It had begun: what it did is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deadline elapsed")]
pub struct DeadlineElapsed(());

/// Thirty years: what tokio itself takes for an instant that never comes.
const FAR_AWAY: Duration = Duration::from_secs(86_400 * 365 * 30);

pin_project! {
    /// The future of [`Deadline::scope`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Scope<F> {
        at: Instant,
        #[pin]
        future: Option<F>,
        #[pin]
        timer: Option<Sleep>,
    }

    impl<F> PinnedDrop for Scope<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // What is dropped can still read how much time it had.
            let _deadline = narrow(Some(*this.at));
            this.future.set(None);
        }
    }
}

impl<F: Future> Future for Scope<F> {
    type Output = Result<F::Output, DeadlineElapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let ours = deadline().is_none_or(|outer| *this.at < outer);
        let _deadline = narrow(Some(*this.at));
        if let Some(future) = this.future.as_mut().as_pin_mut() {
            if let Poll::Ready(output) = future.poll(cx) {
                return Poll::Ready(Ok(output));
            }
        }
        if !ours {
            return Poll::Pending;
        }
        ready!(poll_timer(this.timer, *this.at, cx));
        this.future.set(None);
        Poll::Ready(Err(DeadlineElapsed(())))
    }
}

impl<F> fmt::Debug for Scope<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Polls a timer that is built only when something first waits for it.
#[inline]
pub(crate) fn poll_timer(
    mut timer: Pin<&mut Option<Sleep>>,
    at: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if timer.is_none() {
        timer.set(Some(sleep_until(at)));
        // As a rule it is the only time: what it costs to look at the clock is left for the next.
        return timer.as_pin_mut().map_or(Poll::Ready(()), |timer| timer.poll(cx));
    }
    let polled = timer.as_pin_mut().map_or(Poll::Ready(()), |timer| timer.poll(cx));
    // A timer is also pending when what was polled before it has used up the task's budget.
    if polled.is_pending() && Instant::now() >= at { Poll::Ready(()) } else { polled }
}

pin_project! {
    /// The future of [`Deadline::detached`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Detached<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Detached<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _deadline = Restore::after_setting(&DEADLINE, None);
        let _attempt = Restore::after_setting(&ATTEMPT, None);
        let _hop = Restore::after_setting(&HOP, None);
        self.project().future.poll(cx)
    }
}

impl<F> fmt::Debug for Detached<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached").finish_non_exhaustive()
    }
}

/// Which attempt of a [retried](crate::retry) call is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    number: u32,
    previous: Option<Outcome>,
    received: bool,
}

impl Attempt {
    pub(crate) const FIRST: Self = Self { number: 1, previous: None, received: false };

    /// The attempt that a caller says it is making.
    #[cfg(feature = "http")]
    pub(crate) fn received(number: u32) -> Self {
        Self { number, previous: None, received: true }
    }

    /// Whether a retry layer of this process makes it.
    #[cfg(feature = "http")]
    pub(crate) fn is_own(&self) -> bool {
        !self.received
    }

    pub(crate) fn next(self, outcome: Outcome) -> Self {
        let number = self.number.saturating_add(1);
        Self { number, previous: Some(outcome), received: false }
    }

    /// The attempt that is being called or polled: that of the nearest retry layer, or else the one that
    /// the caller of the request which is being served says it is making; `None` without either.
    pub fn current() -> Option<Self> {
        ATTEMPT.get()
    }

    /// Its number; the first is 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How the attempt before ended; `None` for the first.
    pub fn previous(&self) -> Option<Outcome> {
        self.previous
    }
}

/// What the retry layers beneath found out while a request was served: a server puts it into its
/// answer, so that the hop above does not retry what was retried here in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    retries_exhausted: bool,
    told_to_stop: bool,
    resent: bool,
}

impl Hop {
    /// Runs a future and reports, beside its output, what the retry layers in it found out. What is
    /// observed inside is not seen by an observer outside: it belongs to the answer of the inner one.
    pub fn observe<F: Future>(future: F) -> Observe<F> {
        Observe { future, hop: Self::default() }
    }

    /// Whether a retry layer gave up on a failure that it would have retried: its retries, its
    /// budget or its time were spent.
    pub fn retries_exhausted(&self) -> bool {
        self.retries_exhausted
    }

    /// Whether a retry layer was itself told not to retry.
    pub fn told_to_stop(&self) -> bool {
        self.told_to_stop
    }

    /// Whether a retry layer has begun a second attempt: a refusal of it does not mean that nothing began.
    pub(crate) fn resent(&self) -> bool {
        self.resent
    }

    pub(crate) fn report_resent() {
        Self::report(|hop| hop.resent = true);
    }

    /// Passes on what was found out on behalf of this request in another task.
    pub(crate) fn report_again(self) {
        Self::report(|hop| {
            hop.retries_exhausted |= self.retries_exhausted;
            hop.told_to_stop |= self.told_to_stop;
            hop.resent |= self.resent;
        });
    }

    pub(crate) fn report_exhausted() {
        Self::report(|hop| hop.retries_exhausted = true);
    }

    pub(crate) fn report_stop() {
        Self::report(|hop| hop.told_to_stop = true);
    }

    /// Runs a piece of a request, and notes what the retry layers in it find out.
    #[inline]
    pub(crate) fn run<T>(&mut self, piece: impl FnOnce() -> T) -> T {
        let _hop = Restore::after_setting(&HOP, Some(*self));
        let value = piece();
        *self = HOP.get().unwrap_or_default();
        value
    }

    fn report(change: impl FnOnce(&mut Self)) {
        // Without an observer there is no request to note it for.
        if let Some(mut hop) = HOP.get() {
            change(&mut hop);
            HOP.set(Some(hop));
        }
    }
}

pin_project! {
    /// The future of [`Hop::observe`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Observe<F> {
        #[pin]
        future: F,
        hop: Hop,
    }
}

impl<F: Future> Future for Observe<F> {
    type Output = (F::Output, Hop);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let future = this.future;
        let output = this.hop.run(|| future.poll(cx));
        output.map(|output| (output, *this.hop))
    }
}

impl<F> fmt::Debug for Observe<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observe").field("hop", &self.hop).finish_non_exhaustive()
    }
}
