//! A tonic server that refuses what it has no room for.
//!
//! ```sh
//! cargo run -p ecosystem --example tonic_server
//! ```
//!
//! Once around all services of the server, and once around a single one.

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
    let (address, slots) = around_all().await?;
    one_watches_and_one_asks(address, slots).await?;

    println!("around one service:");
    let (address, slots) = around_one().await?;
    one_watches_and_one_asks(address, slots).await
}

async fn around_all() -> Result<(SocketAddr, BulkheadHandle), BoxError> {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build()?;
    let slots = bulkhead.handle();
    // The time of a gRPC call runs until its last message: a server of long streams has no such limit.
    let stack = Stack::new().bulkhead(bulkhead).total_timeout(Duration::from_secs(5));

    let (_, health) = health_reporter();
    let server = Server::builder().layer(HttpServerLayer::new(stack)).add_service(health);
    let (address, connections) = listen().await?;
    tokio::spawn(server.serve_with_incoming(connections));
    Ok((address, slots))
}

async fn around_one() -> Result<(SocketAddr, BulkheadHandle), BoxError> {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build()?;
    let slots = bulkhead.handle();

    let (_, health) = health_reporter();
    // It still has the name by which the server finds it.
    let health = HttpServerLayer::new(Stack::new().bulkhead(bulkhead)).layer(health);
    let server = Server::builder().add_service(health);
    let (address, connections) = listen().await?;
    tokio::spawn(server.serve_with_incoming(connections));
    Ok((address, slots))
}

async fn one_watches_and_one_asks(
    address: SocketAddr,
    slots: BulkheadHandle,
) -> Result<(), BoxError> {
    let channel = Endpoint::try_from(format!("http://{address}"))?.connect().await?;
    let mut client = HealthClient::new(channel);
    let request = || HealthCheckRequest { service: String::new() };

    // A stream is under way until it ends, and there is room for one call.
    let mut watch = client.watch(request()).await?.into_inner();
    let seen = watch.message().await?.expect("the state is told at once");
    assert_eq!((seen.status(), slots.in_flight()), (ServingStatus::Serving, 1));

    let rejected = client.check(request()).await.unwrap_err();
    let pushback = rejected.metadata().get("grpc-retry-pushback-ms");
    println!("  no room: {:?}, come back in {pushback:?} ms", rejected.code());
    assert_eq!(rejected.code(), Code::ResourceExhausted);
    assert_eq!(pushback.map(|value| value.as_bytes()), Some(&b"1000"[..]));

    drop(watch);
    while slots.in_flight() > 0 {
        tokio::task::yield_now().await;
    }
    let answer = client.check(request()).await?.into_inner();
    println!("  with nobody watching: {:?}", answer.status());
    assert_eq!(answer.status(), ServingStatus::Serving);
    Ok(())
}

async fn listen() -> Result<(SocketAddr, TcpListenerStream), BoxError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    Ok((listener.local_addr()?, TcpListenerStream::new(listener)))
}
