//! Tests of the circuit breaker, property by property, on a paused clock.

#[path = "../capture/mod.rs"]
mod capture;
mod config;
mod endings;
mod eviction;
mod forced;
mod half_open;
mod handle;
mod keyed;
mod log;
mod open_time;
mod pend;
mod readiness;
mod tripping;

use std::time::Duration;

use buttress::{
    CarryRejection, Error,
    circuit_breaker::{
        CircuitBreakerBuilder, CircuitBreakerHandle, CircuitBreakerLayer, Snapshot, State,
    },
    testing::{Flaky, FlakyHandle, Step, task::SpawnedService},
};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt};

type Answer = Result<&'static str, Error<&'static str>>;
type Inner = Flaky<&'static str, Error<&'static str>>;
type Breaker = <CircuitBreakerLayer as Layer<Inner>>::Service;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const OPEN_FOR: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(10);

const WELL: Answer = Ok("well");
const DOWN: Answer = Err(Error::Service("down"));

/// Returns the default settings, with a window of ten calls and without jitter.
fn ten_calls() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder().count_window(10).minimum_calls(10).open_jitter(0.0)
}

/// A breaker, the dependency beneath it, and a handle to each.
struct Rig<S = Breaker> {
    service: S,
    inner: FlakyHandle<&'static str, Error<&'static str>>,
    breaker: CircuitBreakerHandle,
}

impl Rig {
    fn new(builder: CircuitBreakerBuilder) -> Self {
        let layer = builder.build().unwrap();
        Self::of(layer.handle(), |inner| layer.layer(inner))
    }
}

impl<S> Rig<S> {
    fn of(breaker: CircuitBreakerHandle, layered: impl FnOnce(Inner) -> S) -> Self {
        let flaky = Flaky::new([], || WELL);
        Self { inner: flaky.handle(), service: layered(flaky), breaker }
    }

    fn state(&self) -> State {
        self.breaker.state()
    }

    fn seen(&self) -> Snapshot {
        self.breaker.snapshot()
    }

    /// Returns the number of calls, failures and slow calls in the window.
    fn window(&self) -> (u64, u64, u64) {
        let seen = self.seen();
        (seen.calls(), seen.failures(), seen.slow_calls())
    }
}

impl<S> Rig<S>
where
    S: Service<(), Response = &'static str, Error = Error<&'static str>> + Clone,
{
    /// Makes one call with its own clone.
    async fn call(&self) -> Answer {
        self.service.clone().oneshot(()).await
    }

    /// Makes one call with this result, which the caller must get.
    async fn answer(&self, answer: Answer) {
        self.inner.push(Step::Respond(answer.clone()));
        assert_eq!(self.call().await, answer);
    }

    async fn answers(&self, times: usize, answer: Answer) {
        for _ in 0..times {
            self.answer(answer.clone()).await;
        }
    }

    /// Makes one call that takes this long.
    async fn answer_after(&self, time: Duration, answer: Answer) {
        self.inner.push(Step::RespondAfter(time, answer.clone()));
        assert_eq!(self.call().await, answer);
    }

    /// Makes calls fail until the breaker opens.
    async fn trip(&self) {
        for _ in 0..100 {
            if self.state() == State::Open {
                return;
            }
            self.answer(DOWN).await;
        }
        panic!("a hundred failures do not open it");
    }

    /// Trips the breaker and lets the open time pass. The next call is a probe.
    async fn trip_and_wait(&self) {
        self.trip().await;
        advance(self.seen().retry_after().unwrap()).await;
    }

    async fn rejected(&self) {
        let calls = self.inner.calls();
        assert_rejected(&self.call().await);
        assert_eq!(self.inner.calls(), calls, "a refused call was sent");
    }

    /// Returns a clone, polled by hand.
    fn spawned(&self) -> SpawnedService<S, ()> {
        SpawnedService::new(self.service.clone())
    }

    /// Returns a clone that is ready.
    fn ready(&self) -> SpawnedService<S, ()> {
        let mut service = self.spawned();
        assert!(service.poll_ready().is_ready());
        service
    }
}

fn is_rejected(result: &Answer) -> bool {
    let rejection = result.as_ref().err().and_then(CarryRejection::rejection);
    rejection.is_some_and(|rejection| rejection.kind() == "circuit_open")
}

#[track_caller]
fn assert_rejected(result: &Answer) {
    assert!(is_rejected(result), "{result:?} is not a refusal");
}
