//! Tests of the share that a scope has in a bounded store.

use buttress::{error::IdempotencyReason as Reason, idempotency::store::MemoryStore};

use super::support::*;

fn small() -> Scripted<u64> {
    Scripted::over(MemoryStore::builder().max_records(10).build().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_single_tenant_may_use_the_whole_store() {
    let store = small();
    let guard = over(&store).build().unwrap();
    let worker = Worker::quick();
    for run in 1..=10 {
        assert_eq!(call(&guard, &worker, ask(&format!("k{run}"))).await, Ok(run));
    }
    assert_eq!(rejected(&call(&guard, &worker, ask("k11")).await), Some(Reason::Full));
    assert_eq!(call(&guard, &worker, ask("k1")).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn one_of_many_tenants_may_not_and_another_is_served() {
    let store = small();
    let guard = scoped(&store).build().unwrap();
    let worker = Worker::quick();
    let as_tenant = |tenant, key: u64| Ask { tenant, ..ask(&format!("k{key}")) };
    for run in 1..=5 {
        assert_eq!(call(&guard, &worker, as_tenant("greedy", run)).await, Ok(run));
    }
    let answer = call(&guard, &worker, as_tenant("greedy", 6)).await;
    assert_eq!(rejected(&answer), Some(Reason::Full));
    assert_eq!(call(&guard, &worker, as_tenant("modest", 1)).await, Ok(6));
}

#[tokio::test(start_paused = true)]
async fn counts_contain_the_use_of_the_store() {
    let store = small();
    let guard = over(&store).build().unwrap();
    let worker = Worker::quick();
    for run in 1..=7 {
        assert_eq!(call(&guard, &worker, ask(&format!("k{run}"))).await, Ok(run));
    }
    let used = guard.handle().counts().store.unwrap();
    assert_eq!((used.records, used.max_records, used.percent()), (7, 10, 70));
    // The result of a run of `Worker` is a `u64`.
    assert_eq!((used.bytes, used.max_bytes), (7 * 8, 256 << 20));
}
