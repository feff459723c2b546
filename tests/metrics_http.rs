//! Tests of the numbers of HTTP clients, servers and bodies in a registry.
#![cfg(feature = "http")]

mod capture;
mod numbers;
#[allow(dead_code, reason = "these tests need a part of it")]
#[path = "http_body/script.rs"]
mod script;

use std::{
    convert::Infallible,
    future::{pending, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use buttress::{
    Deadline, Error, Stack,
    bulkhead::BulkheadLayer,
    http::{BodyError, HttpClientBuilder, HttpClientLayer, HttpServerBuilder, HttpServerLayer},
    telemetry::field,
    testing::{cancel::CancelHarness, task::Spawned},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use tokio::time::{advance, sleep};
use tokio_test::task;
use tower::{Layer, ServiceExt, layer::util::Identity, service_fn, util::BoxCloneService};
use tracing::Level;

use self::{
    capture::Capture,
    numbers::Numbers,
    script::{Broken, Feed, Scripted, Step},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type Ask = Request<Empty<Bytes>>;

/// Returns a service whose responses have this body.
fn serving(feed: &Feed) -> BoxCloneService<Ask, Response<Scripted>, Infallible> {
    let feed = feed.clone();
    BoxCloneService::new(service_fn(move |_: Ask| ready(Ok(Response::new(feed.body())))))
}

type Reader = UnsyncBoxBody<Bytes, BodyError<Broken>>;

/// Returns the response of a registered client called `orders`.
async fn response(
    numbers: &Numbers,
    client: HttpClientBuilder,
    ask: Ask,
    feed: Feed,
) -> Result<Response<Reader>, Error<Infallible>> {
    let stack = Stack::new().name("orders").register(&numbers.registry);
    let stack = stack.http_client(client.build().unwrap());
    let response = stack.service(serving(&feed)).oneshot(ask).await;
    response.map(|it| it.map(|body| body.boxed_unsync()))
}

fn client() -> HttpClientBuilder {
    HttpClientLayer::builder()
}

fn body(outcome: &str) -> String {
    format!("http.body.duration orders orders {outcome} +1")
}

fn rejection(kind: &str, reason: &str) -> String {
    format!("rejections orders orders {kind} {reason} +1")
}

/// Keeps the series of a registry alive and known, without a call.
fn keep(numbers: &Numbers) -> impl Sized + use<> {
    let stack = Stack::new().name("orders").register(&numbers.registry).http();
    let service = stack.service(serving(&Feed::new([])));
    numbers.changes();
    service
}

#[tokio::test(start_paused = true)]
async fn all_series_are_zero_before_the_first_call() {
    let numbers = Numbers::new();
    let _stack = keep(&numbers);
    let server = HttpServerLayer::new(Stack::new().name("api").register(&numbers.registry));
    let mut all = numbers.all();
    all.retain(|name, _| !name.contains("_timeout "));
    all.retain(|name, _| name.starts_with("rejections") || name.starts_with("http"));
    let expected = [
        "http.body.duration orders orders cancelled",
        "http.body.duration orders orders failure",
        "http.body.duration orders orders rejected",
        "http.body.duration orders orders success",
        "rejections api api idle_response_body timed_out",
        "rejections api api response_body timed_out",
        "rejections api api server deadline_exceeded",
        "rejections api api server timed_out",
        "rejections api api unread_response_body timed_out",
        "rejections orders orders client deadline_exceeded",
        "rejections orders orders idle_response_body timed_out",
        "rejections orders orders response_body timed_out",
    ];
    let names: Vec<_> = all.keys().collect();
    assert_eq!(names, expected);
    assert!(all.values().all(|value| *value == 0.0));
    drop(server);
    assert!(numbers.all().keys().all(|name| !name.contains("api")));
}

#[tokio::test(start_paused = true)]
async fn a_call_with_too_little_time_is_counted_once() {
    let numbers = Numbers::new();
    let _stack = keep(&numbers);
    let call = response(&numbers, client(), Ask::default(), Feed::new([]));
    let soon = Deadline::after(Duration::from_micros(500));
    let error = Deadline::scope(soon, call).await.unwrap().err().unwrap();
    assert!(matches!(error, Error::Rejected(it) if it.kind() == "deadline_exceeded"));
    numbers.changed([rejection("client", "deadline_exceeded")]);
}

#[tokio::test(start_paused = true)]
async fn each_body_is_measured_once_from_its_head_to_its_end() {
    let cases: [(&[Step], &str); 5] = [
        (&[Step::Data("a"), Step::End], "success"),
        (&[Step::Data("a"), Step::Closed], "success"),
        (&[Step::Trailers(HeaderMap::new()), Step::End], "success"),
        (&[Step::Data("a"), Step::Fail], "failure"),
        (&[Step::Panic], "failure"),
    ];
    for (steps, outcome) in cases {
        let numbers = Numbers::new();
        let _stack = keep(&numbers);
        let feed = Feed::new([Step::Data("first")]);
        let response = response(&numbers, client(), Ask::default(), feed.clone()).await.unwrap();
        let mut reader = tokio::spawn(response.into_body().collect());
        sleep(300 * MS).await;
        numbers.changed([""; 0]);
        feed.push(steps.iter().cloned());
        let _ = (&mut reader).await;
        numbers.changed([body(outcome)]);
        let took = numbers.millis("buttress.http.body.duration", outcome);
        assert_eq!(took, 300, "{steps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_its_reader_drops_is_cancelled() {
    for reads in 0..3 {
        let numbers = Numbers::new();
        let _stack = keep(&numbers);
        let feed = Feed::new([Step::Data("a")]);
        let response = response(&numbers, client(), Ask::default(), feed.clone()).await.unwrap();
        let mut reader = task::spawn(response.into_body());
        for _ in 0..reads {
            let _ = reader.enter(|cx, body| body.poll_frame(cx));
        }
        advance(70 * MS).await;
        drop(reader);
        numbers.changed([body("cancelled")]);
        assert_eq!(numbers.millis("buttress.http.body.duration", "cancelled"), 70);
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_without_a_body_is_not_measured() {
    let numbers = Numbers::new();
    let _stack = keep(&numbers);
    for (method, feed) in
        [(Method::HEAD, Feed::new([Step::Data("a")])), (Method::GET, Feed::new([Step::Closed]))]
    {
        let mut ask = Ask::default();
        *ask.method_mut() = method;
        let response = response(&numbers, client(), ask, feed).await.unwrap();
        drop(response);
        numbers.changed([""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_read_ahead_is_measured_once() {
    let buffer = || client().body_buffer(8).body_idle(5 * SECOND);
    let long = Step::Data("more than eight bytes");
    let cases = [
        (Step::End, vec![body("success")]),
        (Step::Fail, vec![body("failure")]),
        (long, vec![body("cancelled")]),
    ];
    for (last, expected) in cases {
        let numbers = Numbers::new();
        let _stack = keep(&numbers);
        let feed = Feed::new([Step::Data("a")]);
        let mut call = Spawned::new(response(&numbers, buffer(), Ask::default(), feed.clone()));
        assert!(call.poll().is_pending());
        advance(200 * MS).await;
        feed.push([last.clone()]);
        let Poll::Ready(response) = call.poll() else { panic!("it was read") };
        let mut reader = task::spawn(response.unwrap().into_body());
        for _ in 0..2 {
            let _ = reader.enter(|cx, body| body.poll_frame(cx));
        }
        drop(reader);
        numbers.changed(expected);
        let sum: u128 = ["success", "failure", "cancelled"]
            .map(|outcome| numbers.millis("buttress.http.body.duration", outcome))
            .iter()
            .sum();
        // The time of a body that is too long begins when its reader gets the response.
        let too_long = !matches!(last, Step::End | Step::Fail);
        assert_eq!(sum, if too_long { 0 } else { 200 }, "{last:?}");
    }
    let numbers = Numbers::new();
    let _stack = keep(&numbers);
    let feed = Feed::new([Step::Data("a")]);
    let error = response(&numbers, buffer(), Ask::default(), feed.clone()).await.err().unwrap();
    assert!(matches!(error, Error::Rejected(_)));
    numbers.changed([body("failure"), rejection("idle_response_body", "timed_out")]);
    let mut call = Spawned::new(response(&numbers, buffer(), Ask::default(), feed.clone()));
    assert!(call.poll().is_pending());
    drop(call);
    numbers.changed([body("cancelled")]);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_response_has_failed_if_its_trailers_say_so() {
    for (status, outcome) in [("0", "success"), ("14", "failure")] {
        let numbers = Numbers::new();
        let _stack = keep(&numbers);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        let feed = Feed::new([Step::Data("a"), Step::Trailers(trailers), Step::End]);
        let service = service_fn(move |_: Ask| {
            let mut response = Response::new(feed.body());
            response.headers_mut().insert(CONTENT_TYPE, "application/grpc".parse().unwrap());
            ready(Ok::<_, Infallible>(response))
        });
        let stack = Stack::new().name("orders").register(&numbers.registry).http();
        let response = stack.service(service).oneshot(Ask::default()).await.unwrap();
        response.into_body().collect().await.unwrap();
        numbers.changed([body(outcome)]);
    }
}

#[tokio::test(start_paused = true)]
async fn each_limit_of_a_body_is_counted_once_under_its_kind() {
    let numbers = Numbers::new();
    let _stack = keep(&numbers);
    let feed = Feed::new([Step::Data("a")]);
    for (builder, kind) in [
        (client().body_idle(SECOND), "idle_response_body"),
        (client().body_deadline(), "response_body"),
    ] {
        let call = response(&numbers, builder, Ask::default(), feed.clone());
        let response = Deadline::scope(Deadline::after(5 * SECOND), call).await.unwrap().unwrap();
        assert!(response.into_body().collect().await.is_err());
        numbers.changed([rejection(kind, "timed_out"), body("failure")]);
    }
}

fn api(numbers: &Numbers) -> Stack {
    Stack::new().name("api").register(&numbers.registry)
}

#[tokio::test(start_paused = true)]
async fn each_limit_of_a_served_body_is_counted_once_under_its_kind() {
    let numbers = Numbers::new();
    let _server = HttpServerLayer::new(api(&numbers));
    numbers.changes();
    let builder = || HttpServerLayer::builder(api(&numbers));
    let feed = Feed::new([Step::Data("a")]);
    let idle = builder().body_idle(SECOND).build().unwrap();
    let bounded = builder().limit(5 * SECOND).body_deadline().build().unwrap();
    let unread = builder().body_unread(2 * SECOND).build().unwrap();
    for (server, kind, reads) in [
        (&idle, "idle_response_body", true),
        (&bounded, "response_body", true),
        (&unread, "unread_response_body", false),
        // The limit ends the body although nobody reads it.
        (&idle, "idle_response_body", false),
    ] {
        let mut ask = Ask::default();
        *ask.version_mut() = Version::HTTP_2;
        let response = server.layer(serving(&feed)).oneshot(ask).await.unwrap();
        let body = response.into_body();
        let body = if reads {
            assert!(body.collect().await.is_err());
            None
        } else {
            sleep(20 * SECOND).await;
            Some(body)
        };
        numbers.changed([format!("rejections api api {kind} timed_out +1")]);
        drop(body);
        numbers.changed([""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_counts_the_rejection_that_its_response_has() {
    let numbers = Numbers::new();
    let server = |builder: HttpServerBuilder<_>| builder.limit(SECOND).build().unwrap();
    let server = server(HttpServerLayer::builder(api(&numbers)));
    numbers.changes();
    let hangs = service_fn(|_: Ask| pending::<Result<Response<Empty<Bytes>>, Infallible>>());
    let reason = async |ask: Ask| {
        let response = server.layer(hangs).oneshot(ask).await.unwrap();
        let document = response.into_body().collect().await.unwrap().to_bytes();
        let document = String::from_utf8(document.to_vec()).unwrap();
        let reason = document.split(r#""reason":""#).nth(1).unwrap();
        reason.split('"').next().unwrap().to_owned()
    };
    let late = || {
        let mut ask = Ask::default();
        // The margin takes all of it.
        let header = "x-envoy-expected-rq-timeout-ms";
        ask.headers_mut().insert(header, HeaderValue::from_static("1"));
        ask
    };
    for (ask, expected) in [(Ask::default(), "timed_out"), (late(), "deadline_exceeded")] {
        let reason = reason(ask).await;
        assert_eq!(reason, expected);
        numbers.changed([format!("rejections api api server {reason} +1")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_by_a_layer_of_a_server_is_not_counted_by_the_server() {
    let numbers = Numbers::new();
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let server = HttpServerLayer::new(api(&numbers).bulkhead(bulkhead));
    let hangs = service_fn(|_: Ask| pending::<Result<Response<Empty<Bytes>>, Infallible>>());
    let service = server.layer(hangs);
    numbers.changes();
    let mut holder = Spawned::new(service.clone().oneshot(Ask::default()));
    assert!(holder.poll().is_pending());
    assert_eq!(service.oneshot(Ask::default()).await.unwrap().status(), 503);
    let mut changes = numbers.changes();
    changes.retain(|it| it.starts_with("rejections"));
    assert_eq!(changes, ["rejections api api bulkhead bulkhead_full +1"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_has_its_own_name_or_that_of_its_stack() {
    let numbers = Numbers::new();
    let of_stack = HttpServerLayer::builder(api(&numbers)).name("own").build().unwrap();
    let around = HttpServerLayer::builder_around(Identity::new()).name("around").build().unwrap();
    let around = around.register(&numbers.registry);
    let unnamed = HttpServerLayer::around(Identity::new()).register(&numbers.registry);
    for name in ["api own server", "around server", "server server"] {
        assert_eq!(numbers.get(&format!("rejections {name} timed_out")), 0.0);
    }
    drop((of_stack, around, unnamed));
}

#[tokio::test(start_paused = true)]
async fn the_clients_of_a_stack_by_key_count_together() {
    let numbers = Numbers::new();
    let template = Stack::new().name("orders").register(&numbers.registry).http();
    let feed = Feed::new([Step::Data("a"), Step::End]);
    let hosts = Stack::by_key(|ask: &Ask| ask.uri().to_string(), {
        let template = template.clone();
        move |_| template.fresh()
    });
    let hosts = hosts.max_keys(2).build().unwrap();
    let service = hosts.service(serving(&feed));
    let _known = template.service(serving(&feed));
    numbers.changes();
    for key in 0..20 {
        let mut ask = Ask::default();
        *ask.uri_mut() = format!("/{key}").parse().unwrap();
        drop(service.clone().oneshot(ask).await.unwrap());
    }
    numbers.changed(["http.body.duration orders orders cancelled +20"]);
    assert!(hosts.keys() < 20);
}

#[tokio::test(start_paused = true)]
async fn a_client_by_hand_counts_once_it_is_registered() {
    let numbers = Numbers::new();
    let feed = Feed::new([]);
    let client = HttpClientLayer::new();
    let service = client.clone().layer(serving(&feed).map_err(Error::Service));
    drop(service.clone().oneshot(Ask::default()).await.unwrap());
    let client = client.register(&numbers.registry);
    numbers.changes();
    drop(service.clone().oneshot(Ask::default()).await.unwrap());
    numbers.changed(["http.body.duration client cancelled +1"]);
    // The registration ends with the layer and its services.
    drop((client, service));
    assert!(numbers.all().keys().all(|name| !name.contains("client")));
}

#[tokio::test(start_paused = true)]
async fn each_client_has_its_own_first_line_in_the_log() {
    let (capture, _guard) = Capture::start();
    let numbers = Numbers::new();
    for name in ["one", "two", "two"] {
        let client = client().body_idle(SECOND).build().unwrap();
        let stack = Stack::new().name(name).http_client(client).register(&numbers.registry);
        let service = stack.service(serving(&Feed::new([])));
        for _ in 0..2 {
            let response = service.clone().oneshot(Ask::default()).await.unwrap();
            assert!(response.into_body().collect().await.is_err());
        }
    }
    let events = capture.events();
    let warned = events.iter().filter(|event| event.level == Level::WARN);
    let warned: Vec<_> = warned.map(|it| (it.get(field::LAYER), it.get(field::KIND))).collect();
    let kind = Some("idle_response_body");
    assert_eq!(warned, [(Some("one"), kind), (Some("two"), kind), (Some("two"), kind)]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_is_drained_once_the_bodies_have_ended() {
    let numbers = Numbers::new();
    let bulkhead = BulkheadLayer::builder().max_concurrent(4).build().unwrap();
    let stack = Stack::new().name("orders").register(&numbers.registry).bulkhead(bulkhead).http();
    let feed = Feed::new([Step::Data("a")]);
    let service = stack.service(serving(&feed));
    let registry = numbers.registry.clone();
    let drained = || {
        let registry = registry.clone();
        Spawned::new(async move { registry.drained().await })
    };
    assert!(drained().poll().is_ready());
    let response = service.clone().oneshot(Ask::default()).await.unwrap();
    let mut first = drained();
    let mut second = drained();
    assert!(first.poll().is_pending() && second.poll().is_pending());
    drop(second);
    sleep(SECOND).await;
    assert!(first.poll().is_pending());
    feed.push([Step::End]);
    response.into_body().collect().await.unwrap();
    assert!(first.is_woken() && first.poll().is_ready());
    drop(service);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_any_poll_leaves_each_body_counted_once() {
    let numbers = Numbers::new();
    let stack = Stack::standard_http().name("orders").register(&numbers.registry);
    let bodies = Arc::new(AtomicUsize::new(0));
    let begun = Arc::clone(&bodies);
    let service = stack.service(service_fn(move |_: Ask| {
        let begun = Arc::clone(&begun);
        async move {
            tokio::task::yield_now().await;
            begun.fetch_add(1, Ordering::Relaxed);
            let feed = Feed::new([Step::Data("a"), Step::Data("b"), Step::End]);
            Ok::<_, Broken>(Response::new(feed.body()))
        }
    }));
    numbers.changes();
    let make = || {
        let call = service.clone().oneshot(Ask::default());
        async move {
            let mut body = call.await.unwrap().into_body();
            while let Some(frame) = body.frame().await {
                frame.unwrap();
                tokio::task::yield_now().await;
            }
        }
    };
    let polls = CancelHarness::new(make).run(|_| {
        let counted = numbers.sum("http.body.duration");
        assert_eq!(counted, bodies.load(Ordering::Relaxed) as f64);
    });
    assert!(polls > 3, "{polls}");
    assert!(numbers.get("http.body.duration orders orders cancelled") > 1.0);
    assert_eq!(numbers.get("http.body.duration orders orders success"), 1.0);
}
