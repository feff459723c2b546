//! Puts a stack around hyper's client and calls a server whose first two responses are 503.
//!
//! ```sh
//! cargo run --example hyper_client
//! ```
//!
//! The server prints the time left and the attempt, which the client sends as headers.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, Stack,
    bulkhead::BulkheadLayer,
    http::ReplaySafe,
    retry::{Backoff, RetryLayer},
};
use http::{Request, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::TcpListener;
use tower::{Service, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = serve().await?;

    // hyper's client resends a request by itself if a pooled connection turns out to be dead before
    // any of the request was written.
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();

    let bulkhead = BulkheadLayer::builder().max_concurrent(16).build()?;
    let permits = bulkhead.handle();
    let backoff = Backoff::exponential(Duration::from_millis(20)).build()?;
    let mut client = Stack::standard(ReplaySafe::new())
        .retry(RetryLayer::builder(ReplaySafe::new()).backoff(backoff).build()?)
        .bulkhead(bulkhead)
        .http()
        .service(client);

    let request = Request::get(format!("http://{address}/orders")).body(Full::default())?;
    let response = client.ready().await?.call(request).await?;
    println!("a GET: {} after two retries", response.status());
    assert_eq!(response.status(), StatusCode::OK);

    // The call ends with the body of its response. Until then it holds its permit.
    assert_eq!(permits.in_flight(), 1);
    let body = response.into_body().collect().await?.to_bytes();
    assert_eq!((&body[..], permits.in_flight()), (&b"two orders"[..], 0));

    // A POST is sent once, because the server may already have processed it.
    let request =
        Request::post(format!("http://{address}/failing")).body(Full::from("an order"))?;
    let response = client.ready().await?.call(request).await?;
    println!("a POST: {}, not retried", response.status());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    Ok(())
}

async fn serve() -> Result<std::net::SocketAddr, BoxError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let seen = Arc::new(AtomicU32::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            let service = service_fn(move |request| {
                let response = respond(&seen, &request);
                async { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}

fn respond(seen: &AtomicU32, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    println!(
        "  {} {}: {} ms left, attempt {}",
        request.method(),
        request.uri(),
        header("x-envoy-expected-rq-timeout-ms").unwrap_or("?"),
        header("x-envoy-attempt-count").unwrap_or("1"),
    );
    let failing = request.uri().path() == "/failing" || seen.fetch_add(1, Ordering::Relaxed) < 2;
    let mut response = Response::new(Full::from("two orders"));
    if failing {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(RETRY_AFTER, 0.into());
    }
    response
}
