//! Makes a payment once, although the server is restarted between the client's two attempts.
//!
//! ```sh
//! cargo run -p buttress-redb --example restart
//! ```
//!
//! The first attempt pays, and its response is lost on the way to the client. Then the server stops
//! and starts again with the same file. The second attempt gets the recorded response, so the
//! customer pays once.

use std::{
    convert::Infallible,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use buttress::{BoxError, Stack, http::HttpServerLayer, idempotency::IdempotencyLayer};
use buttress_redb::RedbStore;
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};

/// The number of payments in the ledger, which outlives the server.
static PAYMENTS: AtomicU32 = AtomicU32::new(0);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let file = std::env::temp_dir().join(format!("payments-{}.redb", std::process::id()));
    let first = one_life_of_the_server(&file).await?;
    let second = one_life_of_the_server(&file).await?;
    std::fs::remove_file(&file)?;

    println!("before the restart: {first:?}");
    println!("after the restart:  {second:?}");
    let made = PAYMENTS.load(Ordering::Relaxed);
    println!("payments made:      {made}");
    let expected = [("payment number 1".to_owned(), false), ("payment number 1".to_owned(), true)];
    match made == 1 && [first, second] == expected {
        true => Ok(()),
        false => Err("the layer did not do what this example says".into()),
    }
}

/// Starts a server, pays, and stops the server.
///
/// Returns the body of the response, and whether it was replayed.
async fn one_life_of_the_server(file: &Path) -> Result<(String, bool), BoxError> {
    let store = RedbStore::open(file)?;
    let guard = IdempotencyLayer::http(store.clone()).single_tenant().build()?;
    let pay = service_fn(|_: Request<_>| async {
        let number = PAYMENTS.fetch_add(1, Ordering::Relaxed) + 1;
        Ok::<_, Infallible>(Response::new(format!("payment number {number}")))
    });
    let server = HttpServerLayer::builder(Stack::new()).outside(guard).build()?.layer(pay);

    let request = Request::post("/payments").header("idempotency-key", "payment-7");
    let response = server.oneshot(request.body("42 EUR".to_owned())?).await?;
    let replayed = response.headers().contains_key("idempotency-replayed");
    let body = response.into_body().collect().await?.to_bytes();

    store.close().await;
    Ok((String::from_utf8(body.to_vec())?, replayed))
}
