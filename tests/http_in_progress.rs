//! Tests of a client whose server is already processing the same request.
#![cfg(feature = "http")]

mod http_support;

use std::time::Duration;

use buttress::{
    Deadline, Stack,
    circuit_breaker::{CircuitBreakerLayer, State},
    http::{ClientKey, ReplaySafe, wire::GrpcCode},
    retry::{Backoff, Budget, Jitter, RetryBuilder, RetryLayer},
};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower::{ServiceExt, service_fn};

use self::http_support::*;

const SECOND: Duration = Duration::from_secs(1);

/// Creates the response of a server that processes the same request, with the time to retry.
fn in_progress(protocol: Protocol, seconds: u32) -> Answer {
    match protocol {
        Protocol::Http => answer(409, &[("retry-after", &seconds.to_string())]),
        Protocol::Grpc => {
            let millis = (seconds * 1_000).to_string();
            trailers_only(GrpcCode::Aborted.number(), &[("grpc-retry-pushback-ms", &millis)])
        }
    }
}

fn well(protocol: Protocol) -> Answer {
    match protocol {
        Protocol::Http => answer(200, &[]),
        Protocol::Grpc => trailers_only(0, &[]),
    }
}

/// Creates a request that the server processes only once.
fn keyed(protocol: Protocol) -> Request<Body> {
    let mut request = unkeyed(protocol);
    request.extensions_mut().insert(ClientKey);
    request
}

fn unkeyed(protocol: Protocol) -> Request<Body> {
    let mut request = protocol.request(&[]);
    *request.method_mut() = http::Method::POST;
    request
}

fn retry() -> RetryBuilder<ReplaySafe> {
    let backoff = Backoff::constant(PAUSE).jitter(Jitter::Full).build().unwrap();
    RetryLayer::builder(ReplaySafe::new()).retries(3).backoff(backoff).without_budget()
}

async fn send(retry: RetryBuilder<ReplaySafe>, up: &Upstream, request: Request<Body>) -> u16 {
    let stack = Stack::new().retry(retry.build().unwrap()).http();
    stack.service(up.clone()).oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn it_is_waited_for_as_long_as_it_says_and_not_shorter() {
    for protocol in BOTH {
        let mut longest = Duration::ZERO;
        for _ in 0..50 {
            let answers = [in_progress(protocol, 1), in_progress(protocol, 2), well(protocol)];
            let upstream = Upstream::saying(answers);
            assert_eq!(send(retry(), &upstream, keyed(protocol)).await, 200);
            let pauses = upstream.pauses();
            assert_eq!(pauses.len(), 2, "{protocol:?}");
            for (pause, asked) in pauses.iter().zip([SECOND, 2 * SECOND]) {
                // Jitter only adds to the pause, up to a fifth. A timer may add a little more.
                assert!(*pause >= asked && *pause <= asked.mul_f64(1.21), "{pause:?}");
            }
            longest = longest.max(pauses[0]);
        }
        assert!(longest > SECOND + PAUSE, "there is no jitter: {longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_names_no_time_and_a_mismatch_stop() {
    const AFTER: &[(&str, &str)] = &[("retry-after", "1")];
    let soon: &[(&str, &str)] = &[("retry-after", "soon")];
    for end in [answer(409, &[]), answer(409, soon), answer(422, &[]), answer(422, AFTER)] {
        let upstream = Upstream::saying([end.clone()]);
        assert_eq!(send(retry(), &upstream, keyed(Protocol::Http)).await, end.status());
        assert_eq!(upstream.calls(), 1);
        let upstream = Upstream::saying([in_progress(Protocol::Http, 1), end.clone()]);
        assert_eq!(send(retry(), &upstream, keyed(Protocol::Http)).await, end.status());
        assert_eq!(upstream.calls(), 2);
    }
    let aborted = GrpcCode::Aborted.number();
    let precondition = GrpcCode::FailedPrecondition.number();
    let later: &[(&str, &str)] = &[("grpc-retry-pushback-ms", "1000")];
    let stop: &[(&str, &str)] = &[("grpc-retry-pushback-ms", "-1")];
    for end in [
        trailers_only(aborted, &[]),
        trailers_only(aborted, stop),
        trailers_only(precondition, &[]),
        trailers_only(precondition, later),
    ] {
        let upstream = Upstream::saying([end]);
        send(retry(), &upstream, keyed(Protocol::Grpc)).await;
        assert_eq!(upstream.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_forbids_it_is_not_asked_again() {
    let headers = &[("retry-after", "1"), ("x-should-retry", "false")];
    let upstream = Upstream::saying([answer(409, headers)]);
    assert_eq!(send(retry(), &upstream, keyed(Protocol::Http)).await, 409);
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wish_for_no_pause_leaves_the_pause_of_ones_own() {
    let backoff = Backoff::constant(PAUSE).jitter(Jitter::None).build().unwrap();
    let upstream = Upstream::saying([in_progress(Protocol::Http, 0), answer(200, &[])]);
    let status = send(retry().backoff(backoff), &upstream, keyed(Protocol::Http)).await;
    assert_eq!((status, upstream.pauses()), (200, vec![PAUSE]));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_key_is_answered_as_the_server_answers() {
    for protocol in BOTH {
        let upstream = Upstream::saying([in_progress(protocol, 1)]);
        let stack = Stack::new().retry(retry().build().unwrap()).http();
        let answered = stack.service(upstream.clone()).oneshot(unkeyed(protocol)).await.unwrap();
        let expected = in_progress(protocol, 1);
        assert_eq!(answered.status(), expected.status());
        assert_eq!(answered.headers(), expected.headers());
        assert_eq!(upstream.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_too_long_or_past_the_deadline_is_not_begun() {
    for protocol in BOTH {
        let upstream = Upstream::saying([in_progress(protocol, 3)]);
        send(retry().hint_cap(2 * SECOND), &upstream, keyed(protocol)).await;
        assert_eq!(upstream.calls(), 1);

        let upstream = Upstream::saying([in_progress(protocol, 2)]);
        let began = tokio::time::Instant::now();
        let sent = send(retry(), &upstream, keyed(protocol));
        Deadline::scope(Deadline::after(SECOND), sent).await.unwrap();
        assert_eq!((upstream.calls(), began.elapsed()), (1, Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_of_them_leave_a_breaker_closed() {
    for protocol in BOTH {
        let breaker = CircuitBreakerLayer::new();
        let handle = breaker.handle();
        let upstream = Upstream::saying([in_progress(protocol, 1)]);
        let client = Stack::new().circuit_breaker(breaker).http().service(upstream.clone());
        for _ in 0..1_000 {
            client.clone().oneshot(keyed(protocol)).await.unwrap();
        }
        let seen = handle.snapshot();
        assert_eq!(upstream.calls(), 1_000);
        assert_eq!((seen.state(), seen.calls(), seen.failures()), (State::Closed, 1_000, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_told_in_the_trailers_is_no_failure_either() {
    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let service = service_fn(|_: Request<()>| async {
        let mut trailers = HeaderMap::new();
        put(&mut trailers, "grpc-status", GrpcCode::Aborted.number().to_string());
        put(&mut trailers, "grpc-retry-pushback-ms", "1000");
        let frames = [
            Ok::<_, std::io::Error>(Frame::data(Bytes::from("one"))),
            Ok(Frame::trailers(trailers)),
        ];
        let mut answer = http::Response::new(StreamBody::new(futures::stream::iter(frames)));
        put(answer.headers_mut(), "content-type", "application/grpc");
        Ok::<_, std::io::Error>(answer)
    });
    let client = Stack::new().circuit_breaker(breaker).http().service(service);
    for _ in 0..1_000 {
        client.clone().oneshot(Request::new(())).await.unwrap().collect().await.unwrap();
    }
    let seen = handle.snapshot();
    assert_eq!((seen.state(), seen.calls(), seen.failures()), (State::Closed, 1_000, 0));
}

#[tokio::test(start_paused = true)]
async fn it_closes_a_breaker_that_is_half_open() {
    for protocol in BOTH {
        let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).probes(1);
        let breaker = breaker.build().unwrap();
        let handle = breaker.handle();
        let upstream = Upstream::saying([answer(503, &[]), in_progress(protocol, 1)]);
        let client = Stack::new().circuit_breaker(breaker).http().service(upstream.clone());
        client.clone().oneshot(keyed(protocol)).await.unwrap();
        assert_eq!(handle.state(), State::Open);
        tokio::time::advance(handle.snapshot().retry_after().unwrap()).await;
        client.clone().oneshot(keyed(protocol)).await.unwrap();
        assert_eq!((handle.state(), upstream.calls()), (State::Closed, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn asking_again_is_paid_for_from_the_budget() {
    for protocol in BOTH {
        let budget = Budget::builder().ratio(0.0).floor(5).build().unwrap();
        let upstream = Upstream::saying([in_progress(protocol, 1)]);
        for _ in 0..10 {
            send(retry().budget(budget.clone()), &upstream, keyed(protocol)).await;
        }
        assert_eq!((upstream.calls(), budget.balance()), (15, 0.0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttle_charges_those_that_are_asked_again_and_no_others() {
    for protocol in BOTH {
        let budget = Budget::throttle().max_tokens(10).token_ratio(0.1).build().unwrap();
        let upstream = Upstream::saying([in_progress(protocol, 1)]);
        let throttled = || retry().budget(budget.clone());
        for _ in 0..100 {
            send(throttled(), &upstream, unkeyed(protocol)).await;
        }
        assert_eq!((upstream.calls(), budget.balance()), (100, 10.0));
        for _ in 0..100 {
            send(throttled(), &upstream, keyed(protocol)).await;
        }
        // Five tokens above the half, and of each response a tenth of a token.
        assert_eq!((upstream.calls(), budget.balance()), (217, 4.6));
    }
}
