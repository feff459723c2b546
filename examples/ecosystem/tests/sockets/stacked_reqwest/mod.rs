//! Tests of a stack around a reqwest client, with reqwest's own requests and responses.

mod combined;
mod degraded;
mod timeouts;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use buttress::{
    BoxError, CarryRejection, Error, Rejection, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    context::Attempt,
    http::{
        GivenKey, HttpClientLayer, HttpStack, ReplaySafe, SetIdempotencyKeyLayer, grpc,
        reqwest::{ReqwestClient, ReqwestError, StackedClient, client},
    },
    idempotency::Key,
    retry::{Backoff, RetryLayer},
};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Status;
use tonic_health::pb::health_client::HealthClient;
use tower::layer::util::Identity;

use super::support::{Gate, asked, counted, listen, serve_axum, until};

/// A request as a server has received it.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

type Log = Arc<Mutex<Vec<Seen>>>;
type Answer = fn(&Seen, usize) -> Response;

/// Starts a server. The closure gets each request and how many came before it.
async fn serve(
    answer: impl Fn(&Seen, usize) -> Response + Clone + Send + Sync + 'static,
) -> Served {
    let log = Log::default();
    let handler = async move |State(log): State<Log>, request: Request| {
        let (head, body) = request.into_parts();
        // A stale attempt breaks its body off.
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let path = head.uri.path().to_owned();
        let seen = Seen { method: head.method, path, headers: head.headers, body };
        let before = {
            let mut log = log.lock().unwrap();
            log.push(seen.clone());
            log.len() - 1
        };
        answer(&seen, before)
    };
    let app = Router::new().fallback(handler).with_state(Arc::clone(&log));
    Served { address: serve_axum(app).await, log }
}

struct Served {
    address: SocketAddr,
    log: Log,
}

impl Served {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }
}

/// A server that fails once, and then echoes.
const FLAKY: Answer = |seen, before| match before {
    0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    _ => seen.body.clone().into_response(),
};

fn bare() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// A standard stack that retries at once.
fn stack() -> HttpStack {
    let at_once = Backoff::constant(Duration::from_nanos(1)).build().unwrap();
    let retry = RetryLayer::builder(ReplaySafe::new()).backoff(at_once).build().unwrap();
    Stack::standard(ReplaySafe::new()).retry(retry).http()
}

#[tokio::test]
async fn json_is_replayed_with_one_key() {
    let server = serve(FLAKY).await;
    let stack = stack().around_call(SetIdempotencyKeyLayer::new()).around_attempt(Identity::new());
    let client = client(bare(), stack);

    let request = client.post(server.url("/pay")).bearer_auth("token");
    let request = request.with(|request| request.json(&json!({ "amount": 42 })));
    let response = request.send().await.unwrap().error_for_status().unwrap();

    assert_eq!(response.json::<Value>().await.unwrap(), json!({ "amount": 42 }));
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].headers["idempotency-key"], seen[1].headers["idempotency-key"]);
    for seen in seen {
        assert_eq!(seen.method, Method::POST);
        assert_eq!(seen.headers["authorization"], "Bearer token");
        assert_eq!(seen.headers["content-type"], "application/json");
        assert_eq!(seen.headers["content-length"], "13");
        assert_eq!(seen.body, r#"{"amount":42}"#);
    }
}

/// Returns a layer that numbers the attempts in a header.
fn hooked() -> HttpClientLayer {
    let http = HttpClientLayer::builder().on_send_fn(|headers| {
        let number = Attempt::current().map_or(0, |attempt| attempt.number());
        headers.insert("x-hook", number.into());
    });
    http.build().unwrap()
}

#[tokio::test]
async fn the_hook_of_an_attempt_runs_in_the_adapters() {
    let server = serve(FLAKY).await;
    let client = client(bare(), stack().http_client(hooked()));
    client.get(server.url("/")).send().await.unwrap();
    let seen: Vec<_> = server.seen().iter().map(|seen| seen.headers["x-hook"].clone()).collect();
    assert_eq!(seen, ["1", "2"]);

    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let channel = tower::service_fn(move |request: http::Request<tonic::body::Body>| {
        log.lock().unwrap().push(request.headers()["x-hook"].clone());
        std::future::ready(Err::<http::Response<tonic::body::Body>, _>(Status::unavailable("ill")))
    });
    let retry = RetryLayer::builder(ReplaySafe::new().grpc_methods_fn(|_| true)).retries(1);
    let stack = stack().retry(retry.build().unwrap()).http_client(hooked());
    HealthClient::new(grpc::client(channel, stack)).check(asked("")).await.unwrap_err();
    assert_eq!(*seen.lock().unwrap(), ["1", "2"]);
}

/// reqwest's builder cannot set an extension. An `http::Request` has them.
#[tokio::test]
async fn a_converted_request_keeps_its_given_key() {
    let server = serve(FLAKY).await;
    let client = client(bare(), stack().around_call(SetIdempotencyKeyLayer::new()));
    let key = GivenKey::new(Key::new("payment-4711").unwrap());
    let request = http::Request::post(server.url("/pay")).extension(key).body("42").unwrap();
    let response = client.execute(request.try_into().unwrap()).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "42");
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.headers["idempotency-key"] == "\"payment-4711\""));
}

#[tokio::test]
async fn a_post_without_a_key_is_not_replayed() {
    let server = serve(FLAKY).await;
    let response = client(bare(), stack()).post(server.url("/pay")).body("42").send().await;
    assert_eq!(response.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_long_body_of_bytes_is_replayed() {
    let server = serve(FLAKY).await;
    let long = vec![b'a'; 200_000];
    let response = client(bare(), stack()).put(server.url("/")).body(long.clone()).send().await;
    assert_eq!(response.unwrap().bytes().await.unwrap(), long);
    assert_eq!(server.seen().len(), 2);
}

/// Sends chunks whose number the client cannot know.
fn stream(chunks: usize) -> reqwest::Body {
    let chunks = (0..chunks).map(|_| Ok::<_, Infallible>(Bytes::from_static(&[b'a'; 1000])));
    reqwest::Body::wrap_stream(tokio_stream::iter(chunks))
}

#[tokio::test]
async fn a_short_stream_is_replayed_and_a_long_one_is_not() {
    for (chunks, sent) in [(3, 2), (100, 1)] {
        let server = serve(FLAKY).await;
        let client = client(bare(), stack());
        let response = client.put(server.url("/")).body(stream(chunks)).send().await.unwrap();
        let seen = server.seen();
        assert_eq!(seen.len(), sent, "{chunks} chunks");
        assert!(seen.iter().all(|seen| seen.body.len() == chunks * 1000));
        assert_eq!(response.status().is_success(), sent == 2);
    }
}

fn redirect(status: StatusCode, to: impl Into<String>) -> Response {
    (status, [("location", to.into())]).into_response()
}

#[tokio::test]
async fn a_308_sends_json_again_and_the_final_url_is_kept() {
    let server = serve(|seen, _| match seen.path.as_str() {
        "/old" => redirect(StatusCode::PERMANENT_REDIRECT, "/new"),
        _ => seen.body.clone().into_response(),
    })
    .await;
    let client = client(bare(), stack());

    let request = client.put(server.url("/old")).with(|request| request.json(&json!([1])));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.url().as_str(), server.url("/new"));
    assert!(response.remote_addr().is_some());
    assert_eq!(response.text().await.unwrap(), "[1]");
    assert_eq!(server.seen()[1].method, Method::PUT);

    // As with reqwest alone, a stream is not sent again.
    let request = client.put(server.url("/old")).body(stream(1));
    assert_eq!(request.send().await.unwrap().status(), StatusCode::PERMANENT_REDIRECT);
}

#[tokio::test]
async fn a_303_becomes_a_get_without_a_body() {
    let server = serve(|seen, _| match seen.path.as_str() {
        "/pay" => redirect(StatusCode::SEE_OTHER, "/receipt"),
        _ => "paid".into_response(),
    })
    .await;
    let response =
        client(bare(), stack()).post(server.url("/pay")).body("42").send().await.unwrap();
    assert_eq!(response.url().path(), "/receipt");
    let last = server.seen().pop().unwrap();
    assert_eq!((last.method, last.body), (Method::GET, Bytes::new()));
}

#[tokio::test]
async fn a_redirect_loop_is_not_retried() {
    let server = serve(|_, _| redirect(StatusCode::TEMPORARY_REDIRECT, "/")).await;
    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let client = client(bare(), stack().circuit_breaker(breaker));
    let error = client.put(server.url("/")).body("42").send().await.unwrap_err();
    assert!(error.to_string().ends_with("too many redirects"), "{error}");
    assert!(error.service().unwrap().get_ref().is_redirect());
    assert_eq!((server.seen().len(), counted(&handle)), (11, (1, 0)));
}

/// The documented headers go to another origin, unless the documented policy stops there.
#[tokio::test]
async fn another_origin_gets_the_key_and_the_time_left_but_no_token() {
    let other = serve(|_, _| "elsewhere".into_response()).await;
    let to = other.url("/");
    let server = serve(move |_, _| redirect(StatusCode::TEMPORARY_REDIRECT, to.clone())).await;
    let keyed = || stack().around_call(SetIdempotencyKeyLayer::new());
    let send = async |client: StackedClient| {
        client.post(server.url("/")).bearer_auth("token").body("42").send().await.unwrap()
    };

    assert_eq!(send(client(bare(), keyed())).await.url().as_str(), other.url("/"));
    let headers = other.seen().pop().unwrap().headers;
    assert!(!headers.contains_key("authorization"));
    assert!(headers.contains_key("idempotency-key"));
    assert!(headers.contains_key("x-envoy-expected-rq-timeout-ms"));

    let same_origin = Policy::custom(|attempt| {
        let first = attempt.previous().first().map(|url| url.origin());
        if first == Some(attempt.url().origin()) { attempt.follow() } else { attempt.stop() }
    });
    let builder = reqwest::Client::builder().no_proxy();
    let http = ReqwestClient::new(builder, same_origin).unwrap();
    let response = send(client(http, keyed())).await;
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(other.seen().len(), 1);
}

#[tokio::test]
async fn a_connect_error_of_a_ready_made_client_proves_nothing() {
    let (gone, listener) = listen().await;
    drop(listener);
    let post = async |client: StackedClient, breaker: CircuitBreakerLayer| {
        let request = client.post(format!("http://{gone}/")).body("42");
        assert!(matches!(request.send().await, Err(Error::Service(_))));
        counted(&breaker.handle()).0
    };

    let breaker = CircuitBreakerLayer::new();
    let ready_made = client(bare(), stack().circuit_breaker(breaker.clone()));
    assert_eq!(post(ready_made, breaker).await, 1);

    let breaker = CircuitBreakerLayer::new();
    let builder = reqwest::Client::builder().no_proxy();
    let http = ReqwestClient::new(builder, Policy::default()).unwrap();
    let watched = client(http, stack().circuit_breaker(breaker.clone()));
    assert_eq!(post(watched, breaker).await, 4);
}

#[tokio::test]
async fn an_open_circuit_says_why() {
    let breaker = CircuitBreakerLayer::builder().name("orders").build().unwrap();
    breaker.handle().force_open();
    let client = client(bare(), stack().circuit_breaker(breaker));

    let error = client.get("http://127.0.0.1:1/").send().await.unwrap_err();
    assert_eq!(error.to_string(), "orders: the circuit is open");
    assert!(matches!(error.rejection(), Some(Rejection::CircuitOpen(_))));
    assert!(BoxError::from(error).rejection().is_some());
}

#[tokio::test]
async fn an_invalid_request_fails_and_counts_nothing() {
    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let client = client(bare(), stack().circuit_breaker(breaker));
    let invalid = [
        (client.get("/relative"), "relative URL without a base"),
        (client.get("ftp://a/"), "URL scheme is not allowed"),
        (client.get("http://a/").header("a b", "c"), "invalid HTTP header name"),
        (client.get("http://a/").header("a", "b\n"), "failed to parse header value"),
    ];
    for (request, why) in invalid {
        let error = request.send().await.unwrap_err();
        assert!(error.service().unwrap().get_ref().is_builder());
        assert!(error.to_string().ends_with(why), "{error}");
    }
    assert_eq!(counted(&handle), (0, 0));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_failure_and_frees_its_slot() {
    let (address, listener) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
    });
    let (bulkhead, breaker) = (BulkheadLayer::default(), CircuitBreakerLayer::new());
    let (slots, handle) = (bulkhead.handle(), breaker.handle());
    let client = client(bare(), stack().bulkhead(bulkhead).circuit_breaker(breaker));

    let response = client.get(format!("http://{address}/")).send().await.unwrap();
    assert_eq!((slots.in_flight(), counted(&handle)), (1, (0, 0)));
    let error = Error::<ReqwestError>::from(response.text().await.unwrap_err());
    assert!(error.service().is_some(), "{error:?}");
    assert_eq!((slots.in_flight(), counted(&handle)), (0, (1, 1)));
}

#[tokio::test]
async fn a_call_ends_with_the_body_or_the_drop_of_its_response() {
    let server = serve(|_, _| "two apples".into_response()).await;
    let bulkhead = BulkheadLayer::default();
    let slots = bulkhead.handle();
    let client = client(bare(), stack().bulkhead(bulkhead));
    let send = || client.get(server.url("/")).send();

    let response = send().await.unwrap();
    assert_eq!(slots.in_flight(), 1);
    assert_eq!((response.content_length(), response.url().as_str()), (Some(10), &*server.url("/")));
    assert_eq!(response.text().await.unwrap(), "two apples");
    assert_eq!(slots.in_flight(), 0);
    let response = send().await.unwrap();
    assert_eq!(slots.in_flight(), 1);
    drop(response);
    assert_eq!(slots.in_flight(), 0);
}

#[tokio::test]
async fn dropping_the_future_ends_the_call() {
    let gate = Gate::new();
    let waiting = gate.clone();
    let app = Router::new().fallback(async move || waiting.pass().await);
    let address = serve_axum(app).await;
    let bulkhead = BulkheadLayer::default();
    let slots = bulkhead.handle();
    let client = client(bare(), stack().bulkhead(bulkhead));

    let call = tokio::spawn(client.get(format!("http://{address}/")).send());
    gate.arrived(1).await;
    assert_eq!(slots.in_flight(), 1);
    call.abort();
    until("the slot is free", || slots.in_flight() == 0).await;
}

/// Clones share the layers, and a struct can name the client.
#[tokio::test]
async fn clones_share_the_stack() {
    #[derive(Clone)]
    struct App {
        orders: StackedClient,
    }
    fn assert_auto_traits<T: Clone + Send + Sync + Unpin + 'static>(_: &T) {}
    fn assert_send_sync<T: Send + Sync + 'static>(_: &T) {}

    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let app = App { orders: client(bare(), stack().circuit_breaker(breaker)) };
    assert_auto_traits(&app);
    assert_send_sync(&app.orders.get("http://127.0.0.1:1/"));
    let clone = app.clone();
    handle.force_open();
    for app in [app, clone] {
        let result = app.orders.get("http://127.0.0.1:1/").send().await;
        assert!(matches!(result, Err(Error::Rejected(Rejection::CircuitOpen(_)))));
    }
}
