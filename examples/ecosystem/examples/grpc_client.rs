//! Puts a stack around a tonic channel, beneath a generated client.
//!
//! ```sh
//! cargo run -p ecosystem --example grpc_client
//! ```
//!
//! The server is tonic's health service. An interceptor makes a given number of calls fail.

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
    BoxError, Fault, Outcome, Rejection, Stack,
    circuit_breaker::CircuitBreakerLayer,
    fallback::{self, FallbackLayer},
    http::{ReplaySafe, grpc},
    retry::{Backoff, RetryLayer},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Endpoint, Server},
};
use tonic_health::{
    pb::{
        HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
        health_client::HealthClient, health_server::HealthServer,
    },
    server::{HealthReporter, HealthService},
};
use tower::{Layer, ServiceExt, service_fn};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (address, failures) = serve().await?;
    let channel = Endpoint::try_from(format!("http://{address}"))?.connect_lazy();

    // Every gRPC call is a POST. Only you know which methods are safe to repeat.
    let safe = ReplaySafe::new().grpc_methods_fn(|path| path == "/grpc.health.v1.Health/Check");
    let backoff = Backoff::exponential(Duration::from_millis(20)).build()?;
    let breaker = CircuitBreakerLayer::builder().name("health").build()?;
    let handle = breaker.handle();
    // The timeouts also bound streams, up to their last message. Long streams need a stack
    // without timeouts.
    let stack = Stack::standard(safe.clone())
        .retry(RetryLayer::builder(safe).backoff(backoff).build()?)
        .circuit_breaker(breaker)
        .http();
    let mut client = HealthClient::new(grpc::client(channel, stack));

    let request = || Request::new(HealthCheckRequest { service: String::new() });
    let response = client.check(request()).await?.into_inner();
    println!("no failure: {:?}", response.status());
    assert_eq!(response.status(), ServingStatus::Serving);

    failures.store(2, Ordering::Relaxed);
    let response = client.check(request()).await?.into_inner();
    println!("two failures, retried: {:?}", response.status());
    assert_eq!(response.status(), ServingStatus::Serving);

    failures.store(1, Ordering::Relaxed);
    let status = client.watch(request()).await.unwrap_err();
    println!("a method that is not declared safe is not retried: {:?}", status.code());
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "out of order"));

    // The timeout of one request bounds its retries too.
    let mut timed = request();
    timed.set_timeout(Duration::from_secs(1));
    client.check(timed).await?;

    handle.force_open();
    let status = client.check(request()).await.unwrap_err();
    let rejection = status.source().and_then(|source| source.downcast_ref::<Rejection>());
    println!("an open circuit: {:?}, from {rejection:?}", status.code());
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(rejection, Some(Rejection::CircuitOpen(_))));

    // The response of a fallback is a message, so it stands around a method of the client. Its
    // classifier sees the status of the call, and hides no mistake of the caller.
    let source = fallback::from_fn(
        |_| (),
        |(), reason| async move {
            println!("a fallback, because of this: {reason}");
            Some(HealthCheckResponse { status: ServingStatus::Unknown.into() })
        },
    );
    let outage = |result: Result<&_, &Status>| match result.map_err(Status::code) {
        Ok(_) => Outcome::Success,
        Err(Code::Unavailable | Code::ResourceExhausted) => Outcome::Failure(Fault::Transient),
        Err(_) => Outcome::Failure(Fault::Permanent),
    };
    let fallback = FallbackLayer::builder(source).classify_fn(outage).build()?;
    let check = fallback.layer(service_fn(move |request: HealthCheckRequest| {
        let mut client = client.clone();
        async move { client.check(request).await.map(Response::into_inner) }
    }));
    let response = check.oneshot(HealthCheckRequest { service: String::new() }).await?;
    println!("an open circuit and a fallback: {:?}", response.status());
    assert_eq!(response.status(), ServingStatus::Unknown);
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
