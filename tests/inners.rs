//! Every layer over inner services that show what a plain mock hides: tower's `ConcurrencyLimit`,
//! which panics when it is called un-ready, its `Buffer`, whose readiness is a reservation, and a
//! service whose clones are never ready.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use buttress::{
    BoxError, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    retry::{ReplayClones, RetryLayer},
    telemetry::CallSpanLayer,
    testing::{Flaky, FlakyHandle, Reserving},
    timeout::TimeoutLayer,
};
use tower::{Layer, Service, ServiceExt, buffer::Buffer, limit::ConcurrencyLimit};

type Inner = Flaky<&'static str, BoxError>;

const LIMIT: Duration = Duration::from_secs(5);

/// Fails every third call, so that what retries does.
fn flaky() -> (Inner, FlakyHandle<&'static str, BoxError>) {
    let calls = AtomicU32::new(0);
    let flaky = Flaky::new([], move || match calls.fetch_add(1, Ordering::Relaxed) % 3 {
        2 => Err("broken".into()),
        _ => Ok("answer"),
    });
    let handle = flaky.handle();
    (flaky, handle)
}

/// Calls one instance again and again, clones of a ready one, and many at once.
async fn drive<S>(mut service: S)
where
    S: Service<u64, Response = &'static str, Error = BoxError> + Clone,
{
    for _ in 0..10 {
        let _ = service.ready().await.unwrap().call(1).await;
    }
    for _ in 0..10 {
        let ready = service.ready().await.unwrap();
        let mut clone = ready.clone();
        let first = ready.call(1);
        let _ = first.await;
        let _ = clone.ready().await.unwrap().call(2).await;
    }
    let answers = futures::future::join_all((0..20).map(|_| service.clone().oneshot(1))).await;
    assert!(answers.iter().any(Result::is_ok));
    // And one that is readied, and then forgotten.
    let _ = service.ready().await.unwrap();
    drop(service);
}

macro_rules! over_every_inner {
    ($($name:ident: $layer:expr;)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            let (inner, handle) = flaky();
            drive($layer.layer(inner)).await;
            assert_eq!(handle.violations(), []);

            let (inner, handle) = flaky();
            drive($layer.layer(ConcurrencyLimit::new(inner, 2))).await;
            assert_eq!(handle.violations(), []);

            let (inner, handle) = flaky();
            let reserving = Reserving::new(inner, 2);
            let slots = reserving.handle();
            drive($layer.layer(reserving)).await;
            assert_eq!((slots.taken(), slots.waiting(), slots.unready_calls()), (0, 0, 0));
            assert_eq!(handle.violations(), []);

            let (inner, handle) = flaky();
            drive($layer.layer(Buffer::new(inner, 4))).await;
            assert_eq!(handle.violations(), []);
        }
    )*};
}

over_every_inner! {
    timeout: TimeoutLayer::new(LIMIT);
    total_timeout: TimeoutLayer::new(LIMIT).including_readiness();
    retry: RetryLayer::builder(ReplayClones).without_budget().build().unwrap();
    bulkhead: BulkheadLayer::default();
    small_bulkhead: BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    waiting_bulkhead: BulkheadLayer::builder().max_concurrent(1).backpressure().build().unwrap();
    queued_bulkhead: BulkheadLayer::builder().max_concurrent(1).queue(50, LIMIT).build().unwrap();
    circuit_breaker: CircuitBreakerLayer::new();
    pending_circuit_breaker: CircuitBreakerLayer::builder().pend().build().unwrap();
    keyed_circuit_breaker: CircuitBreakerLayer::builder().keyed(|key: &u64| *key).build().unwrap();
    call_span: CallSpanLayer::new();
    whole_stack: Stack::standard(ReplayClones);
    whole_stack_with_a_queue: Stack::standard(ReplayClones)
        .bulkhead(BulkheadLayer::builder().max_concurrent(2).queue(50, LIMIT).build().unwrap());
}
