//! Makes a payment once, although the client's two attempts reach two servers.
//!
//! ```sh
//! cargo run -p buttress-redis --example two_processes
//! cargo run -p buttress-redis --example two_processes -- redis://127.0.0.1/
//! ```
//!
//! Without an address, the example starts its own `redis-server`. The two servers share only Redis,
//! like two processes. Both attempts are sent at once. One runs. The other is told to retry later,
//! or gets the recorded response.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use buttress::{BoxError, Stack, http::HttpServerLayer, idempotency::IdempotencyLayer};
use buttress_redis::RedisStore;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use test_servers::RedisServer;
use tower::{Layer, ServiceExt, service_fn};

static PAYMENTS: AtomicU32 = AtomicU32::new(0);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (_server, url) = match std::env::args().nth(1) {
        Some(url) => (None, url),
        None => {
            let server = RedisServer::start(&[])?;
            let url = server.url();
            (Some(server), url)
        }
    };
    // A new key for each run, so that the example can be run again.
    let key = format!("payment-{}", std::process::id());
    let attempts = [attempt(&url, &key), attempt(&url, &key)];
    let answers = futures::future::try_join_all(attempts).await?;
    for answer in &answers {
        println!("answered: {answer}");
    }
    let made = PAYMENTS.load(Ordering::Relaxed);
    println!("payments made: {made}");
    match made == 1 && answers == ["payment number 1", "payment number 1"] {
        true => Ok(()),
        false => Err("the layer did not do what this example says".into()),
    }
}

/// Starts a separate server, pays there, and retries while the payment is in flight.
async fn attempt(url: &str, key: &str) -> Result<String, BoxError> {
    let store = RedisStore::builder(url).prefix("example:").build().await?;
    let guard = IdempotencyLayer::http(store).single_tenant().build()?;
    let pay = service_fn(|_: Request<_>| async {
        let number = PAYMENTS.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok::<_, Infallible>(Response::new(format!("payment number {number}")))
    });
    let server = HttpServerLayer::builder(Stack::new()).outside(guard).build()?.layer(pay);
    loop {
        let request = Request::post("/payments").header("idempotency-key", key);
        let response = server.clone().oneshot(request.body("42 EUR".to_owned())?).await?;
        if response.status() == StatusCode::CONFLICT {
            println!("told to come back: the payment is under way");
            tokio::time::sleep(Duration::from_millis(300)).await;
            continue;
        }
        let body = response.into_body().collect().await?.to_bytes();
        return Ok(String::from_utf8(body.to_vec())?);
    }
}
