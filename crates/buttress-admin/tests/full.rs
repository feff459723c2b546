//! A server that rejects most requests still shows its numbers.

use std::time::Duration;

use axum::{Router, routing::get};
use buttress::{Stack, bulkhead::BulkheadLayer, http::HttpServerLayer, telemetry::Registry};
use buttress_admin::Admin;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

/// The calls that the application takes at the same time.
const SLOTS: u32 = 20;

async fn ask(address: std::net::SocketAddr, path: &str) -> (StatusCode, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_served_while_the_server_is_full() {
    let registry = Registry::new();
    let bulkhead = BulkheadLayer::builder().max_concurrent(SLOTS).build().unwrap();
    let stack = Stack::new().bulkhead(bulkhead).name("shop").register(&registry);
    let work = || async {
        sleep(Duration::from_millis(100)).await;
        "done"
    };
    let shop =
        Router::new().route("/", get(work)).layer(HttpServerLayer::builder(stack).build().unwrap());
    // Outside of the layer that limits the application.
    let router = shop.nest_service("/buttress", Admin::new(&registry));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });

    // Five times as many callers as there are slots.
    let load: Vec<_> = (0..5 * SLOTS)
        .map(|_| {
            tokio::spawn(async move {
                let (mut done, mut rejected) = (0, 0);
                let end = Instant::now() + Duration::from_secs(2);
                while Instant::now() < end {
                    match ask(address, "/").await.0 {
                        StatusCode::OK => done += 1,
                        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                            rejected += 1;
                            sleep(Duration::from_millis(20)).await;
                        }
                        status => panic!("{status}"),
                    }
                }
                (done, rejected)
            })
        })
        .collect();
    for _ in 0..10 {
        sleep(Duration::from_millis(100)).await;
        for path in ["/buttress/metrics", "/buttress/", "/buttress/state.json"] {
            let (status, body) = timeout(Duration::from_secs(5), ask(address, path)).await.unwrap();
            assert_eq!(status, StatusCode::OK, "{path}");
            assert!(body.len() > 100, "{path}");
        }
    }
    let (_, state) = ask(address, "/buttress/state.json").await;
    assert!(state.contains(r#""whose":"us""#), "{state}");
    assert!(state.contains("Our bulkhead is full"), "{state}");
    let (mut done, mut rejected) = (0, 0);
    for caller in load {
        let ended = caller.await.unwrap();
        (done, rejected) = (done + ended.0, rejected + ended.1);
    }
    assert!(done > 0 && rejected > 2 * done, "{done} done, {rejected} rejected");
}
