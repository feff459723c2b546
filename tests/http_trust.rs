//! Tests that the headers of a caller reduce only its own time, and affect nothing else.
#![cfg(feature = "http")]

mod http_support;

use std::{
    convert::Infallible,
    future::pending,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{
    Deadline, Stack,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer, State},
    http::{HttpServerLayer, ReplaySafe, wire},
    retry::{Backoff, Budget, Jitter, RetryLayer},
};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use proptest::{collection::vec, prelude::*, sample::select};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneService};

use self::http_support::*;

const MINUTE: Duration = Duration::from_secs(60);

/// The state that all callers of a server share.
struct Shared {
    breaker: CircuitBreakerHandle,
    budget: Budget,
}

impl Shared {
    fn is_untouched(&self) -> bool {
        let snapshot = self.breaker.snapshot();
        (snapshot.state(), snapshot.failures(), snapshot.opened()) == (State::Closed, 0, 0)
            && self.budget.balance() == Budget::default().balance()
    }
}

type Front = BoxCloneService<Request<Body>, Response<()>, Infallible>;

/// Creates a server whose handler forwards each request to `upstream`, and returns its response.
fn front<U, B>(upstream: U) -> (Front, Shared)
where
    U: Service<Request<Body>, Response = Response<B>, Error = io::Error>
        + Clone
        + Send
        + Sync
        + 'static,
    U::Future: Send,
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    // A single failure would open the breaker.
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
    let budget = Budget::default();
    let shared = Shared { breaker: breaker.handle(), budget: budget.clone() };
    let retry = RetryLayer::builder(ReplaySafe::new().grpc_methods_fn(|_| true));
    let client = Stack::new()
        .total_timeout(Duration::from_secs(5))
        .retry(retry.budget(budget).build().unwrap())
        .circuit_breaker(breaker)
        .attempt_timeout(Duration::from_secs(2))
        .http()
        .service::<_, Request<Body>, _>(upstream);
    let handler = service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            let answered = async {
                let (head, body) = client.oneshot(request).await.ok()?.into_parts();
                body.collect().await.ok()?;
                Some(Answer::from_parts(head, Body::default()))
            };
            Ok::<_, Infallible>(answered.await.unwrap_or_else(|| answer(502, &[])))
        }
    });
    let server = HttpServerLayer::new(Stack::new()).layer(handler);
    (BoxCloneService::new(server.map_response(|response| response.map(drop))), shared)
}

/// Runs for a minute a caller that leaves little time, beside one that leaves enough.
async fn a_minute_of<U, B>(protocol: Protocol, millis: u64, upstream: U)
where
    U: Service<Request<Body>, Response = Response<B>, Error = io::Error>
        + Clone
        + Send
        + Sync
        + 'static,
    U::Future: Send,
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let (server, shared) = front(upstream);
    let end = Instant::now() + MINUTE;
    let (name, value) = protocol.time_left(millis);
    let hasty = async {
        while Instant::now() < end {
            let began = Instant::now();
            let request = protocol.request(&[(name, &value)]);
            let response = server.clone().oneshot(request).await.unwrap();
            let code = response.headers().get("grpc-status").map(|code| code.as_bytes());
            let late = response.status().is_server_error() || code.is_some_and(|code| code != b"0");
            assert!(late, "{response:?}");
            assert!(began.elapsed() <= Duration::from_millis(millis));
            assert!(shared.is_untouched(), "{millis} ms of {protocol:?} after {began:?}");
            sleep(Duration::from_millis(7)).await;
        }
    };
    let patient = async {
        let mut served = 0;
        while Instant::now() < end {
            let request = protocol.request(&[]);
            let response = server.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            served += 1;
        }
        served
    };
    let ((), served) = tokio::join!(hasty, patient);
    assert!(served > 100, "{served}");
    assert!(shared.is_untouched());
}

/// The response time of the called service, which is longer than hurried callers wait.
const SLOW: Duration = Duration::from_millis(200);

fn good(protocol: Protocol) -> Answer {
    match protocol {
        Protocol::Http => answer(200, &[]),
        Protocol::Grpc => trailers_only(0, &[]),
    }
}

fn slow(protocol: Protocol) -> Upstream {
    Upstream::new(move |_| async move {
        sleep(SLOW).await;
        Ok(good(protocol))
    })
}

#[tokio::test(start_paused = true)]
async fn callers_in_a_hurry_do_not_open_a_breaker_that_all_share() {
    for protocol in BOTH {
        for millis in [1, 2, 5, 50] {
            a_minute_of(protocol, millis, slow(protocol)).await;
        }
    }
}

/// The service gives up at the caller's deadline, as every user of the hop protocol does.
#[tokio::test(start_paused = true)]
async fn nor_do_they_where_the_service_keeps_to_their_deadline() {
    for protocol in BOTH {
        for millis in [1, 2, 5, 50] {
            let handler = service_fn(move |_: Request<Body>| async move {
                sleep(SLOW).await;
                Ok::<_, Infallible>(good(protocol))
            });
            let service = HttpServerLayer::new(Stack::new()).layer(handler);
            let service = service.map_err(|never| match never {}).map_response(|response| {
                response.map(|body| body.map_err(|_| unreachable!("an empty body")))
            });
            a_minute_of(protocol, millis, service).await;
        }
    }
}

type Slowly = UnsyncBoxBody<Bytes, Infallible>;

/// Creates a response that sends its head at once, and the rest after `SLOW`.
fn slow_body(protocol: Protocol) -> Response<Slowly> {
    let last = async move {
        sleep(SLOW).await;
        let mut trailers = HeaderMap::new();
        put(&mut trailers, "grpc-status", "0");
        Ok(Frame::trailers(trailers))
    };
    let mut head = good(protocol);
    head.headers_mut().remove("grpc-status");
    head.map(|_| BodyExt::boxed_unsync(StreamBody::new(stream::once(last))))
}

#[tokio::test(start_paused = true)]
async fn nor_do_they_where_only_the_body_is_slow() {
    for protocol in BOTH {
        for millis in [2, 5, 50] {
            let upstream = service_fn(move |_: Request<Body>| async move {
                Ok::<_, io::Error>(slow_body(protocol))
            });
            a_minute_of(protocol, millis, upstream).await;
        }
    }
}

/// tonic's channel is an example. It has its own timer for `grpc-timeout`.
#[tokio::test(start_paused = true)]
async fn nor_do_they_where_the_client_itself_keeps_to_their_deadline() {
    for protocol in BOTH {
        for millis in [2, 5, 50] {
            let upstream = service_fn(move |request: Request<Body>| async move {
                let limit = match protocol {
                    Protocol::Http => wire::expected_timeout(request.headers()),
                    Protocol::Grpc => wire::grpc_timeout(request.headers()),
                };
                let late = |_| io::Error::from(io::ErrorKind::TimedOut);
                let limit = limit.value.expect("a total timeout");
                timeout(limit, sleep(SLOW)).await.map_err(late)?;
                Ok(good(protocol))
            });
            a_minute_of(protocol, millis, upstream).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_gives_up_on_patient_callers_opens_the_breaker() {
    // The response is the same, but the caller left enough time.
    for protocol in BOTH {
        let late = match protocol {
            Protocol::Http => answer(504, &[]),
            Protocol::Grpc => trailers_only(4, &[]),
        };
        let (server, shared) = front(Upstream::saying([late]));
        let (name, value) = protocol.time_left(1_000);
        let _ = server.oneshot(protocol.request(&[(name, &value)])).await;
        assert_eq!(shared.breaker.state(), State::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_a_caller_excuses_a_service_until_nobody_has_a_response() {
    // A service that hangs, and says so a little before the deadline of each caller.
    let handler = service_fn(|_: Request<Body>| pending::<Result<Answer, Infallible>>());
    let service = HttpServerLayer::new(Stack::new()).layer(handler);
    let service = service.map_err(|never| match never {});
    let service = service.map_response(|response| {
        response.map(|body| body.map_err(|_| unreachable!("a problem document")))
    });
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
    let handle = breaker.handle();
    let client =
        Stack::new().circuit_breaker(breaker).http().service::<_, Request<Body>, _>(service);
    // Nobody was ever answered: those count who left it two seconds, once the window has passed.
    let calls = [(2_500, State::Closed); 5].into_iter();
    for (millis, state) in calls.chain([(1_900, State::Closed), (2_500, State::Open)]) {
        let within = Deadline::after(Duration::from_millis(millis));
        let request = Protocol::Http.request(&[]);
        let answered = Deadline::scope(within, client.clone().oneshot(request)).await;
        assert_eq!(answered.unwrap().unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(handle.state(), state, "{millis}");
    }
}

fn hostile_header() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let name = select(vec![
        "content-type",
        "grpc-timeout",
        "x-envoy-expected-rq-timeout-ms",
        "connect-timeout-ms",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-max-retries",
        "x-envoy-retry-on",
        "x-envoy-attempt-count",
        "grpc-previous-rpc-attempts",
        "x-should-retry",
        "x-envoy-ratelimited",
        "grpc-retry-pushback-ms",
        "retry-after",
        "grpc-status",
        "idempotency-key",
        "date",
    ]);
    let telling = select(vec![
        "application/grpc",
        "application/grpc+proto",
        "0",
        "1",
        "-1",
        "3",
        "250",
        "99999999H",
        "5m",
        "700m",
        "60S",
        "0n",
        "18446744073709551615",
        "99999999999999999999999",
        "true",
        "false",
        "5xx,connect-failure",
        "Sun, 06 Nov 1994 08:49:37 GMT",
    ]);
    let any = vec(any::<u8>(), 0..12)
        .prop_filter("a value", |value| HeaderValue::from_bytes(value).is_ok());
    (name, prop_oneof![3 => telling.prop_map(|value| value.as_bytes().to_vec()), 1 => any])
}

const LIMIT: Duration = Duration::from_secs(3);
const ATTEMPT: Duration = Duration::from_secs(1);

/// Forwards a request with its headers through a stack that retries safe requests.
///
/// Returns the status, and the time that the handler had.
async fn forwarded(request: Request<Body>, upstream: Upstream) -> (StatusCode, Option<Duration>) {
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(100).build().unwrap();
    let backoff = Backoff::constant(PAUSE).jitter(Jitter::None).build().unwrap();
    let retry = RetryLayer::builder(ReplaySafe::new()).retries(2).backoff(backoff);
    let client = Stack::new()
        .retry(retry.without_budget().build().unwrap())
        .circuit_breaker(breaker)
        .attempt_timeout(ATTEMPT)
        .http()
        .service::<_, Request<Body>, _>(upstream);
    let had = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&had);
    let handler = service_fn(move |request: Request<Body>| {
        *noted.lock().unwrap() = Deadline::current().map(|deadline| deadline.remaining());
        let answered = client.clone().oneshot(request);
        async move {
            let answered = answered.await.map(|response| response.map(|_| Body::default()));
            Ok::<_, Infallible>(answered.unwrap_or_else(|_| answer(502, &[])))
        }
    });
    let server =
        HttpServerLayer::builder(Stack::new()).limit(LIMIT).build().unwrap().layer(handler);
    let status = server.oneshot(request).await.unwrap().status();
    let had = *had.lock().unwrap();
    (status, had)
}

proptest! {
    #[test]
    fn no_header_of_a_request_buys_time_or_retries(
        post in any::<bool>(),
        headers in vec(hostile_header(), 0..8),
    ) {
        let mut request = Request::new(Body::default());
        *request.method_mut() = if post { Method::POST } else { Method::GET };
        let mut hurried = false;
        for (name, value) in &headers {
            put(request.headers_mut(), name, value);
            hurried |= name.contains("timeout");
        }
        let sent = request.headers().clone();
        let grpc = wire::is_grpc(&sent);
        let upstream = Upstream::saying([answer(503, &[])]);
        let (_, had) = on_paused_clock(forwarded(request, upstream.clone()));

        let most = if post || grpc { 1 } else { 3 };
        // A deadline is only ever shortened.
        prop_assert!(had.is_none_or(|had| had <= LIMIT));
        if !hurried {
            prop_assert_eq!(had, Some(LIMIT));
            // A safe request is retried whatever the headers say. No other request is.
            prop_assert_eq!(upstream.calls(), most);
        }
        prop_assert!(upstream.calls() <= most);
        for (number, sent) in (1u32..).zip(upstream.seen()) {
            let (left, attempt) = if grpc {
                let previous = wire::previous_attempts(&sent.headers);
                (wire::grpc_timeout(&sent.headers), previous.value.map(|number| number + 1))
            } else {
                let attempt = wire::attempt_count(&sent.headers);
                (wire::expected_timeout(&sent.headers), attempt.value)
            };
            prop_assert_eq!(left.malformed, 0);
            prop_assert!(left.value.is_some_and(|left| left <= ATTEMPT));
            prop_assert_eq!(attempt.unwrap_or(1), number);
        }
    }
}
