//! Tests of the end of a response of an axum server.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    routing::{any, get},
};
use buttress::{
    Stack,
    bulkhead::{BulkheadHandle, BulkheadLayer},
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
    http::HttpServerLayer,
};
use http::{Method, StatusCode, Version};
use http_body_util::{
    BodyExt,
    channel::{Channel, Sender},
};
use hyper::body::Bytes;
use tokio::sync::mpsc;

use super::{
    outcomes::Outcomes,
    support::{counted, exchange, page, serve_axum, until, until_free},
};

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

type Feed = Sender<Bytes, axum::Error>;

struct Served {
    address: SocketAddr,
    slots: BulkheadHandle,
    breaker: CircuitBreakerHandle,
    /// The sender of each streamed body.
    feeds: mpsc::UnboundedReceiver<Feed>,
}

/// Starts a server whose breaker counts a failure when a body is dropped during a read.
async fn serve() -> Served {
    let bulkhead = BulkheadLayer::builder().max_concurrent(8).build().unwrap();
    let breaker = CircuitBreakerLayer::builder().abandoned_after(Duration::from_nanos(1));
    let breaker = breaker.build().unwrap();
    let (slots, operator) = (bulkhead.handle(), breaker.handle());
    let (sender, feeds) = mpsc::unbounded_channel();
    let app = Router::new()
        .route("/whole", get(async || Body::new(endless())))
        .route("/304", any(async || (StatusCode::NOT_MODIFIED, Body::new(endless()))))
        .route("/204", any(async || (StatusCode::NO_CONTENT, Body::new(endless()))))
        .route("/stream", get(stream))
        .with_state(sender)
        .layer(HttpServerLayer::new(Stack::new().bulkhead(bulkhead).circuit_breaker(breaker)));
    Served { address: serve_axum(app).await, slots, breaker: operator, feeds }
}

/// Returns a body that never ends.
///
/// Over HTTP/2, hyper tries to read the body of a 204 or a 304.
fn endless() -> Channel<Bytes, axum::Error> {
    let (sender, body) = Channel::new(1);
    tokio::spawn(async move {
        let _open = sender;
        std::future::pending::<()>().await;
    });
    body
}

async fn stream(State(feeds): State<mpsc::UnboundedSender<Feed>>) -> Body {
    let (sender, body) = Channel::new(4);
    feeds.send(sender).unwrap();
    Body::new(body)
}

#[tokio::test]
async fn a_response_without_a_body_on_the_wire_ends_at_its_head() {
    let (outcomes, _guard) = Outcomes::watch();
    for version in VERSIONS {
        let served = serve().await;
        let asked = [(Method::HEAD, "/whole"), (Method::GET, "/304"), (Method::GET, "/204")];
        for (count, (method, path)) in (1..).zip(asked) {
            let request = page(version, method, served.address, path);
            let response = exchange(served.address, request).await;
            assert!(response.status() != StatusCode::NOT_FOUND);
            until_free(&served.slots).await;
            assert_eq!(counted(&served.breaker), (count, 0), "{path} over {version:?}");
            assert_eq!(outcomes.take(), ["success"], "{path} over {version:?}");
        }
    }
}

#[tokio::test]
async fn a_streamed_body_holds_its_slot_until_its_end() {
    let (outcomes, _guard) = Outcomes::watch();
    for version in VERSIONS {
        let mut served = serve().await;
        let request = page(version, Method::GET, served.address, "/stream");
        let mut body = exchange(served.address, request).await.into_body();
        let mut feed = served.feeds.recv().await.unwrap();

        feed.send_data(Bytes::from("half")).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap(), "half");
        assert_eq!((served.slots.in_flight(), counted(&served.breaker)), (1, (0, 0)));

        drop(feed);
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
        until_free(&served.slots).await;
        assert_eq!(counted(&served.breaker), (1, 0));
        assert_eq!(outcomes.take(), ["success"]);
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_in_mid_body_gives_the_slot_back() {
    let (outcomes, _guard) = Outcomes::watch();
    for version in VERSIONS {
        let mut served = serve().await;
        let request = page(version, Method::GET, served.address, "/stream");
        let mut body = exchange(served.address, request).await.into_body();
        let mut feed = served.feeds.recv().await.unwrap();
        feed.send_data(Bytes::from("half")).await.unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(served.slots.in_flight(), 1);

        drop(body);
        until_free(&served.slots).await;
        assert_eq!(outcomes.take(), ["cancelled"]);
        // The body was dropped during a read, and `abandoned_after` is 1 ns here.
        until("the breaker has counted", || counted(&served.breaker) == (1, 1)).await;
    }
}
