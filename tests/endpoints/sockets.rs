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
    task: JoinHandle<()>,
}

impl Server {
    async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            // Dropping it closes the connections.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(|_| {
                    ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok"))))
                });
                let connection = hyper::server::conn::http1::Builder::new();
                connections.spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, task }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_fails_no_call_and_is_back_after_two_checks() {
    const INTERVAL: Duration = Duration::from_millis(200);
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Server::start(any).await);
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let endpoints = Endpoints::builder(addresses.clone(), client_for)
        .check(HttpCheck::get("http://shop/health").unwrap())
        .check_interval(INTERVAL)
        .check_timeout(INTERVAL)
        .build()
        .unwrap();
    let fleet = endpoints.handle();
    let first = || {
        let states = fleet.states();
        states.into_iter().find(|it| it.address == addresses[0]).unwrap()
    };
    let shop = Stack::standard(ReplaySafe::new()).http().layer(endpoints);
    let (failed, mut calls) = (Arc::new(AtomicU32::new(0)), JoinSet::new());
    let (mut ticks, mut before) = (tokio::time::interval(2 * MS), 0);
    for tick in 0..1_500 {
        ticks.tick().await;
        match tick {
            // 0.5 s from the start.
            250 => servers.remove(0).kill().await,
            // 1.4 s later, it has failed at least three checks.
            950 => {
                assert_ne!(first().status, EndpointStatus::Usable);
                before = first().calls;
                servers.push(Server::start(addresses[0]).await);
            }
            _ => {}
        }
        let (shop, failed) = (shop.clone(), Arc::clone(&failed));
        calls.spawn(async move {
            let request = Request::get("http://shop/").body(Full::default()).unwrap();
            let is_ok = match shop.oneshot(request).await {
                Ok(response) => response.into_body().collect().await.is_ok(),
                Err(_) => false,
            };
            failed.fetch_add(u32::from(!is_ok), Ordering::Relaxed);
        });
    }
    calls.join_all().await;
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    assert_eq!(first().status, EndpointStatus::Usable, "two checks are at most 0.44 s");
    assert!(first().calls > before, "it gets calls again");
}
