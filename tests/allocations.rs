//! Tests that a call allocates nothing, whether it is admitted or rejected.
//!
//! The allocator counts by thread. Therefore, the tests of this file do not disturb each other.

#[macro_use]
mod layers;

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Ready, ready},
    marker::PhantomData,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use buttress::{CarryRejection, Deadline, Error, timeout::TimeoutLayer};
use tower::{Layer, Service};

use self::layers::{Effect, Request, Row, Text};

type Failure = Error<Infallible>;

#[derive(Clone)]
struct AtOnce<E>(PhantomData<fn() -> E>);

fn at_once<E>() -> AtOnce<E> {
    AtOnce(PhantomData)
}

impl<R, E> Service<R> for AtOnce<E> {
    type Response = u64;
    type Error = E;
    type Future = Ready<Result<u64, E>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: R) -> Self::Future {
        ready(Ok(2))
    }
}

/// Polls a future once, which must complete it.
fn finish<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it had to wait"),
    }
}

fn call<S, R>(service: &mut S) -> Result<S::Response, S::Error>
where
    S: Service<R, Error: Debug>,
    R: Request,
{
    let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(ready, Poll::Ready(Ok(()))));
    finish(service.call(R::sample()))
}

/// Counts the allocations of a hundred calls, after a few calls that may allocate shared state.
fn allocations<S, R>(mut service: S, expected: Option<&str>) -> u64
where
    S: Service<R, Response = u64, Error: CarryRejection + Debug>,
    R: Request,
{
    let mut once = move || match (call(&mut service), expected) {
        (Ok(2), None) => {}
        (Err(error), Some(kind)) => assert_eq!(error.rejection().map(|r| r.kind()), Some(kind)),
        (result, _) => panic!("{result:?}"),
    };
    for _ in 0..3 {
        once();
    }
    let info = measure(|| {
        for _ in 0..100 {
            once();
        }
    });
    info.count_total
}

#[test]
fn the_count_counts() {
    assert_eq!(measure(|| drop(std::hint::black_box(Box::new(7)))).count_total, 1);
}

/// Checks the allocations of a row, which gives a reason if its calls allocate.
fn assert_as_the_row_says<L>(name: Text, row: &Row<L>, allocations: u64) {
    match row.allocates {
        None => assert_eq!(allocations, 0, "{name}"),
        Some(why) => assert!(allocations > 0, "{name} does not allocate, though {why}"),
    }
}

test_every!(layers, a_call_that_goes_through_allocates_nothing);

async fn a_call_that_goes_through_allocates_nothing<L>(name: Text, make: impl Fn() -> Row<L>)
where
    L: Layer<AtOnce<Failure>, Service: Service<u64, Response = u64, Error = Failure>>,
{
    let row = make();
    assert_as_the_row_says(name, &row, allocations::<_, u64>(row.layer.layer(at_once()), None));
}

test_every!(layers, a_call_of_a_clone_allocates_nothing);

async fn a_call_of_a_clone_allocates_nothing<L>(name: Text, make: impl Fn() -> Row<L>)
where
    L: Layer<AtOnce<Failure>, Service: Service<u64, Response = u64, Error = Failure> + Clone>,
{
    let row = make();
    let service = row.layer.layer(at_once());
    let _ = call::<_, u64>(&mut service.clone());
    let info = measure(|| {
        for _ in 0..100 {
            assert_eq!(call::<_, u64>(&mut service.clone()), Ok(2));
        }
    });
    assert_as_the_row_says(name, &row, info.count_total);
}

test_every!(layers, a_call_that_is_rejected_allocates_nothing);

async fn a_call_that_is_rejected_allocates_nothing<L>(name: Text, make: impl Fn() -> Row<L>)
where
    L: Layer<AtOnce<Failure>, Service: Service<u64, Response = u64, Error = Failure>>,
{
    let row = make();
    for obstacle in &row.obstacles {
        if let Effect::Rejects(kind) = obstacle.effect {
            let _held = (obstacle.hold)();
            let count = allocations::<_, u64>(row.layer.layer(at_once()), Some(kind));
            assert_as_the_row_says(name, &row, count);
        }
    }
}

test_every!(ways_into_a_stack, a_call_by_way_of_a_stack_allocates_nothing);

async fn a_call_by_way_of_a_stack_allocates_nothing<L>(name: Text, make: impl Fn() -> Row<L>)
where
    L: Layer<AtOnce<Infallible>, Service: Service<Text, Response = u64, Error: CarryRejection>>,
    <L::Service as Service<Text>>::Error: Debug,
{
    let row = make();
    assert_as_the_row_says(name, &row, allocations::<_, Text>(row.layer.layer(at_once()), None));
}

#[test]
fn a_call_that_is_too_late_allocates_nothing() {
    let late = Deadline::scope(Deadline::after(Duration::ZERO), async {
        let timeout = TimeoutLayer::new(Duration::from_secs(1));
        let late = Some("deadline_exceeded");
        assert_eq!(allocations::<_, u64>(timeout.layer(at_once::<Failure>()), late), 0);
        let total = timeout.including_readiness();
        assert_eq!(allocations::<_, u64>(total.layer(at_once::<Failure>()), late), 0);
    });
    finish(late).unwrap();
}
