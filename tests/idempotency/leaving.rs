//! Tests of callers that do not wait for their response.

use buttress::error::IdempotencyReason as Reason;
use buttress::testing::task::Spawned;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};

use super::support::*;

#[tokio::test(start_paused = true)]
async fn who_leaves_before_the_claim_leaves_no_trace() {
    let (guard, store) = guard();
    let worker = Worker::quick();
    drop(guard.layer(worker.clone()).oneshot(ask("k")));
    let reading = spawn(&guard, &worker, Ask { body: "slow", ..ask("k") });
    settle().await;
    reading.abort();
    settle().await;
    assert_eq!((worker.runs(), store.taken(Step::Claim)), (0, 0));
    nothing_is_left(guard, &store, SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_claimed_for_who_has_left_is_released() {
    for fault in [
        Fault::AnswerLate(500 * MS),
        Fault::LoseAnswer,
        Fault::TakeLate(500 * MS),
        Fault::ArriveLate(500 * MS),
        Fault::Hang,
    ] {
        let (guard, store) = guard();
        let worker = Worker::quick();
        store.next(Step::Claim, [fault]);
        let leaving = spawn(&guard, &worker, ask("k"));
        sleep(100 * MS).await;
        leaving.abort();
        sleep(20 * SECOND).await;
        assert_eq!(guard.handle().in_flight(), 0, "{fault:?}");
        assert_eq!(worker.runs(), 0, "{fault:?}");
        assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1), "{fault:?}");
        nothing_is_left(guard, &store, 60 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_claimed_and_not_begun_when_the_caller_leaves_is_released() {
    let (guard, store) = guard();
    let worker = Worker::quick();
    let mut future = Spawned::new(guard.layer(worker.clone()).oneshot(ask("k")));
    assert!(future.poll().is_pending());
    assert_eq!(store.memory().len(), 1);
    drop(future);
    settle().await;
    assert_eq!((worker.runs(), store.memory().len(), guard.handle().in_flight()), (0, 0, 0));
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_without_its_caller_and_its_result_is_given_again() {
    let (guard, store) = guard();
    let worker = Worker::taking(15 * SECOND);
    let leaving = spawn(&guard, &worker, ask("k"));
    sleep(SECOND).await;
    leaving.abort();
    settle().await;
    assert_eq!((worker.under_way(), guard.handle().in_flight()), (1, 1));
    assert_eq!(rejected(&call(&guard, &worker, ask("k")).await), Some(Reason::InFlight));
    sleep(15 * SECOND).await;
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
    assert_eq!(worker.runs(), 1);
    nothing_is_left(guard, &store, 60 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_and_leaves_takes_nothing_along() {
    let store = Scripted::new();
    let guard = over(&store).wait_for_duplicates(60 * SECOND).build().unwrap();
    let other = over(&store).build().unwrap();
    let worker = Worker::taking(20 * SECOND);
    let run = spawn(&other, &worker, ask("k"));
    settle().await;
    let waiting: Vec<_> = (0..10).map(|_| spawn(&guard, &worker, ask("k"))).collect();
    sleep(3 * SECOND).await;
    assert_eq!(guard.handle().in_flight(), 0);
    waiting.iter().for_each(|call| call.abort());
    settle().await;
    let asked = store.taken(Step::Claim);
    sleep(10 * SECOND).await;
    assert_eq!(store.taken(Step::Claim), asked, "nobody waits, and somebody asks");
    assert_eq!(store.taken(Step::Release), 0, "they had claimed nothing");
    assert_eq!(run.await.unwrap(), Ok(1));
    drop(other);
    nothing_is_left(guard, &store, 60 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn whenever_a_caller_leaves_the_key_is_answered_afterwards() {
    for after in 0..60 {
        let store = Scripted::new();
        let guard = over(&store).reserve_first().build().unwrap();
        for step in [Step::Claim, Step::MarkStarted, Step::Complete] {
            store.always(step, Fault::AnswerLate(10 * MS));
        }
        let worker = Worker::taking(10 * MS);
        let leaving = spawn(&guard, &worker, ask("k"));
        sleep(MS * after).await;
        leaving.abort();
        sleep(SECOND).await;
        assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1), "left after {after} ms");
        assert_eq!(worker.runs(), 1, "left after {after} ms");
        nothing_is_left(guard, &store, 60 * SECOND).await;
    }
}
