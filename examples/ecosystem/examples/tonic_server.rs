//! Limits the concurrent calls of a tonic server.
//!
//! ```sh
//! cargo run -p ecosystem --example tonic_server
//! ```
//!
//! The layer is first around all services of the server, then around one service.

use std::{net::SocketAddr, time::Duration};

use buttress::{
    BoxError, Stack,
    bulkhead::{BulkheadHandle, BulkheadLayer},
    http::HttpServerLayer,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code,
    transport::{Endpoint, Server},
};
use tonic_health::{
    pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
    server::health_reporter,
};
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    println!("around all services:");
    let (address, permits) = around_all().await?;
    watch_and_check(address, permits).await?;

    println!("around one service:");
    let (address, permits) = around_one().await?;
    watch_and_check(address, permits).await
}

async fn around_all() -> Result<(SocketAddr, BulkheadHandle), BoxError> {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build()?;
    let permits = bulkhead.handle();
    // The timeout of a gRPC call covers its last message. Long streams need a stack without one.
    let stack = Stack::new().bulkhead(bulkhead).total_timeout(Duration::from_secs(5));

    let (_, health) = health_reporter();
    let server = Server::builder().layer(HttpServerLayer::new(stack)).add_service(health);
    let (address, connections) = listen().await?;
    tokio::spawn(server.serve_with_incoming(connections));
    Ok((address, permits))
}

async fn around_one() -> Result<(SocketAddr, BulkheadHandle), BoxError> {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build()?;
    let permits = bulkhead.handle();

    let (_, health) = health_reporter();
    // The service keeps the name by which the server routes.
    let health = HttpServerLayer::new(Stack::new().bulkhead(bulkhead)).layer(health);
    let server = Server::builder().add_service(health);
    let (address, connections) = listen().await?;
    tokio::spawn(server.serve_with_incoming(connections));
    Ok((address, permits))
}

async fn watch_and_check(address: SocketAddr, permits: BulkheadHandle) -> Result<(), BoxError> {
    let channel = Endpoint::try_from(format!("http://{address}"))?.connect().await?;
    let mut client = HealthClient::new(channel);
    let request = || HealthCheckRequest { service: String::new() };

    // A stream holds its permit until it ends, and the bulkhead admits only one call.
    let mut watch = client.watch(request()).await?.into_inner();
    let seen = watch.message().await?.expect("the first message is there at once");
    assert_eq!((seen.status(), permits.in_flight()), (ServingStatus::Serving, 1));

    let rejected = client.check(request()).await.unwrap_err();
    let pushback = rejected.metadata().get("grpc-retry-pushback-ms");
    println!("  while one stream is open: {:?}, retry in {pushback:?} ms", rejected.code());
    assert_eq!(rejected.code(), Code::ResourceExhausted);
    assert_eq!(pushback.map(|value| value.as_bytes()), Some(&b"1000"[..]));

    drop(watch);
    while permits.in_flight() > 0 {
        tokio::task::yield_now().await;
    }
    let response = client.check(request()).await?.into_inner();
    println!("  after it has ended: {:?}", response.status());
    assert_eq!(response.status(), ServingStatus::Serving);
    Ok(())
}

async fn listen() -> Result<(SocketAddr, TcpListenerStream), BoxError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    Ok((listener.local_addr()?, TcpListenerStream::new(listener)))
}
