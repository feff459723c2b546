//! Tests of the adapter for reqwest: what its errors prove and print, and its redirects.
#![cfg(all(feature = "reqwest", feature = "hyper"))]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use buttress::{
    BoxError, Stack,
    http::{ReplayBody, ReplaySafe, reqwest::ReqwestClient},
};
use http::Request;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::ServiceExt;

#[tokio::test]
async fn a_processed_post_is_sent_once() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = dead.local_addr().unwrap();
    drop(dead);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let paid = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&paid);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 4096];
            let _ = socket.read(&mut bytes).await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            let answer = format!(
                "HTTP/1.1 303 See Other\r\nlocation: http://{gone}/receipt\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });

    let policy = reqwest::redirect::Policy::limited(10);
    let client = ReqwestClient::<String>::new(reqwest::Client::builder(), policy).unwrap();
    let client = Stack::standard(ReplaySafe::new()).http().service(client);
    let request = Request::post(format!("http://{address}/pay")).body("ten euros".to_owned());
    let answer = client.oneshot(request.unwrap()).await;
    println!("{answer:?}");
    assert_eq!(paid.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_refused_connection_is_still_proof() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = dead.local_addr().unwrap();
    drop(dead);
    let policy = reqwest::redirect::Policy::limited(10);
    let client = ReqwestClient::<String>::new(reqwest::Client::builder(), policy).unwrap();
    let stack = Stack::standard(ReplaySafe::new()).http();
    let budget = buttress::retry::Budget::default();
    let retry = buttress::retry::RetryLayer::builder(ReplaySafe::new()).budget(budget.clone());
    let client = stack.retry(retry.build().unwrap()).service(client);
    let before = budget.balance();
    let request = Request::post(format!("http://{gone}/pay")).body(String::new());
    client.oneshot(request.unwrap()).await.unwrap_err();
    assert!(budget.balance() < before - 2.0, "three retries");
}

#[tokio::test]
async fn an_error_prints_its_causes() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = dead.local_addr().unwrap();
    drop(dead);
    let policy = reqwest::redirect::Policy::none();
    let client = ReqwestClient::<String>::new(reqwest::Client::builder(), policy).unwrap();
    let request = Request::get(format!("http://{gone}/orders")).body(String::new()).unwrap();
    let error = client.clone().oneshot(request).await.unwrap_err().to_string();
    assert!(error.contains("/orders"), "{error}");
    assert!(error.to_lowercase().contains("connection refused"), "{error}");

    let request = Request::get(format!("http://{gone}/orders")).body(String::new()).unwrap();
    let error = Stack::standard_http().service(client).oneshot(request).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("connection refused"), "{error}");
}

/// Starts a server that redirects from `/old` to `/new` by a 308, and echoes there.
async fn moved() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            // Each body is "apples", in one chunk where its length is not known.
            while !seen.windows(6).any(|part| part == b"apples") {
                assert!(socket.read_buf(&mut seen).await.unwrap() > 0);
            }
            let head = match seen.starts_with(b"PUT /old ") {
                true => "308 Permanent Redirect\r\nlocation: /new",
                false => "200 OK",
            };
            let response =
                format!("HTTP/1.1 {head}\r\ncontent-length: 6\r\nconnection: close\r\n\r\napples");
            socket.write_all(response.as_bytes()).await.unwrap();
        }
    });
    address
}

async fn put<B>(uri: String, body: B) -> reqwest::Response
where
    B: http_body::Body<Data = hyper::body::Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    let policy = reqwest::redirect::Policy::limited(10);
    let builder = reqwest::Client::builder().no_proxy();
    let client = ReqwestClient::new(builder, policy).unwrap();
    let response = client.oneshot(Request::put(uri).body(body).unwrap()).await.unwrap();
    response.map(reqwest::Body::wrap).into()
}

#[tokio::test]
async fn a_308_is_followed_with_a_body_of_bytes_and_the_final_url_is_kept() {
    let address = moved().await;
    let old = || format!("http://{address}/old");
    let text = put(old(), "apples".to_owned()).await;
    let bytes = put(old(), reqwest::Body::from("apples")).await;
    let full = put(old(), Full::from("apples")).await;
    for response in [text, bytes, full] {
        assert_eq!(response.status(), 200);
        assert_eq!(response.url().as_str(), format!("http://{address}/new"));
    }
    let stream = put(old(), ReplayBody::new(Full::from("apples"))).await;
    assert_eq!(stream.status(), 308);
    assert_eq!(stream.url().path(), "/old");
}
