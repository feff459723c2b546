//! Tests of the statuses that every retry would get again, or that allow only one retry.
#![cfg(feature = "http")]

mod http_support;

use buttress::{
    Classify, Error, Fault, Outcome, Stack,
    circuit_breaker::{CircuitBreakerLayer, State},
    context::Hop,
    http::{AutoClassifier, GrpcClassifier, HttpClassifier, HttpClientLayer, ReplaySafe},
    retry::{Backoff, Budget, Jitter, RetryBuilder, RetryLayer},
};
use http::{Method, Request};
use tower::ServiceExt;

use self::http_support::*;

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc")];
const FINAL: [u16; 7] = [501, 505, 506, 507, 508, 510, 511];
const UNPROCESSED: [u16; 2] = [421, 425];

fn retry() -> RetryBuilder<ReplaySafe> {
    let backoff = Backoff::constant(PAUSE).jitter(Jitter::None).build().unwrap();
    RetryLayer::builder(ReplaySafe::new()).retries(5).backoff(backoff).without_budget()
}

fn request(method: &Method) -> Request<Body> {
    let mut request = Protocol::Http.request(&[]);
    *request.method_mut() = method.clone();
    request
}

/// Sends a request to a server that gives these responses. Returns the status that the caller got.
async fn send(retry: RetryBuilder<ReplaySafe>, upstream: &Upstream, method: &Method) -> u16 {
    let stack = Stack::new().retry(retry.build().unwrap()).http();
    let answer = stack.service(upstream.clone()).oneshot(request(method)).await.unwrap();
    answer.status().as_u16()
}

#[test]
fn a_final_status_is_a_permanent_failure_whoever_judges_it() {
    fn outcome<C: Classify<Answer, Error<std::io::Error>>>(judge: &C, said: &Answer) -> Outcome {
        judge.classify(Ok(said))
    }
    for status in FINAL {
        for headers in [&[][..], GRPC] {
            let said = answer(status, headers);
            let outcomes = [
                outcome(&HttpClassifier::new(), &said),
                outcome(&GrpcClassifier::new(), &said),
                outcome(&AutoClassifier::new(), &said),
            ];
            assert_eq!(outcomes, [Outcome::Failure(Fault::Permanent); 3], "{status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_final_status_is_not_retried_and_opens_no_circuit() {
    for status in FINAL {
        let upstream = Upstream::saying([answer(status, &[])]);
        let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
        let handle = breaker.handle();
        let stack = Stack::new().retry(retry().build().unwrap()).circuit_breaker(breaker).http();
        let client = stack.service(upstream.clone());
        assert_eq!(client.oneshot(request(&Method::GET)).await.unwrap().status(), status);
        assert_eq!((upstream.calls(), handle.state()), (1, State::Closed), "{status}");
    }
    for status in [500, 502, 503, 504, 509, 520, 529, 599] {
        let upstream = Upstream::saying([answer(status, &[]), answer(200, &[])]);
        assert_eq!(send(retry(), &upstream, &Method::GET).await, 200, "{status} is not final");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_is_sent_again_once_whatever_its_method() {
    for status in UNPROCESSED {
        for method in [Method::GET, Method::DELETE, Method::POST, Method::PATCH] {
            let upstream = Upstream::saying([answer(status, &[]), answer(200, &[])]);
            assert_eq!(send(retry(), &upstream, &method).await, 200, "{method} after {status}");
            assert_eq!(upstream.pauses(), [PAUSE]);

            let upstream = Upstream::saying([answer(status, &[])]);
            assert_eq!(send(retry(), &upstream, &method).await, status);
            assert_eq!(upstream.calls(), 2, "{method} after {status}");
        }
        // It stays final when other failures lie in between.
        let said = [503, status, 503, status, 200].map(|status| answer(status, &[]));
        let upstream = Upstream::saying(said);
        assert_eq!(send(retry(), &upstream, &Method::GET).await, status);
        assert_eq!(upstream.calls(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_sends_a_grpc_call_elsewhere_is_asked_again_once() {
    let upstream = Upstream::saying([answer(421, GRPC), trailers_only(0, &[])]);
    let stack = Stack::new().retry(retry().build().unwrap()).http();
    let mut request = Protocol::Grpc.request(&[]);
    *request.method_mut() = Method::POST;
    let answer = stack.service(upstream.clone()).oneshot(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), upstream.calls()), (200, 2));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_processes_nothing_gets_no_more_than_the_budget_allows() {
    let share = || Budget::builder().ratio(0.0).floor(2).build().unwrap();
    // Half of ten tokens, one for each retry.
    let throttle = || Budget::throttle().build().unwrap();
    for (budget, retries) in [(share(), 2), (throttle(), 5)] {
        let upstream = Upstream::saying([answer(421, &[])]);
        let stack = Stack::new().retry(retry().budget(budget).build().unwrap()).http();
        let client = stack.service(upstream.clone());
        for _ in 0..20 {
            let answer = client.clone().oneshot(request(&Method::POST)).await.unwrap();
            assert_eq!(answer.status(), 421);
        }
        assert_eq!(upstream.calls(), 20 + retries);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_is_final_at_once_if_the_server_or_the_user_says_so() {
    for headers in [&[("retry-after", "1")], &[("x-should-retry", "false")]] {
        let upstream = Upstream::saying([answer(425, headers), answer(200, &[])]);
        assert_eq!(send(retry(), &upstream, &Method::GET).await, 425, "{headers:?}");
    }
    let upstream = Upstream::saying([answer(421, &[]), answer(200, &[])]);
    assert_eq!(send(retry().retries(0), &upstream, &Method::GET).await, 421);

    for (outcome, method, calls) in [
        (Outcome::Success, Method::GET, 1),
        (Outcome::Failure(Fault::Permanent), Method::GET, 1),
        (Outcome::Failure(Fault::Transient), Method::POST, 1),
        (Outcome::Failure(Fault::Transient), Method::GET, 6),
    ] {
        let upstream = Upstream::saying([answer(421, &[])]);
        let classifier = HttpClassifier::new().status(421.try_into().unwrap(), outcome);
        let http = HttpClientLayer::builder().classify(classifier).build().unwrap();
        let stack = Stack::new().retry(retry().build().unwrap()).http_client(http);
        stack.service(upstream.clone()).oneshot(request(&method)).await.unwrap();
        assert_eq!(upstream.calls(), calls, "{method} as {outcome:?}");
    }
}

/// A server with an idempotency layer would only replay it again.
#[tokio::test(start_paused = true)]
async fn a_recorded_failure_that_is_replayed_is_final() {
    const REPLAYED: (&str, &str) = ("idempotency-replayed", "true");
    for status in [408, 409, 421, 425, 429, 500, 503, 504] {
        for headers in [&[REPLAYED][..], &[REPLAYED, ("retry-after", "1")]] {
            let upstream = Upstream::saying([answer(status, headers), answer(200, &[])]);
            assert_eq!(send(retry(), &upstream, &Method::GET).await, status, "{headers:?}");
        }
    }
    let said = [trailers_only(14, &[REPLAYED]), trailers_only(0, &[])];
    let upstream = Upstream::saying(said);
    let safe = ReplaySafe::new().grpc_methods_fn(|_| true);
    let stack = Stack::new().retry(RetryLayer::new(safe)).http();
    stack.service(upstream.clone()).oneshot(Protocol::Grpc.request(&[])).await.unwrap();
    assert_eq!(upstream.calls(), 1);

    let lie = answer(503, &[("idempotency-replayed", "false")]);
    let upstream = Upstream::saying([lie, answer(200, &[])]);
    assert_eq!(send(retry(), &upstream, &Method::GET).await, 200);
}

/// Otherwise each hop above would send it again once.
#[tokio::test(start_paused = true)]
async fn the_hop_above_learns_that_it_was_sent_again() {
    for (said, exhausted) in [([421, 421], true), ([421, 200], false)] {
        let upstream = Upstream::saying(said.map(|status| answer(status, &[])));
        let (_, hop) = Hop::observe(send(retry(), &upstream, &Method::GET)).await;
        assert_eq!(hop.retries_exhausted(), exhausted);
    }
}
