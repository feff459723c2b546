//! Makes a payment once although it is requested twice.
//!
//! ```sh
//! cargo run --example idempotent_payments
//! ```
//!
//! The server writes each payment into its ledger at once. Its first response takes longer than
//! the client waits, so the client retries. Without the idempotency layer, the customer pays twice.
//! With the layer, the second request gets a 409 while the first is running. The client then
//! retries again, and gets the recorded response.
//!
//! The records are kept in memory and end with the process. The crates `buttress-redb`,
//! `buttress-redis` and `buttress-postgres` keep them in a database. Each has its own example.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use buttress::{
    BoxError, Stack,
    bulkhead::BulkheadLayer,
    http::{GivenKey, HttpServerLayer, SetIdempotencyKeyLayer},
    idempotency::{IdempotencyLayer, Key, Store, store::MemoryStore},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::sleep};
use tower::{Layer, Service, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    println!("Without a guard:");
    let payments = Payments::default();
    let address = serve(HttpServerLayer::new(Stack::new()).layer(payments.clone())).await?;
    pay(address).await?;
    let without = payments.made();
    println!("  the ledger: {without:?}");

    println!("With a guard:");
    guarded(MemoryStore::new()).await?;
    match without.len() {
        0 | 1 => Err("the client did not retry".into()),
        _ => Ok(()),
    }
}

/// Pays at a server with the idempotency layer, and checks the results.
async fn guarded<St: Store<Payload = Vec<u8>>>(store: St) -> Result<(), BoxError> {
    // This server has one customer. With more, `.scope_fn(..)` must return the authenticated
    // account, or one customer could read the responses of another.
    let guard = IdempotencyLayer::http(store).single_tenant().build()?;
    let operator = guard.handle();
    let payments = Payments::default();
    // The layer is outside the bulkhead, so that a duplicate takes no permit.
    let stack = Stack::new().bulkhead(BulkheadLayer::default());
    let server = HttpServerLayer::builder(stack).outside(guard).build()?;
    let address = serve(server.layer(payments.clone())).await?;

    pay(address).await?;
    println!("  the ledger: {:?}", payments.made());

    let again = send(address, Some(KEY), AMOUNT).await?;
    println!("  the same key again:               {} replayed: {}", again.0, again.1);
    let other = send(address, Some(KEY), "43 EUR").await?;
    println!("  the same key for another amount:  {}", other.0);
    let none = send(address, None, AMOUNT).await?;
    println!("  no key:                           {}", none.0);
    println!("  {:?}", operator.counts());

    let holds = payments.made() == [AMOUNT]
        && again == (StatusCode::CREATED, true)
        && other.0 == StatusCode::UNPROCESSABLE_ENTITY
        && none.0 == StatusCode::BAD_REQUEST
        && operator.in_flight() == 0
        && operator.count_unknown().await? == 0;
    if holds { Ok(()) } else { Err("the layer did not do what this example says".into()) }
}

/// The key is the id of the payment, which is still known after the client has crashed.
const KEY: &str = "payment-7";
const AMOUNT: &str = "42 EUR";

/// Pays with a client whose attempts time out after 150 ms.
async fn pay(address: SocketAddr) -> Result<(), BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let stack = Stack::standard_http().attempt_timeout(Duration::from_millis(150)).service(client);
    // Outside the retry, so that all attempts have the same key. With a key, a POST is retried.
    let client = SetIdempotencyKeyLayer::new().layer(stack);

    let request = Request::post(format!("http://{address}/payments"))
        .extension(GivenKey::new(Key::new(KEY)?))
        .body(Full::from(AMOUNT))?;
    let response = client.oneshot(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(BoxError::from)?.to_bytes();
    println!("  the client gets {status} {}", String::from_utf8_lossy(&body));
    Ok(())
}

/// Sends a request without a stack. Returns its status, and `true` if the response was replayed.
async fn send(
    address: SocketAddr,
    key: Option<&str>,
    amount: &'static str,
) -> Result<(StatusCode, bool), BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut request = Request::post(format!("http://{address}/payments"));
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let response = client.oneshot(request.body(Full::from(amount))?).await?;
    Ok((response.status(), response.headers().contains_key("idempotency-replayed")))
}

/// The handler. It makes each payment at once, but delays its first response.
#[derive(Clone, Default)]
struct Payments {
    ledger: Arc<Mutex<Vec<String>>>,
}

impl Payments {
    fn made(&self) -> Vec<String> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn take<B>(self, request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let Ok(body) = request.into_body().collect().await else {
            return Ok(respond(StatusCode::BAD_REQUEST, "the amount did not arrive".to_owned()));
        };
        let amount = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let number = {
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.push(amount.clone());
            ledger.len()
        };
        if number == 1 {
            sleep(Duration::from_millis(400)).await;
        }
        Ok(respond(StatusCode::CREATED, format!("payment number {number} of {amount}")))
    }
}

fn respond(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

impl<B> Service<Request<B>> for Payments
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::pin::Pin<
        Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send + 'static>,
    >;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.clone().take(request))
    }
}

/// Starts a server on a free port.
async fn serve<S, R>(server: S) -> Result<SocketAddr, BoxError>
where
    S: Service<Request<hyper::body::Incoming>, Response = Response<R>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(server.clone());
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}
