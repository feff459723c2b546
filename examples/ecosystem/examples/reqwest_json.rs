//! Calls a JSON service with reqwest, from the state of an axum server.
//!
//! ```sh
//! cargo run -p ecosystem --example reqwest_json
//! ```
//!
//! The service responds first with a 503, moves a path with a 308, and hangs on another.

use std::{
    future::pending,
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Request, StatusCode},
    response::Redirect,
    routing::{any, get, put},
};
use buttress::{
    BoxError, Error, Stack,
    http::reqwest::{ReqwestError, StackedClient, client},
};
use serde::{Deserialize, Serialize};
use tower::ServiceExt;

#[derive(Clone)]
struct App {
    shop: StackedClient,
    address: SocketAddr,
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Order {
    apples: u32,
}

impl App {
    /// Sends an order as a PUT, which is safe to repeat.
    async fn order(
        &self,
        path: &str,
        order: &Order,
    ) -> Result<(String, Order), Error<ReqwestError>> {
        let response = self
            .shop
            .put(format!("http://{}{path}", self.address))
            .bearer_auth("token")
            .with(|request| request.json(order))
            .timeout(Duration::from_secs(1))
            .send()
            .await?
            .error_for_status()?;
        Ok((response.url().to_string(), response.json().await?))
    }
}

async fn handler(State(app): State<App>) -> Result<String, (StatusCode, String)> {
    let (url, order) = app
        .order("/flaky", &Order { apples: 2 })
        .await
        .map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    Ok(format!("{url}: {order:?}"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = serve().await?;
    // The only call of this crate.
    let shop = client(reqwest::Client::new(), Stack::standard_http());
    let app = App { shop, address };

    // A 503, and then a 200.
    let router = Router::new().route("/", get(handler)).with_state(app.clone());
    let response = router.oneshot(Request::get("/").body(Body::empty())?).await?;
    let text = axum::body::to_bytes(response.into_body(), 1 << 10).await?;
    println!("503 and 200: {}", String::from_utf8_lossy(&text));
    assert_eq!(text, format!("http://{address}/flaky: Order {{ apples: 2 }}"));

    // A 308 to another path. The URL is the final one.
    let (url, order) = app.order("/old", &Order { apples: 3 }).await?;
    println!("308: {url}: {order:?}");
    assert_eq!((url, order.apples), (format!("http://{address}/new"), 3));

    // The timeout of the request itself, which is shorter than those of the stack.
    let error = app.order("/hangs", &Order { apples: 4 }).await.unwrap_err();
    println!("hangs: {error}");
    assert_eq!(error.to_string(), "request timeout: timed out after 1s");

    // An error status, with the final URL.
    let error = app.order("/missing", &Order { apples: 5 }).await.unwrap_err();
    println!("missing: {error}");
    assert!(error.to_string().contains("/missing"));

    // A server that is gone, with the cause of the error.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let gone = App { address: listener.local_addr()?, ..app };
    drop(listener);
    let error = gone.order("/gone", &Order { apples: 6 }).await.unwrap_err();
    println!("gone: {error}");
    assert!(error.to_string().to_lowercase().contains("connection refused"));
    Ok(())
}

static CALLS: AtomicU32 = AtomicU32::new(0);

/// Starts the service.
async fn serve() -> Result<SocketAddr, BoxError> {
    let flaky = async |headers: HeaderMap, order: Json<Order>| {
        assert_eq!(headers["authorization"], "Bearer token");
        match CALLS.fetch_add(1, Ordering::Relaxed) {
            0 => Err(StatusCode::SERVICE_UNAVAILABLE),
            _ => Ok(order),
        }
    };
    let app = Router::new()
        .route("/flaky", put(flaky))
        .route("/old", any(async || Redirect::permanent("/new")))
        .route("/new", put(async |order: Json<Order>| order))
        .route("/hangs", any(pending::<()>));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(address)
}
