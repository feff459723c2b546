//! Tests of which errors open a breaker, and which are retried.

use std::{
    fmt::Debug,
    io,
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
    retry::{Backoff, Jitter, RetryBuilder, RetryLayer},
};
use http::Request;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use reqwest::redirect::Policy;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{self, Instant},
};
use tonic::{body::Body, transport::Endpoint};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::peer::{Frames, RST_STREAM};

/// Returns a retry with short pauses.
fn retry() -> RetryBuilder<ReplaySafe> {
    let backoff = Backoff::constant(Duration::from_millis(1)).jitter(Jitter::None).build().unwrap();
    RetryLayer::builder(ReplaySafe::new()).backoff(backoff).without_budget()
}

fn guard() -> (CircuitBreakerLayer, CircuitBreakerHandle) {
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(5).build().unwrap();
    let handle = breaker.handle();
    (breaker, handle)
}

/// Returns a stack with these two, and the handle of its breaker.
fn stack() -> (HttpStack, CircuitBreakerHandle) {
    let (breaker, handle) = guard();
    (Stack::standard_http().retry(retry().build().unwrap()).circuit_breaker(breaker), handle)
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

/// The way in which a host gives requests back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum GivesBack {
    /// It accepts connections and closes them, like a proxy without a server behind it.
    Closing,
    /// It rejects each stream, as `REFUSED_STREAM`.
    Refusing,
    /// It excludes each request, by a GOAWAY.
    Leaving,
}
use GivesBack::{Closing, Leaving, Refusing};

async fn host(gives_back: GivesBack) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if gives_back != Closing {
                tokio::spawn(reject(stream, gives_back));
            }
        }
    });
    address
}

async fn reject(stream: TcpStream, gives_back: GivesBack) -> io::Result<()> {
    const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
    let mut frames = Frames::begin(stream).await?;
    loop {
        let id = frames.request().await?;
        match gives_back {
            Refusing => frames.send(RST_STREAM, 0, id, &REFUSED_STREAM).await?,
            _ => frames.leave(0).await?,
        }
    }
}

/// Makes a call a second until the breaker opens. Returns the time that this took.
///
/// The clock runs for a call over a socket, and jumps between two calls.
async fn opens<S, B>(
    client: &S,
    breaker: &CircuitBreakerHandle,
    request: impl Fn() -> Request<B>,
) -> Duration
where
    S: Service<Request<B>, Response: Debug, Error: Debug> + Clone,
{
    let began = Instant::now();
    while breaker.state() == State::Closed && began.elapsed() < Duration::from_secs(60) {
        fail(client, 1, &request).await;
        time::pause();
        time::advance(Duration::from_secs(1)).await;
        time::resume();
    }
    began.elapsed()
}

/// A request that is given back is nobody's failure, but that all of them are is.
#[tokio::test]
async fn a_host_that_gives_back_each_request_opens_its_breaker() {
    let windows = Duration::from_secs(10)..=Duration::from_secs(20);
    for (gives_back, http2) in
        [(Closing, false), (Closing, true), (Refusing, true), (Leaving, true)]
    {
        let uri = format!("http://{}/", host(gives_back).await);
        // Over HTTP/1, the connection breaks after the write.
        let windows = if http2 { windows.clone() } else { Duration::ZERO..=*windows.end() };
        let what = format!("{gives_back:?}, HTTP/2: {http2}");

        let (stack, breaker) = stack();
        let opened = opens(&stack.service(hyper(http2)), &breaker, || post(&uri)).await;
        assert!(windows.contains(&opened), "{what}: {opened:?}");

        let (alone, breaker) = guard();
        let client = Stack::new().circuit_breaker(alone).http().service(hyper(http2));
        let opened = opens(&client, &breaker, || post(&uri)).await;
        assert!(windows.contains(&opened), "{what}, the breaker alone: {opened:?}");

        let (outside, breaker) = guard();
        let retried = Stack::new().retry(retry().build().unwrap()).http().service(hyper(http2));
        let client = Stack::new().circuit_breaker(outside).http().layer(retried);
        let opened = opens(&client, &breaker, || post(&uri)).await;
        assert!(windows.contains(&opened), "{what}, the breaker outside the retry: {opened:?}");
    }

    for gives_back in [Closing, Refusing, Leaving] {
        let (stack, breaker) = stack();
        let address = host(gives_back).await;
        let channel = Endpoint::try_from(format!("http://{address}")).unwrap().connect_lazy();
        let client = grpc::client(channel, stack);
        let opened = opens(&client, &breaker, || {
            let request =
                Request::post("/shop.Orders/Place").header("content-type", "application/grpc");
            request.body(Body::new(Full::new(Bytes::from_static(&[0; 5])))).unwrap()
        });
        let opened = opened.await;
        assert!(opened <= *windows.end(), "{gives_back:?}, gRPC: {opened:?}");
    }
}
