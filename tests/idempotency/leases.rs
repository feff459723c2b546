//! Tests of leases: held during a run, renewed for all runs by one task, and lost.

use buttress::{
    error::IdempotencyReason as Reason,
    testing::{Flaky, Step as Script},
};
use futures::future::join_all;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};

use super::support::*;

#[tokio::test(start_paused = true)]
async fn work_that_ends_within_a_third_of_its_lease_is_never_renewed() {
    let (guard, store) = guard();
    let worker = Worker::taking(9_900 * MS);
    for n in 0..20 {
        assert!(call(&guard, &worker, ask(&format!("k{n}"))).await.is_ok());
    }
    nothing_is_left(guard, &store, 11 * SECOND).await;
    assert_eq!(store.taken(Step::Renew), 0);
}

#[tokio::test(start_paused = true)]
async fn leases_that_are_due_at_about_one_time_are_renewed_in_one_trip() {
    let (guard, store) = guard();
    let worker = Worker::taking(25 * SECOND);
    let mut calls = Vec::new();
    for n in 0..100 {
        calls.push(spawn(&guard, &worker, ask(&format!("k{n}"))));
        sleep(20 * MS).await;
    }
    for answer in join_all(calls).await {
        assert!(answer.unwrap().is_ok());
    }
    assert_eq!(store.renewed(), [100, 100]);
    nothing_is_left(guard, &store, 11 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn however_many_runs_come_and_go_one_task_renews() {
    let (guard, store) = guard();
    let worker = Worker::taking(15 * SECOND);
    let mut calls = Vec::new();
    for n in 0..300 {
        calls.push(spawn(&guard, &worker, ask(&format!("k{n}"))));
        sleep(200 * MS).await;
    }
    for answer in join_all(calls).await {
        assert!(answer.unwrap().is_ok());
    }
    // The runs take 75 s. One step renews every lease that is due in the next 2.5 s.
    assert!(store.taken(Step::Renew) <= 75 * 2 / 5 + 1, "{}", store.taken(Step::Renew));
    assert_eq!(store.renewed().iter().sum::<usize>(), 300);
    nothing_is_left(guard, &store, 11 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn work_is_dropped_at_once_when_its_lease_is_lost_and_nobody_answers_as_owner() {
    let (guard, store) = guard();
    let worker = Worker::taking(25 * SECOND);
    store.next(Step::Renew, [Fault::Stale]);
    let began = Instant::now();
    let answer = call(&guard, &worker, ask("k")).await;
    assert_eq!((rejected(&answer), retry_after(&answer)), (Some(Reason::Unknown), None));
    assert_eq!((began.elapsed(), worker.under_way()), (10 * SECOND, 0));
    assert_eq!(guard.handle().counts().lost_leases, 1);
    for step in [Step::Complete, Step::Abandon, Step::Release] {
        assert_eq!(store.taken(step), 0, "{step:?} of what is not ours");
    }
    assert_eq!(guard.handle().in_flight(), 0);
    nothing_is_left(guard, &store, 60 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_renewed_is_lost_before_the_store_gives_it_to_another() {
    for fault in [Fault::Fail, Fault::Hang, Fault::TooFew, Fault::TooMany] {
        let (guard, store) = guard();
        let worker = Worker::taking(29 * SECOND);
        store.always(Step::Renew, fault);
        let began = Instant::now();
        let answer = call(&guard, &worker, ask("k")).await;
        assert_eq!(rejected(&answer), Some(Reason::Unknown), "{fault:?}");
        assert_eq!((began.elapsed(), worker.under_way()), (27 * SECOND, 0), "{fault:?}");
        assert!(store.taken(Step::Renew) > 3, "{fault:?}");
        assert!(store.taken(Step::Renew) < 12, "{fault:?}");
        nothing_is_left(guard, &store, 90 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_tried_again() {
    for fault in [
        Fault::Fail,
        Fault::FailAfter,
        Fault::Hang,
        Fault::LoseAnswer,
        Fault::TooFew,
        Fault::TooMany,
        Fault::Garbled,
        Fault::Twice,
    ] {
        let (guard, store) = guard();
        store.next(Step::Renew, [fault, fault]);
        let calls: Vec<_> = (0..3)
            .map(|n| spawn(&guard, &Worker::taking(29_900 * MS), ask(&format!("k{n}"))))
            .collect();
        for answer in join_all(calls).await {
            assert_eq!(answer.unwrap(), Ok(1), "{fault:?}");
        }
    }
}

#[test]
fn leases_are_renewed_after_the_runtime_of_another_has_ended() {
    let (guard, _) = guard();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let first = runtime();
    first.block_on(async {
        drop(spawn(&guard, &Worker::taking(25 * SECOND), ask("lost")));
        settle().await;
    });
    drop(first);
    let answer = runtime().block_on(call(&guard, &Worker::taking(29 * SECOND), ask("k")));
    assert_eq!(answer, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_lost_does_not_keep_others_from_being_renewed() {
    let (guard, store) = guard();
    store.next(Step::Renew, [Fault::Stale]);
    let lost = spawn(&guard, &Worker::taking(25 * SECOND), ask("lost"));
    sleep(11 * SECOND).await;
    assert_eq!(rejected(&lost.await.unwrap()), Some(Reason::Unknown));
    assert_eq!(call(&guard, &Worker::taking(29 * SECOND), ask("k")).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_in_time_though_its_claim_took_long() {
    let store = Scripted::new();
    let guard = over(&store).lease(3 * SECOND).store_timeout(2_900 * MS).build().unwrap();
    // This claim is sent first, granted last, and due first.
    store.next(Step::Claim, [Fault::AnswerLate(2_500 * MS)]);
    let slow = spawn(&guard, &Worker::taking(20 * SECOND), ask("slow"));
    sleep(2_400 * MS).await;
    let quick = spawn(&guard, &Worker::taking(20 * SECOND), ask("quick"));
    assert_eq!(slow.await.unwrap(), Ok(1));
    assert_eq!(quick.await.unwrap(), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_under_a_lease_that_is_over() {
    // The lease ends during its claim, during `mark_started`, or while the service becomes ready.
    for step in [Step::Claim, Step::MarkStarted] {
        let store = Scripted::new();
        let guard = over(&store).lease(SECOND / 2).store_timeout(490 * MS);
        let guard = match step {
            Step::MarkStarted => guard.reserve_first().build().unwrap(),
            _ => guard.build().unwrap(),
        };
        store.always(Step::Renew, Fault::Fail);
        let worker = Worker::quick();
        store.next(step, [Fault::AnswerLate(480 * MS)]);
        let answer = call(&guard, &worker, ask("k")).await;
        assert_eq!(worker.runs(), 0, "{step:?}");
        assert!(retry_after(&answer).is_some(), "{step:?}: {answer:?}");
        assert_eq!(guard.handle().in_flight(), 0);
    }
    let store = Scripted::new();
    let guard = over(&store).lease(SECOND / 2).store_timeout(490 * MS).build().unwrap();
    store.always(Step::Renew, Fault::Fail);
    let unready = Flaky::new([Script::Unready], || Ok(1));
    let handle = unready.handle();
    let waiting = tokio::spawn(guard.layer(unready).oneshot(ask("k")));
    sleep(SECOND).await;
    handle.set_ready();
    let answer = waiting.await.unwrap();
    assert_eq!(handle.calls(), 0);
    assert!(retry_after(&answer).is_some(), "nothing began: {answer:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_holds_a_lease_beyond_its_limit() {
    let store = Scripted::new();
    let guard = over(&store).run_limit(100 * SECOND).lease_limit(100 * SECOND).build().unwrap();
    let worker = Worker::taking(99 * SECOND);
    store.always(Step::Complete, Fault::Fail);
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
    sleep(31 * SECOND).await;
    assert_eq!(guard.handle().count_unknown().await.unwrap(), 1);
    nothing_is_left(guard, &store, 60 * SECOND).await;
}
