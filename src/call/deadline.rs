//! The deadline of a call, ambient while it runs.
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
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::{attempt, hop, restore::Restore, timer::poll_timer};

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
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
        let _attempt = attempt::clear();
        let _hop = hop::clear();
        self.project().future.poll(cx)
    }
}

impl<F> fmt::Debug for Detached<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached").finish_non_exhaustive()
    }
}
