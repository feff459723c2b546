//! Tests of the responses to rejected calls of a tonic server, and of the end of its calls.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    time::Duration,
};

use buttress::{
    Error, Rejection, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::CircuitBreakerLayer,
    error::{BulkheadFull, CircuitOpen, DeadlineExceeded, NotReady, QueueTimedOut, TimedOut},
    http::{HttpServerLayer, ResponseBody},
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::pb::{health_client::HealthClient, health_server::HealthServer};
use tower::{Layer, layer::layer_fn, service_fn};

use super::support::{Scripted, asked, elapse, endpoint, exchange, listen, raw_check, until_free};

const SECOND: Duration = Duration::from_secs(1);

/// Starts a server with a layer around all its services.
macro_rules! serve_around {
    ($layer:expr, $health:expr) => {{
        let (address, listener) = listen().await;
        let server = Server::builder().layer($layer).add_service(HealthServer::new($health));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }};
}

/// Makes a call, and returns the headers of its trailers-only response.
async fn trailers_only(address: SocketAddr) -> HeaderMap {
    let (head, body) = exchange(address, raw_check(address)).await.into_parts();
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.headers["content-type"], "application/grpc");
    assert!(body.is_end_stream());
    head.headers
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

type Rejected = Result<Response<ResponseBody<tonic::body::Body>>, Error<Infallible>>;

#[tokio::test]
async fn each_rejection_has_its_code_and_its_pushback_in_an_answer_of_trailers_only() {
    let wait = Duration::from_millis(1234);
    let table: [(Rejection, &str, Option<&str>); 8] = [
        (CircuitOpen::new("layer", Some(wait)).into(), "14", Some("1234")),
        (CircuitOpen::new("layer", None).into(), "14", None),
        (NotReady::new("layer", wait).into(), "14", None),
        (BulkheadFull::new("layer", 1).into(), "8", Some("1000")),
        (QueueTimedOut::new("layer", wait).into(), "8", Some("1000")),
        (TimedOut::new("layer", wait).into(), "4", None),
        (DeadlineExceeded::new("layer").into(), "4", None),
        (CircuitOpen::new("layer", Some(Duration::from_nanos(1))).into(), "14", Some("1")),
    ];
    for (rejection, code, pushback) in table {
        let rejected = rejection.clone();
        let reject = layer_fn(move |_| {
            let rejected = rejected.clone();
            service_fn(move |_: Request<tonic::body::Body>| -> Ready<Rejected> {
                ready(Err(Error::Rejected(rejected.clone())))
            })
        });
        let address = serve_around!(HttpServerLayer::around(reject), Scripted::new());
        let headers = trailers_only(address).await;
        assert_eq!(text(&headers, "grpc-status"), Some(code), "{rejection:?}");
        assert_eq!(text(&headers, "grpc-retry-pushback-ms"), pushback, "{rejection:?}");
        // The caller must not see the names of the layers.
        assert_eq!(text(&headers, "grpc-message"), Some(rejection.kind()));
    }
}

#[tokio::test]
async fn a_breaker_that_has_tripped_tells_when_to_come_back() {
    let breaker = CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .open_for(SECOND)
        .open_jitter(0.0)
        .build()
        .unwrap();
    let layer = HttpServerLayer::new(Stack::new().circuit_breaker(breaker));
    let address = serve_around!(layer, Scripted::new());
    let mut client = HealthClient::new(endpoint(address).connect_lazy());
    assert_eq!(client.check(asked("ill")).await.unwrap_err().message(), "ill");

    let headers = trailers_only(address).await;
    assert_eq!(text(&headers, "grpc-status"), Some("14"));
    let pushback: u64 = text(&headers, "grpc-retry-pushback-ms").unwrap().parse().unwrap();
    assert!((1..=1000).contains(&pushback), "{pushback}");
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_ended_with_its_slot_given_back() {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let slots = bulkhead.handle();
    let layer = HttpServerLayer::new(Stack::new().bulkhead(bulkhead).total_timeout(SECOND));
    let health = Scripted::new();
    let address = serve_around!(layer, health.clone());
    let mut client = HealthClient::new(endpoint(address).connect_lazy());
    let call = tokio::spawn(async move { client.check(asked("held")).await });
    health.gate.arrived(1).await;
    assert_eq!(slots.in_flight(), 1);

    let headers = trailers_only(address).await;
    assert_eq!(text(&headers, "grpc-status"), Some("8"));

    elapse(SECOND).await;
    let status = call.await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::DeadlineExceeded, "timed_out"));
    assert_eq!(slots.in_flight(), 0);
}

#[tokio::test]
async fn a_slot_is_given_back_with_the_trailers_and_when_a_stream_is_dropped() {
    let (all, one) = (
        BulkheadLayer::builder().max_concurrent(1).build().unwrap(),
        BulkheadLayer::builder().max_concurrent(1).build().unwrap(),
    );
    let handles = [all.handle(), one.handle()];
    let health = Scripted::new();
    let around_all =
        serve_around!(HttpServerLayer::new(Stack::new().bulkhead(all)), health.clone());
    let around_one = {
        let (address, listener) = listen().await;
        let layer = HttpServerLayer::new(Stack::new().bulkhead(one));
        let server = Server::builder().add_service(layer.layer(HealthServer::new(health)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    };
    for (address, slots) in [around_all, around_one].into_iter().zip(handles) {
        let mut client = HealthClient::new(endpoint(address).connect_lazy());
        client.check(asked("")).await.unwrap();
        until_free(&slots).await;
        client.check(asked("wrong")).await.unwrap_err();
        until_free(&slots).await;

        let mut watch = client.watch(asked("")).await.unwrap().into_inner();
        watch.message().await.unwrap().unwrap();
        let rejected = client.check(asked("")).await.unwrap_err();
        assert_eq!(rejected.code(), tonic::Code::ResourceExhausted);
        assert_eq!(slots.in_flight(), 1);
        drop(watch);
        until_free(&slots).await;
        client.check(asked("")).await.unwrap();
    }
}
