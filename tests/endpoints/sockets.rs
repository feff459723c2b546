//! Endpoints on real sockets.

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use buttress::{
    Stack,
    endpoints::{EndpointStatus, Endpoints},
    http::{HttpCheck, ReplaySafe},
};
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connect, HttpConnector},
    },
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tower::{Layer, ServiceExt};

use super::*;

/// A server that can be killed, with all its connections.
struct Server {
    address: SocketAddr,
    checks: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let checks = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&checks);
        let task = tokio::spawn(async move {
            // Dropping it closes the connections.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    count
                        .fetch_add(u32::from(request.uri().path() == "/health"), Ordering::Relaxed);
                    ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok"))))
                });
                let connection = hyper::server::conn::http1::Builder::new();
                connections.spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, checks, task }
    }

    async fn kill(self) {
        self.task.abort();
        _ = self.task.await;
    }
}

pub(super) fn client_for(
    address: &SocketAddr,
) -> Client<impl Connect + Clone + Send + Sync + use<>, Full<Bytes>> {
    let instance: Uri = format!("http://{address}").parse().unwrap();
    let connector = HttpConnector::new().map_request(move |_: Uri| instance.clone());
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Waits until the condition holds, but not without end.
async fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = tokio::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < 60 * SECOND, "never: {what}");
        tokio::time::sleep(MS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_fails_no_call_and_is_back_after_two_checks() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Server::start(any).await);
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let endpoints = Endpoints::builder(addresses.clone(), client_for)
        .check(HttpCheck::get("http://shop/health").unwrap())
        .check_interval(SECOND)
        .check_timeout(SECOND)
        .build()
        .unwrap();
    let fleet = endpoints.handle();
    let first = || {
        let states = fleet.states();
        states.into_iter().find(|it| it.address == addresses[0]).unwrap()
    };
    // A loaded machine is slow, and fails nothing.
    let stack = Stack::standard(ReplaySafe::new());
    let shop =
        stack.total_timeout(60 * SECOND).attempt_timeout(20 * SECOND).http().layer(endpoints);
    let [failed, succeeded] = [0; 2].map(|count| Arc::new(AtomicU32::new(count)));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (shop, failed, succeeded) = (shop.clone(), failed.clone(), succeeded.clone());
        callers.spawn(async move {
            loop {
                let request = Request::get("http://shop/").body(Full::default()).unwrap();
                let is_ok = match shop.clone().oneshot(request).await {
                    Ok(response) => response.into_body().collect().await.is_ok(),
                    Err(_) => false,
                };
                (if is_ok { &succeeded } else { &failed }).fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    soon("the calls go through", || succeeded.load(Ordering::Relaxed) > 500).await;
    servers.remove(0).kill().await;
    soon("it is out", || first().status != EndpointStatus::Usable).await;
    let before = first().calls;
    let server = Server::start(addresses[0]).await;
    let mut checks = 0;
    soon("it is back", || {
        let passed = server.checks.load(Ordering::Relaxed);
        let is_back = first().status == EndpointStatus::Usable;
        if !is_back {
            checks = passed;
        }
        is_back
    })
    .await;
    assert!(checks <= 2, "it was out after {checks} passed checks");
    soon("it gets calls again", || first().calls > before).await;
    assert_eq!(failed.load(Ordering::Relaxed), 0);
}
