//! Polling by hand: futures and services in a task of their own, whose wake-ups are counted.

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

/// Makes wakers, counts how often they are woken, and knows how many are still held somewhere.
#[derive(Debug, Default)]
pub struct CountingWaker {
    wakes: Arc<Wakes>,
}

impl CountingWaker {
    /// A waker that nobody has woken yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more waker that counts here.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Arc::clone(&self.wakes).into()
    }

    /// How often its wakers were woken.
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }

    /// How many of its wakers are alive: what a waiter list still keeps.
    #[must_use]
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.wakes) - 1
    }
}

/// The waker of one hand-polled thing, and what it knew at its last poll.
#[derive(Debug, Default)]
struct Task {
    waker: CountingWaker,
    polls: usize,
    wakes_at_poll: usize,
}

impl Task {
    /// Counts a poll and returns the waker for it.
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

/// A future in a task of its own, polled by hand.
///
/// # Example
///
/// ```
/// use buttress::testing::task::Spawned;
///
/// let mut answer = Spawned::new(async { 42 });
/// assert!(answer.poll().is_ready());
/// assert_eq!((answer.polls(), answer.wakes()), (1, 0));
/// ```
pub struct Spawned<F> {
    future: Pin<Box<F>>,
    task: Task,
}

impl<F> Spawned<F> {
    /// Takes a future, polls nothing yet.
    #[must_use]
    pub fn new(future: F) -> Self {
        Self { future: Box::pin(future), task: Task::default() }
    }

    /// How often it was polled.
    #[must_use]
    pub const fn polls(&self) -> usize {
        self.task.polls
    }

    /// How often its present task was woken.
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.task.waker.wakes()
    }

    /// Whether it was woken since its last poll.
    #[must_use]
    pub fn is_woken(&self) -> bool {
        self.task.is_woken()
    }

    /// Lets another task take the future over: later polls use a new waker. Returns the old one.
    ///
    /// A future must wake the task that polled it last, so what it keeps of the old waker is stale.
    pub fn hand_over(&mut self) -> CountingWaker {
        self.task.hand_over()
    }

    /// The future, out of its task, to be awaited.
    #[must_use]
    pub fn into_inner(self) -> Pin<Box<F>> {
        self.future
    }

    /// Drops the future and returns its waker, whose [`holders`](CountingWaker::holders) ought to be none.
    #[must_use = "drop the value itself to cancel without inspecting the waker"]
    pub fn cancel(self) -> CountingWaker {
        drop(self.future);
        self.task.waker
    }
}

impl<F: Future> Spawned<F> {
    /// Polls once.
    ///
    /// # Panics
    ///
    /// When the future does, as most do if they are polled again after they are done.
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

/// A service in a task of its own, whose readiness is polled by hand.
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
    /// Takes a service, polls nothing yet.
    #[must_use]
    pub fn new(service: S) -> Self {
        Self { service, task: Task::default(), request: PhantomData }
    }

    /// How often its readiness was polled.
    #[must_use]
    pub const fn polls(&self) -> usize {
        self.task.polls
    }

    /// How often its present task was woken.
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.task.waker.wakes()
    }

    /// Whether it was woken since its last poll.
    #[must_use]
    pub fn is_woken(&self) -> bool {
        self.task.is_woken()
    }

    /// Lets another task take the service over: later polls use a new waker. Returns the old one.
    pub fn hand_over(&mut self) -> CountingWaker {
        self.task.hand_over()
    }

    /// Drops the service and returns its waker, whose [`holders`](CountingWaker::holders) ought to be none.
    #[must_use = "drop the value itself to cancel without inspecting the waker"]
    pub fn cancel(self) -> CountingWaker {
        drop(self.service);
        self.task.waker
    }

    /// The service.
    #[must_use]
    pub const fn get_ref(&self) -> &S {
        &self.service
    }

    /// The service.
    #[must_use]
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.service
    }

    /// The service, out of its task.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.service
    }
}

impl<S: Service<Req>, Req> SpawnedService<S, Req> {
    /// Polls readiness once.
    ///
    /// # Errors
    ///
    /// The service's own.
    pub fn poll_ready(&mut self) -> Poll<Result<(), S::Error>> {
        let waker = self.task.start_poll();
        self.service.poll_ready(&mut Context::from_waker(&waker))
    }

    /// Calls the service and returns its future, unpolled.
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

/// Finishes a future that waits for nothing: how the synchronous entry points run the asynchronous ones.
pub(super) fn finish_now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("only the time hook can wait, and this one does not"),
    }
}
