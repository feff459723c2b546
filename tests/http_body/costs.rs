use std::{
    pin::pin,
    task::{Context, Waker},
};

use allocation_counter::measure;
use tower::Service;

use super::*;

/// Polls a future once, which must complete it.
fn finish<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it had to wait"),
    }
}

fn frames() -> [Step; 4] {
    [Step::Data("a"), Step::Data("b"), Step::Trailers(HeaderMap::new()), Step::End]
}

/// Counts the allocations of a call that is read until it has to wait, or has ended.
fn allocations(feed: &Feed) -> u64 {
    let (slots, breaker) = (BulkheadLayer::default(), window().build().unwrap());
    let handle = slots.handle();
    let retry = RetryLayer::new(ReplaySafe::new());
    let stack = Stack::new().retry(retry).bulkhead(slots).circuit_breaker(breaker).http();
    let answers = Answers::default();
    let mut service = stack.service(handler!(answers, Infallible));
    *answers.0.lock().unwrap() = Some(Response::new(feed.body()));
    let mut request = Some(Ask::default());
    let info = measure(|| {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        let response = finish(service.call(request.take().unwrap())).unwrap();
        let mut body = pin!(response.into_body());
        while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
            assert!(frame.is_ok());
        }
    });
    assert_eq!(handle.in_flight(), 0);
    info.count_total
}

/// Counts the allocations of a call at a server, and how many of them are left in the end.
fn served(feed: &Feed) -> (u64, i64) {
    let answers = Answers::default();
    let layer = HttpServerLayer::new(Stack::new().bulkhead(BulkheadLayer::default()));
    let mut service = layer.layer(handler!(answers, Infallible));
    *answers.0.lock().unwrap() = Some(Response::new(feed.body()));
    let mut request = Some(Ask::default());
    let info = measure(|| {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Service::<Ask>::poll_ready(&mut service, &mut cx).is_ready());
        let response = finish(service.call(request.take().unwrap())).unwrap();
        let mut body = pin!(response.into_body());
        while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
            assert!(frame.is_ok());
        }
    });
    (info.count_total, info.count_current)
}

#[tokio::test(start_paused = true)]
async fn a_server_watches_the_reader_of_a_second_frame_and_not_of_a_first() {
    for steps in [&[Step::Closed][..], &[Step::Data("a"), Step::Closed]] {
        served(&Feed::new(steps.iter().cloned()));
        assert_eq!(served(&Feed::new(steps.iter().cloned())), (0, 0), "{steps:?}");
    }
    // The end of the call, the watch and its timer. The timer does not keep the watch alive.
    let (total, left) = served(&Feed::new(frames()));
    assert_eq!((total, left), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_waits_allocates_nothing_and_arms_no_timer() {
    // An armed timer is allocated. Without an allocation, no timer was armed.
    for steps in [&frames()[..], &[Step::Closed], &[Step::Data("a"), Step::Closed]] {
        allocations(&Feed::new(steps.iter().cloned()));
        assert_eq!(allocations(&Feed::new(steps.iter().cloned())), 0, "{steps:?}");
    }
    assert_ne!(allocations(&Feed::new([Step::Data("a")])), 0, "the count counts");
}
