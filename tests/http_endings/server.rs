use std::{convert::Infallible, future::ready, net::SocketAddr, time::Duration};

use buttress::{Stack, http::HttpServerLayer};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::service::TowerToHyperService;
use tower::{Layer, service_fn};

use super::{
    script::{Feed, Scripted, Step},
    wire::{Version, echo_upgraded, echoes, get, respond},
    *,
};

/// Starts a server with a stack, which gives this response and echoes data after an upgrade.
async fn server(
    version: Version,
    answer: impl Fn() -> Response<Scripted> + Clone + Send + 'static,
) -> (SocketAddr, Handles) {
    let books = Books::new();
    let handles = books.handles();
    let stack = Stack::new().bulkhead(books.slots).circuit_breaker(books.breaker);
    let handler = service_fn(move |request: Request<Incoming>| {
        echo_upgraded(request);
        ready(Ok::<_, Infallible>(answer()))
    });
    let service = HttpServerLayer::builder(stack).body_idle(IDLE).build().unwrap().layer(handler);
    (version.serve(TowerToHyperService::new(service)).await, handles)
}

/// Returns the body of a response after its first frame, while everything is held.
async fn begun(version: Version, feed: &Feed) -> (Incoming, Handles) {
    let answers = feed.clone();
    let (address, handles) = server(version, move || respond(answers.body())).await;
    let mut request = get(address);
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    let mut body = version.client().request(request).await.unwrap().into_body();
    feed.push([Step::Data("first")]);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    assert_eq!(handles.seen(), UNDER_WAY);
    (body, handles)
}

#[tokio::test]
async fn a_body_that_is_sent_whole_ends_the_call() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("7"));
    let last = || Step::Data("last");
    for version in Version::BOTH {
        for steps in [
            vec![last(), Step::Trailers(trailers.clone()), Step::Closed],
            vec![last(), Step::End],
            vec![last(), Step::Closed],
        ] {
            let feed = Feed::default();
            let (body, handles) = begun(version, &feed).await;
            let with_trailers = matches!(steps[1], Step::Trailers(_));
            feed.push(steps);
            let rest = body.collect().await.unwrap();
            assert_eq!(rest.trailers(), Some(&trailers).filter(|_| with_trailers));
            assert_eq!(rest.to_bytes(), "last");
            handles.until(SUCCESS).await;
        }
    }
}

#[tokio::test]
async fn a_body_of_known_size_ends_with_its_last_frame() {
    for version in Version::BOTH {
        let answer =
            || Response::new(Feed::new([Step::Data("first"), Step::Closed]).with_size(5).body());
        let (address, handles) = server(version, answer).await;
        let response = version.client().request(get(address)).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "5");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "first");
        handles.until(SUCCESS).await;
    }
}

#[tokio::test]
async fn a_body_that_is_never_sent_ends_at_its_head() {
    for version in Version::BOTH {
        for (method, status, steps) in [
            (Method::HEAD, StatusCode::OK, vec![Step::Data("unread"), Step::Closed]),
            (Method::GET, StatusCode::NOT_MODIFIED, vec![Step::Data("unread"), Step::Closed]),
            (Method::GET, StatusCode::NO_CONTENT, vec![Step::Closed]),
            (Method::GET, StatusCode::OK, vec![Step::Closed]),
        ] {
            let feed = Feed::new(steps);
            let answers = feed.clone();
            let (address, handles) = server(version, move || {
                let mut response = Response::new(answers.body());
                *response.status_mut() = status;
                response
            })
            .await;
            let mut request = get(address);
            *request.method_mut() = method.clone();
            let response = version.client().request(request).await.unwrap();
            assert_eq!(response.status(), status);
            // The outcome is known with the head.
            assert_eq!(handles.seen(), SUCCESS, "{version:?} {method} {status}");
            dropped(&feed).await;
            assert_eq!(handles.seen(), SUCCESS, "{version:?} {method} {status}");
        }
    }
}

#[tokio::test]
async fn a_handler_whose_body_breaks_has_failed() {
    for version in Version::BOTH {
        let feed = Feed::default();
        let (mut body, handles) = begun(version, &feed).await;
        feed.push([Step::Fail]);
        assert!(body.frame().await.unwrap().is_err(), "the caller must not take it for whole");
        handles.until(FAILURE).await;
    }
}

#[tokio::test]
async fn a_handler_whose_body_stalls_gives_its_permit_back() {
    for version in Version::BOTH {
        let feed = Feed::default();
        let before = Instant::now();
        let (mut body, handles) = begun(version, &feed).await;
        tokio::time::pause();
        let after = Instant::now();
        assert!(body.frame().await.unwrap().is_err(), "the caller must not take it for whole");
        assert_ended_after(IDLE, before, after);
        assert!(feed.is_dropped());
        assert_eq!(handles.seen(), FAILURE, "{version:?}");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_caller_that_hangs_up_is_a_cancellation() {
    for version in Version::BOTH {
        let feed = Feed::default();
        let (body, handles) = begun(version, &feed).await;
        drop(body);
        // The server notices at the latest when it continues to send.
        feed.push([Step::Data("into the void")]);
        handles.until(CANCELLED).await;
        assert!(feed.is_dropped());
    }
}

#[tokio::test]
async fn a_handler_whose_body_panics_has_failed_and_gives_its_permit_back() {
    for version in Version::BOTH {
        let feed = Feed::default();
        let (mut body, handles) = begun(version, &feed).await;
        feed.push([Step::Panic]);
        assert!(body.frame().await.unwrap().is_err(), "the caller must not take it for whole");
        handles.until(FAILURE).await;
    }
}

#[tokio::test]
async fn a_body_sees_the_time_and_the_attempt_of_its_request() {
    for version in Version::BOTH {
        let feed = Feed::default();
        let answers = feed.clone();
        let (address, _) = server(version, move || Response::new(answers.body())).await;
        let mut request = get(address);
        let headers = request.headers_mut();
        headers.insert("x-envoy-expected-rq-timeout-ms", HeaderValue::from_static("60000"));
        headers.insert("x-envoy-attempt-count", HeaderValue::from_static("3"));
        let mut body = version.client().request(request).await.unwrap().into_body();
        feed.push([Step::Data("first")]);
        assert!(body.frame().await.unwrap().is_ok());
        let (deadline, attempt) = feed.ambient().unwrap();
        assert!(deadline.unwrap().remaining() < Duration::from_secs(60));
        assert_eq!(attempt, Some(3));
    }
}

#[tokio::test]
async fn an_upgrade_ends_at_the_head_and_its_connection_lives_on() {
    let (address, handles) = server(Version::Http1, || {
        let mut response = Response::new(Feed::new([Step::Data("unread")]).body());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("echo"));
        response
    })
    .await;
    let mut request = get(address);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("echo"));
    let response = Version::Http1.client().request(request).await.unwrap();
    assert_eq!(handles.seen(), SUCCESS);
    assert!(echoes(response).await);
    assert_eq!(handles.seen(), SUCCESS);
}

#[tokio::test]
async fn a_tunnel_ends_at_the_head_and_its_connection_lives_on() {
    for version in Version::BOTH {
        let answer = || Response::new(Feed::new([Step::Data("unread")]).body());
        let (address, handles) = server(version, answer).await;
        let request = Request::connect(address.to_string()).body(Empty::<Bytes>::new()).unwrap();
        let response = version.client().request(request).await.unwrap();
        assert_eq!(handles.seen(), SUCCESS, "{version:?}");
        assert!(echoes(response).await);
        assert_eq!(handles.seen(), SUCCESS, "{version:?}");
    }
}
