//! Tests of the layers around the handlers of a server.
#![cfg(feature = "http")]

mod http_support;

use std::{
    convert::Infallible,
    future::{pending, ready},
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{
    Deadline, Error, Rejection, Stack,
    bulkhead::BulkheadLayer,
    context::Attempt,
    error::{
        BulkheadFull, CircuitOpen, DeadlineExceeded, NotReady, QueueTimedOut, RateLimited, TimedOut,
    },
    http::{
        HttpServerBuilder, HttpServerLayer, ResponseBody, Trust, idempotency::NotStarted,
        server::HttpServerBody,
    },
    testing::task::Spawned,
};
use futures::future::{FutureExt, join_all};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::{
    sync::Notify,
    time::{Instant, advance},
};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    layer::{layer_fn, util::Identity},
    service_fn,
};

use self::http_support::*;

const SECOND: Duration = Duration::from_secs(1);

type Headers = &'static [(&'static str, &'static str)];

/// A status, and the time to retry.
type Shown = (u16, Option<&'static str>);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn bare() -> HttpServerLayer<Identity> {
    HttpServerLayer::around(Identity::new())
}

fn bare_builder() -> HttpServerBuilder<Identity> {
    HttpServerLayer::builder_around(Identity::new())
}

/// The time that a handler has, and the attempt that it serves.
type Ambient = (Option<Duration>, Option<u32>);

/// Returns what a handler beneath a server observes, or `None` if it is not called.
async fn seen_beneath(
    server: &HttpServerLayer<Identity>,
    request: Request<Body>,
) -> Option<Ambient> {
    let seen = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&seen);
    let handler = service_fn(move |_: Request<Body>| {
        let left = Deadline::current().map(|deadline| deadline.remaining());
        let attempt = Attempt::current().map(|attempt| attempt.number());
        *noted.lock().unwrap() = Some((left, attempt));
        async { Ok::<_, Infallible>(answer(200, &[])) }
    });
    server.layer(handler).oneshot(request).await.unwrap();
    let mut seen = seen.lock().unwrap();
    seen.take()
}

/// Returns the time that a handler has with these headers, or zero if it is not called.
async fn time_left(
    server: &HttpServerLayer<Identity>,
    protocol: Protocol,
    headers: &[(&str, &str)],
) -> Option<Duration> {
    match seen_beneath(server, protocol.request(headers)).await {
        None => Some(Duration::ZERO),
        Some((left, _)) => left,
    }
}

// The remaining time.

#[tokio::test(start_paused = true)]
async fn of_the_callers_time_enough_is_kept_to_answer_in() {
    for (asked, left) in [
        (0, 0),
        (1, 0),
        (2, 1),
        (10, 9),
        (20, 19),
        (100, 95),
        (1_000, 950),
        (2_000, 1_900),
        (4_000, 3_900),
        (3_600_000, 3_599_900),
    ] {
        for protocol in BOTH {
            let (name, value) = protocol.time_left(asked);
            let left = match (protocol, asked) {
                // Over HTTP this is malformed. Envoy treats it as no limit.
                (Protocol::Http, 0) => None,
                _ => Some(millis(left)),
            };
            assert_eq!(time_left(&bare(), protocol, &[(name, &value)]).await, left, "{asked}");
        }
        let (connect, value) = ("connect-timeout-ms", asked.to_string());
        let left = Some(millis(left));
        assert_eq!(time_left(&bare(), Protocol::Http, &[(connect, &value)]).await, left);
    }
}

#[tokio::test(start_paused = true)]
async fn a_callers_time_narrows_the_servers_own_limit_and_never_lengthens_it() {
    let server = bare_builder().limit(SECOND).build().unwrap();
    for protocol in BOTH {
        for (asked, left) in [(100, 95), (1_000, 950), (1_100, 1_000), (99_999_999, 1_000)] {
            let (name, value) = protocol.time_left(asked);
            let left = Some(millis(left));
            assert_eq!(time_left(&server, protocol, &[(name, &value)]).await, left, "{asked}");
        }
        assert_eq!(time_left(&server, protocol, &[]).await, Some(SECOND));
        assert_eq!(time_left(&bare(), protocol, &[]).await, None);
    }
    for longest in ["18446744073709551615", "9999999999999999999"] {
        let headers = [("x-envoy-expected-rq-timeout-ms", longest)];
        assert_eq!(time_left(&server, Protocol::Http, &headers).await, Some(SECOND));
        assert!(
            time_left(&bare(), Protocol::Http, &headers).await.is_none_or(|left| left > SECOND)
        );
    }
    // An existing deadline is not extended.
    let (name, value) = Protocol::Http.time_left(5_000);
    let request = Protocol::Http.request(&[(name, &value)]);
    let within =
        Deadline::scope(Deadline::after(SECOND), async { seen_beneath(&bare(), request).await });
    assert_eq!(within.await.unwrap(), Some((Some(SECOND), None)));
}

#[tokio::test(start_paused = true)]
async fn of_several_times_the_smallest_counts() {
    let (envoy, connect, grpc) =
        ("x-envoy-expected-rq-timeout-ms", "connect-timeout-ms", "grpc-timeout");
    let table: [(Protocol, &[(&str, &str)]); 5] = [
        (Protocol::Http, &[(envoy, "9000"), (envoy, "1000"), (envoy, "5000")]),
        (Protocol::Http, &[(connect, "9000"), (connect, "1000")]),
        (Protocol::Http, &[(envoy, "9000"), (connect, "1000")]),
        (Protocol::Http, &[(envoy, "1000"), (connect, "9000")]),
        (Protocol::Grpc, &[(grpc, "1H"), (grpc, "1S"), (grpc, "9S")]),
    ];
    for (protocol, headers) in table {
        let left = time_left(&bare(), protocol, headers).await;
        assert_eq!(left, Some(millis(950)), "{headers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn malformed_lines_are_ignored_and_counted() {
    let server = bare();
    let table: [(Protocol, Headers, u64, Option<u64>); 9] = [
        (Protocol::Http, &[("x-envoy-expected-rq-timeout-ms", "soon")], 1, None),
        (Protocol::Http, &[("x-envoy-expected-rq-timeout-ms", "0")], 1, None),
        (Protocol::Http, &[("x-envoy-expected-rq-timeout-ms", "-5")], 1, None),
        (Protocol::Http, &[("connect-timeout-ms", "99999999999")], 1, None),
        (
            Protocol::Http,
            &[("connect-timeout-ms", ""), ("connect-timeout-ms", "1000")],
            1,
            Some(950),
        ),
        (Protocol::Http, &[("x-envoy-attempt-count", "first")], 1, None),
        (Protocol::Grpc, &[("grpc-timeout", "100000000S"), ("grpc-timeout", "1S")], 1, Some(950)),
        (Protocol::Grpc, &[("grpc-timeout", "5"), ("grpc-previous-rpc-attempts", "0")], 2, None),
        // Headers of the other protocol are not read.
        (Protocol::Grpc, &[("x-envoy-expected-rq-timeout-ms", "soon")], 0, None),
    ];
    let mut counted = 0;
    for (protocol, headers, more, left) in table {
        let left = left.map(millis);
        assert_eq!(time_left(&server, protocol, headers).await, left, "{headers:?}");
        counted += more;
        assert_eq!(server.malformed_headers(), counted, "{headers:?}");
    }
    assert_eq!(server.clone().malformed_headers(), counted, "one counter");
}

#[tokio::test(start_paused = true)]
async fn orders_to_a_router_are_not_read() {
    for name in [
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-max-retries",
        "x-envoy-retry-on",
        "x-should-retry",
    ] {
        for protocol in BOTH {
            let server = bare();
            let request = protocol.request(&[(name, "5"), (name, "soon")]);
            assert_eq!(seen_beneath(&server, request).await, Some((None, None)));
            assert_eq!(server.malformed_headers(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_attempt_of_the_caller_is_known_to_the_handler() {
    let table: [(Protocol, Headers, Option<u32>); 7] = [
        (Protocol::Http, &[], None),
        (Protocol::Http, &[("x-envoy-attempt-count", "1")], Some(1)),
        (
            Protocol::Http,
            &[("x-envoy-attempt-count", "3"), ("x-envoy-attempt-count", "2")],
            Some(3),
        ),
        (Protocol::Http, &[("grpc-previous-rpc-attempts", "3")], None),
        (Protocol::Grpc, &[("grpc-previous-rpc-attempts", "2")], Some(3)),
        (Protocol::Grpc, &[("grpc-previous-rpc-attempts", "4294967295")], Some(u32::MAX)),
        (Protocol::Grpc, &[("x-envoy-attempt-count", "3")], None),
    ];
    for (protocol, headers, attempt) in table {
        let seen = seen_beneath(&bare(), protocol.request(headers)).await;
        assert_eq!(seen, Some((None, attempt)), "{headers:?}");
    }
    assert_eq!(Attempt::current(), None);
}

#[tokio::test(start_paused = true)]
async fn without_trust_nothing_is_read() {
    for protocol in BOTH {
        let server = bare_builder().trust(Trust::None).limit(SECOND).build().unwrap();
        let (name, value) = protocol.time_left(100);
        let headers = [
            (name, value.as_str()),
            (name, "soon"),
            ("x-envoy-attempt-count", "3"),
            ("grpc-previous-rpc-attempts", "2"),
        ];
        let seen = seen_beneath(&server, protocol.request(&headers)).await;
        assert_eq!(seen, Some((Some(SECOND), None)));
        assert_eq!(server.malformed_headers(), 0);
    }
}

// The response to a caller.

type Served = Response<HttpServerBody<ResponseBody<Body>>>;

/// Checks that a rejection is well-formed in its protocol, and returns what a caller reads.
async fn read(protocol: Protocol, response: Served) -> (u16, Option<String>, Option<String>) {
    let header = |name: &str| lines(response.headers(), name).pop();
    let status = response.status();
    let stop = header("x-should-retry").or(header("x-envoy-ratelimited"));
    match protocol {
        Protocol::Grpc => {
            assert_eq!(status, StatusCode::OK);
            assert_eq!(header("content-type").as_deref(), Some("application/grpc"));
            let code = header("grpc-status").unwrap().parse().unwrap();
            let pushback = header("grpc-retry-pushback-ms");
            assert!(response.body().is_end_stream(), "trailers only");
            (code, pushback, stop)
        }
        Protocol::Http => {
            assert_eq!(header("content-type").as_deref(), Some("application/problem+json"));
            let after = header("retry-after");
            let exact = response.body().size_hint().exact();
            assert!(!response.body().is_end_stream());
            let document = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(exact, Some(document.len() as u64));
            let document = std::str::from_utf8(&document).unwrap();
            let shown = format!(r#""status":{}"#, status.as_u16());
            assert!(is_flat_json(document) && document.contains(&shown), "{document}");
            (status.as_u16(), after, stop)
        }
    }
}

/// Returns whether the text is a JSON object of strings and numbers, as a problem document is.
fn is_flat_json(text: &str) -> bool {
    let Some(members) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
        return false;
    };
    let string = |text: &str| {
        let within = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        within.is_some_and(|text| !text.contains(['"', '\\']) && !text.contains(char::is_control))
    };
    members.split(',').all(|member| {
        let (name, value) = member.split_once(':').unwrap_or_default();
        let number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        string(name) && (number || string(value))
    })
}

/// Responds as if the stack had rejected every request.
async fn rejected(
    protocol: Protocol,
    rejection: impl Into<Rejection>,
    full: Option<StatusCode>,
) -> (u16, Option<String>, Option<String>) {
    let rejection = rejection.into();
    let rejecting = layer_fn(move |_| {
        let rejection = rejection.clone();
        service_fn(move |_: Request<Body>| {
            let rejected = Err(Error::rejected(rejection.clone()));
            async { rejected as Result<Response<ResponseBody<Body>>, Error<Infallible>> }
        })
    });
    let layer = match full {
        Some(status) => {
            HttpServerLayer::builder_around(rejecting).full_status(status).build().unwrap()
        }
        None => HttpServerLayer::around(rejecting),
    };
    let handler = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(answer(200, &[])) });
    let response = layer.layer(handler).oneshot(protocol.request(&[])).await.unwrap();
    read(protocol, response).await
}

#[tokio::test(start_paused = true)]
async fn each_rejection_has_its_status_and_says_when_to_come_back() {
    let open = |after| Rejection::from(CircuitOpen::new("b", after));
    let quote = r#"a "quoted\ name"#;
    let (late, second) = (Some(millis(1_500)), Some(SECOND));
    let table: [(Rejection, Shown, Shown); 11] = [
        (open(None), (503, None), (14, None)),
        (open(late), (503, Some("2")), (14, Some("1500"))),
        (open(second), (503, Some("1")), (14, Some("1000"))),
        (open(Some(Duration::from_nanos(1))), (503, Some("1")), (14, Some("1"))),
        (BulkheadFull::new(quote, 5).into(), (503, Some("1")), (8, Some("1000"))),
        (QueueTimedOut::new("q", SECOND * 9).into(), (503, Some("1")), (8, Some("1000"))),
        (TimedOut::new(quote, SECOND).into(), (504, None), (4, None)),
        (DeadlineExceeded::new("t").into(), (504, None), (4, None)),
        (NotReady::new("r", SECOND).into(), (503, None), (14, None)),
        (RateLimited::new("l", Some(SECOND / 2)).into(), (429, Some("1")), (8, Some("500"))),
        (RateLimited::new("l", None).into(), (429, None), (8, None)),
    ];
    for (rejection, http, grpc) in table {
        for (protocol, (status, again)) in BOTH.into_iter().zip([http, grpc]) {
            let expected = (status, again.map(str::to_owned), None);
            assert_eq!(
                rejected(protocol, rejection.clone(), None).await,
                expected,
                "{rejection:?}"
            );
        }
    }
    let busy = Some(StatusCode::TOO_MANY_REQUESTS);
    let again = Some("1".to_owned());
    for full in [BulkheadFull::new("f", 5).into(), QueueTimedOut::new("q", SECOND).into()] {
        let full: Rejection = full;
        assert_eq!(rejected(Protocol::Http, full.clone(), busy).await, (429, again.clone(), None));
        assert_eq!(rejected(Protocol::Grpc, full, busy).await.0, 8);
    }
    assert_eq!(rejected(Protocol::Http, open(None), busy).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn a_longer_wait_than_a_caller_can_read_does_not_tell_it_to_stop() {
    let open = CircuitOpen::new("b", Some(SECOND * 86_400 * 365));
    let (_, again, _) = rejected(Protocol::Grpc, open, None).await;
    assert_eq!(again.as_deref(), Some("2147483647"));
}

/// A value that records when it is dropped.
struct OnDrop(Arc<Mutex<Vec<Instant>>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(Instant::now());
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_answers_by_itself_when_the_time_is_over() {
    for protocol in BOTH {
        let dropped = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&dropped);
        let handler = service_fn(move |_: Request<Body>| {
            let on_drop = OnDrop(Arc::clone(&noted));
            async move {
                let _on_drop = on_drop;
                pending::<Result<Answer, Infallible>>().await
            }
        });
        let server = HttpServerLayer::builder(Stack::new()).limit(SECOND * 9).build().unwrap();
        let server = server.layer(handler);
        let (name, value) = protocol.time_left(1_000);
        let began = Instant::now();
        let response = server.oneshot(protocol.request(&[(name, &value)])).await.unwrap();
        let late = if protocol == Protocol::Http { 504 } else { 4 };
        assert_eq!(read(protocol, response).await, (late, None, None));
        assert_eq!(*dropped.lock().unwrap(), [began + millis(950)]);
        assert_eq!(began.elapsed(), millis(950));
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_server_runs_from_arrival_readiness_included() {
    for (protocol, told) in
        BOTH.into_iter().flat_map(|protocol| [(protocol, false), (protocol, true)])
    {
        let upstream = Upstream::hanging();
        let bulkhead = BulkheadLayer::builder().max_concurrent(1).backpressure().build().unwrap();
        let slots = bulkhead.handle();
        let mut server = HttpServerLayer::builder(Stack::new().bulkhead(bulkhead));
        let mut headers = Vec::new();
        let (name, value) = protocol.time_left(1_000);
        let limit = if told {
            headers.push((name, value.as_str()));
            millis(950)
        } else {
            server = server.limit(SECOND);
            SECOND
        };
        let handler = upstream.clone().map_err(|error| -> Infallible { panic!("{error}") });
        let server = server.build().unwrap().layer(handler);
        let began = Instant::now();
        let requests = (0..4).map(|_| {
            let server = server.clone();
            let request = protocol.request(&headers);
            async move { (server.oneshot(request).await.unwrap(), began.elapsed()) }
        });
        let late = if protocol == Protocol::Http { 504 } else { 4 };
        for (nth, (response, took)) in join_all(requests).await.into_iter().enumerate() {
            assert_eq!(took, limit, "{protocol:?}, request {nth}");
            // The others have not reached the handler.
            let not_started = response.extensions().get::<NotStarted>().is_some();
            assert_eq!(not_started, nth > 0, "{protocol:?}, request {nth}");
            assert_eq!(read(protocol, response).await, (late, None, None));
        }
        assert_eq!((upstream.calls(), slots.in_flight()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_becomes_ready_in_time_has_the_rest_of_the_limit() {
    let held = Upstream::slow(millis(600));
    let limited = ServiceBuilder::new()
        .layer(bare_builder().limit(SECOND).build().unwrap())
        .concurrency_limit(1)
        .service(held.clone().map_err(|error| -> Infallible { panic!("{error}") }));
    let began = Instant::now();
    let requests = (0..2).map(|_| {
        let request = Protocol::Http.request(&[]);
        let server = limited.clone();
        async move { (server.oneshot(request).await.unwrap().status().as_u16(), began.elapsed()) }
    });
    // The second request waits 600 ms for the handler, which has 400 ms left for it.
    assert_eq!(join_all(requests).await, [(200, millis(600)), (504, SECOND)]);
    assert_eq!(held.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_ready_and_not_called_waits_in_no_queue() {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).backpressure().build().unwrap();
    let slots = bulkhead.handle();
    let server = HttpServerLayer::new(Stack::new().bulkhead(bulkhead));
    let handler = Upstream::hanging().map_err(|error| -> Infallible { panic!("{error}") });
    let server = server.layer(handler);
    let mut holder = Spawned::new(server.clone().oneshot(Protocol::Http.request(&[])));
    assert!(holder.poll().is_pending());
    let (mut idle, mut waits) = (server.clone(), server.clone());
    assert!(idle.ready().now_or_never().is_some() && idle.ready().now_or_never().is_some());
    assert!(waits.ready().now_or_never().is_some());
    let mut second = Spawned::new(waits.call(Protocol::Http.request(&[])));
    assert!(second.poll().is_pending());
    drop(holder);
    // The slot goes to the request, and not to the service without one.
    assert!(second.is_woken() && second.poll().is_pending());
    assert_eq!(slots.in_flight(), 1);
    drop(second);
    assert_eq!(slots.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_too_late_does_not_reach_the_handler() {
    for protocol in BOTH {
        let upstream = Upstream::saying([answer(200, &[])]);
        let handler = upstream.clone().map_err(|error| -> Infallible { panic!("{error}") });
        let server = HttpServerLayer::new(Stack::new()).layer(handler);
        let (name, value) = protocol.time_left(1);
        let response = server.oneshot(protocol.request(&[(name, &value)])).await.unwrap();
        let late = if protocol == Protocol::Http { 504 } else { 4 };
        assert_eq!(read(protocol, response).await, (late, None, None));
        assert_eq!(upstream.calls(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_handler_answers_passes_as_it_is() {
    let mut said = answer(418, &[("x-anything", "1"), ("x-anything", "2")]);
    *said.version_mut() = Version::HTTP_2;
    *said.body_mut() = Body::from("a pot");
    let upstream = Upstream::saying([said.clone()]);
    let handler = upstream.map_err(|error| -> Infallible { panic!("{error}") });
    let response = HttpServerLayer::new(Stack::new())
        .layer(handler)
        .oneshot(Protocol::Http.request(&[]))
        .await
        .unwrap();
    assert_eq!((response.status(), response.version()), (said.status(), said.version()));
    assert_eq!(response.headers(), said.headers());
    assert_eq!(response.body().size_hint().exact(), Some(5));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "a pot");
}

// The signal that stops retries of callers.

/// Calls a server whose handler calls a service that returns `said`, and retries once.
///
/// The handler then returns its own response.
async fn relayed(server: &HttpServerLayer<Identity>, said: Answer, answers: Answer) -> Served {
    let upstream = Upstream::saying([said]);
    let stack = Stack::new().retry(retry(1).build().unwrap()).http();
    let client = stack.service::<_, Request<Body>, _>(upstream);
    let handler = service_fn(move |_: Request<Body>| {
        let called = client.clone().oneshot(Protocol::Http.request(&[]));
        let answers = answers.clone();
        async move {
            called.await.unwrap();
            Ok::<_, Infallible>(answers)
        }
    });
    server.layer(handler).oneshot(Protocol::Http.request(&[])).await.unwrap()
}

fn stop_signals(response: &Served) -> [Vec<String>; 3] {
    ["x-should-retry", "grpc-retry-pushback-ms", "x-envoy-ratelimited"]
        .map(|name| lines(response.headers(), name))
}

#[tokio::test(start_paused = true)]
async fn the_signal_to_stop_is_on_failures_after_retries_in_vain_and_nowhere_else() {
    let exhausted = answer(503, &[]);
    let told = answer(503, &[("x-should-retry", "false")]);
    let fine = answer(200, &[]);
    let own_fault = answer(404, &[("x-should-retry", "false")]);
    let (http, grpc, none) = (["false", "", ""], ["", "-1", ""], ["", "", ""]);
    let pushed = trailers_only(14, &[("grpc-retry-pushback-ms", "50")]);
    let mut not_over = trailers_only(14, &[]);
    not_over.headers_mut().remove("grpc-status");
    *not_over.body_mut() = Body::from("more");
    let table = [
        (&exhausted, answer(500, &[]), http),
        (&exhausted, answer(502, &[]), http),
        (&exhausted, answer(429, &[]), http),
        (&exhausted, answer(503, &[("x-should-retry", "true")]), http),
        (&exhausted, trailers_only(14, &[]), grpc),
        (&exhausted, trailers_only(5, &[]), grpc),
        (&exhausted, pushed, grpc),
        (&told, answer(500, &[]), http),
        (&told, trailers_only(14, &[]), grpc),
        // The call succeeded, or the failure is the caller's fault.
        (&exhausted, answer(200, &[]), none),
        (&exhausted, answer(404, &[]), none),
        (&exhausted, trailers_only(0, &[]), none),
        (&exhausted, not_over, none),
        (&told, answer(200, &[]), none),
        // No retries were exhausted.
        (&fine, answer(500, &[]), none),
        (&fine, trailers_only(14, &[]), none),
        (&own_fault, answer(500, &[]), none),
    ];
    for (said, answers, expected) in table {
        let response = relayed(&bare(), said.clone(), answers.clone()).await;
        let signals = stop_signals(&response).map(|lines| lines.concat());
        assert_eq!(signals, expected, "{said:?} {answers:?}");
    }
    let envoy = bare_builder().for_envoy().build().unwrap();
    let response = relayed(&envoy, exhausted.clone(), answer(500, &[])).await;
    let [stop, _, limited] = stop_signals(&response);
    assert_eq!((stop.concat(), limited.len()), ("false".to_owned(), 1));
    let response = relayed(&envoy, exhausted, answer(200, &[])).await;
    assert_eq!(stop_signals(&response).concat(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_ran_out_of_time_stops_those_above_only_if_it_was_retried() {
    let failed = || Some(answer(503, &[]));
    // The pause would end after the deadline.
    let later = || Some(answer(503, &[("retry-after", "2")]));
    let hangs = || None;
    let table = [
        (vec![hangs()], 504, false),
        (vec![later()], 503, false),
        (vec![failed(), hangs()], 504, true),
        (vec![failed(), later()], 503, true),
    ];
    for (said, status, stops) in table {
        let upstream = Upstream::new({
            let said = said.clone();
            move |earlier| match said[earlier].clone() {
                Some(answer) => ready(Ok(answer)).boxed(),
                None => pending().boxed(),
            }
        });
        let stack = Stack::new().retry(retry(5).build().unwrap()).http();
        let client = stack.service::<_, Request<Body>, _>(upstream.clone());
        let handler = service_fn(move |_: Request<Body>| {
            let called = client.clone().oneshot(Protocol::Http.request(&[]));
            called.map(|_| Ok::<_, Infallible>(answer(503, &[])))
        });
        let server = bare_builder().limit(SECOND * 2).build().unwrap().layer(handler);
        let response = server.oneshot(Protocol::Http.request(&[])).await.unwrap();
        assert_eq!((response.status().as_u16(), upstream.calls()), (status, said.len()));
        assert_eq!(!stop_signals(&response)[0].is_empty(), stops, "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_want_of_time_stops_those_above_only_if_a_retry_gave_up() {
    for (said, stops) in [(answer(503, &[]), true), (answer(200, &[]), false)] {
        let upstream = Upstream::saying([said]);
        let stack = Stack::new().retry(retry(1).build().unwrap()).http();
        let client = stack.service::<_, Request<Body>, _>(upstream);
        let handler = service_fn(move |_: Request<Body>| {
            let called = client.clone().oneshot(Protocol::Http.request(&[]));
            async move {
                called.await.unwrap();
                pending::<Result<Answer, Infallible>>().await
            }
        });
        let server = bare_builder().limit(SECOND).build().unwrap().layer(handler);
        let response = server.oneshot(Protocol::Http.request(&[])).await.unwrap();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(!stop_signals(&response)[0].is_empty(), stops);
    }
}

#[tokio::test(start_paused = true)]
async fn two_requests_on_one_thread_do_not_see_each_others_hop() {
    let upstream = Upstream::saying([answer(503, &[])]);
    let stack = Stack::new().retry(retry(1).build().unwrap()).http();
    let client = stack.service::<_, Request<Body>, _>(upstream);
    let go_on = Arc::new(Notify::new());
    let handler = service_fn({
        let go_on = Arc::clone(&go_on);
        move |request: Request<Body>| {
            let calls = request.headers().contains_key("x-calls");
            let (client, go_on) = (client.clone(), Arc::clone(&go_on));
            async move {
                if calls {
                    client.oneshot(Protocol::Http.request(&[])).await.unwrap();
                }
                go_on.notified().await;
                Ok::<_, Infallible>(answer(500, &[]))
            }
        }
    });
    let server = HttpServerLayer::new(Stack::new()).layer(handler);
    let request = |headers: &[(&str, &str)]| {
        Spawned::new(server.clone().oneshot(Protocol::Http.request(headers)))
    };
    let (mut other, mut calls) = (request(&[]), request(&[("x-calls", "1")]));
    for _ in 0..4 {
        assert!(calls.poll().is_pending() && other.poll().is_pending());
        advance(PAUSE).await;
    }
    for (mut served, stops) in [(other, false), (calls, true)] {
        go_on.notify_waiters();
        let std::task::Poll::Ready(Ok(response)) = served.poll() else { panic!("answered") };
        assert_eq!(!stop_signals(&response)[0].is_empty(), stops);
        go_on.notify_waiters();
    }
}

// The stack.

/// Creates a server that admits one request, whose handler responds at once.
fn with_room_for_one(
    answers: Answer,
) -> (buttress::bulkhead::BulkheadHandle, impl Clone + Fn(Request<Body>) -> Spawned<Serving>) {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let handle = bulkhead.handle();
    let layer = HttpServerLayer::new(Stack::new().bulkhead(bulkhead));
    let serve = move |request| {
        let upstream = Upstream::saying([answers.clone()]);
        let handler = upstream.map_err(|error| -> Infallible { panic!("{error}") });
        // Each request has its own service, as a server makes one for each connection.
        let server = ServiceBuilder::new().layer(layer.clone()).service(handler);
        Spawned::new(Box::pin(server.oneshot(request)) as Serving)
    };
    (handle, serve)
}

type Serving = std::pin::Pin<Box<dyn Future<Output = Result<Served, Infallible>> + Send>>;

fn served(mut serving: Spawned<Serving>) -> Served {
    let std::task::Poll::Ready(Ok(response)) = serving.poll() else { panic!("answered") };
    response
}

#[tokio::test(start_paused = true)]
async fn all_services_of_a_layer_share_its_stack_until_the_body_has_ended() {
    let mut whole = answer(200, &[]);
    *whole.body_mut() = Body::from("whole");
    let (slots, serve) = with_room_for_one(whole);
    for protocol in BOTH {
        let first = served(serve(protocol.request(&[])));
        assert_eq!((first.status(), slots.in_flight()), (StatusCode::OK, 1));
        let second = served(serve(protocol.request(&[])));
        let full = if protocol == Protocol::Http {
            (503, Some("1".to_owned()), None)
        } else {
            (8, Some("1000".to_owned()), None)
        };
        assert_eq!(read(protocol, second).await, full);
        assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "whole");
        assert_eq!(slots.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_no_body_to_send_ends_at_the_head() {
    let table = [
        (Method::HEAD, 200, true),
        (Method::HEAD, 500, true),
        (Method::GET, 304, true),
        (Method::GET, 204, true),
        (Method::GET, 101, true),
        (Method::CONNECT, 200, true),
        (Method::CONNECT, 502, false),
        (Method::GET, 200, false),
        (Method::POST, 404, false),
    ];
    for (method, status, at_head) in table {
        let mut said = answer(status, &[]);
        *said.body_mut() = Body::from("not sent");
        let (slots, serve) = with_room_for_one(said);
        let mut request = Protocol::Http.request(&[]);
        *request.method_mut() = method.clone();
        let response = served(serve(request));
        assert_eq!(slots.in_flight() == 0, at_head, "{method} {status}");
        drop(response);
        assert_eq!(slots.in_flight(), 0);
    }
}
