//! Tests of the accounts that a response holds for the layers above it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Waker},
};

use buttress::{
    completion::{AtEnd, CallEnd, StreamingResponse},
    http::UntilEnd,
    outcome::DefaultClassifier,
    stack::slots::Slot,
};

use super::*;

#[tokio::test(start_paused = true)]
async fn what_layers_between_two_accounts_take_is_time_of_the_outer_call() {
    let slow = || window().slow_calls(2 * SECOND, 1.0).build().unwrap();
    let (outer, inner) = (slow(), slow());
    let feed = Feed::new([Step::Data("all"), Step::End]);
    let answers = Answers::default();
    *answers.0.lock().unwrap() = Some(Response::new(feed.body()));
    let service = HttpClientLayer::new().layer(handler!(answers, Rejected));
    let service = UntilEnd::new(inner.clone()).layer(service);
    let held_back = service_fn(move |request: Ask| {
        let response = service.clone().oneshot(request);
        async move {
            let response = response.await;
            tokio::time::sleep(3 * SECOND).await;
            response
        }
    });
    let response = UntilEnd::new(outer.clone()).layer(held_back).oneshot(Ask::default()).await;
    // The reader is slow. Only the reader waits for it.
    tokio::time::sleep(3 * SECOND).await;
    assert!(response.unwrap().into_body().collect().await.is_ok());
    let seen = |breaker: &CircuitBreakerLayer| {
        let seen = breaker.handle().snapshot();
        (seen.calls(), seen.slow_calls())
    };
    assert_eq!((seen(&outer), seen(&inner)), ((1, 1), (1, 0)));
}

/// A response that panics when it is asked for its end.
struct Endless;

impl StreamingResponse for Endless {
    fn call_end(&mut self) -> Option<&mut CallEnd> {
        panic!("a response panics");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_panics_when_it_is_asked_for_its_end_has_failed() {
    let breaker = window().build().unwrap();
    let service = service_fn(|()| ready(Ok::<_, Rejected>(Endless)));
    let service = Slot::<_, _, AtEnd>::wrap(&breaker, service, &Arc::new(DefaultClassifier));
    let mut call = Box::pin(service.oneshot(()));
    let polled = AssertUnwindSafe(|| call.as_mut().poll(&mut Context::from_waker(Waker::noop())));
    assert!(catch_unwind(polled).is_err());
    drop(call);
    let seen = breaker.handle().snapshot();
    assert_eq!((seen.calls(), seen.failures()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_response_says_how_much_it_holds() {
    let _spans = Spans::start();
    let budget = Budget::throttle().max_tokens(10).token_ratio(0.5).build().unwrap();
    let retry = RetryLayer::builder(ReplaySafe::new()).budget(budget).build().unwrap();
    let stack = Stack::new().retry(retry).bulkhead(BulkheadLayer::default());
    let stack = stack.circuit_breaker(CircuitBreakerLayer::new()).http();
    let answers = Answers::default();
    *answers.0.lock().unwrap() = Some(Response::new(Feed::new([]).body()));
    let service = stack.service(handler!(answers, Infallible));
    let response = service.oneshot(Ask::default()).await.unwrap();
    let text = format!("{:?}", response.body());
    assert!(text.contains("CallEnd { held: 5 }"), "{text}");
    assert_eq!(format!("{:?}", CallEnd::default()), "CallEnd { held: 0 }");
}
