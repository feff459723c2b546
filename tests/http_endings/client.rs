use std::{convert::Infallible, future::ready, net::SocketAddr};

use buttress::{
    BoxError, Error, Rejection, Stack,
    http::{BodyError, ResponseBody},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::client::legacy;
use tower::{ServiceExt, util::BoxCloneService};

use super::{
    script::{Feed, Scripted, Step},
    wire::{Version, answer_raw, echo, echo_upgraded, echoes, get, respond},
    *,
};

type Ask = Request<Empty<Bytes>>;
type Answer = Response<ResponseBody<Incoming>>;
type Called = BoxCloneService<Ask, Answer, Error<legacy::Error>>;

/// Creates a stack around hyper's client.
fn client(version: Version) -> (Called, Handles) {
    let books = Books::new();
    let handles = books.handles();
    let stack = Stack::new().bulkhead(books.slots).circuit_breaker(books.breaker).http();
    (BoxCloneService::new(stack.service(version.client())), handles)
}

/// Starts a server that gives this response to every request.
async fn server(
    version: Version,
    answer: impl Fn() -> Response<Scripted> + Clone + Send + 'static,
) -> SocketAddr {
    let service = service_fn(move |_: Request<Incoming>| ready(Ok::<_, Infallible>(answer())));
    version.serve(service).await
}

/// Returns the body of a response after its first frame, while everything is held.
async fn begun(version: Version, feed: &Feed) -> (ResponseBody<Incoming>, Handles) {
    let (client, handles) = client(version);
    let answers = feed.clone();
    let address = server(version, move || respond(answers.body())).await;
    let mut request = get(address);
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    let mut body = client.oneshot(request).await.unwrap().into_body();
    assert_eq!(handles.seen(), UNDER_WAY);
    feed.push([Step::Data("first")]);
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "first");
    assert_eq!(handles.seen(), UNDER_WAY);
    (body, handles)
}

#[tokio::test]
async fn trailers_end_the_call() {
    for version in Version::BOTH {
        let feed = Feed::default();
        let (mut body, handles) = begun(version, &feed).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("7"));
        feed.push([Step::Trailers(trailers.clone()), Step::Closed]);
        let last = body.frame().await.unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap(), trailers, "{version:?}");
        assert_eq!(handles.seen(), SUCCESS, "{version:?}");
    }
}

#[tokio::test]
async fn an_end_without_trailers_ends_the_call() {
    for version in Version::BOTH {
        let feed = Feed::default();
        let (mut body, handles) = begun(version, &feed).await;
        feed.push([Step::End]);
        // Over HTTP/2, hyper's server sends an empty last frame.
        while let Some(frame) = body.frame().await {
            assert_eq!(frame.unwrap().into_data().unwrap(), "");
        }
        assert_eq!(handles.seen(), SUCCESS, "{version:?}");
    }
}

#[tokio::test]
async fn a_last_frame_that_is_known_to_be_the_last_ends_the_call() {
    for version in Version::BOTH {
        let feed = Feed::default().with_size(9);
        let (mut body, handles) = begun(version, &feed).await;
        feed.push([Step::Data("last"), Step::Closed]);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "last");
        if version == Version::Http2 && !body.is_end_stream() {
            // The peer may send the end in its own frame.
            assert!(body.frame().await.is_none());
        }
        assert_eq!(handles.seen(), SUCCESS, "{version:?}");
    }
}

#[tokio::test]
async fn a_response_without_a_body_ends_at_its_head() {
    for version in Version::BOTH {
        for (method, status) in [
            (Method::GET, StatusCode::OK),
            (Method::GET, StatusCode::NO_CONTENT),
            (Method::GET, StatusCode::NOT_MODIFIED),
            (Method::HEAD, StatusCode::OK),
        ] {
            let (client, handles) = client(version);
            let address = server(version, move || {
                let mut response = Response::new(Feed::new([Step::Closed]).with_size(0).body());
                *response.status_mut() = status;
                response
            });
            let mut request = get(address.await);
            *request.method_mut() = method;
            let response = client.oneshot(request).await.unwrap();
            assert_eq!((response.status(), handles.seen()), (status, SUCCESS), "{version:?}");
            drop(response);
            assert_eq!(handles.seen(), SUCCESS);
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_has_failed() {
    for version in Version::BOTH {
        let feed = Feed::default();
        let (mut body, handles) = begun(version, &feed).await;
        feed.push([Step::Fail]);
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::Service(_)), "{version:?}: {error:?}");
        assert_eq!(handles.seen(), FAILURE, "{version:?}");
    }
}

#[tokio::test]
async fn a_stalled_body_gives_its_permit_back() {
    for version in Version::BOTH {
        let feed = Feed::default();
        let before = Instant::now();
        let (mut body, handles) = begun(version, &feed).await;
        tokio::time::pause();
        let after = Instant::now();
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.rejection().map(Rejection::kind), Some("timed_out"));
        assert_eq!(handles.seen(), FAILURE, "{version:?}");
        assert_ended_after(IDLE, before, after);
        assert!(body.frame().await.is_none());
        tokio::time::resume();
        // The peer notices, and stops sending.
        dropped(&feed).await;
    }
}

#[tokio::test]
async fn a_body_that_is_dropped_is_a_cancellation() {
    for version in Version::BOTH {
        let feed = Feed::default();
        let (body, handles) = begun(version, &feed).await;
        drop(body);
        assert_eq!(handles.seen(), (0, 1, 0), "{version:?}");
    }
}

#[tokio::test]
async fn a_peer_that_resets_in_the_middle_has_failed() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    let (address, socket) = answer_raw(head).await;
    let (client, handles) = client(Version::Http1);
    let mut body = client.oneshot(get(address)).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    assert_eq!(handles.seen(), UNDER_WAY);
    let socket = socket.await.unwrap();
    socket.set_zero_linger().unwrap();
    drop(socket);
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(handles.seen(), FAILURE);
}

#[tokio::test]
async fn a_peer_that_promised_more_than_it_sent_has_failed() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst";
    let (address, socket) = answer_raw(head).await;
    let (called, handles) = client(Version::Http1);
    let mut body = called.oneshot(get(address)).await.unwrap().into_body();
    assert_eq!(body.size_hint().exact(), Some(10));
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    assert_eq!(handles.seen(), UNDER_WAY);
    drop(socket.await.unwrap());
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(handles.seen(), FAILURE);

    // Over HTTP/2, hyper's server sends the length that the handler claims.
    for promised in [HeaderValue::from_static("10"), HeaderValue::from_static("2")] {
        let (client, handles) = client(Version::Http2);
        let address = server(Version::Http2, move || {
            let mut response = Response::new(Feed::new([Step::Data("first"), Step::End]).body());
            response.headers_mut().insert(header::CONTENT_LENGTH, promised.clone());
            response
        });
        let response = client.oneshot(get(address.await)).await.unwrap();
        let error = response.into_body().collect().await.unwrap_err();
        assert!(!BoxError::from(error).to_string().is_empty());
        assert_eq!(handles.seen(), FAILURE);
    }
}

#[tokio::test]
async fn an_upgrade_ends_at_the_head_and_its_connection_lives_on() {
    let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    let (address, socket) = answer_raw(head).await;
    let (client, handles) = client(Version::Http1);
    let mut request = get(address);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("echo"));
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(handles.seen(), SUCCESS);
    let mut socket = socket.await.unwrap();
    tokio::spawn(async move { echo(&mut socket).await });
    assert!(echoes(response).await);
    assert_eq!(handles.seen(), SUCCESS);
}

#[tokio::test]
async fn a_tunnel_ends_at_the_head_and_its_connection_lives_on() {
    for version in Version::BOTH {
        let (client, handles) = client(version);
        let service = service_fn(|request: Request<Incoming>| {
            echo_upgraded(request);
            ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        });
        let address = version.serve(service).await;
        let request = Request::connect(address.to_string()).body(Empty::new()).unwrap();
        let response = client.oneshot(request).await.unwrap();
        assert_eq!(handles.seen(), SUCCESS, "{version:?}");
        assert!(echoes(response).await);
        assert_eq!(handles.seen(), SUCCESS, "{version:?}");
    }
}
