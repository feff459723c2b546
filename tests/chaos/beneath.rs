//! The layers above take a fault for one of the service.

use std::{io, time::Duration};

use buttress::{
    BoxError, CarryRejection, Error, Stack,
    bulkhead::BulkheadLayer,
    chaos::{ChaosLayer, Closure},
    circuit_breaker::{CircuitBreakerLayer, State},
    retry::{Backoff, ReplayClones, RetryLayer},
};
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt};

use super::{HOUR, SECOND, TICK, builder, call, client, failed, holding, reset, spawn};

fn retry() -> RetryLayer<ReplayClones> {
    let backoff = Backoff::constant(TICK).build().unwrap();
    RetryLayer::builder(ReplayClones).retries(63).backoff(backoff).without_budget().build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_retry_passes_by_the_faults_of_its_attempts() {
    let chaos: ChaosLayer<Closure<_>> = builder().errors_fn(0.5, reset).build().unwrap();
    chaos.handle().arm_for(HOUR).unwrap();
    let failed = failed(&mut chaos.layer(client().0)).await;

    chaos.handle().arm_for(HOUR).unwrap();
    let (client, inner) = client();
    let mut service = Stack::new().retry(retry()).service::<_, &str, _>(chaos.layer(client));
    // Each run of failures is hidden by the success that follows.
    let last = failed.iter().rposition(|failed| !failed).unwrap();
    let successes = failed.iter().filter(|failed| !**failed).count();
    let before = chaos.handle().injected();
    for _ in 0..successes {
        assert_eq!(call(&mut service).await.unwrap(), 1);
    }
    assert_eq!(inner.calls(), successes);
    assert_eq!(chaos.handle().injected() - before, (last + 1 - successes) as u64);
}

#[tokio::test(start_paused = true)]
async fn injected_errors_open_a_breaker_which_closes_after_the_disarming() {
    let breaker = CircuitBreakerLayer::builder().open_for(SECOND).probes(1).build().unwrap();
    let state = breaker.handle();
    let chaos = armed!(builder().errors_fn(0.6, reset));
    let (client, inner) = client();
    let mut service =
        Stack::new().circuit_breaker(breaker).service::<_, &str, _>(chaos.layer(client));
    while state.state() == State::Closed {
        let _ = call(&mut service).await;
        assert!(inner.calls() < 100, "the breaker does not open");
    }
    chaos.handle().disarm();
    advance(2 * SECOND).await;
    for _ in 0..3 {
        assert_eq!(call(&mut service).await.unwrap(), 1);
    }
    assert_eq!(state.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_timeout_ends_a_hang() {
    for (chaos, calls) in holding() {
        chaos.handle().arm_for(HOUR).unwrap();
        let (client, inner) = client();
        let service =
            Stack::new().attempt_timeout(SECOND).service::<_, &str, _>(chaos.layer(client));
        let began = Instant::now();
        let error = service.oneshot("request").await.unwrap_err();
        assert_eq!(error.rejection().map(|rejection| rejection.kind()), Some("timed_out"));
        assert_eq!((began.elapsed(), inner.calls(), inner.in_flight()), (SECOND, calls, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_around_the_layer_has_a_flat_error() {
    let chaos = armed!(builder().errors_fn(1.0, reset));
    let error: Error<io::Error> = Stack::new()
        .service::<_, &str, _>(chaos.layer(client().0))
        .oneshot("request")
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Service(_)));

    let carrier = ServiceExt::<&str>::map_err(client().0, Error::Service);
    let error: Error<io::Error> =
        Stack::new().layer(chaos.layer(carrier)).oneshot("request").await.unwrap_err();
    assert!(matches!(error, Error::Service(_)));

    let boxed = ServiceExt::<&str>::map_err(client().0, BoxError::from);
    let error: BoxError =
        Stack::new().layer(chaos.layer(boxed)).oneshot("request").await.unwrap_err();
    assert!(error.is::<io::Error>());
}

/// Returns the kind of the rejection that a call ended with.
fn kind<T>(result: Result<T, Error<io::Error>>) -> &'static str {
    result.err().and_then(|error| error.rejection().map(|it| it.kind())).unwrap_or("none")
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_holds_its_slot_until_it_is_dropped_or_times_out() {
    for (chaos, _) in holding() {
        chaos.handle().arm_for(HOUR).unwrap();
        let bulkhead = BulkheadLayer::builder().max_concurrent(2).build().unwrap();
        let slots = bulkhead.handle();
        let stack = Stack::new().bulkhead(bulkhead).attempt_timeout(SECOND);
        let service = stack.service::<_, &str, _>(chaos.layer(client().0));
        let mut held: Vec<_> = (0..2).map(|_| spawn(service.clone())).collect();
        assert!(held.iter_mut().all(|call| call.poll().is_pending()));
        assert_eq!((slots.in_flight(), chaos.handle().hung()), (2, 2));
        assert_eq!(kind(service.clone().oneshot("request").await), "bulkhead_full");
        drop(held.pop());
        assert_eq!((slots.in_flight(), chaos.handle().hung()), (1, 1));
        assert_eq!(kind(held.pop().unwrap().into_inner().await), "timed_out");
        assert_eq!((slots.in_flight(), chaos.handle().hung()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_fails_at_its_timeout_and_a_later_one_closes_the_breaker() {
    for (chaos, _) in holding() {
        let builder = CircuitBreakerLayer::builder().open_for(SECOND).open_jitter(0.0).probes(1);
        let breaker = builder.build().unwrap();
        let state = breaker.handle();
        let stack = Stack::new().circuit_breaker(breaker).attempt_timeout(SECOND);
        let service = stack.service::<_, &str, _>(chaos.layer(client().0));
        state.force_open_for(SECOND);
        advance(SECOND).await;
        chaos.handle().arm_for(HOUR).unwrap();
        let mut probe = spawn(service.clone());
        assert!(probe.poll().is_pending());
        assert_eq!(state.state(), State::HalfOpen);
        assert_eq!(kind(service.clone().oneshot("request").await), "circuit_open");
        assert_eq!(kind(probe.into_inner().await), "timed_out");
        assert_eq!(state.state(), State::Open);

        chaos.handle().disarm();
        advance(2 * SECOND).await;
        assert_eq!(service.oneshot("request").await.unwrap(), 1);
        assert_eq!(state.state(), State::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_and_is_dropped_leaves_its_place_to_another() {
    let breaker = CircuitBreakerLayer::builder().open_for(SECOND).open_jitter(0.0).probes(1);
    let breaker = breaker.build().unwrap();
    let state = breaker.handle();
    let chaos = builder().hangs(1.0).build().unwrap();
    let service =
        Stack::new().circuit_breaker(breaker).service::<_, &str, _>(chaos.layer(client().0));
    state.force_open_for(SECOND);
    advance(SECOND).await;
    chaos.handle().arm_for(HOUR).unwrap();
    let mut probe = spawn(service.clone());
    assert!(probe.poll().is_pending());
    drop(probe);
    chaos.handle().disarm();
    assert_eq!(service.oneshot("request").await.unwrap(), 1);
    assert_eq!(state.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_retry_gets_through_when_a_window_ends() {
    let window = Duration::ZERO..3 * SECOND;
    let chaos = armed!(builder().lost_responses(1.0).windows([window]));
    let (client, inner) = client();
    let stack = Stack::new().retry(retry()).attempt_timeout(2 * SECOND);
    let service = stack.service::<_, &str, _>(chaos.layer(client));
    let began = Instant::now();
    let mut saved = spawn(service);
    assert!(saved.poll().is_pending());
    assert_eq!(saved.into_inner().await.unwrap(), 1);
    // The response of the second attempt is held until the end of the window.
    assert_eq!((began.elapsed(), inner.calls()), (3 * SECOND, 2));
}
