//! Tests that a retry over HTTP/1 uses the connection of the attempt before.

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use buttress::{
    Stack,
    http::ReplaySafe,
    retry::{Backoff, Jitter, RetryLayer},
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use tokio::time::sleep;
use tower::ServiceExt;

use super::{
    script::{Feed, Step},
    wire::{Version, get},
};

/// A part of the page.
const KIB: &str = match std::str::from_utf8(&[b'x'; 1 << 10]) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};

/// Starts a server that responds to every request with a 503 and a page of 12 KiB.
///
/// Returns its address and the number of its connections.
async fn unavailable(has_length: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::<AtomicUsize>::default();
    let service = service_fn(move |_: Request<Incoming>| {
        let feed = if has_length { Feed::default().with_size(12 << 10) } else { Feed::default() };
        let mut response = Response::new(feed.body());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        tokio::spawn(async move {
            // A page that arrives with its head does not cost the connection, even if it is unread.
            sleep(Duration::from_millis(5)).await;
            feed.push((0..12).map(|_| Step::Data(KIB)).chain([Step::End]));
        });
        ready(Ok::<_, Infallible>(response))
    });
    let address = Version::Http1.serve_counted(service, Arc::clone(&connections)).await;
    (address, connections)
}

/// Makes three calls of four attempts through this client. Each reads the page that it gets.
macro_rules! retry {
    ($client:expr, $address:expr) => {{
        let backoff = Backoff::constant(Duration::from_millis(50)).jitter(Jitter::None);
        let retry = RetryLayer::builder(ReplaySafe::new()).backoff(backoff.build().unwrap());
        let stack = Stack::standard(ReplaySafe::new()).retry(retry.build().unwrap());
        let client = stack.http().service($client);
        for _ in 0..3 {
            let response = client.clone().oneshot(get($address)).await.unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            let Ok(page) = response.into_body().collect().await else { panic!("no page") };
            assert_eq!(page.to_bytes().len(), 12 << 10);
        }
    }};
}

#[tokio::test(start_paused = true)]
async fn a_retry_does_not_throw_away_the_connection() {
    for has_length in [true, false] {
        let (address, connections) = unavailable(has_length).await;
        retry!(Version::Http1.client(), address);
        assert_eq!(connections.load(Relaxed), 1, "has a length: {has_length}");
    }
}

#[cfg(feature = "reqwest")]
#[tokio::test(start_paused = true)]
async fn a_retry_does_not_throw_away_the_connection_of_reqwest() {
    use buttress::http::reqwest::ReqwestClient;
    use reqwest::{Client, redirect::Policy};

    for has_length in [true, false] {
        let (address, connections) = unavailable(has_length).await;
        let client = Client::builder().no_proxy();
        retry!(ReqwestClient::new(client, Policy::none()).unwrap(), address);
        assert_eq!(connections.load(Relaxed), 1, "has a length: {has_length}");
    }
}
