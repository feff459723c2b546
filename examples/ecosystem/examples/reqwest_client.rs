//! Puts a stack around reqwest, and retries a request whose body can be read only once.
//!
//! ```sh
//! cargo run -p ecosystem --example reqwest_client
//! ```
//!
//! The first two responses for each path are 503. The server prints each body that it receives.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::State};
use buttress::{
    BoxError, Stack,
    http::{ReplayBody, ReplayBodyLayer, ReplaySafe, reqwest::ReqwestClient},
    retry::{Backoff, RetryLayer},
};
use http::{Method, Request, StatusCode, Uri};
use reqwest::{Body, redirect::Policy};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = serve().await?;

    // The adapter switches reqwest's own retries off, because they would bypass the budget. It
    // takes the redirect policy. All redirects that reqwest follows belong to one attempt.
    let builder = reqwest::Client::builder();
    let client = ReqwestClient::<ReplayBody<Body>>::new(builder, Policy::none())?;

    // A POST with a key is retried only where the server is known to honour the key.
    let safe =
        ReplaySafe::new().upstream_honours_key_fn(|request| request.uri().path() == "/orders");
    let backoff = Backoff::exponential(Duration::from_millis(20)).build()?;
    let stack = Stack::standard(safe.clone())
        .retry(RetryLayer::builder(safe).backoff(backoff).build()?)
        .http();
    // The outermost layer keeps the sent data of a body while a retry is possible.
    let replay = ReplayBodyLayer::new();
    let client = stack.service(client);
    let client = replay.layer(client);

    let request = Request::get(format!("http://{address}/menu")).body(Body::default())?;
    let response = client.clone().oneshot(request).await?;
    println!("GET /menu: {}", response.status());
    assert_eq!(response.status(), StatusCode::OK);
    // Converts it for code that expects reqwest's own type.
    let response = reqwest::Response::from(response.map(Body::wrap));
    assert_eq!(response.text().await?, "attempt 3");

    // A stream cannot be cloned. It is read once and sent three times.
    let order = ["two apples", " and ", "a pear"].map(Ok::<_, Infallible>);
    let body = Body::wrap_stream(tokio_stream::iter(order));
    let request = Request::post(format!("http://{address}/orders"))
        .header("idempotency-key", "b2f1")
        .body(body)?;
    let response = client.clone().oneshot(request).await?;
    println!("POST /orders: {}", response.status());
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(replay.buffered(), 0);

    // This path is not declared to honour the key.
    let request = Request::post(format!("http://{address}/payments"))
        .header("idempotency-key", "b2f2")
        .body(Body::from("three coins"))?;
    let response = client.clone().oneshot(request).await?;
    println!("POST /payments: {}, not retried", response.status());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    Ok(())
}

type Seen = Arc<Mutex<HashMap<String, u32>>>;

async fn serve() -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let app = Router::new().fallback(respond).with_state(Seen::default());
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(address)
}

async fn respond(
    State(seen): State<Seen>,
    method: Method,
    uri: Uri,
    body: String,
) -> (StatusCode, String) {
    let attempt = {
        let mut seen = seen.lock().unwrap();
        let attempt = seen.entry(uri.path().to_owned()).or_default();
        *attempt += 1;
        *attempt
    };
    println!("  {method} {uri}, attempt {attempt}: {body:?}");
    assert!(method != Method::POST || uri != "/orders" || body == "two apples and a pear");
    let status = if attempt <= 2 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, format!("attempt {attempt}"))
}
