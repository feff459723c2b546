//! The scripted service.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use crate::call::lock::lock;

/// What a [`Flaky`] service does next.
///
/// The readiness steps ([`Unready`](Self::Unready), [`FailReadiness`](Self::FailReadiness) and
/// [`PanicInReadiness`](Self::PanicInReadiness)) are taken by the next instance that is polled ready. All others are
/// taken by the next call.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step<Res, E> {
    /// Answers at the first poll.
    Answer(Result<Res, E>),
    /// Answers once the time has passed, counted from `call`, which must then run inside a tokio runtime.
    AnswerAfter(Duration, Result<Res, E>),
    /// Answers after it was pending for so many polls. It wakes its task at each, so it needs no clock.
    AnswerAfterPolls(u32, Result<Res, E>),
    /// Answers once [`FlakyHandle::release`] is called.
    AnswerWhenReleased(Result<Res, E>),
    /// Never answers.
    Hang,
    /// Panics in `call`.
    PanicInCall,
    /// Returns a future that panics when it is polled.
    PanicInPoll,
    /// Makes every instance that is not yet ready wait for [`FlakyHandle::set_ready`].
    Unready,
    /// Fails in `poll_ready`, which is the end of that instance.
    FailReadiness(E),
    /// Panics in `poll_ready`.
    PanicInReadiness,
}

impl<Res, E> Step<Res, E> {
    const fn is_readiness(&self) -> bool {
        matches!(self, Self::Unready | Self::FailReadiness(_) | Self::PanicInReadiness)
    }
}

/// Where an inner service can panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicPoint {
    /// In `poll_ready`.
    Readiness,
    /// In `call`.
    Call,
    /// In the poll of the future.
    Poll,
}

impl PanicPoint {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Readiness, Self::Call, Self::Poll];

    /// The step that panics there.
    #[must_use]
    pub const fn step<Res, E>(self) -> Step<Res, E> {
        match self {
            Self::Readiness => Step::PanicInReadiness,
            Self::Call => Step::PanicInCall,
            Self::Poll => Step::PanicInPoll,
        }
    }
}

/// What a caller did to a [`Flaky`] service that tower forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Called an instance that had not said it was ready since its last call.
    CalledUnready,
    /// Used an instance again whose `poll_ready` had failed.
    UsedAfterReadinessError,
    /// Polled a future again that had answered.
    PolledAfterAnswer,
}

/// Those who wait, by the id of what waits.
#[derive(Debug, Default)]
struct Waiters(Vec<(u64, Waker)>);

impl Waiters {
    fn park(&mut self, id: u64, waker: &Waker) {
        match self.0.iter_mut().find(|(parked, _)| *parked == id) {
            Some((_, parked)) => parked.clone_from(waker),
            None => self.0.push((id, waker.clone())),
        }
    }

    fn leave(&mut self, id: u64) {
        self.0.retain(|(parked, _)| *parked != id);
    }
}

/// Wakes outside the lock, since a waker may poll at once.
fn wake_all(waiters: Waiters) {
    for (_, waker) in waiters.0 {
        waker.wake();
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    calls: usize,
    in_flight: usize,
    peak_in_flight: usize,
    completed: usize,
    dropped: usize,
    polls: usize,
    readiness_polls: usize,
}

type Otherwise<Res, E> = Arc<dyn Fn() -> Result<Res, E> + Send + Sync>;

struct State<Res, E> {
    script: VecDeque<Step<Res, E>>,
    otherwise: Otherwise<Res, E>,
    unready: bool,
    /// The first call that no `release` has covered yet.
    released_below: u64,
    next_id: u64,
    readiness_waiters: Waiters,
    call_waiters: Waiters,
    counts: Counts,
    violations: Vec<Violation>,
}

impl<Res, E> State<Res, E> {
    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}

struct Shared<Res, E>(Mutex<State<Res, E>>);

impl<Res, E> fmt::Debug for Shared<Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.0);
        f.debug_struct("Flaky")
            .field("steps_left", &state.script.len())
            .field("unready", &state.unready)
            .field("counts", &state.counts)
            .field("violations", &state.violations)
            .finish_non_exhaustive()
    }
}

/// A service that follows a script, and counts what is done to it.
///
/// It takes any request. Clones share the script and the counts. A clone starts un-ready, and a call of an instance
/// that was not polled ready is kept as a [`Violation`]; it does not panic, so that a test can say what happened.
///
/// Its future is neither `Unpin` nor `Sync`, so a layer that asks for either does not compile over it.
///
/// # Example
///
/// ```
/// use std::task::Poll;
///
/// use buttress::testing::{Flaky, Step, task::SpawnedService};
///
/// let flaky = Flaky::new([Step::Answer(Err("broken pipe"))], || Ok("response"));
/// let handle = flaky.handle();
///
/// let mut service = SpawnedService::new(flaky);
/// for expected in [Err("broken pipe"), Ok("response")] {
///     assert!(service.poll_ready().is_ready());
///     assert_eq!(service.call("request").poll(), Poll::Ready(expected));
/// }
/// assert_eq!((handle.calls(), handle.in_flight()), (2, 0));
/// assert_eq!(handle.violations(), []);
/// ```
pub struct Flaky<Res, E> {
    shared: Arc<Shared<Res, E>>,
    id: u64,
    readied: bool,
    failed: bool,
}

impl<Res, E> Flaky<Res, E> {
    /// Takes the steps to follow, and the answer to every call after the last.
    pub fn new<Steps, Otherwise>(steps: Steps, otherwise: Otherwise) -> Self
    where
        Steps: IntoIterator<Item = Step<Res, E>>,
        Otherwise: Fn() -> Result<Res, E> + Send + Sync + 'static,
    {
        let state = State {
            script: steps.into_iter().collect(),
            otherwise: Arc::new(otherwise),
            unready: false,
            released_below: 0,
            next_id: 1,
            readiness_waiters: Waiters::default(),
            call_waiters: Waiters::default(),
            counts: Counts::default(),
            violations: Vec::new(),
        };
        Self { shared: Arc::new(Shared(Mutex::new(state))), id: 0, readied: false, failed: false }
    }

    /// The handle of this service and of all its clones.
    #[must_use]
    pub fn handle(&self) -> FlakyHandle<Res, E> {
        FlakyHandle { shared: Arc::clone(&self.shared) }
    }
}

impl<Res, E> Clone for Flaky<Res, E> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            id: lock(&self.shared.0).new_id(),
            // Readiness belongs to the instance that was polled.
            readied: false,
            failed: false,
        }
    }
}

impl<Res, E> Drop for Flaky<Res, E> {
    fn drop(&mut self) {
        lock(&self.shared.0).readiness_waiters.leave(self.id);
    }
}

impl<Res, E> fmt::Debug for Flaky<Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl<Req, Res, E> Service<Req> for Flaky<Res, E> {
    type Response = Res;
    type Error = E;
    type Future = FlakyFuture<Res, E>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        let mut state = lock(&self.shared.0);
        state.counts.readiness_polls += 1;
        if self.failed {
            state.violations.push(Violation::UsedAfterReadinessError);
        }
        if self.readied {
            return Poll::Ready(Ok(()));
        }
        if matches!(state.script.front(), Some(Step::Unready)) {
            state.script.pop_front();
            state.unready = true;
        }
        if state.unready {
            state.readiness_waiters.park(self.id, cx.waker());
            return Poll::Pending;
        }
        state.readiness_waiters.leave(self.id);
        match state.script.front() {
            Some(Step::PanicInReadiness) => {
                state.script.pop_front();
                drop(state);
                panic!("scripted panic in poll_ready");
            }
            Some(Step::FailReadiness(_)) => {
                if let Some(Step::FailReadiness(error)) = state.script.pop_front() {
                    self.failed = true;
                    return Poll::Ready(Err(error));
                }
            }
            _ => {}
        }
        self.readied = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Req) -> Self::Future {
        let mut state = lock(&self.shared.0);
        state.counts.calls += 1;
        if !mem::take(&mut self.readied) {
            state.violations.push(Violation::CalledUnready);
        }
        // An instance that was readied before a readiness step came up passes it by.
        let next = state.script.iter().position(|step| !step.is_readiness());
        let step = next.and_then(|index| state.script.remove(index));
        if matches!(step, Some(Step::PanicInCall)) {
            drop(state);
            panic!("scripted panic in call");
        }
        state.counts.in_flight += 1;
        state.counts.peak_in_flight = state.counts.peak_in_flight.max(state.counts.in_flight);
        let otherwise = Arc::clone(&state.otherwise);
        let call =
            CallInFlight { id: state.new_id(), shared: Arc::clone(&self.shared), answered: false };
        drop(state);

        let (wait, answer) = match step {
            None => (Wait::Nothing, Some(otherwise())),
            Some(Step::Answer(answer)) => (Wait::Nothing, Some(answer)),
            Some(Step::AnswerAfter(time, answer)) => {
                let sleep = tokio::time::sleep(time);
                (Wait::Time { sleep }, Some(answer))
            }
            Some(Step::AnswerAfterPolls(left, answer)) => (Wait::Polls { left }, Some(answer)),
            Some(Step::AnswerWhenReleased(answer)) => (Wait::Release, Some(answer)),
            Some(Step::PanicInPoll) => (Wait::Panic, None),
            // The other steps were taken out above.
            Some(_) => (Wait::Forever, None),
        };
        FlakyFuture { wait, answer, call, not_sync: PhantomData }
    }
}

/// One call in flight. Dropped before it answered, it says so.
struct CallInFlight<Res, E> {
    id: u64,
    shared: Arc<Shared<Res, E>>,
    answered: bool,
}

impl<Res, E> CallInFlight<Res, E> {
    fn answer(&mut self) {
        self.answered = true;
        let mut state = lock(&self.shared.0);
        state.counts.in_flight -= 1;
        state.counts.completed += 1;
    }
}

impl<Res, E> Drop for CallInFlight<Res, E> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.0);
        state.call_waiters.leave(self.id);
        if !self.answered {
            state.counts.in_flight -= 1;
            state.counts.dropped += 1;
        }
    }
}

pin_project! {
    /// Response future of [`Flaky`].
    pub struct FlakyFuture<Res, E> {
        #[pin]
        wait: Wait,
        answer: Option<Result<Res, E>>,
        call: CallInFlight<Res, E>,
        not_sync: PhantomData<Cell<()>>,
    }
}

pin_project! {
    #[project = WaitProj]
    enum Wait {
        Nothing,
        Time { #[pin] sleep: Sleep },
        Polls { left: u32 },
        Release,
        Forever,
        Panic,
    }
}

impl<Res, E> Future for FlakyFuture<Res, E> {
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let shared = &this.call.shared;
        lock(&shared.0).counts.polls += 1;
        if this.call.answered {
            lock(&shared.0).violations.push(Violation::PolledAfterAnswer);
            panic!("the scripted future was polled after it had answered");
        }
        match this.wait.project() {
            WaitProj::Nothing => {}
            WaitProj::Time { sleep } => ready!(sleep.poll(cx)),
            WaitProj::Polls { left: 0 } => {}
            WaitProj::Polls { left } => {
                *left -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            WaitProj::Release => {
                let mut state = lock(&shared.0);
                if this.call.id >= state.released_below {
                    state.call_waiters.park(this.call.id, cx.waker());
                    return Poll::Pending;
                }
            }
            WaitProj::Forever => return Poll::Pending,
            WaitProj::Panic => panic!("scripted panic in poll"),
        }
        match this.answer.take() {
            Some(answer) => {
                this.call.answer();
                Poll::Ready(answer)
            }
            None => unreachable!("a call that answers has its answer"),
        }
    }
}

impl<Res, E> fmt::Debug for FlakyFuture<Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlakyFuture")
            .field("id", &self.call.id)
            .field("answered", &self.call.answered)
            .finish_non_exhaustive()
    }
}

/// Steers a [`Flaky`] service from outside, and reads its counts.
pub struct FlakyHandle<Res, E> {
    shared: Arc<Shared<Res, E>>,
}

impl<Res, E> FlakyHandle<Res, E> {
    /// Adds a step to the end of the script.
    pub fn push(&self, step: Step<Res, E>) {
        lock(&self.shared.0).script.push_back(step);
    }

    /// Changes what is answered after the end of the script.
    pub fn otherwise<Answer>(&self, answer: Answer)
    where
        Answer: Fn() -> Result<Res, E> + Send + Sync + 'static,
    {
        lock(&self.shared.0).otherwise = Arc::new(answer);
    }

    /// Makes instances that are not ready yet wait. One that is ready stays so until it is called.
    pub fn set_unready(&self) {
        lock(&self.shared.0).unready = true;
    }

    /// Ends the waiting for readiness, and wakes those who wait.
    pub fn set_ready(&self) {
        let mut state = lock(&self.shared.0);
        state.unready = false;
        let waiters = mem::take(&mut state.readiness_waiters);
        drop(state);
        wake_all(waiters);
    }

    /// Lets every call made so far answer that waits with [`Step::AnswerWhenReleased`].
    pub fn release(&self) {
        let mut state = lock(&self.shared.0);
        state.released_below = state.next_id;
        let waiters = mem::take(&mut state.call_waiters);
        drop(state);
        wake_all(waiters);
    }

    fn counts(&self) -> Counts {
        lock(&self.shared.0).counts
    }

    /// Calls so far, one that panicked included.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.counts().calls
    }

    /// Calls that have neither answered nor been dropped.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.counts().in_flight
    }

    /// The most calls that were in flight at once.
    #[must_use]
    pub fn peak_in_flight(&self) -> usize {
        self.counts().peak_in_flight
    }

    /// Calls that answered, well or badly.
    #[must_use]
    pub fn completed(&self) -> usize {
        self.counts().completed
    }

    /// Futures dropped before they answered, after a panic included.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.counts().dropped
    }

    /// Polls of all its futures.
    #[must_use]
    pub fn polls(&self) -> usize {
        self.counts().polls
    }

    /// Polls of readiness, of all clones.
    #[must_use]
    pub fn readiness_polls(&self) -> usize {
        self.counts().readiness_polls
    }

    /// What callers did that tower forbids, in order.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        lock(&self.shared.0).violations.clone()
    }
}

impl<Res, E> Clone for FlakyHandle<Res, E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<Res, E> fmt::Debug for FlakyHandle<Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}
