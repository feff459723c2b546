//! Harnesses that cancel a future, or make it panic, at every possible point.
//!
//! A future may be dropped between any two polls, and the code that it calls may panic in any poll.
//! Afterwards, the permits, slots, gauges and budgets that it used must be back in their initial
//! state. [`CancelHarness`] causes a drop once for each poll, and [`PanicHarness`] causes a panic
//! once for each point. After each of them, a closure of your test asserts the state.

use std::any::Any;
use std::fmt;
use std::future::{Ready, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::panics::panic_message;
use super::task::{Spawned, finish_now};

/// The default limit of polls of one future.
const LIMIT: usize = 1_000;

/// Drops a future unpolled, then a new one after its first poll, and so on until one completes.
///
/// # Example
///
/// ```
/// use buttress::testing::{Flaky, Step, cancel::CancelHarness};
/// use tower::ServiceExt;
///
/// let flaky = Flaky::new([], || Ok::<_, &str>("response"));
/// let handle = flaky.handle();
///
/// let polls = CancelHarness::new(|| {
///     handle.push(Step::RespondAfterPolls(3, Ok("late response")));
///     flaky.clone().oneshot("request")
/// })
/// .run(|_| assert_eq!(handle.in_flight(), 0));
/// # assert_eq!(polls, 4);
/// assert_eq!(handle.dropped() + handle.completed(), handle.calls());
/// ```
///
/// On a paused clock, with time that passes between the polls:
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// # use std::time::Duration;
/// # use buttress::testing::cancel::CancelHarness;
/// let polls = CancelHarness::new(|| tokio::time::sleep(Duration::from_millis(25)))
///     .run_with(|| tokio::time::advance(Duration::from_millis(10)), |_| {})
///     .await;
/// assert!(polls > 2);
/// # }
/// ```
pub struct CancelHarness<Make> {
    make: Make,
    limit: usize,
}

impl<Make, F> CancelHarness<Make>
where
    Make: FnMut() -> F,
    F: Future,
{
    /// Creates a harness with a closure that makes the future.
    ///
    /// The closure runs once for each future that is dropped, and once for the one that completes.
    pub const fn new(make: Make) -> Self {
        Self { make, limit: LIMIT }
    }

    /// Sets the maximum number of polls until a future completes.
    ///
    /// Default: `1000`. The run panics if no future completes within the limit.
    #[must_use]
    pub const fn limit(mut self, polls: usize) -> Self {
        self.limit = polls;
        self
    }

    /// Drops a future after every poll, and returns the number of polls until one completed.
    ///
    /// `settled` runs after each drop and after the completion, with the number of polls before it.
    /// No time passes between the polls.
    ///
    /// # Panics
    ///
    /// Panics if `settled` panics, and adds the poll to its message. Panics if no future completes
    /// within the limit.
    pub fn run(self, settled: impl FnMut(usize)) -> usize {
        let no_time: fn() -> Ready<()> = || ready(());
        finish_now(self.run_with(no_time, settled))
    }

    /// Does the same as [`run`](Self::run), and calls `pass_time` between two polls.
    ///
    /// `pass_time` lets time pass, or causes any other event. It also runs after each future.
    ///
    /// # Panics
    ///
    /// Panics in the same cases as [`run`](Self::run).
    pub async fn run_with<Pass, Passing>(
        mut self,
        mut pass_time: Pass,
        mut settled: impl FnMut(usize),
    ) -> usize
    where
        Pass: FnMut() -> Passing,
        Passing: Future<Output = ()>,
    {
        for polls in 0..=self.limit {
            let mut future = Spawned::new((self.make)());
            let mut completed = false;
            for poll in 0..polls {
                if poll > 0 {
                    pass_time().await;
                }
                completed = future.poll().is_ready();
                if completed {
                    break;
                }
            }
            let polled = future.polls();
            drop(future);
            let ended = if completed { "completed" } else { "was dropped" };
            assert_settled(|| settled(polled), format_args!("{ended} at poll {polled}"));
            if completed {
                return polled;
            }
            // Renews the cooperative budget that tokio gives a task. Without it, tokio would
            // delay a poll.
            pass_time().await;
        }
        panic!("no future completed in {} polls", self.limit);
    }
}

impl<Make> fmt::Debug for CancelHarness<Make> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHarness").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// Makes a future panic at one point after another, and asserts that each panic is propagated.
///
/// The closure decides what a point is. Use [`PanicPoint::ALL`](super::PanicPoint::ALL) for the
/// inner service, and your own enum for a classifier, a replay policy or an observer.
///
/// # Example
///
/// ```
/// use buttress::testing::{Flaky, PanicPoint, cancel::PanicHarness};
/// use tower::ServiceExt;
///
/// let flaky = Flaky::new([], || Ok::<_, &str>("response"));
/// let handle = flaky.handle();
///
/// PanicHarness::new(PanicPoint::ALL, |point| {
///     handle.push(point.step());
///     flaky.clone().oneshot("request")
/// })
/// .run(|_| assert_eq!(handle.in_flight(), 0));
/// ```
pub struct PanicHarness<Points, Make> {
    points: Points,
    make: Make,
    limit: usize,
}

impl<Points, Make, F> PanicHarness<Points, Make>
where
    Points: IntoIterator<Item: Copy + fmt::Debug>,
    Make: FnMut(Points::Item) -> F,
    F: Future,
{
    /// Creates a harness with the points, and a closure that arms one point and makes the future.
    pub const fn new(points: Points, make: Make) -> Self {
        Self { points, make, limit: LIMIT }
    }

    /// Sets the maximum number of pending polls before the panic.
    ///
    /// Default: `1000`. The run panics if a future neither completes nor panics within the limit.
    #[must_use]
    pub const fn limit(mut self, polls: usize) -> Self {
        self.limit = polls;
        self
    }

    /// Makes a future panic at every point.
    ///
    /// `settled` runs after each panic, when the future has been dropped. No time passes between
    /// the polls.
    ///
    /// # Panics
    ///
    /// Panics if `settled` panics, and adds the point to its message. Panics if a future completes
    /// without a panic, or neither completes nor panics within the limit.
    pub fn run(self, settled: impl FnMut(Points::Item)) {
        let no_time: fn() -> Ready<()> = || ready(());
        finish_now(self.run_with(no_time, settled));
    }

    /// Does the same as [`run`](Self::run), and calls `pass_time` between two polls.
    ///
    /// `pass_time` lets time pass, or causes any other event. It also runs after each future.
    ///
    /// # Panics
    ///
    /// Panics in the same cases as [`run`](Self::run).
    pub async fn run_with<Pass, Passing>(
        mut self,
        mut pass_time: Pass,
        mut settled: impl FnMut(Points::Item),
    ) where
        Pass: FnMut() -> Passing,
        Passing: Future<Output = ()>,
    {
        for point in self.points {
            // Panics of `make` are caught too. A service that is called outside an async block
            // panics there.
            let made = catch_unwind(AssertUnwindSafe(|| Spawned::new((self.make)(point))));
            if let Ok(mut future) = made {
                let mut left = self.limit;
                while let Ok(poll) = catch_unwind(AssertUnwindSafe(|| future.poll())) {
                    assert!(poll.is_pending(), "the future completed without a panic in {point:?}");
                    assert!(left > 0, "{point:?} did not panic within the limit");
                    left -= 1;
                    pass_time().await;
                }
            }
            assert_settled(|| settled(point), format_args!("panicked in {point:?}"));
            pass_time().await;
        }
    }
}

impl<Points, Make> fmt::Debug for PanicHarness<Points, Make> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PanicHarness").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// Runs the assertions of the test, and adds the point to the message of a failure.
fn assert_settled(settled: impl FnOnce(), point: fmt::Arguments<'_>) {
    catch_unwind(AssertUnwindSafe(settled)).unwrap_or_else(|payload: Box<dyn Any + Send>| {
        panic!("after it {point}: {}", panic_message(&*payload))
    });
}
