//! Errors of reqwest, through the adapter.

use std::{convert::Infallible, time::Duration};

use buttress::http::reqwest::{ReqwestClient, ReqwestError};
use http::Request;
use reqwest::{Body, ClientBuilder, Response, redirect::Policy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_stream::pending;
use tower::ServiceExt;

use super::{Rows, judged};

/// Starts a server that gives each request the same response, and then closes the connection.
async fn serve(response: &'static str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            if response.is_empty() {
                // Waits until the client leaves.
                let _ = stream.read_u8().await;
            }
            let _ = stream.write_all(response.as_bytes()).await;
        }
    });
    format!("http://{address}/")
}

async fn failed(builder: ClientBuilder, uri: &str) -> ReqwestError {
    let client = ReqwestClient::<String>::new(builder, Policy::limited(2)).unwrap();
    client.oneshot(Request::get(uri).body(String::new()).unwrap()).await.unwrap_err()
}

async fn answered(uri: &str) -> Response {
    reqwest::get(uri).await.unwrap()
}

/// Waits for an upgrade on a connection that ends while the body of the request is written.
async fn cut_off_upgrade(uri: &str) -> reqwest::Error {
    let body = Body::wrap_stream(pending::<Result<String, Infallible>>());
    let response = reqwest::Client::new().post(uri).body(body).send().await.unwrap();
    response.upgrade().await.unwrap_err()
}

pub(crate) async fn rows() -> Rows {
    let plain = reqwest::Client::builder;
    // A response never comes, so the limit may be short.
    let limit = Duration::from_millis(20);
    let silent = serve("").await;
    let looping = serve("HTTP/1.1 302 Found\r\nlocation: /\r\nconnection: close\r\n\r\n").await;
    let ill = serve("HTTP/1.1 500 Ill\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let wrong = serve("HTTP/1.1 404 Wrong\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let short =
        serve("HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nhalf").await;
    let gone = {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    let ill = answered(&ill).await.error_for_status().unwrap_err();
    let wrong = answered(&wrong).await.error_for_status().unwrap_err();
    let short_body = answered(&short).await.bytes().await.unwrap_err();
    let switching = serve("HTTP/1.1 101 Switching Protocols\r\n\r\n").await;
    let cut_off = cut_off_upgrade(&switching).await;
    let not_upgraded = answered(&short).await.upgrade().await.unwrap_err();
    vec![
        ("reqwest `Builder`", judged(failed(plain(), "/relative").await)),
        ("reqwest `Redirect`", judged(failed(plain(), &looping).await)),
        ("reqwest `Request`, by a timeout", judged(failed(plain().timeout(limit), &silent).await)),
        ("reqwest `Request`, not connected", judged(failed(plain(), &gone).await)),
        ("reqwest `Status`, a 5xx", judged(ill)),
        ("reqwest `Status`, a 4xx", judged(wrong)),
        ("reqwest `Body`, `Decode`", judged(short_body)),
        ("reqwest `Upgrade`", judged(not_upgraded)),
        ("reqwest `Upgrade`, cut off", judged(cut_off)),
    ]
}
