//! Limits the concurrent requests of an axum server, and enforces the deadlines of its callers.
//!
//! ```sh
//! cargo run -p ecosystem --example axum_server
//! ```

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::get};
use buttress::{
    BoxError, Deadline, Stack,
    bulkhead::{BulkheadHandle, BulkheadLayer},
    http::HttpServerLayer,
};
use http::{StatusCode, header};
use reqwest::Client;
use tokio::{net::TcpListener, sync::Notify};

#[derive(Clone, Default)]
struct Kitchen {
    cooking: Arc<Notify>,
    done: Arc<Notify>,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let kitchen = Kitchen::default();
    let (address, permits) = serve(kitchen.clone()).await?;
    let client = Client::new();

    // One meal is cooking, and the bulkhead admits only one request.
    let meal = tokio::spawn(client.get(format!("http://{address}/meal")).send());
    kitchen.cooking.notified().await;
    let rejected = client.get(format!("http://{address}/meal")).send().await?;
    let headers = rejected.headers();
    println!(
        "while one meal is cooking: {}, retry after {:?} s",
        rejected.status(),
        headers[header::RETRY_AFTER]
    );
    assert_eq!(rejected.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers[header::RETRY_AFTER], "1");
    assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
    println!("{}", rejected.text().await?);

    kitchen.done.notify_one();
    let served = meal.await??;
    assert_eq!((served.status(), served.text().await?), (StatusCode::OK, "a meal".to_owned()));
    assert_eq!(permits.in_flight(), 0);

    // The time that a caller sends can only shorten the limit of the server.
    let left = client
        .get(format!("http://{address}/time"))
        .header("x-envoy-expected-rq-timeout-ms", "1000")
        .send()
        .await?;
    let left: u64 = left.text().await?.parse()?;
    println!("of the caller's 1000 ms the handler has {left} ms");
    assert!(left <= 950, "the server keeps 5 % to respond in");

    let late = client
        .get(format!("http://{address}/meal"))
        .header("x-envoy-expected-rq-timeout-ms", "50")
        .send()
        .await?;
    println!("a meal that takes longer than its caller waits: {}", late.status());
    assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
    Ok(())
}

async fn serve(kitchen: Kitchen) -> Result<(SocketAddr, BulkheadHandle), BoxError> {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build()?;
    let permits = bulkhead.handle();
    let stack = Stack::new().bulkhead(bulkhead).total_timeout(Duration::from_secs(5));
    let app = Router::new()
        .route("/meal", get(meal))
        .route("/time", get(time))
        .with_state(kitchen)
        .layer(HttpServerLayer::new(stack));

    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok((address, permits))
}

async fn meal(State(kitchen): State<Kitchen>) -> &'static str {
    kitchen.cooking.notify_one();
    kitchen.done.notified().await;
    "a meal"
}

async fn time() -> String {
    let left = Deadline::current().map(|deadline| deadline.remaining());
    left.unwrap_or_default().as_millis().to_string()
}
