//! The service that follows a script.

use std::{
    fmt,
    marker::PhantomData,
    mem,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tower_service::Service;

use super::{
    future::{CallInFlight, FlakyFuture, Wait},
    handle::FlakyHandle,
    script::{Step, Violation},
    state::{Counts, Shared, State, Waiters},
};
use crate::call::lock::lock;

/// A service that follows a script, and counts its calls and polls.
///
/// Clones share the script and the counts. A clone starts unready. A call of an instance that was
/// not polled ready is recorded as a [`Violation`]. It does not panic, and the test can report what
/// happened.
///
/// It takes any request. If the compiler cannot infer the type of the request (E0283), name it:
/// `stack.service::<_, Job, _>(flaky)`, and `ServiceExt::<Job>::ready(&mut client)`.
///
/// Its future is neither `Unpin` nor `Sync`. A layer that requires either does not compile over it.
///
/// # Example
///
/// ```
/// use std::task::Poll;
///
/// use buttress::testing::{Flaky, Step, task::SpawnedService};
///
/// let flaky = Flaky::new([Step::Respond(Err("broken pipe"))], || Ok("response"));
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
    /// Creates a service with its steps, and the result of every call after the last step.
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

    /// Returns a handle to this service and all its clones.
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
        // Skips readiness steps. The instance was ready before they became the next step.
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
            Some(Step::Respond(answer)) => (Wait::Nothing, Some(answer)),
            Some(Step::RespondAfter(time, answer)) => {
                let sleep = tokio::time::sleep(time);
                (Wait::Time { sleep }, Some(answer))
            }
            Some(Step::RespondAfterPolls(left, answer)) => (Wait::Polls { left }, Some(answer)),
            Some(Step::RespondWhenReleased(answer)) => (Wait::Release, Some(answer)),
            Some(Step::PanicInPoll) => (Wait::Panic, None),
            // This is `Hang`. The other steps were handled above.
            Some(_) => (Wait::Forever, None),
        };
        FlakyFuture { wait, answer, call, not_sync: PhantomData }
    }
}
