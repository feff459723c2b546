//! Endpoints beneath a stack for HTTP.

use std::{
    convert::Infallible,
    future::{Ready, ready},
};

use buttress::{
    Deadline, Error, Stack,
    endpoints::{EndpointStatus, Endpoints, EndpointsHandle},
    http::{HttpCheck, HttpClientLayer, ReplaySafe},
    retry::RetryLayer,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, Service, ServiceExt};

use super::{
    bodies::{Bare, EmptyFrames},
    *,
};

type Frames = futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, &'static str>>>;

/// An instance that always responds in the same way.
#[derive(Clone)]
struct Server {
    status: u16,
    content_type: &'static str,
    frames: fn() -> Vec<Result<Frame<Bytes>, &'static str>>,
}

impl Service<Request<String>> for Server {
    type Response = Response<StreamBody<Frames>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        let body = StreamBody::new(futures::stream::iter((self.frames)()));
        let builder = Response::builder().status(self.status);
        ready(Ok(builder.header("content-type", self.content_type).body(body).unwrap()))
    }
}

fn data() -> Vec<Result<Frame<Bytes>, &'static str>> {
    vec![Ok(Frame::data(Bytes::from_static(b"data")))]
}

fn broken() -> Vec<Result<Frame<Bytes>, &'static str>> {
    vec![Ok(Frame::data(Bytes::from_static(b"data"))), Err("broke off")]
}

fn unavailable() -> Vec<Result<Frame<Bytes>, &'static str>> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "14".parse().unwrap());
    vec![Ok(Frame::trailers(trailers))]
}

fn one(server: Server) -> Endpoints<&'static str, Server> {
    Endpoints::new(["a"], move |_: &&str| server.clone())
}

fn numbers(handle: &EndpointsHandle<&'static str>) -> (u64, u32) {
    let state = handle.states().remove(0);
    (state.failures, state.in_flight)
}

const SERVER: Server = Server { status: 200, content_type: "text/plain", frames: data };

#[tokio::test(start_paused = true)]
async fn a_failed_status_counts_at_the_head_and_a_failed_body_at_its_end() {
    for (server, at_head, at_end) in [
        (SERVER, (0, 1), (0, 0)),
        (Server { status: 503, ..SERVER }, (1, 0), (1, 0)),
        (Server { status: 404, ..SERVER }, (0, 1), (0, 0)),
        (Server { frames: broken, ..SERVER }, (0, 1), (1, 0)),
        // A gRPC failure in the trailers.
        (
            Server { content_type: "application/grpc", frames: unavailable, ..SERVER },
            (0, 1),
            (1, 0),
        ),
    ] {
        let endpoints = one(server);
        let handle = endpoints.handle();
        let plain = Stack::new().http();
        let retried =
            Stack::new().retry(RetryLayer::builder(ReplaySafe::new()).retries(0).build().unwrap());
        let response = plain.layer(endpoints.clone()).oneshot(Request::default()).await.unwrap();
        assert_eq!(numbers(&handle), at_head, "the head, without a retry");
        _ = response.into_body().collect().await;
        assert_eq!(numbers(&handle), at_end, "the end, without a retry");

        let before = at_end.0;
        let response = retried.http().layer(endpoints).oneshot(Request::default()).await.unwrap();
        assert_eq!(numbers(&handle), (before + at_head.0, at_head.1), "the head, with a retry");
        _ = response.into_body().collect().await;
        assert_eq!(numbers(&handle), (2 * at_end.0, 0), "the end, with a retry");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_holds_its_call_at_the_region_and_at_the_instance_until_its_end() {
    for (frames, failures) in [(data as fn() -> _, 0), (broken, 1)] {
        for is_retried in [false, true] {
            let instances = one(Server { frames, ..SERVER });
            let inner = instances.handle();
            let regions = Endpoints::new(["near"], move |_: &&str| instances.clone());
            let outer = regions.handle();
            let both = || (numbers(&outer), numbers(&inner));
            let call = || async {
                let stack = Stack::new();
                if is_retried {
                    let retry = RetryLayer::builder(ReplaySafe::new()).retries(0).build().unwrap();
                    let shop = stack.retry(retry).http().layer(regions.clone());
                    shop.oneshot(Request::default()).await.unwrap()
                } else {
                    stack.http().layer(regions.clone()).oneshot(Request::default()).await.unwrap()
                }
            };
            let mut body = call().await.into_body();
            assert_eq!(both(), ((0, 1), (0, 1)), "the head, {is_retried}");
            body.frame().await.unwrap().unwrap();
            _ = body.frame().await;
            assert_eq!(both(), ((failures, 0), (failures, 0)), "the end, {is_retried}");
            drop(call().await);
            assert_eq!(both(), ((failures, 0), (failures, 0)), "dropped, {is_retried}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_after_a_good_head_is_no_failure() {
    let endpoints = one(SERVER);
    let handle = endpoints.handle();
    let stack = Stack::standard(ReplaySafe::new()).http().layer(endpoints);
    drop(stack.oneshot(Request::default()).await.unwrap());
    assert_eq!(numbers(&handle), (0, 0));
}

/// A server whose bodies hang after a good head.
#[derive(Clone)]
struct Hanging;

impl Service<Request<String>> for Hanging {
    type Response = Response<Bare>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        ready(Ok(Response::new(Bare::Hangs)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_hangs_while_it_is_read_ahead_is_a_failure_of_its_endpoint() {
    let retry = RetryLayer::builder(ReplaySafe::new()).retries(0).build().unwrap();
    for idle in [SECOND, 10 * SECOND] {
        let client = HttpClientLayer::builder().body_buffer(1_000).body_idle(idle);
        let stack = Stack::new().attempt_timeout(5 * SECOND).http_client(client.build().unwrap());
        let endpoints = Endpoints::new(["a"], |_: &&str| Hanging);
        let handle = endpoints.handle();
        let plain = stack.clone().layer(endpoints.clone());
        assert!(plain.oneshot(Request::default()).await.is_err());
        assert_eq!(numbers(&handle), (1, 0), "without a retry, {idle:?}");
        let retried = stack.retry(retry.clone()).layer(endpoints);
        assert!(retried.clone().oneshot(Request::default()).await.is_err());
        assert_eq!(numbers(&handle), (2, 0), "with a retry, {idle:?}");
        // A caller that leaves is no failure.
        let left = tokio::time::timeout(MS, retried.oneshot(Request::default()));
        assert!(left.await.is_err());
        assert_eq!(numbers(&handle), (2, 0), "{idle:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_hangs_until_the_limit_of_the_stack_is_a_failure_of_its_endpoint() {
    let client = HttpClientLayer::builder().body_deadline().build().unwrap();
    let stack = Stack::new().total_timeout(SECOND).http_client(client);
    let endpoints = Endpoints::new(["a"], |_: &&str| Hanging);
    let handle = endpoints.handle();
    for (limit, failures) in [(200 * MS, 0), (1_200 * MS, 1)] {
        let call = stack.layer(endpoints.clone()).oneshot(Request::default());
        let read = async { call.await.unwrap().into_body().collect().await.is_err() };
        let read = Deadline::scope(Deadline::after(limit), read).await;
        assert!(read != Ok(false));
        assert_eq!(numbers(&handle), (failures, 0), "{limit:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_read_ahead_counts_for_the_endpoint() {
    /// A server whose bodies are not there at once.
    #[derive(Clone)]
    struct Late(Server);
    impl Service<Request<String>> for Late {
        type Response = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, &'static str>>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<String>) -> Self::Future {
            let frames = futures::stream::iter((self.0.frames)());
            let late = futures::StreamExt::then(frames, async |frame| {
                tokio::time::sleep(MS).await;
                frame
            });
            ready(Ok(Response::new(StreamBody::new(late).boxed_unsync())))
        }
    }

    let client = HttpClientLayer::builder().body_buffer(1_000).build().unwrap();
    for (frames, failures) in [(data as fn() -> Vec<_>, 0), (broken, 1)] {
        let server = Late(Server { frames, ..SERVER });
        let endpoints = Endpoints::new(["a"], move |_: &&str| server.clone());
        let handle = endpoints.handle();
        let stack = Stack::new().http_client(client.clone()).layer(endpoints);
        let response = stack.oneshot(Request::default()).await.unwrap();
        _ = response.into_body().collect().await;
        assert_eq!(numbers(&handle), (failures, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_expects_a_good_status_and_a_body_that_does_not_fail() {
    fn endless() -> Vec<Result<Frame<Bytes>, &'static str>> {
        (0..1_000).map(|_| Ok(Frame::data(Bytes::from_static(&[b'x'; 1_000])))).collect()
    }
    for (server, expected) in [
        (SERVER, EndpointStatus::Usable),
        (Server { status: 204, ..SERVER }, EndpointStatus::Usable),
        (Server { frames: endless, ..SERVER }, EndpointStatus::Usable),
        (Server { status: 301, ..SERVER }, EndpointStatus::CheckFailed),
        (Server { status: 503, ..SERVER }, EndpointStatus::CheckFailed),
        (Server { frames: broken, ..SERVER }, EndpointStatus::CheckFailed),
    ] {
        let check = HttpCheck::get("http://shop/health").unwrap();
        let make = move |_: &&str| server.clone();
        let endpoints = Endpoints::builder(["a"], make).check(check).build().unwrap();
        tokio::time::sleep(45 * SECOND).await;
        assert_eq!(endpoints.handle().states()[0].status, expected);
    }
}

#[test]
fn a_check_needs_a_uri_with_a_scheme_and_a_host() {
    for uri in ["http://sh op/", "/health", "shop:80", "shop", "*", "", "http://", "http://:80/"] {
        assert_eq!(HttpCheck::<String>::get(uri).expect_err(uri).knob(), "get");
    }
    for uri in ["http://shop", "https://shop:8443/health?deep=1", "http://[::1]:80/"] {
        assert!(HttpCheck::<String>::get(uri).is_ok(), "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_reads_no_endless_body_of_empty_frames() {
    let frames = EmptyFrames::default();
    let body = frames.clone();
    let make = move |_: &&str| {
        let body = body.clone();
        tower::service_fn(move |_: Request<String>| {
            ready(Ok::<_, Infallible>(Response::new(body.clone())))
        })
    };
    let check = HttpCheck::get("http://shop/health").unwrap();
    let endpoints = Endpoints::builder(["a"], make).check(check).build().unwrap();
    tokio::time::sleep(SECOND).await;
    assert!((1..100_000).contains(&frames.count()));
    assert_eq!(endpoints.handle().states()[0].status, EndpointStatus::Usable);
}

/// A handler may respond well although a call of its own has failed.
#[tokio::test(start_paused = true)]
async fn the_stack_of_a_server_settles_no_calls_of_its_handler() {
    let endpoints = Endpoints::new(["a"], |_: &&str| {
        tower::service_fn(|(): ()| async { Err::<&'static str, _>("down") })
    });
    let handle = endpoints.handle();
    let handler = tower::service_fn(move |_: Request<String>| {
        let endpoints = endpoints.clone();
        async move {
            assert!(endpoints.oneshot(()).await.is_err());
            Ok::<_, Infallible>(Response::new(String::from("a fallback")))
        }
    });
    let server = buttress::http::HttpServerLayer::builder(Stack::new()).build().unwrap();
    let response = server.layer(handler).oneshot(Request::default()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(handle.states()[0].failures, 1);
}

/// The error of a stack around endpoints has one level.
#[tokio::test(start_paused = true)]
async fn the_error_is_flat() {
    fn is_flat<S, B>(_: &S)
    where
        S: Service<Request<String>, Response = Response<B>, Error = Error<Infallible>>,
        B: Body,
    {
    }
    is_flat(&Stack::standard(ReplaySafe::new()).http().layer(one(SERVER)));
}

/// A body that breaks off after two seconds.
struct BreaksLate(Pin<Box<tokio::time::Sleep>>);

impl Body for BreaksLate {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        self.0.as_mut().poll(cx).map(|()| Some(Err("reset")))
    }
}

#[tokio::test(start_paused = true)]
async fn an_ejection_begins_when_a_body_that_is_read_ahead_breaks_off() {
    let make = |_: &Name| {
        tower::service_fn(|_: Request<String>| async {
            let body = BreaksLate(Box::pin(tokio::time::sleep(2 * SECOND)));
            Ok::<_, Infallible>(Response::new(body))
        })
    };
    let builder = Endpoints::builder(["a", "b"], make).consecutive_failures(1);
    let endpoints = builder.eject_for(2 * SECOND).build().unwrap();
    let handle = endpoints.handle();
    let retry = RetryLayer::builder(ReplaySafe::new()).retries(0).build().unwrap();
    let client = HttpClientLayer::builder().body_buffer(1_000).build().unwrap();
    let stack = Stack::new().retry(retry).http_client(client).layer(endpoints);
    drop(stack.oneshot(Request::get("http://shop/").body(String::new()).unwrap()).await);
    let ejected = || {
        let states = handle.states();
        states.iter().filter(|it| it.status == EndpointStatus::Ejected).count()
    };
    assert_eq!(ejected(), 1);
    tokio::time::sleep(2 * SECOND - MS).await;
    assert_eq!(ejected(), 1);
    tokio::time::sleep(2 * MS).await;
    assert_eq!(ejected(), 0);
}
