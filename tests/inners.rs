//! Tests of every layer over inner services that show what a plain mock hides.
//!
//! The inner services are tower's `ConcurrencyLimit`, which panics when it is called unready, its
//! `Buffer`, whose readiness is a reservation, and a service whose clones are never ready.

#[macro_use]
mod layers;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use buttress::{
    BoxError,
    testing::{Flaky, FlakyHandle, Reserving, future::FlakyFuture},
};
use tower::{Layer, Service, ServiceExt, buffer::Buffer, limit::ConcurrencyLimit};

use self::layers::{Row, Text};

type Inner = Flaky<Text, BoxError>;

/// Creates a service that fails every third call, which makes retries happen.
fn flaky() -> (Inner, FlakyHandle<Text, BoxError>) {
    let calls = AtomicU32::new(0);
    let flaky = Flaky::new([], move || match calls.fetch_add(1, Ordering::Relaxed) % 3 {
        2 => Err("broken".into()),
        _ => Ok("answer"),
    });
    let handle = flaky.handle();
    (flaky, handle)
}

/// Calls one instance repeatedly, then clones of a ready one, and then many at once.
async fn drive<S: Driven>(service: S) {
    // A leaked slot would be waited for without end.
    let driven = tokio::time::timeout(Duration::from_secs(60), driven(service));
    driven.await.expect("a call never ended");
}

async fn driven<S: Driven>(mut service: S) {
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
    // One instance becomes ready and is then dropped.
    let _ = service.ready().await.unwrap();
    drop(service);
}

/// A service that [`drive`] can call.
trait Driven: Service<u64, Response = Text, Error = BoxError> + Clone {}

impl<S: Service<u64, Response = Text, Error = BoxError> + Clone> Driven for S {}

test_every!(layers, an_inner_service_is_used_as_it_must_be);

async fn an_inner_service_is_used_as_it_must_be<L>(_: Text, make: impl Fn() -> Row<L>)
where
    L: Layer<Inner, Service: Driven>
        + Layer<ConcurrencyLimit<Inner>, Service: Driven>
        + Layer<Reserving<Inner>, Service: Driven>
        + Layer<Buffer<u64, FlakyFuture<Text, BoxError>>, Service: Driven>,
{
    let (inner, handle) = flaky();
    drive(make().layer.layer(inner)).await;
    assert_eq!(handle.violations(), []);

    let (inner, handle) = flaky();
    drive(make().layer.layer(ConcurrencyLimit::new(inner, 2))).await;
    assert_eq!(handle.violations(), []);

    let (inner, handle) = flaky();
    let reserving = Reserving::new(inner, 2);
    let slots = reserving.handle();
    drive(make().layer.layer(reserving)).await;
    assert_eq!((slots.taken(), slots.waiting(), slots.unready_calls()), (0, 0, 0));
    assert_eq!(handle.violations(), []);

    let (inner, handle) = flaky();
    drive(make().layer.layer(Buffer::new(inner, 4))).await;
    assert_eq!(handle.violations(), []);
}
