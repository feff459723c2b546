//! Each rejection that can meet a request with an unread body.

use std::{convert::Infallible, future::pending, iter::repeat_n, time::Duration};

use buttress::{
    Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    http::{
        BufferedBody, HttpServerLayer,
        idempotency::{HeaderKey, ReadHttp, RecordHttp},
    },
    idempotency::{IdempotencyLayer, store::MemoryStore},
};
use bytes::Bytes;
use futures::FutureExt;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::{
    task::{JoinSet, yield_now},
    time::sleep,
};
use tower::{Layer, Service, service_fn};

use super::upload::{Sends, Upload, call, full};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A handler that never responds to a `POST`.
async fn handle<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::POST {
        return Ok(Response::new(Full::from("done")));
    }
    pending().await
}

/// Expects a rejection with a complete response, and that the request is drained for 5 s.
async fn rejects<S, R>(server: S, upload: &Upload, status: u16, what: &str)
where
    S: Service<Request<Upload>, Response = Response<R>, Error = Infallible>,
    R: Body<Data = Bytes> + Unpin,
{
    let mut request = upload.post();
    request.headers_mut().insert("idempotency-key", "7".parse().unwrap());
    drained(server, request, upload, status, what).await;
}

async fn drained<S, R>(
    mut server: S,
    request: Request<Upload>,
    upload: &Upload,
    status: u16,
    what: &str,
) where
    S: Service<Request<Upload>, Response = Response<R>, Error = Infallible>,
    R: Body<Data = Bytes> + Unpin,
{
    let response = call(&mut server, request).await;
    assert_eq!(response.status(), status, "{what}");
    drop(server);
    reads_to_the_end(response, what).await;
    assert!(!upload.is_dropped(), "{what}");
    sleep(SECOND * 5 - MS).await;
    assert!(upload.was_polled() && !upload.is_dropped(), "{what}");
    sleep(MS * 2).await;
    assert!(upload.is_dropped(), "{what}");
}

/// Reads a response, which has a known length and waits for nothing.
async fn reads_to_the_end<R>(response: Response<R>, what: &str)
where
    R: Body<Data = Bytes> + Unpin,
{
    let length = response.body().size_hint().exact();
    let Some(Ok(body)) = response.into_body().collect().now_or_never() else { panic!("{what}") };
    assert_eq!(length, Some(body.to_bytes().len() as u64), "{what}");
}

fn stalled() -> Upload {
    Upload::new(Sends::Nothing)
}

/// Rejects a request after some others that do not end.
macro_rules! rejects_after {
    ($others:literal, $server:expr, $status:literal, $what:literal) => {{
        let server = $server;
        let mut others = JoinSet::new();
        for _ in repeat_n((), $others) {
            let mut other = server.layer(service_fn(handle::<Upload>));
            others.spawn(async move { call(&mut other, stalled().post()).await });
        }
        yield_now().await;
        let upload = stalled();
        rejects(server.layer(service_fn(handle::<Upload>)), &upload, $status, $what).await;
    }};
}

#[tokio::test(start_paused = true)]
async fn a_rejection_by_a_bulkhead_drains_the_request() {
    let one = || BulkheadLayer::builder().max_concurrent(1);
    let full = || Stack::new().bulkhead(one().build().unwrap());
    rejects_after!(1, HttpServerLayer::new(full()), 503, "full");
    let optional = Stack::new().bulkhead(Some(one().build().unwrap()));
    rejects_after!(1, HttpServerLayer::new(optional), 503, "optional and full");
    let too_many = HttpServerLayer::builder(full()).full_status(StatusCode::TOO_MANY_REQUESTS);
    rejects_after!(1, too_many.build().unwrap(), 429, "full, with another status");

    let queued = || Stack::new().bulkhead(one().queue(1, SECOND).build().unwrap());
    rejects_after!(2, HttpServerLayer::new(queued()), 503, "the queue is full");
    rejects_after!(1, HttpServerLayer::new(queued()), 503, "the wait in the queue is over");
    let limit = |stack| HttpServerLayer::builder(stack).limit(SECOND / 2);
    rejects_after!(1, limit(queued()).build().unwrap(), 504, "the limit ends in the queue");
    let total = queued().total_timeout(SECOND / 2);
    rejects_after!(1, HttpServerLayer::new(total), 504, "the total timeout ends in the queue");
    let waits = Stack::new().bulkhead(one().backpressure().build().unwrap());
    let waits = HttpServerLayer::builder(waits).limit(SECOND / 2).build().unwrap();
    rejects_after!(1, waits, 504, "the limit ends before the stack is ready");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_by_a_breaker_drains_the_request() {
    let breaker = CircuitBreakerLayer::default();
    breaker.handle().force_open();
    rejects_after!(0, HttpServerLayer::new(Stack::new().circuit_breaker(breaker)), 503, "open");

    let keyed = CircuitBreakerLayer::builder()
        .keyed_fn(|request: &Request<Upload>| request.uri().path().to_owned())
        .build()
        .unwrap();
    let server = HttpServerLayer::new(Stack::new().circuit_breaker(keyed.clone()));
    // The breaker of a key exists from its first call.
    let mut other = server.layer(service_fn(handle::<Upload>));
    let other = tokio::spawn(async move { call(&mut other, stalled().post()).await });
    yield_now().await;
    keyed.handle("/upload").unwrap().force_open();
    rejects_after!(0, server, 503, "keyed");
    other.abort();
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_over_drains_the_request() {
    let upload = stalled();
    let mut request = upload.post();
    // The margin of the server takes it all.
    request.headers_mut().insert("x-envoy-expected-rq-timeout-ms", "1".parse().unwrap());
    let server = HttpServerLayer::new(Stack::new()).layer(service_fn(handle::<Upload>));
    drained(server, request, &upload, 504, "deadline").await;
}

/// Puts a server with an idempotency layer around a handler.
macro_rules! guarded {
    ($read:expr) => {
        guarded!($read, HttpServerLayer::builder(Stack::new()))
    };
    ($read:expr, $builder:expr) => {{
        let (store, read) = (MemoryStore::new(), $read.build().unwrap());
        let guard = IdempotencyLayer::builder(store, HeaderKey::new(), read, RecordHttp::new());
        let guard = guard.single_tenant().build().unwrap();
        $builder.outside(guard).build().unwrap().layer(service_fn(handle::<BufferedBody<Upload>>))
    }};
}

#[tokio::test(start_paused = true)]
async fn a_rejection_by_the_idempotency_layer_drains_the_request() {
    let read = ReadHttp::builder;
    let upload = stalled();
    drained(guarded!(read()), upload.post(), &upload, 400, "no key").await;
    let upload = stalled().of_length(2 << 20);
    rejects(guarded!(read()), &upload, 413, "too large by its length").await;
    rejects(guarded!(read().body_timeout(SECOND)), &stalled(), 408, "not in time").await;
    let limit = HttpServerLayer::builder(Stack::new()).limit(SECOND);
    rejects(guarded!(read(), limit), &stalled(), 504, "the limit ends while the body is read")
        .await;

    let server = guarded!(read().without_body());
    let mut first = server.clone();
    let upload = stalled();
    let mut request = upload.post();
    request.headers_mut().insert("idempotency-key", "7".parse().unwrap());
    tokio::spawn(async move { call(&mut first, request).await });
    yield_now().await;
    rejects(server, &stalled(), 409, "in flight").await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_found_too_large_is_read_on() {
    let upload = Upload::new(Sends::Pieces(1 << 20));
    let mut request = upload.post();
    request.headers_mut().insert("idempotency-key", "7".parse().unwrap());
    // The client was told to continue, and has begun.
    request.headers_mut().insert("expect", "100-continue".parse().unwrap());
    let response = call(&mut guarded!(ReadHttp::builder()), request).await;
    assert_eq!(response.status(), 413);
    assert_eq!(upload.read(), 2 << 20);
    reads_to_the_end(response, "too large").await;
    sleep(SECOND).await;
    assert_eq!(upload.read(), 19 << 20);
    assert!(upload.is_dropped());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_the_idempotency_layer_has_read_needs_no_drain() {
    for sends in [Sends::End, Sends::Trailers, Sends::Error] {
        let upload = Upload::new(sends);
        let mut request = upload.post();
        *request.method_mut() = Method::PUT;
        request.headers_mut().insert("idempotency-key", "7".parse().unwrap());
        let response = call(&mut guarded!(ReadHttp::builder()), request).await;
        assert!(upload.is_dropped());
        reads_to_the_end(response, "read").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replayed_response_drains_an_unread_request() {
    let server = guarded!(ReadHttp::builder().without_body());
    for replayed in [false, true] {
        let upload = stalled();
        let mut request = upload.post();
        *request.method_mut() = Method::PUT;
        request.headers_mut().insert("idempotency-key", "7".parse().unwrap());
        if replayed {
            drained(server.clone(), request, &upload, 200, "replayed").await;
        } else {
            let body = call(&mut server.clone(), request).await.into_body();
            assert_eq!(body.collect().await.unwrap().to_bytes(), "done");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bulkhead_that_rejects_a_run_drains_only_an_unread_request() {
    for (without_body, drains) in [(true, true), (false, false)] {
        let builder = || HttpServerLayer::builder(Stack::new().bulkhead(full()));
        let upload = if drains { stalled() } else { Upload::new(Sends::End) };
        let mut request = upload.post();
        request.headers_mut().insert("idempotency-key", "7".parse().unwrap());
        if without_body {
            let server = guarded!(ReadHttp::builder().without_body(), builder());
            drained(server, request, &upload, 503, "unread").await;
        } else {
            let response = call(&mut guarded!(ReadHttp::builder(), builder()), request).await;
            assert_eq!(response.status(), 503);
            assert!(upload.is_dropped());
        }
    }
}
