//! Tests of the hop protocol on the client side.
#![cfg(feature = "http")]

mod http_support;

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    CarryRejection, Deadline, Error, Fault, Outcome, Rejection, Stack,
    circuit_breaker::{CircuitBreakerLayer, State},
    context::{Attempt, Hop},
    http::{AutoClassifier, HttpClientLayer, HttpServerLayer, ReplaySafe, ResponseBody},
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use proptest::{collection::vec, prelude::*, sample::select};
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};

use self::http_support::*;

type Client = BoxCloneService<Request<Body>, Response<ResponseBody<Body>>, Error<io::Error>>;

const SECOND: Duration = Duration::from_secs(1);

/// Creates a client around `upstream`, without other layers.
fn bare(upstream: &Upstream) -> Client {
    BoxCloneService::new(Stack::new().http().service::<_, Request<Body>, _>(upstream.clone()))
}

fn retrying(retries: u32, upstream: &Upstream) -> Client {
    let retry = retry(retries).hint_cap(SECOND * 10);
    let stack = Stack::new().retry(retry.build().unwrap()).http();
    BoxCloneService::new(stack.service::<_, Request<Body>, _>(upstream.clone()))
}

/// Creates a response that may be retried.
fn failure(protocol: Protocol, headers: &[(&str, &str)]) -> Answer {
    match protocol {
        Protocol::Http => answer(503, headers),
        Protocol::Grpc => trailers_only(14, headers),
    }
}

// The remaining time.

#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_what_it_has_left_beneath_its_own_timeout() {
    let expected =
        [["2000", "2000", "800"].as_slice(), ["2000000u", "2000000u", "800000u"].as_slice()];
    for (protocol, expected) in BOTH.into_iter().zip(expected) {
        let upstream = Upstream::hanging();
        let client = Stack::new()
            .total_timeout(SECOND * 5)
            .retry(retry(9).build().unwrap())
            .attempt_timeout(SECOND * 2)
            .http()
            .service::<_, Request<Body>, _>(upstream.clone());
        // Two attempts of 2 s and two pauses of 100 ms leave 800 ms for the third attempt.
        assert!(client.oneshot(protocol.request(&[])).await.is_err());
        let told: Vec<_> = upstream.lines(protocol.time_left(0).0).concat();
        assert_eq!(told, expected, "{protocol:?}");
        let other = match protocol {
            Protocol::Http => "grpc-timeout",
            Protocol::Grpc => "x-envoy-expected-rq-timeout-ms",
        };
        assert_eq!(upstream.lines(other).concat(), [""; 0]);
    }
}

/// Returns what a server receives when this much time is left, or `None` if it is not called.
async fn told(request: Request<Body>, left: Duration, client: Client) -> Result<(), &'static str> {
    match Deadline::scope(Deadline::after(left), client.oneshot(request)).await.unwrap() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.rejection().map_or("no rejection", Rejection::kind)),
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_left_is_rounded_down_and_never_nothing() {
    let micros = Duration::from_micros;
    let table = [
        (Protocol::Http, micros(1_999), Some("1")),
        (Protocol::Http, micros(1_000), Some("1")),
        (Protocol::Http, micros(999), None),
        (Protocol::Http, Duration::ZERO, None),
        (Protocol::Http, SECOND * 86_400 * 365, Some("9999999999")),
        (Protocol::Grpc, Duration::from_nanos(100_000_999), Some("100000u")),
        (Protocol::Grpc, Duration::from_nanos(99_999_999), Some("99999999n")),
        (Protocol::Grpc, Duration::from_nanos(1), Some("1n")),
        (Protocol::Grpc, Duration::ZERO, None),
    ];
    for (protocol, left, expected) in table {
        let upstream = Upstream::saying([answer(200, &[])]);
        let asked = told(protocol.request(&[]), left, bare(&upstream)).await;
        let lines = upstream.lines(protocol.time_left(0).0).concat();
        let rejected = Err("deadline_exceeded");
        assert_eq!(asked, if expected.is_some() { Ok(()) } else { rejected }, "{left:?}");
        assert_eq!(lines, Vec::from_iter(expected), "{protocol:?} {left:?}");
        assert_eq!(upstream.calls(), lines.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_rejected_for_want_of_time_says_nothing_of_the_service() {
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
    let handle = breaker.handle();
    let upstream = Upstream::saying([answer(200, &[])]);
    let stack = Stack::new().retry(retry(3).build().unwrap()).circuit_breaker(breaker).http();
    let client = BoxCloneService::new(stack.service::<_, Request<Body>, _>(upstream.clone()));
    let asked = told(Protocol::Http.request(&[]), Duration::from_micros(1), client).await;
    assert_eq!((asked, upstream.calls()), (Err("deadline_exceeded"), 0));
    assert_eq!((handle.state(), handle.snapshot().failures()), (State::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn the_protocol_is_that_of_the_content_type_of_the_request() {
    for (kind, grpc) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;x=y", true),
        ("APPLICATION/GRPC", true),
        ("application/grpc-web", false),
        ("application/json", false),
    ] {
        let upstream = Upstream::saying([answer(200, &[])]);
        let request = Protocol::Http.request(&[("content-type", kind)]);
        told(request, SECOND, bare(&upstream)).await.unwrap();
        let lines = |name| upstream.lines(name).concat().len();
        assert_eq!(
            (lines("grpc-timeout"), lines("x-envoy-expected-rq-timeout-ms")),
            if grpc { (1, 0) } else { (0, 1) }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn of_the_callers_own_time_and_what_is_left_the_lesser_is_told() {
    let table: [(Protocol, &[&str], &[&str]); 10] = [
        (Protocol::Http, &["300"], &["300"]),
        (Protocol::Http, &["5000"], &["1000"]),
        (Protocol::Http, &["5000", "300"], &["300"]),
        (Protocol::Http, &["a while"], &["1000"]),
        (Protocol::Http, &["0"], &["1000"]),
        (Protocol::Grpc, &["300m"], &["300000u"]),
        (Protocol::Grpc, &["1H"], &["1000000u"]),
        (Protocol::Grpc, &["1H", "300m", "x"], &["300000u"]),
        (Protocol::Grpc, &["300"], &["1000000u"]),
        (Protocol::Grpc, &["99999999H"], &["1000000u"]),
    ];
    for (protocol, written, expected) in table {
        let name = protocol.time_left(0).0;
        let headers: Vec<_> = written.iter().map(|value| (name, *value)).collect();
        let upstream = Upstream::saying([answer(200, &[])]);
        told(protocol.request(&headers), SECOND, bare(&upstream)).await.unwrap();
        assert_eq!(upstream.lines(name).concat(), expected, "{written:?}");

        // Without a deadline, the header is not reduced.
        let upstream = Upstream::saying([answer(200, &[])]);
        bare(&upstream).oneshot(protocol.request(&headers)).await.unwrap();
        assert_eq!(upstream.lines(name).concat(), written, "{written:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_wrote_that_it_has_no_time_left_is_rejected() {
    let upstream = Upstream::saying([answer(200, &[])]);
    let request = Protocol::Grpc.request(&[("grpc-timeout", "0n")]);
    assert_eq!(told(request, SECOND, bare(&upstream)).await, Err("deadline_exceeded"));
    assert_eq!(upstream.calls(), 0);
}

// The number of the attempt.

#[tokio::test(start_paused = true)]
async fn each_attempt_says_which_it_is_but_the_first() {
    let table = [
        (Protocol::Http, "x-envoy-attempt-count", [vec![], vec!["2"], vec!["3"]]),
        (Protocol::Grpc, "grpc-previous-rpc-attempts", [vec![], vec!["1"], vec!["2"]]),
    ];
    for (protocol, name, expected) in table {
        let upstream = Upstream::saying([failure(protocol, &[])]);
        retrying(2, &upstream).oneshot(protocol.request(&[])).await.unwrap();
        assert_eq!(upstream.lines(name), expected);
        // The number of a forwarded request is not the number of our attempt.
        let upstream = Upstream::saying([failure(protocol, &[])]);
        let forwarded = protocol.request(&[(name, "7"), (name, "9")]);
        retrying(2, &upstream).oneshot(forwarded).await.unwrap();
        assert_eq!(upstream.lines(name), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn no_number_is_told_twice_if_a_retry_is_around_another() {
    let table = [
        (Protocol::Http, "x-envoy-attempt-count", ["2", "3", "4"]),
        (Protocol::Grpc, "grpc-previous-rpc-attempts", ["1", "2", "3"]),
    ];
    for (protocol, name, [second, third, fourth]) in table {
        let upstream = Upstream::saying([failure(protocol, &[])]);
        let retry = retry(1).classify(AutoClassifier::new()).build().unwrap();
        let outer = retry.layer(retrying(1, &upstream));
        outer.oneshot(protocol.request(&[])).await.unwrap();
        assert_eq!(upstream.lines(name), [vec![], vec![second], vec![third], vec![fourth]]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_retries_of_a_handler_do_not_use_the_numbers_of_its_caller() {
    let (upstream, seen) = (Upstream::saying([answer(503, &[])]), Arc::new(Mutex::new(vec![])));
    let (client, log) = (retrying(1, &upstream), Arc::clone(&seen));
    let handler = service_fn(move |_: Request<Body>| {
        log.lock().unwrap().push(Attempt::current().map_or(1, |attempt| attempt.number()));
        let call = client.clone().oneshot(Protocol::Http.request(&[]));
        async move {
            call.await.unwrap();
            Ok::<_, Infallible>(answer(503, &[]))
        }
    });
    // The server runs in the same polls as its client.
    let server = HttpServerLayer::new(Stack::new()).layer(handler);
    let server = server.map_err(|never| match never {}).map_response(|_| answer(503, &[]));
    let stack = Stack::new().retry(retry(1).build().unwrap()).http();
    let outer = stack.service::<_, Request<Body>, _>(server);
    let _: Result<_, Error<io::Error>> = outer.oneshot(Protocol::Http.request(&[])).await;
    assert_eq!(*seen.lock().unwrap(), [1, 2]);
    assert_eq!(upstream.lines("x-envoy-attempt-count"), [vec![], vec!["2"], vec![], vec!["2"]]);
}

#[tokio::test(start_paused = true)]
async fn the_attempt_of_a_caller_is_not_passed_on_as_ours() {
    for (protocol, name) in
        [(Protocol::Http, "x-envoy-attempt-count"), (Protocol::Grpc, "grpc-previous-rpc-attempts")]
    {
        for retries in [None, Some(0), Some(1)] {
            let upstream = Upstream::saying([answer(200, &[])]);
            let client = match retries {
                None => bare(&upstream),
                Some(retries) => retrying(retries, &upstream),
            };
            let handler = service_fn(move |_: Request<Body>| {
                let answered = client.clone().oneshot(protocol.request(&[]));
                async move {
                    answered.await.unwrap();
                    Ok::<_, Infallible>(answer(200, &[]))
                }
            });
            let server = HttpServerLayer::new(Stack::new()).layer(handler);
            server.oneshot(protocol.request(&[(name, "4")])).await.unwrap();
            assert_eq!(upstream.lines(name), [[""; 0]], "{retries:?}");
        }
    }
}

// Settings.

#[tokio::test(start_paused = true)]
async fn a_sidecar_is_told_only_where_it_is_asked_for() {
    const ORDER: &str = "x-envoy-upstream-rq-timeout-ms";
    for protocol in BOTH {
        for for_envoy in [false, true] {
            let upstream = Upstream::saying([answer(200, &[])]);
            let builder = HttpClientLayer::builder();
            let builder = if for_envoy { builder.for_envoy() } else { builder };
            let stack = Stack::new().http_client(builder.build().unwrap());
            let client =
                BoxCloneService::new(stack.service::<_, Request<Body>, _>(upstream.clone()));
            told(protocol.request(&[]), SECOND, client).await.unwrap();
            let expected: &[&str] =
                if for_envoy && protocol == Protocol::Http { &["1000"] } else { &[] };
            assert_eq!(upstream.lines(ORDER).concat(), expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_hop_headers_a_request_is_sent_as_it_is() {
    for protocol in BOTH {
        let upstream = Upstream::saying([failure(protocol, &[])]);
        let layer = HttpClientLayer::builder().without_hop_headers().build().unwrap();
        let stack = Stack::new().retry(retry(1).build().unwrap()).http_client(layer);
        let client = BoxCloneService::new(stack.service::<_, Request<Body>, _>(upstream.clone()));
        let (name, value) = protocol.time_left(9_000);
        let request = protocol.request(&[(name, &value), ("x-envoy-attempt-count", "5")]);
        let headers = request.headers().clone();
        told(request, SECOND, client).await.unwrap();
        let seen: Vec<_> = upstream.seen().into_iter().map(|sent| sent.headers).collect();
        assert_eq!(seen, [headers.clone(), headers]);
    }
}

// The signal that stops retries.

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_so_is_not_retried_and_the_hop_is_told() {
    let http = ("x-should-retry", "false");
    let table = [
        (failure(Protocol::Http, &[http]), 1),
        (answer(500, &[("x-should-retry", "False")]), 1),
        (answer(429, &[http]), 1),
        (failure(Protocol::Grpc, &[("grpc-retry-pushback-ms", "-1")]), 1),
        (failure(Protocol::Grpc, &[("grpc-retry-pushback-ms", "soon")]), 1),
        (failure(Protocol::Http, &[("x-should-retry", "true")]), 3),
        (failure(Protocol::Http, &[("x-should-retry", "no")]), 3),
        (failure(Protocol::Http, &[("grpc-retry-pushback-ms", "-1")]), 3),
        (failure(Protocol::Grpc, &[http]), 3),
    ];
    for (answer, calls) in table {
        let stops = calls == 1;
        let upstream = Upstream::saying([answer.clone()]);
        let call = retrying(2, &upstream).oneshot(Protocol::Http.request(&[]));
        let (_, hop) = Hop::observe(call).await;
        assert_eq!(upstream.calls(), calls, "{answer:?}");
        assert_eq!((hop.told_to_stop(), hop.retries_exhausted()), (stops, !stops), "{answer:?}");

        // The signal also passes through a hop that does not retry.
        let upstream = Upstream::saying([answer.clone()]);
        let (_, hop) = Hop::observe(bare(&upstream).oneshot(Protocol::Http.request(&[]))).await;
        assert_eq!((hop.told_to_stop(), hop.retries_exhausted()), (stops, false), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_went_well_tells_nobody_to_stop() {
    let fine = [
        answer(200, &[("x-should-retry", "false")]),
        answer(404, &[("x-should-retry", "false")]),
        answer(409, &[("x-should-retry", "false")]),
        trailers_only(0, &[("grpc-retry-pushback-ms", "-1")]),
    ];
    for answer in fine {
        let upstream = Upstream::saying([answer.clone()]);
        let call = retrying(2, &upstream).oneshot(Protocol::Http.request(&[]));
        let (_, hop) = Hop::observe(call).await;
        assert_eq!((hop, upstream.calls()), (Hop::default(), 1), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn malformed_lines_of_answers_are_counted() {
    let layer = HttpClientLayer::new();
    let answers = [
        answer(503, &[("retry-after", "soon"), ("retry-after", "-1")]),
        trailers_only(14, &[("grpc-retry-pushback-ms", "1.5")]),
        answer(409, &[("retry-after", "soon")]),
        answer(404, &[("retry-after", "soon")]),
        answer(200, &[]),
    ];
    let upstream = Upstream::saying(answers);
    let client = Stack::new().http_client(layer.clone()).service::<_, Request<Body>, _>(upstream);
    for expected in [2, 3, 4, 4, 4] {
        client.clone().oneshot(Protocol::Http.request(&[])).await.unwrap();
        assert_eq!(layer.malformed_headers(), expected);
    }
}

fn header_of_an_answer() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let name = select(vec![
        "retry-after",
        "date",
        "x-should-retry",
        "grpc-retry-pushback-ms",
        "x-envoy-ratelimited",
        "x-envoy-attempt-count",
        "grpc-previous-rpc-attempts",
        "idempotency-key",
    ]);
    let telling = select(vec![
        "true",
        "false",
        "0",
        "-1",
        "1",
        "20",
        "99999999999999999999999",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:39 GMT",
        "Sun, 06 Nov 9994 08:49:39 GMT",
    ]);
    let any = vec(any::<u8>(), 0..12)
        .prop_filter("a value", |value| HeaderValue::from_bytes(value).is_ok());
    (name, prop_oneof![3 => telling.prop_map(|value| value.as_bytes().to_vec()), 1 => any])
}

fn put_all(headers: &mut HeaderMap, lines: &[(&str, Vec<u8>)]) {
    for (name, value) in lines {
        put(headers, name, value);
    }
}

proptest! {
    #[test]
    fn nothing_in_an_answer_can_force_a_retry(
        grpc_code in proptest::option::of(0u8..18),
        status in 200u16..600,
        headers in vec(header_of_an_answer(), 0..6),
        retries in 0u32..4,
    ) {
        let mut said = match grpc_code {
            Some(code) => trailers_only(code, &[]),
            None => answer(status, &[]),
        };
        put_all(said.headers_mut(), &headers);
        let names = |wanted| headers.iter().any(|(name, _)| *name == wanted);
        let retryable = match grpc_code {
            Some(10) => names("grpc-retry-pushback-ms"),
            None if status == 409 => names("retry-after"),
            Some(code) => matches!(code, 2 | 4 | 8 | 13 | 14 | 15 | 17),
            // These are final.
            None if matches!(status, 501 | 505..=508 | 510 | 511) => false,
            None => matches!(status, 408 | 421 | 425 | 429 | 500..),
        };
        let upstream = Upstream::saying([said.clone()]);
        let request = Protocol::Http.request(&[]);
        let call = async { retrying(retries, &upstream).oneshot(request).await };
        let answered = on_paused_clock(call).unwrap();

        // The caller gets the response of the service, whatever it is.
        prop_assert_eq!(answered.status(), said.status());
        prop_assert_eq!(answered.headers(), said.headers());
        let most = match retries as usize + 1 {
            _ if !retryable => 1,
            // The request is sent again once.
            most if grpc_code.is_none() && matches!(status, 421 | 425) => most.min(2),
            most => most,
        };
        prop_assert!((1..=most).contains(&upstream.calls()), "{} calls", upstream.calls());
    }
}

// The time of the retry.

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const IN_THREE_SECONDS: &str = "Sun, 06 Nov 1994 08:49:40 GMT";

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_as_long_as_the_server_asks() {
    let table = [
        (failure(Protocol::Http, &[("retry-after", "3")]), SECOND * 3),
        (failure(Protocol::Http, &[("retry-after", IN_THREE_SECONDS), ("date", DATE)]), SECOND * 3),
        (answer(429, &[("retry-after", "3"), ("retry-after", "1")]), SECOND * 3),
        (answer(500, &[("retry-after", "3")]), SECOND * 3),
        (failure(Protocol::Grpc, &[("grpc-retry-pushback-ms", "3000")]), SECOND * 3),
        (failure(Protocol::Grpc, &[("grpc-retry-pushback-ms", "0")]), Duration::ZERO),
        // A time that is now or in the past asks for nothing.
        (failure(Protocol::Http, &[("retry-after", "0")]), PAUSE),
        (failure(Protocol::Http, &[("retry-after", DATE), ("date", IN_THREE_SECONDS)]), PAUSE),
        (failure(Protocol::Http, &[("retry-after", DATE)]), PAUSE),
        (failure(Protocol::Http, &[("retry-after", "soon")]), PAUSE),
    ];
    for (asks, pause) in table {
        let upstream = Upstream::saying([asks.clone(), answer(200, &[])]);
        let answered = retrying(1, &upstream).oneshot(Protocol::Http.request(&[])).await.unwrap();
        assert_eq!(answered.status(), StatusCode::OK);
        assert_eq!(upstream.pauses(), [pause], "{asks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_moves_a_retry_only_to_later_than_was_asked() {
    let backoff = buttress::retry::Backoff::constant(PAUSE).build().unwrap();
    let stack =
        Stack::new().retry(retry(1).backoff(backoff).hint_cap(SECOND * 10).build().unwrap()).http();
    let mut pauses = Vec::new();
    for _ in 0..64 {
        let asks = failure(Protocol::Http, &[("retry-after", "3")]);
        let upstream = Upstream::saying([asks, answer(200, &[])]);
        let client = stack.clone().service::<_, Request<Body>, _>(upstream.clone());
        client.oneshot(Protocol::Http.request(&[])).await.unwrap();
        pauses.extend(upstream.pauses());
    }
    let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!(*least >= SECOND * 3 && *most <= SECOND * 4, "{least:?} {most:?}");
    assert!(*most - *least > PAUSE, "not all at once");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_too_long_is_not_asked_again() {
    for asks in [
        failure(Protocol::Http, &[("retry-after", "11")]),
        failure(Protocol::Http, &[("retry-after", "99999999999999999999999")]),
        failure(Protocol::Http, &[("retry-after", "Thu, 06 Nov 2994 08:49:37 GMT")]),
        failure(Protocol::Grpc, &[("grpc-retry-pushback-ms", "10001")]),
        failure(Protocol::Grpc, &[("grpc-retry-pushback-ms", "2147483647")]),
    ] {
        let upstream = Upstream::saying([asks.clone()]);
        let stack = Stack::new().retry(retry(3).hint_cap(SECOND * 10).build().unwrap()).http();
        let client = stack.service::<_, Request<Body>, _>(upstream.clone());
        let began = Instant::now();
        let (_, hop) = Hop::observe(client.oneshot(Protocol::Http.request(&[]))).await;
        assert_eq!((upstream.calls(), began.elapsed()), (1, Duration::ZERO), "{asks:?}");
        assert!(hop.retries_exhausted());
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_for_as_long_as_the_server_asks() {
    for (asked, open_for) in [("2", 2), ("20", 20), ("86400", 60)] {
        let breaker = CircuitBreakerLayer::builder()
            .consecutive_failures(1)
            .open_for(SECOND * 5)
            .max_open_for(SECOND * 60)
            .open_jitter(0.0)
            .build()
            .unwrap();
        let handle = breaker.handle();
        let upstream = Upstream::saying([failure(Protocol::Http, &[("retry-after", asked)])]);
        let client =
            Stack::new().circuit_breaker(breaker).http().service::<_, Request<Body>, _>(upstream);
        client.clone().oneshot(Protocol::Http.request(&[])).await.unwrap();
        assert_eq!(handle.snapshot().retry_after(), Some(SECOND * open_for));
        advance(SECOND * (open_for - 1)).await;
        let rejected = client.clone().oneshot(Protocol::Http.request(&[])).await.unwrap_err();
        assert!(matches!(rejected, Error::Rejected(Rejection::CircuitOpen(_))));
        advance(SECOND).await;
        assert!(client.oneshot(Protocol::Http.request(&[])).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_judges_does_not_make_a_stack_deaf_to_the_server() {
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let service = service_fn(move |_: Request<String>| {
        counter.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(String::new());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
        async { Ok::<_, io::Error>(response) }
    });
    let client = Stack::standard(ReplaySafe::new())
        .http()
        .classify_fn(|result: Result<&Response<_>, &_>| match result {
            Ok(response) if response.status().is_success() => Outcome::Success,
            _ => Outcome::Failure(Fault::Transient),
        })
        .service(service);
    let answer = client.oneshot(Request::new(String::new())).await;
    assert_eq!(answer.unwrap().status(), 503);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}
