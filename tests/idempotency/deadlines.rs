//! Tests of the caller's deadline, attempt and hop during a run.

use std::sync::{Arc, Mutex};

use buttress::{
    Deadline, Rejection,
    context::{Attempt, Hop},
    retry::{Backoff, RetryLayer, replay_fn},
    timeout::TimeoutLayer,
};
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt};

use super::support::*;

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_caller_ends_its_waiting_and_not_the_run() {
    let (guard, _) = guard();
    let worker = Worker::taking(5 * SECOND);
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND))
        .layer(&guard)
        .service(worker.clone());
    let late = service.clone().oneshot(ask("k")).await;
    assert!(matches!(late, Err(Failure::Rejected(Rejection::TimedOut(_)))), "{late:?}");
    assert_eq!((worker.under_way(), guard.handle().in_flight()), (1, 1));
    sleep(5 * SECOND).await;
    assert_eq!(service.oneshot(ask("k")).await, Ok(1));
    assert_eq!(worker.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_caller_ends_its_waiting_for_another() {
    let store = Scripted::new();
    let guard = over(&store).wait_for_duplicates(60 * SECOND).build().unwrap();
    let worker = Worker::taking(20 * SECOND);
    let run = spawn(&guard, &worker, ask("k"));
    settle().await;
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND))
        .layer(&guard)
        .service(worker.clone());
    let began = Instant::now();
    let late = service.oneshot(ask("k")).await;
    assert!(matches!(late, Err(Failure::Rejected(Rejection::TimedOut(_)))), "{late:?}");
    assert_eq!((began.elapsed(), guard.handle().in_flight()), (SECOND, 1));
    assert_eq!(run.await.unwrap(), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_run_sees_its_own_limit_and_no_attempt_of_its_caller() {
    let store = Scripted::new();
    let guard = over(&store).run_limit(20 * SECOND).build().unwrap();
    let seen = Arc::new(Mutex::new(None));
    let see = Arc::clone(&seen);
    let worker = Worker::new(move |_, run| {
        let see = Arc::clone(&see);
        async move {
            let left = Deadline::current().map(|deadline| deadline.remaining());
            *see.lock().unwrap() = Some((left, Attempt::current().is_none()));
            Ok(run)
        }
    });
    let service =
        ServiceBuilder::new().layer(TimeoutLayer::new(SECOND)).layer(&guard).service(worker);
    assert_eq!(service.oneshot(ask("k")).await, Ok(1));
    assert_eq!(*seen.lock().unwrap(), Some((Some(20 * SECOND), true)));
}

#[tokio::test(start_paused = true)]
async fn what_retries_beneath_find_out_reaches_the_hop_of_the_caller() {
    let (guard, _) = guard();
    let worker = Worker::failing(Failure::Service("reset"));
    let backoff = Backoff::constant(MS).build().unwrap();
    let retry = RetryLayer::builder(replay_fn(|ask: &Ask| Some(ask.clone())))
        .backoff(backoff)
        .build()
        .unwrap();
    let service = ServiceBuilder::new().layer(&guard).layer(retry).service(worker.clone());
    let (answer, hop) = Hop::observe(service.clone().oneshot(ask("k"))).await;
    assert_eq!(answer, Err(Failure::Service("reset")));
    assert!(worker.runs() > 1 && hop.retries_exhausted());
    // A replayed result reports no exhausted retries.
    let (_, hop) = Hop::observe(service.oneshot(ask("k"))).await;
    assert!(!hop.retries_exhausted());
}
