//! A stack around a tonic channel, for a generated client.
//!
//! ```sh
//! cargo run -p ecosystem --example grpc_client
//! ```
//!
//! The server is tonic's own health service, which is told to be out of order for a number of calls.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, Rejection, Stack,
    circuit_breaker::CircuitBreakerLayer,
    http::{ReplaySafe, grpc},
    retry::{Backoff, RetryLayer},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Status,
    transport::{Endpoint, Server},
};
use tonic_health::{
    pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
        health_server::HealthServer,
    },
    server::{HealthReporter, HealthService},
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (address, failures) = serve().await?;
    let channel = Endpoint::try_from(format!("http://{address}"))?.connect_lazy();

    // All gRPC calls are POSTs: which methods may be sent again only you know.
    let safe = ReplaySafe::new().grpc_methods_fn(|path| path == "/grpc.health.v1.Health/Check");
    let backoff = Backoff::exponential(Duration::from_millis(20)).build()?;
    let breaker = CircuitBreakerLayer::builder().name("health").build()?;
    let operator = breaker.handle();
    // Its time-outs bound streams too, to their last message: those that last want a stack without.
    let stack = Stack::standard(safe.clone())
        .retry(RetryLayer::builder(safe).backoff(backoff).build()?)
        .circuit_breaker(breaker)
        .http();
    let mut client = HealthClient::new(grpc::client(channel, stack));

    let request = || Request::new(HealthCheckRequest { service: String::new() });
    let answer = client.check(request()).await?.into_inner();
    println!("the server says {:?}", answer.status());
    assert_eq!(answer.status(), ServingStatus::Serving);

    failures.store(2, Ordering::Relaxed);
    let answer = client.check(request()).await?.into_inner();
    println!("after two failures it says {:?}", answer.status());
    assert_eq!(answer.status(), ServingStatus::Serving);

    failures.store(1, Ordering::Relaxed);
    let status = client.watch(request()).await.unwrap_err();
    println!("a method that was not named is not sent again: {:?}", status.code());
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "out of order"));

    // The time of a single call bounds its retries too.
    let mut timed = request();
    timed.set_timeout(Duration::from_secs(1));
    client.check(timed).await?;

    operator.force_open();
    let status = client.check(request()).await.unwrap_err();
    let rejection = status.source().and_then(|source| source.downcast_ref::<Rejection>());
    println!("an open circuit: {:?}, because of {rejection:?}", status.code());
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(rejection, Some(Rejection::CircuitOpen(_))));
    Ok(())
}

async fn serve() -> Result<(SocketAddr, Arc<AtomicU32>), BoxError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let failures = Arc::new(AtomicU32::new(0));
    let left = Arc::clone(&failures);
    let out_of_order = move |request: Request<()>| {
        let attempts = request.metadata().get("grpc-previous-rpc-attempts");
        println!("  a call, previous attempts: {attempts:?}");
        let fails =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if fails.is_ok() { Err(Status::unavailable("out of order")) } else { Ok(request) }
    };
    let health = HealthService::from_health_reporter(HealthReporter::new());
    let health = HealthServer::with_interceptor(health, out_of_order);
    let connections = TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().add_service(health).serve_with_incoming(connections));
    Ok((address, failures))
}
