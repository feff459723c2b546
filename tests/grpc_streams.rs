//! Tests of a gRPC client with methods that stream.
#![cfg(feature = "tonic")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{
    CarryRejection, ConfigError, Rejection, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    http::{ReplaySafe, grpc},
    testing::task::Spawned,
    timeout::TimeoutLayer,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt, service_fn};

const WATCH: &str = "/shop.Orders/Watch";
const GET: &str = "/shop.Orders/Get";
const SECOND: Duration = Duration::from_secs(1);

/// The deadlines that the server was told.
type Told = Arc<Mutex<Vec<Option<String>>>>;

/// A server that sends `messages` messages, each after a pause.
fn channel(
    told: &Told,
    messages: u64,
    pause: Duration,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone {
    let told = Arc::clone(told);
    service_fn(move |request: Request<Body>| {
        let timeout = request.headers().get("grpc-timeout");
        told.lock().unwrap().push(timeout.map(|value| value.to_str().unwrap().to_owned()));
        let frames = stream::iter(0..messages).then(move |_| async move {
            sleep(pause).await;
            Ok::<_, Status>(Frame::data(Bytes::from_static(b"message")))
        });
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", 0.into());
        let end = stream::once(async { Ok(Frame::trailers(trailers)) });
        let mut response = Response::new(Body::new(StreamBody::new(frames.chain(end))));
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        async { Ok(response) }
    })
}

fn request(path: &str, timeout: Option<&str>) -> Request<Body> {
    let mut request = Request::post(path).header("content-type", "application/grpc");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    request.body(Body::empty()).unwrap()
}

/// Reads the response to its end. Returns the code and the time that it took.
async fn read<C, B>(client: C, request: Request<Body>) -> (Code, Duration)
where
    C: Service<Request<Body>, Response = Response<B>, Error = Status>,
    B: http_body::Body<Data = Bytes, Error = Status>,
{
    let began = Instant::now();
    let result = match client.oneshot(request).await {
        Ok(response) => response.into_body().collect().await.map(|_| ()),
        Err(status) => Err(status),
    };
    (result.map_or_else(|status| status.code(), |()| Code::Ok), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_named_stream_outlasts_the_timeouts_of_the_stack() {
    let told = Told::default();
    let channel = channel(&told, 6, 10 * SECOND);
    let client = grpc::client(channel, Stack::standard_http()).streams([WATCH]).unwrap();
    assert_eq!(read(client.clone(), request(WATCH, None)).await, (Code::Ok, 60 * SECOND));
    assert_eq!(read(client, request(GET, None)).await.0, Code::DeadlineExceeded);
    let told = told.lock().unwrap().clone();
    assert_eq!(told[0], None);
    assert!(told[1].is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_the_deadline_of_its_caller_and_the_limit_of_a_stall() {
    let told = Told::default();
    let busy = grpc::client(channel(&told, 1_000, SECOND), Stack::standard_http());
    let busy = busy.streams([WATCH]).unwrap();
    let (code, took) = read(busy, request(WATCH, Some("5S"))).await;
    assert_eq!((code, took), (Code::DeadlineExceeded, 5 * SECOND));
    assert!(told.lock().unwrap()[0].is_some());

    let silent = grpc::client(channel(&told, 1, 3_600 * SECOND), Stack::standard_http());
    let (code, took) = read(silent.streams([WATCH]).unwrap(), request(WATCH, None)).await;
    assert_eq!((code, took), (Code::DeadlineExceeded, 30 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn streams_share_the_state_of_the_stack_and_reserve_one_slot() {
    let told = Told::default();
    let breaker = CircuitBreakerLayer::new();
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let (state, slots) = (breaker.handle(), bulkhead.handle());
    // A limit for each request, and an optional layer, are switched off too.
    let limit = TimeoutLayer::per_request_fn(|_: &Request<_>| SECOND);
    let stack = Stack::new()
        .bulkhead(bulkhead)
        .circuit_breaker(breaker)
        .attempt_timeout(Some(limit))
        .http();
    let client = grpc::client(channel(&told, 3, 2 * SECOND), stack);
    let mut client = client.streams([WATCH]).unwrap().streams(["/shop.Orders/List"]).unwrap();
    // The service has reserved the only slot, but the stream can use it.
    client.ready().await.unwrap();
    assert_eq!(slots.in_flight(), 1);
    let response = client.call(request(WATCH, None)).await.unwrap();
    assert_eq!(slots.in_flight(), 1);
    response.into_body().collect().await.unwrap();
    assert_eq!(slots.in_flight(), 0);
    assert_eq!(read(client.clone(), request("/shop.Orders/List", None)).await.0, Code::Ok);

    state.force_open();
    let status = client.oneshot(request(WATCH, None)).await.unwrap_err();
    assert!(matches!(status.rejection(), Some(Rejection::CircuitOpen(_))));
}

#[tokio::test(start_paused = true)]
async fn a_path_that_no_method_can_have_is_an_error() {
    let told = Told::default();
    for path in ["", "/", "shop.Orders/Watch", "/shop.Orders", "/shop.Orders/", "//Watch", "/a/b/c"]
    {
        let client =
            grpc::client(channel(&told, 1, SECOND), Stack::standard(ReplaySafe::new()).http());
        let error: ConfigError = client.streams([WATCH, path]).err().unwrap();
        assert_eq!(error.knob(), "streams", "{path:?}");
        assert!(error.to_string().contains(&format!("{path:?}")), "{error}");
    }
}

/// A stream does not use the slot that was reserved before its method was known.
#[tokio::test(start_paused = true)]
async fn a_stream_waits_for_a_slot_no_longer_than_its_own_deadline() {
    let told = Told::default();
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).backpressure().build().unwrap();
    let slots = bulkhead.handle();
    let stack = Stack::new().bulkhead(bulkhead).http();
    let client = grpc::client(channel(&told, 100, SECOND), stack).streams([WATCH]).unwrap();
    let (mut first, mut second) = (client.clone(), client);
    first.ready().await.unwrap();
    let mut next = Spawned::new(second.ready());
    assert!(next.poll().is_pending());
    let late = first.call(request(WATCH, Some("5S")));
    assert!(next.is_woken() && next.poll().is_ready());
    let began = Instant::now();
    let status = tokio::time::timeout(60 * SECOND, late).await.expect("no deadline").err().unwrap();
    assert_eq!((status.code(), began.elapsed()), (Code::DeadlineExceeded, 5 * SECOND));
    drop(next);
    drop(second);
    assert_eq!((slots.in_flight(), slots.queued(), told.lock().unwrap().len()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_found_behind_the_prefix_of_an_origin() {
    let told = Told::default();
    let client = grpc::client(channel(&told, 6, 10 * SECOND), Stack::standard_http());
    let client = client.streams([WATCH]).unwrap();
    let path = format!("/api/v1{WATCH}");
    assert_eq!(read(client.clone(), request(&path, None)).await, (Code::Ok, 60 * SECOND));
    for other in [format!("{WATCH}/"), format!("{WATCH}/More"), format!("/shop.Orders{GET}")] {
        assert_eq!(read(client.clone(), request(&other, None)).await.0, Code::DeadlineExceeded);
    }
}
