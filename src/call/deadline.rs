//! The deadline of a call, ambient while the call runs.
//!
//! A [timeout](crate::timeout) ends a call at its deadline. While it polls the wrapped service,
//! [`Deadline::current`] returns the nearest deadline to everything beneath. A retry then does not
//! sleep past the deadline, and a queue does not wait past it. Only the owner of a deadline
//! enforces it. The other layers do not begin work that cannot end in time.
//!
//! The deadline is thread-local. It is set only during a call, a poll or a drop, and does not pass
//! to a task that is spawned. There is no public RAII guard, because one that is held across an
//! await would leak into other tasks. [`Deadline::scope`] and [`Deadline::detached`] wrap a future
//! instead.

use std::{
    cell::Cell,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::{attempt::enter_attempt, degraded, hop, restore::Restore, route, timer::poll_timer};

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Narrows the ambient deadline to `at` if `at` is nearer.
#[inline]
pub(crate) fn narrow(at: Option<Instant>) -> Restore<Option<Instant>> {
    let outer = DEADLINE.get();
    let nearest = match (outer, at) {
        (Some(outer), Some(at)) => Some(outer.min(at)),
        (outer, at) => outer.or(at),
    };
    Restore::after_setting(&DEADLINE, nearest)
}

/// Returns the ambient deadline.
#[inline]
pub(crate) fn deadline() -> Option<Instant> {
    DEADLINE.get()
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
    /// Creates a deadline that is `limit` from now.
    ///
    /// A limit beyond the range of the clock, such as `Duration::MAX`, becomes thirty years.
    pub fn after(limit: Duration) -> Self {
        let now = Instant::now();
        Self { at: now.checked_add(limit).unwrap_or_else(|| now + FAR_AWAY) }
    }

    /// Returns the nearest deadline of the call that is being polled, or `None` without one.
    ///
    /// Read it each time you need it. A future that moves between callers sees the deadline of the
    /// caller that polls it.
    pub fn current() -> Option<Self> {
        deadline().map(|at| Self { at })
    }

    /// Returns the time that is left, or zero if the deadline has passed.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Returns `true` if the deadline has passed.
    pub fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Runs a future under a deadline.
    ///
    /// The future sees the nearer of `at` and the ambient deadline, and is dropped at `at`. If the
    /// ambient deadline is nearer, its owner ends the future.
    ///
    /// # Errors
    ///
    /// Returns [`DeadlineElapsed`] if the future has not ended by the deadline. A future that is
    /// ready when it is polled returns its output even after the deadline.
    pub fn scope<F: Future>(at: Self, future: F) -> Scope<F> {
        Scope { at: at.at, future: Some(future), timer: None }
    }

    /// Runs a future without the caller's deadline, attempt and hop, and without its route.
    ///
    /// The route is what the caller's attempts know of each other: the endpoints that they have
    /// tried, and the retry budget that they have paid into.
    ///
    /// Use it for work that several callers share, because the deadline of the one that polls must
    /// not end the work.
    pub fn detached<F: Future>(future: F) -> Detached<F> {
        Detached { future }
    }
}

/// The error returned when a [`Deadline::scope`] reaches its deadline.
///
/// The future had begun, and its effect is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deadline elapsed")]
pub struct DeadlineElapsed(());

/// Thirty years, the time that tokio itself uses for an instant that never comes.
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
            // The future can still read its deadline while it is dropped.
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
        let _attempt = enter_attempt(None);
        let _hop = hop::clear();
        let _route = route::clear();
        let _source = degraded::listen(None);
        self.project().future.poll(cx)
    }
}

impl<F> fmt::Debug for Detached<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached").finish_non_exhaustive()
    }
}
