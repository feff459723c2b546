//! Tests of the shutdown: no further run begins, and it waits for current runs.

use buttress::error::IdempotencyReason as Reason;
use tokio::time::{Instant, sleep};

use super::support::*;

#[tokio::test(start_paused = true)]
async fn a_closed_guard_begins_nothing_and_is_drained_when_all_is_recorded() {
    let (guard, store) = guard();
    let operator = guard.handle();
    operator.drained().await;
    let worker = Worker::taking(5 * SECOND);
    let leaving = spawn(&guard, &worker, ask("k"));
    let staying = spawn(&guard, &worker, ask("l"));
    sleep(SECOND).await;
    leaving.abort();
    operator.close();
    assert_eq!(operator.in_flight(), 2);
    let answer = call(&guard, &worker, ask("m")).await;
    assert_eq!((rejected(&answer), retry_after(&answer)), (Some(Reason::Full), Some(SECOND)));
    let began = Instant::now();
    operator.drained().await;
    assert_eq!(began.elapsed(), 4 * SECOND);
    assert_eq!((operator.in_flight(), store.taken(Step::Complete)), (0, 2));
    assert!(staying.await.unwrap().is_ok());
    // The next process finds the recorded results.
    let next = over(&store).build().unwrap();
    assert_eq!(call(&next, &worker, ask("k")).await, Ok(1));
    assert_eq!(worker.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_run_gets_its_result_from_a_closed_guard() {
    let store = Scripted::new();
    let guard = over(&store).wait_for_duplicates(60 * SECOND).build().unwrap();
    let worker = Worker::taking(5 * SECOND);
    let run = spawn(&guard, &worker, ask("k"));
    settle().await;
    let waiting = spawn(&guard, &worker, ask("k"));
    settle().await;
    guard.handle().close();
    assert_eq!(run.await.unwrap(), Ok(1));
    assert_eq!(waiting.await.unwrap(), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_run_that_is_released_begins_nothing_in_a_closed_guard() {
    let store = Scripted::new();
    let guard = over(&store).wait_for_duplicates(60 * SECOND).build().unwrap();
    let rejecting = Worker::new(|_, _| async {
        sleep(SECOND).await;
        Err(Failure::rejected(buttress::error::CircuitOpen::new("c", None)))
    });
    let run = spawn(&guard, &rejecting, ask("k"));
    settle().await;
    let worker = Worker::quick();
    let waiting = spawn(&guard, &worker, ask("k"));
    settle().await;
    guard.handle().close();
    run.await.unwrap().unwrap_err();
    assert_eq!(rejected(&waiting.await.unwrap()), Some(Reason::Full));
    settle().await;
    assert_eq!(worker.runs(), 0);
    let next = over(&store).build().unwrap();
    assert_eq!(call(&next, &worker, ask("k")).await, Ok(1), "the key is free for another process");
}

#[test]
fn what_runs_when_the_runtime_ends_is_unknown_when_its_lease_has_ended() {
    let paused = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let (first, second) = (paused(), paused());
    let worker = Worker::taking(5 * SECOND);
    let store = first.block_on(async {
        let (guard, store) = guard();
        let run = spawn(&guard, &worker, ask("k"));
        sleep(SECOND).await;
        drop(run);
        store
    });
    drop(first);
    assert_eq!((worker.under_way(), store.handles()), (0, 1));
    second.block_on(async {
        let guard = over(&store).build().unwrap();
        let soon = call(&guard, &worker, ask("k")).await;
        assert_eq!(rejected(&soon), Some(Reason::InFlight));
        sleep(60 * SECOND).await;
        assert_eq!(rejected(&call(&guard, &worker, ask("k")).await), Some(Reason::Unknown));
    });
    assert_eq!(worker.runs(), 1);
}
