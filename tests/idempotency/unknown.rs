//! Tests of unknown operations, and of the ways to settle them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use buttress::{
    error::{CircuitOpen, IdempotencyReason as Reason},
    idempotency::{Run, Settled, StepOutcome},
};
use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::support::*;

/// Makes an operation unknown.
async fn lose<L>(layer: &L, key: &str)
where
    L: tower::Layer<Worker>,
    L::Service: tower::Service<Ask, Response = u64, Error = Failure>,
{
    let failing = Worker::failing(Failure::Service("it broke"));
    assert_eq!(call(layer, &failing, ask(key)).await, Err(Failure::Service("it broke")));
}

#[tokio::test(start_paused = true)]
async fn it_is_left_alone_by_default_until_its_retention_is_over() {
    let day = 24 * 60 * 60 * SECOND;
    let store = Scripted::new();
    let guard = over(&store).unknown_retention(3 * day).build().unwrap();
    let worker = Worker::quick();
    lose(&guard, "k").await;
    for _ in 0..3 {
        let answer = call(&guard, &worker, ask("k")).await;
        assert_eq!((rejected(&answer), retry_after(&answer)), (Some(Reason::Unknown), None));
        sleep(day - SECOND).await;
    }
    assert_eq!(worker.runs(), 0);
    sleep(4 * SECOND).await;
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn it_is_run_again_where_that_is_declared_harmless() {
    let store = Scripted::new();
    let guard = over(&store).rerun().build().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let worker = Worker::new(move |ask, run| {
        let told = ask.run.unwrap();
        let child = told.child_key("charge");
        note.lock().unwrap().push((told.fence(), told.previous_fence(), child));
        async move { if run < 3 { Err(Failure::Service("it broke")) } else { Ok(run) } }
    });
    for _ in 0..2 {
        call(&guard, &worker, ask("k")).await.unwrap_err();
    }
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(3));
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(3));
    let seen = seen.lock().unwrap();
    assert!(seen[0].0 < seen[1].0 && seen[1].0 < seen[2].0);
    assert_eq!([seen[0].1, seen[1].1, seen[2].1], [None, Some(seen[0].0), Some(seen[1].0)]);
    assert!(seen.iter().all(|run| run.2 == seen[0].2), "the child key is that of the operation");
    assert_eq!(guard.handle().counts().takeovers, 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_takes_over_and_begins_nothing_leaves_it_unknown() {
    let store = Scripted::new();
    let guard = over(&store).rerun().build().unwrap();
    let quarantined = over(&store).build().unwrap();
    lose(&guard, "k").await;
    let open = Failure::rejected(CircuitOpen::new("c", None));
    assert_eq!(call(&guard, &Worker::failing(open.clone()), ask("k")).await, Err(open));
    let answer = call(&quarantined, &Worker::quick(), ask("k")).await;
    assert_eq!(rejected(&answer), Some(Reason::Unknown), "the lost run may have done it");
    assert_eq!(call(&guard, &Worker::quick(), ask("k")).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn it_is_resumed_from_its_last_checkpoint() {
    let store = Scripted::new();
    let guard = over(&store).resume().build().unwrap();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let done = Arc::clone(&steps);
    let worker = Worker::new(move |ask, run| {
        let (told, done) = (ask.run.unwrap(), Arc::clone(&done));
        async move {
            let from = told.checkpoint().map_or(0, |kept| kept[0]);
            for step in from..6 {
                done.lock().unwrap().push((run, step));
                assert_eq!(told.save([step + 1]).await.unwrap(), StepOutcome::Applied);
                if run < 3 && step == from + 1 {
                    return Err(Failure::Service("it broke"));
                }
            }
            Ok(run)
        }
    });
    for _ in 0..2 {
        call(&guard, &worker, ask("k")).await.unwrap_err();
    }
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(3));
    let steps = steps.lock().unwrap();
    assert_eq!(*steps, [(1, 0), (1, 1), (2, 2), (2, 3), (3, 4), (3, 5)]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_lost_can_keep_no_checkpoint() {
    let store = Scripted::new();
    let guard = over(&store).resume().build().unwrap();
    let kept: Arc<Mutex<Option<Run>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let worker = Worker::new(move |ask, _| {
        let told = ask.run.unwrap();
        *keep.lock().unwrap() = Some(told.clone());
        async move {
            assert_eq!(told.save("first").await.unwrap(), StepOutcome::Applied);
            Err(Failure::Service("it broke"))
        }
    });
    call(&guard, &worker, ask("k")).await.unwrap_err();
    let zombie = kept.lock().unwrap().take().unwrap();
    assert_eq!(zombie.save("stale").await.unwrap(), StepOutcome::Stale);
    let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
    let see = Arc::clone(&seen);
    let resuming = Worker::new(move |ask, run| {
        let (see, zombie) = (Arc::clone(&see), zombie.clone());
        async move {
            assert_eq!(zombie.save("stale").await.unwrap(), StepOutcome::Stale);
            *see.lock().unwrap() = ask.run.unwrap().checkpoint().unwrap().to_vec();
            Ok(run)
        }
    });
    assert_eq!(call(&guard, &resuming, ask("k")).await, Ok(1));
    assert_eq!(*seen.lock().unwrap(), b"first");
}

#[tokio::test(start_paused = true)]
async fn what_it_is_found_to_have_done_is_recorded_and_given_again() {
    let store = Scripted::new();
    let guard = over(&store).reconcile_fn(|_| async { Settled::Completed(99) }).build().unwrap();
    let worker = Worker::quick();
    lose(&guard, "k").await;
    for _ in 0..2 {
        assert_eq!(call(&guard, &worker, ask("k")).await, Ok(99));
    }
    let counts = guard.handle().counts();
    assert_eq!((worker.runs(), counts.takeovers, counts.replays), (0, 1, 1));
    assert_eq!(guard.handle().count_unknown().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_done_is_run_and_what_is_not_known_stays_so() {
    for (settled, answer) in [(Settled::Never, Ok(1)), (Settled::StillUnknown, Err(()))] {
        let store = Scripted::new();
        let guard = over(&store)
            .reconcile_fn(move |_| std::future::ready(settled.clone()))
            .build()
            .unwrap();
        let worker = Worker::quick();
        lose(&guard, "k").await;
        for _ in 0..2 {
            let got = call(&guard, &worker, ask("k")).await;
            match answer {
                Ok(run) => assert_eq!(got, Ok(run)),
                Err(()) => {
                    assert_eq!((rejected(&got), retry_after(&got)), (Some(Reason::Unknown), None));
                }
            }
        }
        assert_eq!(guard.handle().count_unknown().await.unwrap(), u64::from(answer.is_err()));
    }
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_finds_out_under_a_larger_fence_each() {
    let store = Scripted::new();
    let fences = Arc::new(Mutex::new(Vec::new()));
    let asking = Arc::new(Mutex::new(0));
    let (seen, busy) = (Arc::clone(&fences), Arc::clone(&asking));
    let guard = over(&store)
        .wait_for_duplicates(60 * SECOND)
        .reconcile_fn(move |run: Run| {
            let (seen, busy) = (Arc::clone(&seen), Arc::clone(&busy));
            async move {
                assert!(run.previous_fence().unwrap() < run.fence());
                *busy.lock().unwrap() += 1;
                assert_eq!(*busy.lock().unwrap(), 1, "two find out at once");
                sleep(SECOND).await;
                *busy.lock().unwrap() -= 1;
                let mut seen = seen.lock().unwrap();
                seen.push(run.fence());
                if seen.len() < 3 { Settled::StillUnknown } else { Settled::Completed(99) }
            }
        })
        .build()
        .unwrap();
    lose(&guard, "k").await;
    let worker = Worker::quick();
    let calls: Vec<_> = (0..10).map(|_| spawn(&guard, &worker, ask("k"))).collect();
    let answers: Vec<Answer> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Ok(99)).count(), 8);
    let fences = fences.lock().unwrap();
    assert_eq!(fences.len(), 3);
    assert!(fences.is_sorted());
    assert_eq!(worker.runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn finding_out_ends_with_the_limit_of_a_run_and_it_is_still_unknown() {
    let store = Scripted::new();
    let guard =
        over(&store).reconcile_fn(|_| std::future::pending::<Settled<u64>>()).build().unwrap();
    lose(&guard, "k").await;
    let began = Instant::now();
    let answer = call(&guard, &Worker::quick(), ask("k")).await;
    assert_eq!((rejected(&answer), retry_after(&answer)), (Some(Reason::Unknown), None));
    assert_eq!(began.elapsed(), 30 * SECOND);
    assert_eq!(guard.handle().count_unknown().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_was_lost_is_not_unknown_and_runs_anew() {
    let store = Scripted::new();
    let guard = over(&store).transactional().build().unwrap();
    lose(&guard, "k").await;
    let worker = Worker::taking(60 * SECOND);
    let late = call(&guard, &worker, ask("k")).await;
    assert!(retry_after(&late).is_some(), "nothing happened: {late:?}");
    store.next(Step::Renew, [Fault::Stale]);
    let lost = call(&guard, &worker, ask("k")).await;
    assert!(retry_after(&lost).is_some(), "nothing happened: {lost:?}");
    assert_eq!(call(&guard, &Worker::quick(), ask("k")).await, Ok(1));
    assert_eq!(guard.handle().count_unknown().await.unwrap(), 0);
}

/// A ledger that moves money for every caller, or only under a key or a fence.
#[derive(Default)]
struct Ledger {
    charges: Vec<u64>,
    keys: BTreeSet<String>,
    fence: u64,
}

/// The way in which the ledger recognises a charge that must not be made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Nothing,
    ChildKey,
    Fence,
}

impl Ledger {
    fn charge(&mut self, by: By, run: &Run) -> bool {
        let admitted = match by {
            By::Nothing => true,
            By::ChildKey => self.keys.insert(run.child_key("charge").to_string()),
            By::Fence => run.fence() >= self.fence,
        };
        if admitted {
            self.fence = self.fence.max(run.fence());
            self.charges.push(run.fence());
        }
        admitted
    }
}

/// Counts the charges when a paused worker wakes up after its operation was resolved.
///
/// A worker is paused just before it charges, beyond the end of its lease. Meanwhile, somebody
/// sees no charge and resolves the operation as never done. Then the worker wakes up.
async fn charges_with_a_zombie(by: By) -> usize {
    let store = Scripted::new();
    let ledger: Arc<Mutex<Ledger>> = Arc::default();
    let seen = Arc::clone(&ledger);
    let guard = over(&store)
        .reconcile_fn(move |run: Run| {
            let mut ledger = seen.lock().unwrap();
            let found = ledger.charges.first().copied();
            // A later charge is made impossible before the operation is resolved as never done.
            match by {
                By::Nothing => {}
                By::ChildKey => drop(ledger.keys.insert(run.child_key("charge").to_string())),
                By::Fence => ledger.fence = run.fence(),
            }
            std::future::ready(found.map_or(Settled::Never, Settled::Completed))
        })
        .build()
        .unwrap();
    let charging = Arc::clone(&ledger);
    let worker = Worker::new(move |ask, run| {
        let (told, ledger) = (ask.run.unwrap(), Arc::clone(&charging));
        async move {
            // A separate task is not dropped with the run. It stands for a process that was
            // paused.
            let charge = tokio::spawn(async move {
                if run == 1 {
                    sleep(60 * SECOND).await;
                }
                let mut ledger = ledger.lock().unwrap();
                // The reconciliation has used the key of the run that comes now.
                let by = if by == By::ChildKey && run > 1 { By::Nothing } else { by };
                ledger.charge(by, &told)
            });
            assert!(charge.await.unwrap());
            Ok(run)
        }
    });
    store.always(Step::Renew, Fault::Fail);
    let lost = call(&guard, &worker, ask("k")).await;
    assert_eq!(rejected(&lost), Some(Reason::Unknown));
    sleep(10 * SECOND).await;
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(2));
    sleep(60 * SECOND).await;
    ledger.lock().unwrap().charges.len()
}

#[tokio::test(start_paused = true)]
async fn who_says_never_and_has_not_made_it_impossible_is_charged_twice() {
    assert_eq!(charges_with_a_zombie(By::Nothing).await, 2);
}

#[tokio::test(start_paused = true)]
async fn who_takes_the_child_key_or_raises_the_fence_first_is_charged_once() {
    assert_eq!(charges_with_a_zombie(By::ChildKey).await, 1);
    assert_eq!(charges_with_a_zombie(By::Fence).await, 1);
}
