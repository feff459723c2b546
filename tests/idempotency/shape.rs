//! Tests of a guarded service as a tower service.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use buttress::{
    idempotency::{
        IdempotencyBuilder, IdempotencyHandle, IdempotencyLayer, Quarantine, Scoped, SingleTenant,
        future::ResponseFuture, store::MemoryStore,
    },
    keep::KeepClones,
    testing::{
        Flaky, Reserving, Step as Script, assert_future, assert_service, contract::Contract,
    },
};
use tokio::time::advance;
use tower::{Layer, ServiceExt};

use super::support::*;

type InMemory<U> = IdempotencyLayer<MemoryStore<u64>, Asks, SingleTenant, Asks, KeepClones, U>;

#[test]
fn it_moves_and_is_shared_between_threads() {
    const fn shared<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    shared::<IdempotencyHandle<MemoryStore<u64>>>();
    shared::<IdempotencyBuilder<MemoryStore<u64>, Asks, Scoped<SingleTenant>, Asks, KeepClones>>();
    shared::<InMemory<Quarantine>>();
    assert_service::<<InMemory<Quarantine> as Layer<Flaky<u64, Failure>>>::Service>();
    assert_future::<ResponseFuture<u64, Failure>>();
}

/// A request without a key runs in the caller's own task, where the checks observe everything.
#[tokio::test(start_paused = true)]
async fn it_keeps_every_rule_of_a_service() {
    let guard: InMemory<Quarantine> =
        IdempotencyLayer::builder(MemoryStore::new(), Asks, Asks, KeepClones)
            .single_tenant()
            .build()
            .unwrap();
    Contract::new(|| ask("unguarded"), || 1, || Failure::Service("error"))
        .always_ready()
        .check_with(|inner| guard.layer(inner), || advance(10 * MS))
        .await
        .assert();
}

#[tokio::test(start_paused = true)]
async fn a_run_calls_the_instance_that_was_ready_and_gives_back_what_that_reserved() {
    let (guard, _) = guard();
    let flaky =
        Flaky::new([Script::RespondAfter(SECOND, Ok(7)), Script::Hang], || Ok::<u64, Failure>(8));
    let reserving = Reserving::new(flaky.clone(), 2);
    let service = guard.layer(reserving.clone());
    assert_eq!(service.clone().oneshot(ask("answered")).await, Ok(7));
    assert!(service.clone().oneshot(ask("hung")).await.is_err());
    assert_eq!(service.clone().oneshot(ask("answered")).await, Ok(7));
    assert_eq!(service.oneshot(ask("last")).await, Ok(8));
    let (flaky, slots) = (flaky.handle(), reserving.handle());
    assert!(flaky.violations().is_empty(), "{:?}", flaky.violations());
    assert_eq!((flaky.calls(), flaky.in_flight()), (3, 0));
    assert_eq!((slots.unready_calls(), slots.taken(), slots.reserved()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn clones_and_services_of_one_layer_share_its_runs() {
    let (guard, _) = guard();
    let worker = Worker::taking(SECOND);
    let calls = [
        spawn(&guard, &worker, ask("a")),
        spawn(&guard.clone(), &worker, ask("b")),
        tokio::spawn(guard.layer(worker.clone()).clone().oneshot(ask("c"))),
    ];
    settle().await;
    assert_eq!(guard.handle().in_flight(), 3);
    for call in calls {
        assert!(call.await.unwrap().is_ok());
    }
    assert_eq!(guard.clone().handle().counts().claims, 3);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_polled_does_nothing() {
    let (guard, store) = guard();
    let polled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&polled);
    let worker = Worker::new(move |_, run| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { Ok(run) }
    });
    let call = guard.layer(worker).oneshot(ask("k"));
    settle().await;
    drop(call);
    assert_eq!((polled.load(Ordering::SeqCst), store.taken(Step::Claim)), (0, 0));
}
