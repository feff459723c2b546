//! Puts the idempotency layer in front of an axum handler, inside authentication.
//!
//! ```sh
//! cargo run -p ecosystem --example axum_payments
//! ```
//!
//! The client gives each payment a key.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::Response,
    routing::post,
};
use buttress::{
    BoxError, Stack,
    bulkhead::BulkheadLayer,
    http::{HttpServerLayer, SetIdempotencyKeyLayer, reqwest::ReqwestClient},
    idempotency::{IdempotencyLayer, Run, store::MemoryStore},
};
use tokio::{net::TcpListener, time::sleep};
use tower::{Layer, ServiceExt};

/// The authenticated sender of a request.
#[derive(Clone)]
struct Account(String);

/// Stands for real authentication: believes every name.
async fn authenticate(mut request: Request, next: Next) -> Result<Response, StatusCode> {
    let name = request.headers().get("authorization").and_then(|name| name.to_str().ok());
    let account = Account(name.ok_or(StatusCode::UNAUTHORIZED)?.to_owned());
    request.extensions_mut().insert(account);
    Ok(next.run(request).await)
}

type Ledger = Arc<Mutex<Vec<String>>>;

/// Makes each payment at once, but delays the first response.
async fn pay(
    State(ledger): State<Ledger>,
    Extension(Account(account)): Extension<Account>,
    Extension(run): Extension<Run>,
    amount: String,
) -> (StatusCode, String) {
    let number = {
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.push(format!("{account} paid {amount}, fence {}", run.fence()));
        ledger.len()
    };
    if number == 1 {
        sleep(Duration::from_millis(500)).await;
    }
    (StatusCode::CREATED, format!("payment {number}"))
}

fn router(ledger: &Ledger) -> Result<Router, BoxError> {
    // The scope is `None` if authentication did not run first, and the request is then rejected.
    // Never return a scope that all callers share.
    let guard = IdempotencyLayer::http(MemoryStore::new())
        .scope_fn(|request: &Request| request.extensions().get().map(|Account(name)| name.clone()))
        .build()?;
    let stack = Stack::new().bulkhead(BulkheadLayer::default());
    let server = HttpServerLayer::builder(stack).outside(guard).build()?;
    Ok(Router::new()
        .route("/payments", post(pay).layer(server))
        // In axum, the layer that is added last is the outermost.
        .layer(middleware::from_fn(authenticate))
        .with_state(Arc::clone(ledger)))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let ledger = Ledger::default();
    let router = router(&ledger)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });

    // The first attempt times out after 200 ms. The second gets a 409 while the payment is
    // running. The client waits, retries, and gets the recorded response.
    let client = ReqwestClient::<String>::new(
        reqwest::Client::builder(),
        reqwest::redirect::Policy::none(),
    )?;
    let stack = Stack::standard_http().attempt_timeout(Duration::from_millis(200)).service(client);
    let client = SetIdempotencyKeyLayer::new().layer(stack);
    for account in ["alice", "bob"] {
        let request = http::Request::post(format!("http://{address}/payments"))
            .header("authorization", account)
            .body("42 EUR".to_owned())?;
        let response = client.clone().oneshot(request).await?;
        let replayed = response.headers().contains_key("idempotency-replayed");
        println!("{account} gets {}, replayed: {replayed}", response.status());
        assert_eq!((response.status(), replayed), (StatusCode::CREATED, account == "alice"));
    }
    let statuses = [
        send(address, Some("alice"), Some("k"), "1 EUR").await?,
        send(address, Some("alice"), Some("k"), "2 EUR").await?,
        // The same key of another account is another payment.
        send(address, Some("bob"), Some("k"), "2 EUR").await?,
        send(address, Some("bob"), None, "2 EUR").await?,
        send(address, None, Some("k"), "1 EUR").await?,
    ];
    println!("sent without a stack: {statuses:?}");
    assert_eq!(statuses, [201, 422, 201, 400, 401]);

    let ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner).clone();
    println!("the ledger: {ledger:#?}");
    assert_eq!(ledger.len(), 4);
    Ok(())
}

/// Sends a request without a stack, and returns the status.
async fn send(
    address: SocketAddr,
    account: Option<&str>,
    key: Option<&str>,
    amount: &'static str,
) -> Result<u16, BoxError> {
    let mut request = reqwest::Client::new().post(format!("http://{address}/payments"));
    for (name, value) in [("authorization", account), ("idempotency-key", key)] {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    Ok(request.body(amount).send().await?.status().as_u16())
}
