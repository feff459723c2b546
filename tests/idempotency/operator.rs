//! Tests of the handle for operators.

use buttress::{
    error::IdempotencyReason as Reason,
    idempotency::{Completed, Resolution, StepOutcome},
};
use tokio::time::sleep;

use super::support::*;

#[tokio::test(start_paused = true)]
async fn unknown_operations_are_listed_in_pages() {
    let (guard, _) = guard();
    let failing = Worker::failing(Failure::Service("it broke"));
    for n in 0..5 {
        call(&guard, &failing, ask(&format!("k{n}"))).await.unwrap_err();
    }
    assert_eq!(call(&guard, &Worker::quick(), ask("done")).await, Ok(1));
    sleep(7 * SECOND).await;
    let operator = guard.handle();
    assert_eq!(operator.count_unknown().await.unwrap(), 5);
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = operator.unknown(after, 2).await.unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        after = Some(last.key);
        listed.extend(page);
    }
    assert_eq!(listed.len(), 5);
    assert!(listed.windows(2).all(|two| two[0].key < two[1].key));
    assert!(listed.iter().all(|unknown| unknown.since == 7 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_says_became_of_it_holds() {
    let (guard, _) = guard();
    let failing = Worker::failing(Failure::Service("it broke"));
    let worker = Worker::quick();
    let operator = guard.handle();
    let done = || Resolution::Completed(Completed::replayable(77, 8), 60 * SECOND);
    for (key, resolution, answer) in [("done", done(), 77), ("never", Resolution::Never, 1)] {
        call(&guard, &failing, ask(key)).await.unwrap_err();
        let unknown = operator.unknown(None, 10).await.unwrap().remove(0);
        let mut other = unknown.clone();
        other.fence += 1;
        assert_eq!(operator.resolve(&other, done()).await.unwrap(), StepOutcome::Stale, "{key}");
        assert_eq!(operator.resolve(&unknown, resolution).await.unwrap(), StepOutcome::Applied);
        assert_eq!(operator.count_unknown().await.unwrap(), 0);
        assert_eq!(call(&guard, &worker, ask(key)).await, Ok(answer));
        // The operator resolves the operation again, although it is already resolved.
        assert_eq!(
            operator.resolve(&unknown, Resolution::Never).await.unwrap(),
            StepOutcome::Stale
        );
        assert_eq!(call(&guard, &worker, ask(key)).await, Ok(answer));
    }
}

#[tokio::test(start_paused = true)]
async fn each_thing_is_counted_once() {
    let (guard, store) = guard();
    let operator = guard.handle();
    let unknowns = || operator.counts().unknowns;
    let failing = Worker::failing(Failure::Service("it broke"));
    call(&guard, &failing, ask("failed")).await.unwrap_err();
    assert_eq!(unknowns(), 1, "a run that was lost");
    assert_eq!(rejected(&call(&guard, &failing, ask("failed")).await), Some(Reason::Unknown));
    assert_eq!(unknowns(), 2, "a request that was told so");
    let late = call(&guard, &Worker::taking(60 * SECOND), ask("late")).await;
    assert_eq!((rejected(&late), unknowns()), (Some(Reason::Unknown), 3), "a run past its limit");
    store.next(Step::Renew, [Fault::Stale]);
    let lost = call(&guard, &Worker::taking(20 * SECOND), ask("lost")).await;
    assert_eq!((rejected(&lost), unknowns()), (Some(Reason::Unknown), 4), "a lease that was lost");
    assert_eq!(operator.counts().lost_leases, 1);

    let before = operator.counts();
    store.next(Step::Claim, [Fault::Hang]);
    assert_eq!(call(&guard, &Worker::quick(), ask("slow")).await, Ok(1));
    let after = operator.counts();
    assert_eq!(after.store_errors - before.store_errors, 1);
    assert_eq!(after.store_steps - before.store_steps, 3, "two claims, and the result");
    assert_eq!(after.store_time - before.store_time, SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_keeps_no_operator_waiting() {
    let (guard, store) = guard();
    let operator = guard.handle();
    let failing = Worker::failing(Failure::Service("it broke"));
    call(&guard, &failing, ask("k")).await.unwrap_err();
    let unknown = operator.unknown(None, 1).await.unwrap().remove(0);
    store.everything(Fault::Hang);
    let began = tokio::time::Instant::now();
    assert!(operator.unknown(None, 1).await.is_err());
    assert!(operator.count_unknown().await.is_err());
    assert!(operator.resolve(&unknown, Resolution::Never).await.is_err());
    assert_eq!(began.elapsed(), 3 * SECOND);
}
