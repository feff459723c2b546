//! The bounds of draining, on a paused clock.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use buttress::{Stack, bulkhead::BulkheadLayer, http::HttpServerLayer};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::Empty;
use tokio::{
    runtime,
    task::yield_now,
    time::{Instant, sleep, timeout},
};
use tower::{Layer, Service, service_fn};

use super::upload::{Sends, Upload, call, full};

const MIB: usize = 1 << 20;
const MS: Duration = Duration::from_millis(1);

type Answer = Result<Response<Empty<Bytes>>, Infallible>;

/// A handler that is never reached.
fn handler<B>(_: Request<B>) -> Ready<Answer> {
    ready(Ok(Response::default()))
}

macro_rules! server {
    () => {
        server!(HttpServerLayer::builder(Stack::new().bulkhead(full())))
    };
    ($builder:expr) => {
        $builder.build().unwrap().layer(service_fn(handler::<Upload>))
    };
}

/// Returns the time for which an upload is drained.
async fn drained_for(upload: &Upload) -> Duration {
    let began = Instant::now();
    while !upload.is_dropped() {
        sleep(MS).await;
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_with_its_request() {
    for sends in [Sends::End, Sends::Error] {
        let upload = Upload::new(sends);
        call(&mut server!(), upload.post()).await;
        assert!(!upload.is_dropped());
        yield_now().await;
        assert!(upload.was_polled() && upload.is_dropped());
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_16_mib_are_read() {
    let upload = Upload::new(Sends::Pieces(MIB));
    call(&mut server!(), upload.post()).await;
    drained_for(&upload).await;
    // The piece beyond the limit was read too, and ended the drain.
    assert_eq!(upload.read(), 17 * MIB);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_known_to_be_longer_is_not_read() {
    for (length, drained) in [(16 << 20, true), ((16 << 20) + 1, false)] {
        let upload = Upload::new(Sends::Nothing).of_length(length);
        call(&mut server!(), upload.post()).await;
        assert_eq!(upload.is_dropped(), !drained);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_is_read_for_5_s() {
    let upload = Upload::new(Sends::Nothing);
    call(&mut server!(), upload.post()).await;
    assert_eq!(drained_for(&upload).await.as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_end_leaves_room_for_other_tasks() {
    // Empty frames never use up the bytes.
    let upload = Upload::new(Sends::Pieces(0));
    call(&mut server!(), upload.post()).await;
    yield_now().await;
    assert!(upload.was_polled() && !upload.is_dropped());
}

#[tokio::test(start_paused = true)]
async fn of_65_requests_the_oldest_is_no_longer_drained() {
    let layer = HttpServerLayer::new(Stack::new().bulkhead(full()));
    let mut uploads = Vec::new();
    for number in 0..70 {
        // The services of a layer and of its clones share the number.
        let mut server = layer.clone().layer(service_fn(handler::<Upload>));
        let upload = Upload::new(Sends::Nothing);
        call(&mut server, upload.post()).await;
        yield_now().await;
        uploads.push(upload);
        let ended = uploads.iter().take_while(|upload| upload.is_dropped()).count();
        let running = uploads.iter().filter(|upload| !upload.is_dropped()).count();
        assert_eq!((ended, running), ((number + 1_usize).saturating_sub(64), (number + 1).min(64)));
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_have_ended_make_room() {
    let layer = HttpServerLayer::new(Stack::new().bulkhead(full()));
    let mut server = layer.layer(service_fn(handler::<Upload>));
    let first = Upload::new(Sends::Nothing);
    call(&mut server, first.post()).await;
    for number in 0..200 {
        let sends = if number % 2 == 0 { Sends::End } else { Sends::Panic };
        let upload = Upload::new(sends);
        call(&mut server, upload.post()).await;
        yield_now().await;
        assert!(upload.was_polled() && upload.is_dropped());
    }
    assert!(!first.is_dropped());
}

#[tokio::test(start_paused = true)]
async fn a_request_is_dropped_where_draining_helps_nobody() {
    fn expecting(mut request: Request<Upload>) -> Request<Upload> {
        request.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
        request
    }
    fn over_http2(mut request: Request<Upload>) -> Request<Upload> {
        *request.version_mut() = Version::HTTP_2;
        request
    }
    for change in [expecting, over_http2] {
        let upload = Upload::new(Sends::Nothing);
        call(&mut server!(), change(upload.post())).await;
        assert!(upload.is_dropped());
    }
}

#[tokio::test(start_paused = true)]
async fn draining_can_be_switched_off() {
    let builder = || HttpServerLayer::builder(Stack::new().bulkhead(full()));
    let upload = Upload::new(Sends::Nothing);
    call(&mut server!(builder().without_drain()), upload.post()).await;
    assert!(upload.is_dropped());
    // A server within another one decides for itself.
    let inner = server!(builder().without_drain());
    let mut outer = HttpServerLayer::new(Stack::new()).layer(inner);
    let upload = Upload::new(Sends::Nothing);
    call(&mut outer, upload.post()).await;
    assert!(upload.is_dropped());
}

#[tokio::test(start_paused = true)]
async fn a_drain_holds_no_permit() {
    let outer = BulkheadLayer::default();
    let handle = outer.handle();
    let mut server = HttpServerLayer::new(Stack::new().bulkhead(outer)).layer(server!());
    let upload = Upload::new(Sends::Nothing);
    let response = call(&mut server, upload.post()).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(response);
    assert!(!upload.is_dropped());
    assert_eq!(handle.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_rejected_is_never_drained() {
    let mut server = HttpServerLayer::new(Stack::new()).layer(service_fn(handler::<Upload>));
    let upload = Upload::new(Sends::Nothing);
    let response = call(&mut server, upload.post()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(upload.is_dropped());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_its_caller_drops_in_the_queue_is_not_drained() {
    let queued = BulkheadLayer::builder().max_concurrent(1).queue(1, MS * 100).build().unwrap();
    let mut holder =
        queued.layer(service_fn(|()| std::future::pending::<Result<(), buttress::Error<()>>>()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(holder.poll_ready(&mut cx).is_ready());
    let upload = Upload::new(Sends::Nothing);
    let mut server = server!(HttpServerLayer::builder(Stack::new().bulkhead(queued)));
    let mut future = Box::pin(server.call(upload.post()));
    assert!(future.as_mut().poll(&mut cx).is_pending());
    drop(future);
    assert!(upload.is_dropped());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_handler_drops_in_the_queue_of_its_own_server_is_not_drained() {
    let queued = BulkheadLayer::builder().max_concurrent(1).queue(1, MS * 100).build().unwrap();
    let mut holder =
        queued.layer(service_fn(|()| std::future::pending::<Result<(), buttress::Error<()>>>()));
    assert!(holder.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready());
    let own = Upload::new(Sends::Nothing);
    let inner = server!(HttpServerLayer::builder(Stack::new().bulkhead(queued)).without_drain());
    let asks = own.clone();
    let mut outer =
        HttpServerLayer::new(Stack::new()).layer(service_fn(move |_: Request<Upload>| {
            let (mut inner, request) = (inner.clone(), asks.post());
            async move {
                let late = timeout(MS, call(&mut inner, request)).await.is_err();
                assert!(late);
                Answer::Ok(Response::default())
            }
        }));
    call(&mut outer, Upload::new(Sends::Nothing).post()).await;
    drop(outer);
    assert!(own.is_dropped());
}

/// Rejects an upload where there is no runtime, or none with timers.
fn reject(upload: &Upload) -> StatusCode {
    let mut server = server!();
    let mut call = pin!(server.call(upload.post()));
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => response.status(),
        Poll::Pending => panic!("the call waits"),
    }
}

#[test]
fn a_request_is_dropped_without_a_runtime() {
    let upload = Upload::new(Sends::Nothing);
    assert_eq!(reject(&upload), StatusCode::SERVICE_UNAVAILABLE);
    assert!(upload.is_dropped());
}

#[test]
fn a_runtime_without_timers_drops_the_request_in_its_task() {
    let runtime = runtime::Builder::new_current_thread().build().unwrap();
    let upload = Upload::new(Sends::Nothing);
    runtime.block_on(async {
        assert_eq!(reject(&upload), StatusCode::SERVICE_UNAVAILABLE);
        yield_now().await;
    });
    assert!(upload.is_dropped() && !upload.was_polled());
}
