//! Tests of the numbers of hints and of bodies that are kept for a retry.
#![cfg(feature = "http")]

mod http_support;
mod numbers;

use std::{convert::Infallible, future::pending, time::Duration};

use buttress::{
    Deadline, Error, Stack,
    http::{ReplayBody, ReplayBodyLayer, ReplaySafe},
    retry::RetryLayer,
    testing::task::Spawned,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use tower::{Layer, Service, ServiceExt, service_fn};

use self::{
    http_support::{PAUSE, Protocol, Upstream, answer, retry, trailers_only},
    numbers::Numbers,
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn each_hint_is_counted_by_what_the_retry_did() {
    let numbers = Numbers::new();
    let stack = |retries| {
        let retry = retry(retries).hint_cap(5 * SECOND).build().unwrap();
        Stack::new().name("orders").register(&numbers.registry).retry(retry).http()
    };
    let known = stack(1).service(Upstream::saying([answer(200, &[])]));
    numbers.changes();
    let asks = |seconds: &'static str| answer(503, &[("retry-after", seconds)]);
    let grpc = |millis: &'static str| trailers_only(14, &[("grpc-retry-pushback-ms", millis)]);
    let never = || answer(503, &[("x-should-retry", "false")]);
    let cases = [
        (asks("1"), Some("kept")),
        (asks("6"), Some("over_cap")),
        (grpc("300"), Some("kept")),
        (grpc("6000"), Some("over_cap")),
        (grpc("-1"), Some("stop")),
        (never(), Some("stop")),
        // Without a hint, and with one that decides nothing.
        (answer(503, &[]), None),
        (answer(202, &[("retry-after", "1")]), None),
    ];
    for (first, expected) in cases {
        let upstream = Upstream::saying([first, answer(200, &[])]);
        let request = Protocol::Http.request(&[]);
        let _ = stack(1).service(upstream).oneshot(request).await;
        let mut changes = numbers.changes();
        changes.retain(|it| it.starts_with("http.hints"));
        let expected = expected.map(|it| format!("http.hints orders orders {it} +1"));
        assert_eq!(changes, Vec::from_iter(expected));
    }
    // The deadline ends the retries, so the hint decided nothing.
    let upstream = Upstream::saying([asks("1")]);
    let request = Protocol::Http.request(&[]);
    let call = stack(1).service(upstream).oneshot(request);
    let _ = Deadline::scope(Deadline::after(PAUSE), call).await;
    assert!(numbers.changes().iter().all(|it| !it.starts_with("http.hints")));
    drop(known);
}

/// Reads each request, and fails it.
fn failing_reader<B>() -> impl Service<
    Request<B>,
    Response = Response<Empty<Bytes>>,
    Error = Error<std::io::Error>,
    Future: Send,
> + Clone
where
    B: Body<Data = Bytes, Error: Send> + Send + 'static,
{
    service_fn(|request: Request<B>| async move {
        let _ = request.into_body().collect().await;
        Err(Error::Service(std::io::Error::other("broken")))
    })
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_to_replay_is_counted_once() {
    let numbers = Numbers::new();
    let bodies = ReplayBodyLayer::builder().max_request_bytes(8).max_total_bytes(12);
    let bodies = bodies.name("orders").build().unwrap().register(&numbers.registry);
    numbers.changes();
    let frames = |frames: &[&'static str]| {
        let frames: Vec<_> = frames.iter().map(|it| Ok(Frame::data(Bytes::from(*it)))).collect();
        StreamBody::new(futures::stream::iter(frames)).map_err(|never: Infallible| never).boxed()
    };
    let announced = Full::new(Bytes::from("more than eight")).boxed();
    for (body, retries, expected) in [
        (frames(&["1234", "5678"]), 2, 0),
        (frames(&["1234", "5678", "9"]), 2, 1),
        (frames(&["more than eight", "and more", "and more"]), 2, 1),
        (announced, 2, 1),
        // Nothing is kept for a call that has no retry.
        (frames(&["more than eight"]), 0, 0),
    ] {
        let retry = RetryLayer::builder(ReplaySafe::new()).retries(retries).build().unwrap();
        let service = bodies.layer(retry.layer(failing_reader()));
        let request = Request::put("/").body(body).unwrap();
        service.oneshot(request).await.unwrap_err();
        let expected = (expected > 0).then_some("http.replay.overflow orders +1");
        numbers.changed(expected);
        assert_eq!(bodies.buffered(), 0);
    }
    // Two requests together exceed the limit of all.
    let retry = RetryLayer::new(ReplaySafe::new());
    let reads = service_fn(|request: Request<ReplayBody<BoxBody<Bytes, Infallible>>>| async move {
        let mut body = Box::pin(request.into_body());
        let _ = body.frame().await;
        pending::<Result<Response<Empty<Bytes>>, Error<std::io::Error>>>().await
    });
    let service = bodies.layer(retry.layer(reads));
    let mut calls: Vec<_> = (0..2)
        .map(|_| {
            Spawned::new(
                service.clone().oneshot(Request::put("/").body(frames(&["12345678"])).unwrap()),
            )
        })
        .collect();
    calls.iter_mut().for_each(|call| assert!(call.poll().is_pending()));
    numbers.changed(["http.replay.overflow orders +1"]);
}
