//! Cancellation and panic, at every point where they can strike.
//!
//! A future may be dropped between any two polls, and what it calls may panic in any of them. Either way the permits,
//! slots, gauges and budgets that it touched must be back where they began. [`CancelHarness`] and [`PanicHarness`]
//! bring it about, once for each point; a closure of the test's own then asserts.

use std::any::Any;
use std::fmt;
use std::future::{Ready, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::panics::panic_message;
use super::task::{Spawned, finish_now};

/// How many polls a future gets unless told otherwise.
const LIMIT: usize = 1_000;

/// Drops a future unpolled, then a fresh one after its first poll, and so on until one completes.
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
/// On a paused clock, with time passing between the polls:
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
    /// Takes what makes the future, once for each point at which one is dropped.
    pub const fn new(make: Make) -> Self {
        Self { make, limit: LIMIT }
    }

    /// Sets how many polls may be needed to complete; 1,000 unless set.
    #[must_use]
    pub const fn limit(mut self, polls: usize) -> Self {
        self.limit = polls;
        self
    }

    /// Drops a future at every poll, in no time at all. Returns the number of polls that completed the last one.
    ///
    /// `settled` runs after each drop, with the number of polls before it, and after the completion.
    ///
    /// # Panics
    ///
    /// When `settled` does, saying after which poll. When no future completes within the limit.
    pub fn run(self, settled: impl FnMut(usize)) -> usize {
        let no_time: fn() -> Ready<()> = || ready(());
        finish_now(self.run_with(no_time, settled))
    }

    /// The same, where `pass_time` lets time pass, or anything else happen, between two polls.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
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
            let ended = if completed { "completed" } else { "dropped" };
            assert_settled(|| settled(polled), format_args!("{ended} at poll {polled}"));
            if completed {
                return polled;
            }
            // Renews the budget that tokio gives a task, so that no poll is put off for the want of it.
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

/// Lets a future panic at one point after another, and asserts that each panic comes out.
///
/// The points are whatever the closure knows to arm: [`PanicPoint::ALL`](super::PanicPoint::ALL) for the inner
/// service, an enum of the test's own for a classifier, a replay policy or an observer.
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
    /// Takes the points, and what arms one of them and makes the future.
    pub const fn new(points: Points, make: Make) -> Self {
        Self { points, make, limit: LIMIT }
    }

    /// Sets how many polls may be needed to panic; 1,000 unless set.
    #[must_use]
    pub const fn limit(mut self, polls: usize) -> Self {
        self.limit = polls;
        self
    }

    /// Lets a future panic at every point, in no time at all. `settled` runs after each, when the future is dropped.
    ///
    /// # Panics
    ///
    /// When `settled` does, saying after which point. When a future completes without a panic, or does neither
    /// within the limit.
    pub fn run(self, settled: impl FnMut(Points::Item)) {
        let no_time: fn() -> Ready<()> = || ready(());
        finish_now(self.run_with(no_time, settled));
    }

    /// The same, where `pass_time` lets time pass, or anything else happen, between two polls.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub async fn run_with<Pass, Passing>(
        mut self,
        mut pass_time: Pass,
        mut settled: impl FnMut(Points::Item),
    ) where
        Pass: FnMut() -> Passing,
        Passing: Future<Output = ()>,
    {
        for point in self.points {
            // The making is caught too: a service called outside an async block panics there.
            let made = catch_unwind(AssertUnwindSafe(|| Spawned::new((self.make)(point))));
            if let Ok(mut future) = made {
                let mut left = self.limit;
                while let Ok(poll) = catch_unwind(AssertUnwindSafe(|| future.poll())) {
                    assert!(poll.is_pending(), "no panic came out of {point:?}");
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

/// Runs the test's own assertions, and says at which point they failed.
fn assert_settled(settled: impl FnOnce(), point: fmt::Arguments<'_>) {
    catch_unwind(AssertUnwindSafe(settled)).unwrap_or_else(|payload: Box<dyn Any + Send>| {
        panic!("after it {point}: {}", panic_message(&*payload))
    });
}
