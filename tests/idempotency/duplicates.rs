//! Tests of duplicates of a request, during the first run and after it.

use std::collections::HashSet;

use buttress::error::IdempotencyReason as Reason;
use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::support::*;

#[tokio::test(start_paused = true)]
async fn of_a_thousand_at_once_one_runs_and_the_rest_are_told_to_come_back() {
    let (guard, store) = guard();
    let worker = Worker::taking(SECOND);
    let calls: Vec<_> = (0..1_000).map(|_| spawn(&guard, &worker, ask("k"))).collect();
    let answers: Vec<Answer> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Ok(1)).count(), 1);
    for answer in answers.iter().filter(|answer| answer.is_err()) {
        assert_eq!(rejected(answer), Some(Reason::InFlight));
        assert_eq!(retry_after(answer), Some(SECOND));
    }
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
    let counts = guard.handle().counts();
    assert_eq!((counts.claims, counts.conflicts, counts.replays), (1, 999, 1));
    // For a run of this layer, the store is not asked.
    assert_eq!((worker.runs(), store.taken(Step::Claim)), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_thousand_on_many_threads_one_runs() {
    let store = Scripted::new();
    let guard = over(&store).wait_for_duplicates(60 * SECOND).build().unwrap();
    let worker = Worker::new(|_, run| async move {
        tokio::task::yield_now().await;
        Ok(run)
    });
    let calls: Vec<_> = (0..1_000).map(|_| spawn(&guard, &worker, ask("k"))).collect();
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap(), Ok(1));
    }
    assert_eq!((worker.runs(), guard.handle().in_flight()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_woken_by_the_end_of_a_run_and_never_ask_before() {
    let store = Scripted::new();
    let guard = over(&store).wait_for_duplicates(60 * SECOND).build().unwrap();
    let worker = Worker::taking(9 * SECOND);
    let began = Instant::now();
    let calls: Vec<_> = (0..1_000).map(|_| spawn(&guard, &worker, ask("k"))).collect();
    sleep(SECOND).await;
    assert_eq!(guard.handle().in_flight(), 1, "who waits has no place of a run");
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap(), Ok(1));
    }
    assert_eq!(began.elapsed(), 9 * SECOND, "they are woken at once");
    assert_eq!((worker.runs(), store.taken(Step::Claim)), (1, 1 + 999));
}

#[tokio::test(start_paused = true)]
async fn of_those_who_wait_for_another_process_one_asks_for_all() {
    let store = Scripted::new();
    let here = over(&store).wait_for_duplicates(60 * SECOND).build().unwrap();
    let there = over(&store).build().unwrap();
    let worker = Worker::taking(20 * SECOND);
    let run = spawn(&there, &worker, ask("k"));
    settle().await;
    let began = Instant::now();
    let mut calls: Vec<_> = (0..50).map(|_| spawn(&here, &worker, ask("k"))).collect();
    sleep(10 * SECOND).await;
    // The caller that polls the store leaves, and another caller takes its place.
    calls.remove(0).abort();
    sleep(9 * SECOND + 900 * MS).await;
    let asked = store.taken_at(Step::Claim).split_off(51);
    assert!((19..=41).contains(&asked.len()), "asked {} times in 20 s", asked.len());
    let pauses: HashSet<_> = asked.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(pauses.len() > 5, "the pauses are all alike: {pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= 2 * SECOND), "{pauses:?}");
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap(), Ok(1));
    }
    assert!(began.elapsed() <= 21 * SECOND, "one finds out and wakes the rest");
    assert!(store.taken(Step::Claim) <= 51 + 41 + 1 + 49);
    assert_eq!((run.await.unwrap(), worker.runs()), (Ok(1), 1));
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_is_told_to_come_back() {
    let store = Scripted::new();
    let guard = over(&store).wait_for_duplicates(5 * SECOND).build().unwrap();
    let worker = Worker::taking(20 * SECOND);
    let run = spawn(&guard, &worker, ask("k"));
    settle().await;
    let began = Instant::now();
    let answer = call(&guard, &worker, ask("k")).await;
    assert_eq!((rejected(&answer), retry_after(&answer)), (Some(Reason::InFlight), Some(SECOND)));
    assert_eq!(began.elapsed(), 5 * SECOND);
    assert_eq!(run.await.unwrap(), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn when_a_run_is_released_one_of_those_who_wait_runs() {
    let store = Scripted::new();
    let guard = over(&store).wait_for_duplicates(60 * SECOND).build().unwrap();
    let worker = Worker::new(|_, run| async move {
        sleep(SECOND).await;
        match run {
            1 => Err(Failure::rejected(buttress::error::BulkheadFull::new("b", 1))),
            run => Ok(run),
        }
    });
    let calls: Vec<_> = (0..100).map(|_| spawn(&guard, &worker, ask("k"))).collect();
    let answers = join_all(calls).await;
    let answered = answers.iter().filter(|answer| *answer.as_ref().unwrap() == Ok(2)).count();
    assert_eq!((answered, worker.runs()), (99, 2));
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_result_however_full_the_guard_is() {
    let store = Scripted::new();
    let guard = over(&store).wait_for_duplicates(60 * SECOND).max_runs(2).build().unwrap();
    let worker = Worker::taking(5 * SECOND);
    let mut calls = vec![spawn(&guard, &worker, ask("k"))];
    settle().await;
    for _ in 0..10 {
        calls.push(spawn(&guard, &worker, ask("k")));
        settle().await;
    }
    // The delay is long enough that all of them ask at the same time.
    store.always(Step::Claim, Fault::AnswerLate(10 * MS));
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap(), Ok(1));
    }
    assert_eq!((worker.runs(), guard.handle().in_flight()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_crowd_takes_the_place_of_one_run() {
    let store = Scripted::new();
    let guard = over(&store).max_runs(1).build().unwrap();
    // The delay is long enough that all of them ask before one claim is granted.
    store.always(Step::Claim, Fault::AnswerLate(10 * MS));
    let worker = Worker::taking(SECOND);
    let calls: Vec<_> = (0..100).map(|_| spawn(&guard, &worker, ask("k"))).collect();
    settle().await;
    assert_eq!((store.taken(Step::Claim), guard.handle().in_flight()), (100, 1));
    let other = call(&guard, &worker, ask("other")).await;
    assert_eq!(rejected(&other), Some(Reason::Full));
    let answers: Vec<Answer> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    let told = |reason| answers.iter().filter(|answer| rejected(answer) == Some(reason)).count();
    assert_eq!((told(Reason::InFlight), told(Reason::Full), worker.runs()), (99, 0, 1));
    assert_eq!(guard.handle().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_runs_are_under_way_than_may_be() {
    let store = Scripted::new();
    let guard = over(&store).max_runs(3).build().unwrap();
    let worker = Worker::taking(SECOND);
    let calls: Vec<_> = (0..10).map(|n| spawn(&guard, &worker, ask(&format!("k{n}")))).collect();
    settle().await;
    assert_eq!(guard.handle().in_flight(), 3);
    let answers: Vec<Answer> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    let full = answers.iter().filter(|answer| rejected(answer) == Some(Reason::Full));
    assert_eq!(full.clone().count(), 7);
    for answer in full {
        assert_eq!(retry_after(answer), Some(SECOND));
    }
    // The rejected calls left no record.
    assert_eq!((worker.runs(), store.taken(Step::Claim), store.memory().len()), (3, 3, 3));
}
