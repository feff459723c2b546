//! Tests of which errors open a breaker, and which are retried.

use std::{
    fmt::Debug,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    Stack,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer, State},
    http::{HttpStack, ReplaySafe, grpc, reqwest::ReqwestClient},
    retry::{Backoff, Jitter, RetryLayer},
};
use http::Request;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use reqwest::redirect::Policy;
use tokio::net::TcpListener;
use tonic::{body::Body, transport::Endpoint};
use tower::{Service, ServiceExt, service_fn};

/// Returns a stack with short pauses, and the handle of its breaker.
fn stack() -> (HttpStack, CircuitBreakerHandle) {
    let backoff = Backoff::constant(Duration::from_millis(1)).jitter(Jitter::None).build().unwrap();
    let retry = RetryLayer::builder(ReplaySafe::new()).backoff(backoff).without_budget();
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(12).build().unwrap();
    let handle = breaker.handle();
    (Stack::standard_http().retry(retry.build().unwrap()).circuit_breaker(breaker), handle)
}

fn hyper(http2: bool) -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).http2_only(http2).build_http()
}

fn post(uri: &str) -> Request<Full<Bytes>> {
    Request::post(uri).body(Full::from("order")).unwrap()
}

async fn fail<S, B>(client: &S, calls: u32, request: impl Fn() -> Request<B>)
where
    S: Service<Request<B>, Response: Debug, Error: Debug> + Clone,
{
    for _ in 0..calls {
        client.clone().oneshot(request()).await.unwrap_err();
    }
}

#[tokio::test]
async fn the_callers_own_mistakes_are_neither_retried_nor_counted() {
    let sent = Arc::new(AtomicU32::new(0));

    let (stack, breaker) = stack();
    let (client, counted) = (hyper(false), Arc::clone(&sent));
    let client = stack.service(service_fn(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        client.request(request)
    }));
    fail(&client, 20, || Request::get("/relative").body(Full::default()).unwrap()).await;
    assert_eq!((sent.swap(0, Ordering::Relaxed), breaker.snapshot().calls()), (20, 0));

    let (stack, breaker) = self::stack();
    let client = ReqwestClient::<String>::new(reqwest::Client::builder(), Policy::none()).unwrap();
    let counted = Arc::clone(&sent);
    let client = stack.service(service_fn(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        client.clone().oneshot(request)
    }));
    fail(&client, 20, || Request::get("/relative").body(String::new()).unwrap()).await;
    assert_eq!((sent.swap(0, Ordering::Relaxed), breaker.snapshot().calls()), (20, 0));
}

#[tokio::test]
async fn a_host_that_refuses_connections_opens_its_breaker() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    for http2 in [false, true] {
        let (stack, breaker) = stack();
        fail(&stack.service(hyper(http2)), 12, || post(&uri)).await;
        assert_eq!(breaker.state(), State::Open, "HTTP/2: {http2}");
    }
}

/// Accepts connections and closes them at once, like a proxy without a server behind it.
async fn closes() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    address
}

/// Such a connection gives most requests back. Each is nobody's failure, but all of them are.
#[tokio::test]
async fn a_host_that_closes_each_connection_opens_its_breaker() {
    let address = closes().await;
    for http2 in [false, true] {
        let (stack, breaker) = stack();
        fail(&stack.service(hyper(http2)), 12, || post(&format!("http://{address}/"))).await;
        assert_eq!(breaker.state(), State::Open, "HTTP/2: {http2}");
    }

    let (stack, breaker) = stack();
    let channel = Endpoint::try_from(format!("http://{address}")).unwrap().connect_lazy();
    fail(&grpc::client(channel, stack), 12, || {
        let request =
            Request::post("/shop.Orders/Place").header("content-type", "application/grpc");
        request.body(Body::new(Full::new(Bytes::from_static(&[0; 5])))).unwrap()
    })
    .await;
    assert_eq!(breaker.state(), State::Open);
}
