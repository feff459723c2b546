//! What a call allocates: nothing, whether it goes through or is refused.
//!
//! The allocator counts by thread, so the tests of this file do not disturb each other.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Ready, ready},
    num::NonZeroU32,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use buttress::{
    CarryRejection, Deadline, Error, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    retry::{ReplayClones, RetryLayer},
    timeout::TimeoutLayer,
};
use tower::{Layer, Service};

type Failure = Error<Infallible>;

#[derive(Clone)]
struct AtOnce;

impl Service<u64> for AtOnce {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request + 1))
    }
}

/// Polls a future once, which must do.
fn finish<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it had to wait"),
    }
}

fn call<S: Service<u64>>(service: &mut S) -> Result<S::Response, S::Error>
where
    S::Error: Debug,
{
    let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(ready, Poll::Ready(Ok(()))));
    finish(service.call(1))
}

/// Allocations of a hundred calls, after a few that may warm something up.
fn allocations<S>(mut service: S, expected: Option<&str>) -> u64
where
    S: Service<u64, Response = u64, Error = Failure>,
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

#[test]
fn a_call_that_goes_through_allocates_nothing() {
    let second = Duration::from_secs(1);
    let queue = || BulkheadLayer::builder().queue(8, second).build().unwrap();
    let backpressure = BulkheadLayer::builder().backpressure().build().unwrap();
    let counted = CircuitBreakerLayer::builder().count_window(100).build().unwrap();
    let slow = CircuitBreakerLayer::builder().slow_calls(second, 0.5).build().unwrap();
    let keyed = CircuitBreakerLayer::builder().keyed(|request: &u64| *request).build().unwrap();
    let named = TimeoutLayer::new(second).name(String::from("made at run time"));

    assert_eq!(allocations(TimeoutLayer::new(second).layer(AtOnce), None), 0);
    assert_eq!(allocations(named.layer(AtOnce), None), 0);
    assert_eq!(allocations(TimeoutLayer::new(second).including_readiness().layer(AtOnce), None), 0);
    assert_eq!(allocations(RetryLayer::new(ReplayClones).layer(AtOnce), None), 0);
    assert_eq!(allocations(BulkheadLayer::default().layer(AtOnce), None), 0);
    assert_eq!(allocations(queue().layer(AtOnce), None), 0);
    assert_eq!(allocations(backpressure.layer(AtOnce), None), 0);
    assert_eq!(allocations(CircuitBreakerLayer::new().layer(AtOnce), None), 0);
    assert_eq!(allocations(counted.layer(AtOnce), None), 0);
    assert_eq!(allocations(slow.layer(AtOnce), None), 0);
    assert_eq!(allocations(keyed.layer(AtOnce), None), 0);
    assert_eq!(allocations(Stack::standard(ReplayClones).layer(AtOnce), None), 0);
    assert_eq!(allocations(Stack::standard(ReplayClones).bulkhead(queue()).layer(AtOnce), None), 0);
}

#[test]
fn a_call_of_a_clone_allocates_nothing() {
    let service = Stack::standard(ReplayClones).layer(AtOnce);
    let _ = call(&mut service.clone());
    let info = measure(|| {
        for _ in 0..100 {
            assert_eq!(call(&mut service.clone()), Ok(2));
        }
    });
    assert_eq!(info.count_total, 0);
}

#[test]
fn a_call_that_is_refused_allocates_nothing() {
    let bulkhead = BulkheadLayer::new(NonZeroU32::MIN);
    let mut holder = bulkhead.layer(AtOnce);
    assert!(holder.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready());
    assert_eq!(allocations(bulkhead.layer(AtOnce), Some("bulkhead_full")), 0);
    let stack = Stack::standard(ReplayClones).bulkhead(bulkhead);
    assert_eq!(allocations(stack.layer(AtOnce), Some("bulkhead_full")), 0);

    let breaker = CircuitBreakerLayer::builder().name(String::from("at run time")).build().unwrap();
    breaker.handle().force_open();
    assert_eq!(allocations(breaker.layer(AtOnce), Some("circuit_open")), 0);
    let stack = Stack::standard(ReplayClones).circuit_breaker(breaker);
    assert_eq!(allocations(stack.layer(AtOnce), Some("circuit_open")), 0);

    let late = Deadline::scope(Deadline::after(Duration::ZERO), async {
        let timeout = TimeoutLayer::new(Duration::from_secs(1));
        assert_eq!(allocations(timeout.layer(AtOnce), Some("deadline_exceeded")), 0);
        let total = timeout.including_readiness();
        assert_eq!(allocations(total.layer(AtOnce), Some("deadline_exceeded")), 0);
    });
    finish(late).unwrap();
}
