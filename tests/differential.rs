//! Tests that run one script on tower's layers and on ours, and expect the same results.
//!
//! These differences are on purpose, with the tests that show them:
//!
//! - Our timeout is a `Rejection` in the service's own error type, not a `BoxError`. This file
//!   compares the kind. tower cannot take a limit per request.
//! - tower's `Timeout` keeps the inner future until it is dropped itself. Ours drops the inner
//!   future before it returns (`tests/timeout.rs`).
//! - tower's `ConcurrencyLimit` keeps a permit until the future is dropped. Ours frees the slot
//!   with the response (`slots_come_back_earlier_than_towers`). These scripts drop completed
//!   futures.
//! - tower's `Retry` makes every attempt through one policy that also clones the last request.
//!   Ours moves it (`tests/retry.rs`). tower waits for readiness between attempts without a
//!   limit, ours for `readiness_wait`.
//! - tower's `ConcurrencyLimit` panics when it is called without a permit. Ours rejects the call.

use std::{future::Future, pin::Pin, task::Poll, time::Duration};

use buttress::{
    BoxError, CarryRejection, Rejection,
    bulkhead::BulkheadLayer,
    chaos::ChaosLayer,
    retry::{Backoff, Jitter, ReplayClones, RetryLayer},
    testing::{
        Flaky, Reserving, Step,
        task::{Spawned, SpawnedService},
    },
    timeout::TimeoutLayer,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, advance, sleep};
use tower::{
    Layer, Service, ServiceExt, layer::util::Identity, limit::ConcurrencyLimitLayer, retry::Policy,
    timeout::error::Elapsed,
};

type Inner = Flaky<u32, BoxError>;

const MILLI: Duration = Duration::from_millis(1);

fn flaky(steps: impl IntoIterator<Item = Step<u32, BoxError>>) -> Inner {
    Flaky::new(steps, || Ok(0))
}

#[derive(Debug, PartialEq)]
enum Answer {
    Ok(u32),
    Failed(String),
    TimedOut,
}

fn answer(result: Result<u32, BoxError>) -> Answer {
    match result {
        Ok(number) => Answer::Ok(number),
        Err(error) if error.is::<Elapsed>() => Answer::TimedOut,
        Err(error) => match error.rejection() {
            Some(Rejection::TimedOut(_)) => Answer::TimedOut,
            Some(other) => panic!("{other}"),
            None => Answer::Failed(error.to_string()),
        },
    }
}

/// Returns what a caller observes of a series of calls: each result, and its time.
async fn transcript<L>(
    layer: L,
    script: Vec<Step<u32, BoxError>>,
) -> (Vec<(Answer, Duration)>, usize)
where
    L: Layer<Inner>,
    L::Service: Service<(), Response = u32, Error = BoxError>,
{
    let calls = script.len();
    let inner = flaky(script);
    let handle = inner.handle();
    let mut service = layer.layer(inner);
    let began = Instant::now();
    let mut seen = Vec::new();
    for _ in 0..calls {
        let result = service.ready().await.unwrap().call(()).await;
        seen.push((answer(result), began.elapsed()));
    }
    assert_eq!(handle.violations(), []);
    (seen, handle.calls())
}

/// Creates a script from a seed. The same seed creates the same script.
fn script(seed: u64) -> Vec<Step<u32, BoxError>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..50)
        .map(|number| {
            let result = if rng.random_bool(0.5) { Ok(number) } else { Err("broken".into()) };
            match rng.random_range(0..4) {
                0 => Step::Respond(result),
                1 => Step::RespondAfterPolls(rng.random_range(0..3), result),
                2 => Step::Hang,
                // This includes the limit itself, where the response wins in both.
                _ => Step::RespondAfter(MILLI * rng.random_range(1..200), result),
            }
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn timeouts_give_the_same_answers_at_the_same_time() {
    for seed in 0..50 {
        let tower = tower::timeout::TimeoutLayer::new(MILLI * 100);
        let ours = TimeoutLayer::new(MILLI * 100);
        let total = ours.clone().including_readiness();
        let expected = transcript(tower, script(seed)).await;
        assert_eq!(transcript(ours, script(seed)).await, expected);
        assert_eq!(transcript(total, script(seed)).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_the_answer_wins_in_both() {
    let at_the_limit = || vec![Step::RespondAfter(MILLI * 100, Ok(7))];
    let tower = transcript(tower::timeout::TimeoutLayer::new(MILLI * 100), at_the_limit()).await;
    assert_eq!(tower.0, [(Answer::Ok(7), MILLI * 100)]);
    assert_eq!(transcript(TimeoutLayer::new(MILLI * 100), at_the_limit()).await, tower);
}

/// A policy of a number of retries, with a pause before each.
#[derive(Clone)]
struct UpTo(u32);

impl Policy<(), u32, BoxError> for UpTo {
    type Future = Pin<Box<dyn Future<Output = ()>>>;

    fn retry(&mut self, (): &mut (), result: &mut Result<u32, BoxError>) -> Option<Self::Future> {
        if result.is_ok() || self.0 == 0 {
            return None;
        }
        self.0 -= 1;
        Some(Box::pin(sleep(MILLI * 10)))
    }

    fn clone_request(&mut self, (): &()) -> Option<()> {
        Some(())
    }
}

#[tokio::test(start_paused = true)]
async fn retries_give_the_same_answers_at_the_same_time() {
    let without_hangs = |seed| {
        let steps = script(seed).into_iter().map(|step| match step {
            Step::Hang => Step::Respond(Err("broken".into())),
            step => step,
        });
        steps.collect::<Vec<_>>()
    };
    for seed in 0..50 {
        for retries in [0, 1, 3] {
            let tower = tower::retry::RetryLayer::new(UpTo(retries));
            let backoff = Backoff::constant(MILLI * 10).jitter(Jitter::None).build().unwrap();
            let ours = RetryLayer::builder(ReplayClones)
                .retries(retries)
                .backoff(backoff)
                .without_budget();
            let expected = transcript(tower, without_hangs(seed)).await;
            assert_eq!(transcript(ours.build().unwrap(), without_hangs(seed)).await, expected);
        }
    }
}

/// Runs many instances over one limit step by step.
///
/// The result records which of them are ready, woken and admitted.
fn crowd<L>(layer: &L, seed: u64) -> Vec<String>
where
    L: Layer<Reserving<Inner>>,
    L::Service: Service<(), Response = u32, Error = BoxError> + Clone,
{
    let inner = flaky((0..1_000).map(|number| Step::RespondWhenReleased(Ok(number))));
    let handle = inner.handle();
    let service = layer.layer(Reserving::new(inner, usize::MAX));
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut instances: Vec<(u32, bool, SpawnedService<L::Service, ()>)> = Vec::new();
    let mut calls: Vec<(u32, Spawned<_>)> = Vec::new();
    let mut seen = Vec::new();
    let mut next = 0;
    for _ in 0..400 {
        match rng.random_range(0..7) {
            0 | 1 => {
                instances.push((next, false, SpawnedService::new(service.clone())));
                next += 1;
            }
            2 | 3 if !instances.is_empty() => {
                let chosen = rng.random_range(0..instances.len());
                let (number, ready, instance) = &mut instances[chosen];
                *ready = instance.poll_ready().is_ready();
                seen.push(format!("{number} ready: {ready}"));
            }
            4 => {
                if let Some(chosen) = instances.iter().position(|(_, ready, _)| *ready) {
                    let (number, _, mut instance) = instances.remove(chosen);
                    let mut call = instance.call(());
                    assert!(call.poll().is_pending());
                    calls.push((number, call));
                }
            }
            5 if !calls.is_empty() => {
                let (number, mut call) = calls.remove(rng.random_range(0..calls.len()));
                if rng.random_bool(0.5) {
                    handle.release();
                    assert!(matches!(call.poll(), Poll::Ready(Ok(_))));
                }
                seen.push(format!("{number} ends"));
            }
            6 if !instances.is_empty() => {
                let (number, ..) = instances.remove(rng.random_range(0..instances.len()));
                seen.push(format!("{number} leaves"));
            }
            _ => {}
        }
        let woken: Vec<_> =
            instances.iter().filter(|(.., i)| i.is_woken()).map(|(number, ..)| number).collect();
        seen.push(format!("{} under way, woken {woken:?}", calls.len()));
    }
    assert_eq!(handle.violations(), []);
    seen
}

// This test runs outside a runtime. Inside one, tokio's semaphore sometimes makes a task pause
// although a permit is there.
#[test]
fn backpressure_wakes_and_admits_whom_a_concurrency_limit_does() {
    for seed in 0..200 {
        let limit = 1 + u32::try_from(seed % 4).unwrap();
        let tower = ConcurrencyLimitLayer::new(limit as usize);
        let ours = BulkheadLayer::builder().max_concurrent(limit).backpressure().build().unwrap();
        let (ours, tower) = (crowd(&ours, seed), crowd(&tower, seed));
        let differs = ours.iter().zip(&tower).position(|(ours, tower)| ours != tower);
        let around = differs.map(|at| (&ours[at.saturating_sub(3)..=at], &tower[at]));
        assert_eq!(around, None, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn slots_come_back_earlier_than_towers() {
    fn next_is_ready<L>(layer: &L) -> bool
    where
        L: Layer<Inner>,
        L::Service: Service<(), Response = u32, Error = BoxError> + Clone,
    {
        let service = layer.layer(flaky([]));
        let mut kept = Spawned::new(service.clone().oneshot(()));
        assert!(kept.poll().is_ready());
        let mut first = SpawnedService::<_, ()>::new(service.clone());
        assert!(first.poll_ready().is_ready());
        let mut answered = first.call(());
        assert!(answered.poll().is_ready());
        let ready = SpawnedService::<_, ()>::new(service).poll_ready().is_ready();
        drop(answered);
        ready
    }
    let ours = BulkheadLayer::builder().max_concurrent(1).backpressure().build().unwrap();
    assert!(next_is_ready(&ours));
    assert!(!next_is_ready(&ConcurrencyLimitLayer::new(1)));
}

/// Returns what is seen of each poll of a series of calls, outside and inside.
async fn polls<L>(layer: L, script: Vec<Step<u32, BoxError>>) -> Vec<String>
where
    L: Layer<Inner>,
    L::Service: Service<(), Response = u32, Error = BoxError>,
{
    let calls = script.len();
    let inner = flaky(script);
    let handle = inner.handle();
    let mut service = SpawnedService::new(layer.layer(inner));
    let mut seen = Vec::new();
    for _ in 0..calls {
        handle.set_unready();
        seen.push(format!("{:?}", service.poll_ready()));
        handle.set_ready();
        let woken = service.wakes();
        seen.push(format!("{:?} {woken} {}", service.poll_ready(), handle.readiness_polls()));
        let mut call = service.call(());
        // It may hang.
        for _ in 0..30 {
            let polled = call.poll();
            let counts = [call.wakes(), handle.polls(), handle.calls(), handle.in_flight()];
            seen.push(format!("{polled:?} {counts:?}"));
            if polled.is_ready() {
                break;
            }
            advance(MILLI * 10).await;
        }
    }
    assert_eq!(handle.violations(), []);
    seen
}

#[tokio::test(start_paused = true)]
async fn disarmed_changes_nothing() {
    for seed in 0..50 {
        let chaos = ChaosLayer::builder().errors_fn(0.5, || BoxError::from("chaos")).hangs(0.5);
        let expected = polls(Identity::new(), script(seed)).await;
        assert_eq!(polls(chaos.build().unwrap(), script(seed)).await, expected, "{seed}");
    }
}
