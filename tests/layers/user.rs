//! User code for the layers, which panics when it is told to.

use std::{
    cell::Cell,
    future::{Future, Ready, ready},
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    Classify, Fault, Outcome,
    idempotency::{
        Digests, FindKey, InvalidKey, ReadRequest, Record, RequestKey, RunOutcome, StoreError,
    },
    keep::{Keep, Kept},
    retry::Replay,
};
use tower::{Layer, Service};

use super::LIMIT;

/// A kind of code that a user passes to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UserCode {
    Classifier,
    Replay,
    Limit,
    Key,
}

impl UserCode {
    pub(crate) const ALL: [Self; 4] = [Self::Classifier, Self::Replay, Self::Limit, Self::Key];

    fn run(self) {
        let Some((armed, left)) = ARMED.get() else { return };
        if armed == self {
            ARMED.set((left > 1).then_some((armed, left - 1)));
            assert!(left > 1, "panic of user code");
        }
    }
}

thread_local! {
    static ARMED: Cell<Option<(UserCode, u32)>> = const { Cell::new(None) };
}

/// Makes the code panic the `run`th time that this thread runs it from now on.
pub(crate) fn arm(code: UserCode, run: u32) {
    ARMED.set(Some((code, run)));
}

/// Returns whether the armed code has not panicked.
pub(crate) fn disarm() -> bool {
    ARMED.take().is_some()
}

/// A request type of the suites.
pub(crate) trait Request: Sized + 'static {
    fn sample() -> Self;

    fn key(&self) -> u64 {
        0
    }
}

impl Request for &'static str {
    fn sample() -> Self {
        "request"
    }
}

impl Request for () {
    fn sample() -> Self {}
}

impl Request for u32 {
    fn sample() -> Self {
        1
    }
}

impl Request for u64 {
    fn sample() -> Self {
        1
    }

    fn key(&self) -> u64 {
        *self
    }
}

impl Request for Cell<u32> {
    fn sample() -> Self {
        Self::new(1)
    }
}

pub(crate) fn limit<R: Request>(_: &R) -> Duration {
    UserCode::Limit.run();
    LIMIT
}

pub(crate) fn key<R: Request>(request: &R) -> u64 {
    UserCode::Key.run();
    request.key()
}

/// Returns no key, so that a request is neither kept nor shared.
pub(crate) fn unkeyed<R: Request>(_: &R) -> Option<u64> {
    UserCode::Key.run();
    None
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FallibleClassifier;

impl<Res, E> Classify<Res, E> for FallibleClassifier {
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        UserCode::Classifier.run();
        match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Failure(Fault::Transient),
        }
    }
}

/// A policy that replays every request, and counts how often it is called.
#[derive(Clone, Debug, Default)]
pub(crate) struct CountedReplay(Arc<AtomicU32>, Arc<AtomicU32>);

impl CountedReplay {
    /// Returns how often it was called since the last time.
    ///
    /// It is called before each attempt but the last of four.
    pub(crate) fn take(&self) -> u32 {
        self.0.swap(0, Ordering::Relaxed)
    }

    /// Returns how often it was ever called.
    pub(crate) fn total(&self) -> u32 {
        self.1.load(Ordering::Relaxed)
    }
}

impl<R: Clone> Replay<R> for CountedReplay {
    fn replay(&self, request: &R) -> Option<R> {
        UserCode::Replay.run();
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.fetch_add(1, Ordering::Relaxed);
        Some(request.clone())
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct NoReplay;

impl<R> Replay<R> for NoReplay {
    fn replay(&self, _: &R) -> Option<R> {
        None
    }
}

/// A policy by which no request needs a key. Requests then run in the caller's own task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unguarded;

impl<R> FindKey<R> for Unguarded {
    fn find_key(&self, _: &R) -> Result<RequestKey, InvalidKey> {
        Ok(RequestKey::Unguarded)
    }
}

impl<R: Send> ReadRequest<R> for Unguarded {
    type Request = R;

    async fn read(
        &self,
        request: R,
        digests: Digests,
    ) -> Result<(R, Digests), buttress::error::IdempotencyReason> {
        Ok((request, digests))
    }

    fn pass(&self, request: R) -> R {
        request
    }
}

impl<Res: Send> Keep<Res> for Unguarded {
    type Payload = Vec<u8>;
    type Response = Res;
    type Error = StoreError;

    fn keep(&self, response: Res) -> impl Future<Output = Kept<Vec<u8>, Res>> + Send {
        ready(Kept::broken_off(response))
    }

    fn replay(&self, _: Vec<u8>) -> Result<Res, StoreError> {
        unreachable!("nothing is recorded")
    }
}

impl<Req, Res: Send, E> Record<Req, Res, E> for Unguarded {
    fn classify(&self, _: Result<&Res, &E>) -> RunOutcome {
        RunOutcome::Completed
    }

    fn pass(&self, response: Res) -> Res {
        response
    }

    fn max_bytes(&self) -> usize {
        0
    }
}

/// A service that fails, as the source of a fallback.
pub(crate) struct Absent<Res>(PhantomData<fn() -> Res>);

impl<Res> Absent<Res> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<Res> Clone for Absent<Res> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<R, Res> Service<R> for Absent<Res> {
    type Response = Res;
    type Error = ();
    type Future = Ready<Result<Res, ()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: R) -> Self::Future {
        ready(Err(()))
    }
}

/// A layer for the open slots of a stack, which does nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassOn;

#[derive(Clone, Debug)]
pub(crate) struct PassedOn<S> {
    inner: S,
}

impl<S> Layer<S> for PassOn {
    type Service = PassedOn<S>;

    fn layer(&self, inner: S) -> PassedOn<S> {
        PassedOn { inner }
    }
}

impl<S: Service<Req>, Req> Service<Req> for PassedOn<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> S::Future {
        self.inner.call(request)
    }
}
