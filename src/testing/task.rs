//! Futures and services that are polled by hand, with counted wakes.

use std::fmt;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tower_service::Service;

#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A source of wakers, which counts their wakes and the wakers that are still held.
#[derive(Debug, Default)]
pub struct CountingWaker {
    wakes: Arc<Wakes>,
}

impl CountingWaker {
    /// Creates a source of wakers, with no wakes and no holders.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a new waker, whose wakes are counted here.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Arc::clone(&self.wakes).into()
    }

    /// Returns how often its wakers were woken.
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }

    /// Returns how many of its wakers are alive, for example in a list of waiters.
    #[must_use]
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.wakes) - 1
    }
}

/// The waker of one future or service, and its count at the last poll.
#[derive(Debug, Default)]
struct Task {
    waker: CountingWaker,
    polls: usize,
    wakes_at_poll: usize,
}

impl Task {
    /// Counts a poll, and returns the waker for it.
    fn start_poll(&mut self) -> Waker {
        self.polls += 1;
        self.wakes_at_poll = self.waker.wakes();
        self.waker.waker()
    }

    fn is_woken(&self) -> bool {
        self.waker.wakes() > self.wakes_at_poll
    }

    fn hand_over(&mut self) -> CountingWaker {
        self.wakes_at_poll = 0;
        std::mem::take(&mut self.waker)
    }
}

/// A future in its own task, polled by hand.
///
/// # Example
///
/// ```
/// use buttress::testing::task::Spawned;
///
/// let mut future = Spawned::new(async { 42 });
/// assert!(future.poll().is_ready());
/// assert_eq!((future.polls(), future.wakes()), (1, 0));
/// ```
pub struct Spawned<F> {
    future: Pin<Box<F>>,
    task: Task,
}

impl<F> Spawned<F> {
    /// Wraps a future, without polling it.
    #[must_use]
    pub fn new(future: F) -> Self {
        Self { future: Box::pin(future), task: Task::default() }
    }

    /// Returns how often the future was polled.
    #[must_use]
    pub const fn polls(&self) -> usize {
        self.task.polls
    }

    /// Returns how often its current task was woken.
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.task.waker.wakes()
    }

    /// Returns whether its task was woken since the last poll.
    #[must_use]
    pub fn is_woken(&self) -> bool {
        self.task.is_woken()
    }

    /// Moves the future to another task, and returns the old waker.
    ///
    /// Later polls use a new waker. A future must wake the task that polled it last, and no longer
    /// the old one.
    pub fn hand_over(&mut self) -> CountingWaker {
        self.task.hand_over()
    }

    /// Returns the future without its task, for example to await it.
    #[must_use]
    pub fn into_inner(self) -> Pin<Box<F>> {
        self.future
    }

    /// Drops the future, and returns its waker.
    ///
    /// Its [`holders`](CountingWaker::holders) should be `0`. Otherwise, the future leaked a waker.
    #[must_use = "drop the value itself to cancel without inspecting the waker"]
    pub fn cancel(self) -> CountingWaker {
        drop(self.future);
        self.task.waker
    }
}

impl<F: Future> Spawned<F> {
    /// Polls the future once.
    ///
    /// # Panics
    ///
    /// Panics if the future panics. Most futures do when they are polled after they completed.
    pub fn poll(&mut self) -> Poll<F::Output> {
        let waker = self.task.start_poll();
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

impl<F> fmt::Debug for Spawned<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawned").field("task", &self.task).finish_non_exhaustive()
    }
}

/// A service in its own task, whose readiness is polled by hand.
///
/// # Example
///
/// ```
/// use buttress::testing::{Flaky, task::SpawnedService};
///
/// let mut service = SpawnedService::new(Flaky::new([], || Ok::<_, &str>("response")));
/// assert!(service.poll_ready().is_ready());
/// assert!(service.call("request").poll().is_ready());
/// ```
pub struct SpawnedService<S, Req> {
    service: S,
    task: Task,
    request: PhantomData<fn(Req)>,
}

impl<S, Req> SpawnedService<S, Req> {
    /// Wraps a service, without polling it.
    #[must_use]
    pub fn new(service: S) -> Self {
        Self { service, task: Task::default(), request: PhantomData }
    }

    /// Returns how often the readiness of the service was polled.
    #[must_use]
    pub const fn polls(&self) -> usize {
        self.task.polls
    }

    /// Returns how often its current task was woken.
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.task.waker.wakes()
    }

    /// Returns whether its task was woken since the last poll.
    #[must_use]
    pub fn is_woken(&self) -> bool {
        self.task.is_woken()
    }

    /// Moves the service to another task, and returns the old waker.
    ///
    /// Later polls use a new waker.
    pub fn hand_over(&mut self) -> CountingWaker {
        self.task.hand_over()
    }

    /// Drops the service, and returns its waker.
    ///
    /// Its [`holders`](CountingWaker::holders) should be `0`. Otherwise, the service leaked a
    /// waker.
    #[must_use = "drop the value itself to cancel without inspecting the waker"]
    pub fn cancel(self) -> CountingWaker {
        drop(self.service);
        self.task.waker
    }

    /// Returns a reference to the service.
    #[must_use]
    pub const fn get_ref(&self) -> &S {
        &self.service
    }

    /// Returns a mutable reference to the service.
    #[must_use]
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.service
    }

    /// Returns the service without its task.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.service
    }
}

impl<S: Service<Req>, Req> SpawnedService<S, Req> {
    /// Polls the readiness of the service once.
    ///
    /// # Errors
    ///
    /// Returns the error of the service.
    pub fn poll_ready(&mut self) -> Poll<Result<(), S::Error>> {
        let waker = self.task.start_poll();
        self.service.poll_ready(&mut Context::from_waker(&waker))
    }

    /// Calls the service, and returns its future unpolled.
    pub fn call(&mut self, request: Req) -> Spawned<S::Future> {
        Spawned::new(self.service.call(request))
    }
}

impl<S: fmt::Debug, Req> fmt::Debug for SpawnedService<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpawnedService")
            .field("service", &self.service)
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}

/// Completes a future that never waits.
///
/// The synchronous methods run the asynchronous ones through it.
pub(super) fn finish_now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("only the time hook can wait, and this one does not"),
    }
}
