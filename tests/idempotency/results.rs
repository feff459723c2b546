//! Tests of the results of runs.

use buttress::{
    Fault as Failing, Outcome, Rejection,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    error::{
        BulkheadFull, CircuitOpen, DeadlineExceeded, IdempotencyReason as Reason,
        IdempotencyRejected, NotReady, QueueTimedOut, RateLimited, TimedOut,
    },
    retry::{RetryLayer, replay_fn},
    testing::{Flaky, Step as Script},
    timeout::TimeoutLayer,
};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceBuilder, ServiceExt};

use super::support::*;

const HOUR: std::time::Duration = std::time::Duration::from_secs(60 * 60);

#[tokio::test(start_paused = true)]
async fn a_response_is_given_again_until_its_time_is_over() {
    let (guard, _) = guard();
    let worker = Worker::taking(5 * SECOND);
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
    // The time to live counts from the completion.
    sleep(24 * HOUR - MS).await;
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
    sleep(MS).await;
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn an_error_reaches_the_caller_and_leaves_the_operation_unknown() {
    let (guard, store) = guard();
    let worker = Worker::failing(Failure::Service("it broke"));
    assert_eq!(call(&guard, &worker, ask("k")).await, Err(Failure::Service("it broke")));
    let again = call(&guard, &worker, ask("k")).await;
    assert_eq!((rejected(&again), retry_after(&again)), (Some(Reason::Unknown), None));
    assert_eq!((worker.runs(), guard.handle().count_unknown().await.unwrap()), (1, 1));
    nothing_is_left(guard, &store, 60 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_layer_beneath_did_not_begin_is_free_and_the_rest_is_unknown() {
    let free: [Rejection; 5] = [
        CircuitOpen::new("c", None).into(),
        BulkheadFull::new("b", 1).into(),
        QueueTimedOut::new("q", SECOND).into(),
        RateLimited::new("r", None).into(),
        DeadlineExceeded::new("d").into(),
    ];
    let unknown: [Rejection; 3] = [
        TimedOut::new("t", SECOND).into(),
        NotReady::new("n", SECOND).into(),
        IdempotencyRejected::new("i", Reason::InFlight, None).into(),
    ];
    for (rejection, is_free) in
        free.map(|r| (r, true)).into_iter().chain(unknown.map(|r| (r, false)))
    {
        let (guard, _) = guard();
        let error = Failure::rejected(rejection.clone());
        let rejecting = Worker::failing(error.clone());
        assert_eq!(call(&guard, &rejecting, ask("k")).await, Err(error));
        let next = call(&guard, &Worker::quick(), ask("k")).await;
        match is_free {
            true => assert_eq!(next, Ok(1), "{rejection:?}"),
            false => assert_eq!(rejected(&next), Some(Reason::Unknown), "{rejection:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn layers_beneath_that_reject_leave_the_key_free() {
    let store = Scripted::new();
    let layer = over(&store).wait_for_duplicates(SECOND).build().unwrap();
    let worker = Worker::taking(5 * SECOND);
    let breaker = CircuitBreakerLayer::builder().build().unwrap();
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(&layer)
        .layer(&breaker)
        .layer(&bulkhead)
        .service(worker.clone());

    breaker.handle().force_open();
    let open = service.clone().oneshot(ask("k")).await;
    assert!(matches!(open, Err(Failure::Rejected(Rejection::CircuitOpen(_)))), "{open:?}");
    breaker.handle().reset();
    let first = tokio::spawn(service.clone().oneshot(ask("first")));
    settle().await;
    let full = service.clone().oneshot(ask("k")).await;
    assert!(matches!(full, Err(Failure::Rejected(Rejection::BulkheadFull(_)))), "{full:?}");
    assert_eq!(first.await.unwrap(), Ok(1));
    assert_eq!(service.oneshot(ask("k")).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_beneath_leaves_the_operation_unknown() {
    let (guard, _) = guard();
    let worker = Worker::taking(60 * SECOND);
    let service = ServiceBuilder::new()
        .layer(&guard)
        .layer(TimeoutLayer::new(SECOND))
        .service(worker.clone());
    let late = service.clone().oneshot(ask("k")).await;
    assert!(matches!(late, Err(Failure::Rejected(Rejection::TimedOut(_)))), "{late:?}");
    assert_eq!(rejected(&service.oneshot(ask("k")).await), Some(Reason::Unknown));
    assert_eq!((worker.runs(), worker.under_way()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_after_an_attempt_that_reached_the_service_is_unknown() {
    for (attempts, reason) in [(1, None), (2, Some(Reason::Unknown))] {
        let (guard, _) = guard();
        let worker = Worker::new(move |_, run| async move {
            match run {
                run if run == attempts => Err(Failure::rejected(CircuitOpen::new("c", None))),
                run => Ok(run),
            }
        });
        let retry = RetryLayer::builder(replay_fn(|ask: &Ask| Some(ask.clone())))
            .classify_fn(move |result: Result<&u64, &Failure>| match result {
                Ok(run) if *run < attempts => Outcome::Failure(Failing::Transient),
                _ => Outcome::Success,
            })
            .build()
            .unwrap();
        let service = ServiceBuilder::new().layer(&guard).layer(retry).service(worker.clone());
        let open = service.clone().oneshot(ask("k")).await;
        assert!(matches!(open, Err(Failure::Rejected(Rejection::CircuitOpen(_)))), "{open:?}");
        assert_eq!(worker.runs(), attempts);
        assert_eq!(rejected(&service.oneshot(ask("k")).await), reason);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_is_ended_by_its_limit_and_unknown() {
    let (guard, store) = guard();
    let worker = Worker::taking(HOUR);
    let began = Instant::now();
    let answer = call(&guard, &worker, ask("k")).await;
    assert_eq!((rejected(&answer), retry_after(&answer)), (Some(Reason::Unknown), None));
    assert_eq!(began.elapsed(), 30 * SECOND);
    assert_eq!((worker.under_way(), guard.handle().in_flight()), (0, 0));
    assert_eq!(rejected(&call(&guard, &worker, ask("k")).await), Some(Reason::Unknown));
    nothing_is_left(guard, &store, 60 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_never_ready_has_begun_nothing() {
    for lease in [30 * SECOND, SECOND] {
        let store = Scripted::new();
        let guard = over(&store).lease(lease).store_timeout(lease / 2).build().unwrap();
        let unready = Flaky::new([Script::Unready], || Ok(1));
        let began = Instant::now();
        let answer = guard.layer(unready.clone()).oneshot(ask("k")).await;
        assert_eq!((rejected(&answer), retry_after(&answer)), (Some(Reason::Full), Some(SECOND)));
        assert_eq!(began.elapsed(), 30 * SECOND);
        unready.handle().set_ready();
        assert_eq!(guard.layer(unready).oneshot(ask("k")).await, Ok(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_to_become_ready_has_begun_nothing() {
    let (guard, _) = guard();
    let failing = Flaky::new([Script::FailReadiness(Failure::Service("down"))], || Ok(1));
    let answer = guard.layer(failing.clone()).oneshot(ask("k")).await;
    assert_eq!(answer, Err(Failure::Service("down")));
    assert_eq!(guard.layer(failing).oneshot(ask("k")).await, Ok(1));
}
