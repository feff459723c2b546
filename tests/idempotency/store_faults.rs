//! Tests with a store that fails, hangs, or responds late, twice or with garbage.

use buttress::{
    error::{CircuitOpen, IdempotencyReason as Reason},
    idempotency::store::MemoryStore,
};
use tokio::time::{Instant, sleep};

use super::support::*;

const UNSURE: [Fault; 6] = [
    Fault::Fail,
    Fault::FailAfter,
    Fault::Hang,
    Fault::LoseAnswer,
    Fault::Garbled,
    Fault::ArriveLate(std::time::Duration::from_millis(1_200)),
];

#[tokio::test(start_paused = true)]
async fn a_claim_of_which_nobody_knows_is_sent_again_and_runs_once() {
    for fault in UNSURE.into_iter().chain([Fault::Twice, Fault::TakeLate(2 * SECOND)]) {
        let (guard, store) = guard();
        let worker = Worker::taking(SECOND);
        store.next(Step::Claim, [fault]);
        let began = Instant::now();
        assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1), "{fault:?}");
        assert!(began.elapsed() <= 2 * SECOND, "{fault:?}");
        sleep(60 * SECOND).await;
        assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1), "{fault:?}");
        assert_eq!((worker.runs(), guard.handle().counts().claims), (1, 1), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_given_up_leaves_the_key_free() {
    for fault in UNSURE {
        for releases in [[Fault::None; 3], [Fault::Fail, Fault::Hang, Fault::FailAfter]] {
            let (guard, store) = guard();
            let worker = Worker::quick();
            store.next(Step::Claim, [fault, fault]);
            store.next(Step::Release, releases);
            let began = Instant::now();
            let answer = call(&guard, &worker, ask("k")).await;
            assert_eq!(rejected(&answer), Some(Reason::StoreUnavailable), "{fault:?}");
            assert_eq!(retry_after(&answer), Some(SECOND), "{fault:?}");
            assert!(began.elapsed() <= 2 * SECOND, "{fault:?}");
            assert_eq!((worker.runs(), guard.handle().in_flight()), (0, 0), "{fault:?}");
            sleep(20 * SECOND).await;
            assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1), "{fault:?}");
            nothing_is_left(guard, &store, 60 * SECOND).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_claim_that_arrives_after_the_second_was_rejected_is_released() {
    let (guard, store) = guard();
    let worker = Worker::quick();
    store.next(Step::Claim, [Fault::ArriveLate(1_100 * MS), Fault::Full]);
    assert_eq!(rejected(&call(&guard, &worker, ask("k")).await), Some(Reason::Full));
    sleep(20 * SECOND).await;
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
}

/// Otherwise its operation would be unknown for 30 days, although nothing ran.
#[tokio::test(start_paused = true)]
async fn a_claim_that_arrives_long_after_it_was_given_up_is_let_go() {
    for late in [1, 5, 17, 18, 24, 29].map(|seconds| seconds * SECOND) {
        for second in [Fault::Fail, Fault::Full] {
            let (guard, store) = guard();
            let worker = Worker::quick();
            store.next(Step::Claim, [Fault::ArriveLate(late), second]);
            assert!(rejected(&call(&guard, &worker, ask("k")).await).is_some());
            sleep(late + 11 * SECOND).await;
            assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1), "{late:?}");
            nothing_is_left(guard, &store, 60 * SECOND).await;
        }
    }
    // The store stalls for two minutes, and then takes the claim.
    let (guard, store) = guard();
    let worker = Worker::quick();
    store.next(Step::Claim, [Fault::ArriveLate(120 * SECOND), Fault::Hang]);
    store.always(Step::Release, Fault::Hang);
    assert!(rejected(&call(&guard, &worker, ask("k")).await).is_some());
    sleep(118 * SECOND).await;
    store.always(Step::Release, Fault::None);
    sleep(12 * SECOND).await;
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
    nothing_is_left(guard, &store, 60 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_first_claim_that_arrives_after_the_run_of_the_second_is_let_go() {
    let open = Failure::rejected(CircuitOpen::new("c", None));
    for late in [2, 17, 29].map(|seconds| seconds * SECOND) {
        for (error, unknown) in [(open.clone(), false), (Failure::Service("it broke"), true)] {
            let store = Scripted::new();
            // An unknown operation is taken over by whichever claim comes next.
            let builder = over(&store).rerun();
            let guard = builder.build().unwrap();
            store.next(Step::Claim, [Fault::ArriveLate(late)]);
            assert_eq!(call(&guard, &Worker::failing(error.clone()), ask("k")).await, Err(error));
            sleep(late + 11 * SECOND).await;
            let worker = Worker::quick();
            assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1), "{late:?} {unknown}");
            assert_eq!(guard.handle().counts().takeovers, u64::from(unknown));
        }
    }
}

/// The claims that may still arrive do not keep others from being settled.
#[tokio::test(start_paused = true)]
async fn many_claims_that_were_given_up_leave_room_to_settle_others() {
    for max_runs in [1, 8] {
        let store = Scripted::new();
        let guard = over(&store).max_runs(max_runs).build().unwrap();
        // Each of them is released for 30 s, or once if too many are released already.
        for key in 0..3 * max_runs {
            store.next(Step::Claim, [Fault::FailAfter; 2]);
            let answer = call(&guard, &Worker::quick(), ask(&key.to_string())).await;
            assert_eq!(rejected(&answer), Some(Reason::StoreUnavailable));
            settle().await;
        }
        // A release follows after 1,050 ms, and the next after 4,250 ms.
        sleep(2 * SECOND).await;
        let open = Failure::rejected(CircuitOpen::new("c", None));
        store.next(Step::Release, [Fault::Fail]);
        assert_eq!(call(&guard, &Worker::failing(open.clone()), ask("k")).await, Err(open));
        sleep(SECOND).await;
        for key in (0..3 * max_runs).map(|key| key.to_string()).chain(["k".to_owned()]) {
            assert_eq!(call(&guard, &Worker::quick(), ask(&key)).await, Ok(1), "{key}");
        }
        nothing_is_left(guard, &store, 60 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_full_or_newer_is_not_asked_again() {
    for (fault, reason) in [(Fault::Full, Reason::Full), (Fault::Newer, Reason::StoreUnavailable)] {
        let (guard, store) = guard();
        let worker = Worker::quick();
        store.next(Step::Claim, [fault]);
        let answer = call(&guard, &worker, ask("k")).await;
        assert_eq!((rejected(&answer), retry_after(&answer)), (Some(reason), Some(SECOND)));
        settle().await;
        assert_eq!((worker.runs(), guard.handle().in_flight()), (0, 0));
        assert_eq!((store.taken(Step::Claim), store.taken(Step::Release)), (1, 0));
        assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_store_still_gives_results_again() {
    let store = Scripted::over(MemoryStore::builder().max_records(2).build().unwrap());
    let guard = over(&store).build().unwrap();
    let worker = Worker::quick();
    for (run, key) in [(1, "a"), (2, "b")] {
        assert_eq!(call(&guard, &worker, ask(key)).await, Ok(run));
    }
    assert_eq!(rejected(&call(&guard, &worker, ask("c")).await), Some(Reason::Full));
    assert_eq!(call(&guard, &worker, ask("a")).await, Ok(1));
    assert_eq!(worker.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_recorded_is_given_and_unknown_when_the_lease_has_ended() {
    for fault in [Fault::Fail, Fault::Hang, Fault::Garbled, Fault::Full] {
        let (guard, store) = guard();
        let worker = Worker::quick();
        // A store that takes the step and reports a failure has recorded the result.
        let recorded = fault == Fault::Garbled;
        store.always(Step::Complete, fault);
        let began = Instant::now();
        assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1), "{fault:?}");
        assert!(began.elapsed() <= 30 * SECOND, "{fault:?}: {:?}", began.elapsed());
        // A result that was recorded anyway is noticed when the lease cannot be renewed.
        assert!(recorded || began.elapsed() >= 20 * SECOND, "{fault:?}: given up too soon");
        store.always(Step::Complete, Fault::None);
        sleep(60 * SECOND).await;
        let again = call(&guard, &worker, ask("k")).await;
        match recorded {
            true => assert_eq!(again, Ok(1)),
            false => assert_eq!(rejected(&again), Some(Reason::Unknown), "{fault:?}"),
        }
        assert_eq!(worker.runs(), 1, "{fault:?}");
        nothing_is_left(guard, &store, 60 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_whose_recording_was_in_doubt_is_given_again() {
    for fault in UNSURE.into_iter().chain([Fault::Twice, Fault::TakeLate(900 * MS)]) {
        let (guard, store) = guard();
        let worker = Worker::quick();
        store.next(Step::Complete, [fault]);
        assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1), "{fault:?}");
        sleep(60 * SECOND).await;
        assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1), "{fault:?}");
        assert_eq!(worker.runs(), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whose_record_is_anothers_never_answers_as_its_owner() {
    let (guard, store) = guard();
    let worker = Worker::quick();
    store.always(Step::Complete, Fault::Stale);
    let answer = call(&guard, &worker, ask("k")).await;
    assert_eq!((rejected(&answer), retry_after(&answer)), (Some(Reason::Unknown), None));
    assert_eq!(guard.handle().counts().lost_leases, 1);
    sleep(60 * SECOND).await;
    assert_eq!(rejected(&call(&guard, &worker, ask("k")).await), Some(Reason::Unknown));
    assert_eq!((worker.runs(), store.taken(Step::Release)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_whose_beginning_could_not_be_noted() {
    for fault in UNSURE.into_iter().chain([Fault::Stale]) {
        let store = Scripted::new();
        let guard = over(&store).reserve_first().build().unwrap();
        let worker = Worker::quick();
        store.next(Step::MarkStarted, [fault]);
        let answer = call(&guard, &worker, ask("k")).await;
        assert_eq!(rejected(&answer), Some(Reason::StoreUnavailable), "{fault:?}");
        assert_eq!((worker.runs(), guard.handle().in_flight()), (0, 0), "{fault:?}");
        assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_settled_is_settled_in_the_background() {
    let open = Failure::rejected(CircuitOpen::new("c", None));
    for (error, step, reason) in [
        (open, Step::Release, None),
        (Failure::Service("it broke"), Step::Abandon, Some(Reason::Unknown)),
    ] {
        let (guard, store) = guard();
        store.next(step, [Fault::Fail, Fault::Hang, Fault::Garbled, Fault::Fail]);
        let began = Instant::now();
        assert_eq!(call(&guard, &Worker::failing(error.clone()), ask("k")).await, Err(error));
        assert!(began.elapsed() <= SECOND);
        let soon = call(&guard, &Worker::quick(), ask("k")).await;
        assert_eq!(rejected(&soon), Some(Reason::InFlight));
        sleep(5 * SECOND).await;
        assert_eq!(rejected(&call(&guard, &Worker::quick(), ask("k")).await), reason);
        nothing_is_left(guard, &store, 60 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_for_ever_wedges_nobody() {
    const LEASE: std::time::Duration = std::time::Duration::from_secs(30);
    for (step, most) in [
        (Step::Claim, 2 * SECOND),
        (Step::MarkStarted, 2 * SECOND),
        (Step::Complete, LEASE),
        (Step::Release, SECOND),
        (Step::Abandon, SECOND),
        (Step::Sweep, SECOND),
    ] {
        for error in [
            None,
            Some(Failure::rejected(CircuitOpen::new("c", None))),
            Some(Failure::Service("x")),
        ] {
            let store = Scripted::new();
            let guard = over(&store).reserve_first().build().unwrap();
            store.always(step, Fault::Hang);
            let worker = match error {
                None => Worker::quick(),
                Some(error) => Worker::failing(error),
            };
            let began = Instant::now();
            let _ = call(&guard, &worker, ask("k")).await;
            assert!(began.elapsed() <= most, "{step:?} took {:?}", began.elapsed());
            assert_eq!(guard.handle().in_flight(), 0);
            nothing_is_left(guard, &store, 2 * LEASE).await;
        }
    }
    // The store hangs from the middle of a run.
    let (guard, store) = guard();
    let worker = Worker::taking(20 * SECOND);
    let run = spawn(&guard, &worker, ask("k"));
    sleep(SECOND).await;
    store.everything(Fault::Hang);
    let began = Instant::now();
    // A duplicate of a run of this layer needs no store.
    assert_eq!(rejected(&call(&guard, &worker, ask("k")).await), Some(Reason::InFlight));
    assert_eq!(began.elapsed(), std::time::Duration::ZERO);
    assert_eq!(
        rejected(&call(&guard, &worker, ask("other")).await),
        Some(Reason::StoreUnavailable)
    );
    assert_eq!(began.elapsed(), 2 * SECOND);
    assert_eq!(run.await.unwrap(), Ok(1), "its answer is true, though it could not be recorded");
    assert!(began.elapsed() <= LEASE);
    // The claim of the other may arrive as long as the store hangs, up to the limit of a lease.
    nothing_is_left(guard, &store, 2 * LEASE + 600 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_not_wedged_by_a_store_that_hangs() {
    let store = Scripted::new();
    let guard = over(&store).wait_for_duplicates(60 * SECOND).build().unwrap();
    let there = over(&store).build().unwrap();
    let run = spawn(&there, &Worker::taking(5 * SECOND), ask("k"));
    settle().await;
    let worker = Worker::quick();
    let calls: Vec<_> = (0..10).map(|_| spawn(&guard, &worker, ask("k"))).collect();
    settle().await;
    store.always(Step::Claim, Fault::Hang);
    let began = Instant::now();
    for call in calls {
        assert_eq!(rejected(&call.await.unwrap()), Some(Reason::StoreUnavailable));
    }
    assert!(began.elapsed() <= 60 * SECOND, "{:?}", began.elapsed());
    assert_eq!((worker.runs(), guard.handle().in_flight()), (0, 0));
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_always_has_more_to_clear_away_is_left_alone_after_a_while() {
    let (guard, store) = guard();
    store.always(Step::Sweep, Fault::Endless);
    assert_eq!(call(&guard, &Worker::quick(), ask("k")).await, Ok(1));
    sleep(SECOND).await;
    assert!((2..=1_000).contains(&store.taken(Step::Sweep)));
    nothing_is_left(guard, &store, 60 * SECOND).await;
}
