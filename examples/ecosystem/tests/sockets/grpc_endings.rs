//! Tests of the end of a gRPC call, and of its outcome for a breaker.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use buttress::{
    Rejection, Stack,
    bulkhead::{BulkheadHandle, BulkheadLayer},
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
    http::{HttpClientLayer, grpc},
};
use http::{HeaderMap, Response, header};
use http_body_util::channel::{Channel, Sender};
use hyper::body::Bytes;
use tokio::sync::mpsc;
use tonic::Code;
use tonic_health::pb::health_client::HealthClient;

use super::{
    outcomes::Outcomes,
    support::{
        SERVING, Scripted, asked, counted, elapse, endpoint, rejection, serve_raw, until_free,
    },
};

const SECOND: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(10);

struct Ends {
    slots: BulkheadHandle,
    breaker: CircuitBreakerHandle,
}

impl Ends {
    /// Waits until all slots are free. Returns the calls and failures that the breaker counted.
    async fn counted(&self) -> (u64, u64) {
        until_free(&self.slots).await;
        counted(&self.breaker)
    }
}

/// Creates a client, and the handles of its stack.
macro_rules! client {
    ($address:expr $(, $setter:ident($value:expr))*) => {{
        let bulkhead = BulkheadLayer::builder().max_concurrent(8).build().unwrap();
        let breaker = CircuitBreakerLayer::new();
        let ends = Ends { slots: bulkhead.handle(), breaker: breaker.handle() };
        let edge = HttpClientLayer::builder().body_idle(IDLE).build().unwrap();
        let stack = Stack::new().bulkhead(bulkhead).circuit_breaker(breaker).http_client(edge);
        let stack = stack $(.$setter($value))*;
        let channel = endpoint($address).connect_lazy();
        (HealthClient::new(grpc::client(channel, stack)), ends)
    }};
}

/// Starts a server that sends one message. The test then sends the rest of each body.
async fn beginning() -> (SocketAddr, mpsc::UnboundedReceiver<Sender<Bytes, Infallible>>) {
    let (bodies, feeds) = mpsc::unbounded_channel();
    let address = serve_raw(move || {
        let (mut feed, body) = Channel::new(4);
        let sent = feed.try_send(http_body::Frame::data(Bytes::from_static(SERVING)));
        assert!(sent.is_ok());
        bodies.send(feed).unwrap();
        Response::builder().header(header::CONTENT_TYPE, "application/grpc").body(body).unwrap()
    });
    (address.await, feeds)
}

#[tokio::test]
async fn a_unary_call_ends_with_its_trailers() {
    let (outcomes, _guard) = Outcomes::watch();
    let (mut client, ends) = client!(Scripted::new().serve().await);
    client.check(asked("")).await.unwrap();
    assert_eq!(ends.counted().await, (1, 0));
    assert_eq!(outcomes.take(), ["success"]);
}

#[tokio::test]
async fn an_answer_of_trailers_only_ends_at_its_head() {
    let (mut client, ends) = client!(Scripted::new().serve().await);
    assert_eq!(client.check(asked("ill")).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(ends.slots.in_flight(), 0);
    assert_eq!(ends.counted().await, (1, 1));
    // A mistake of the caller is a response, and shows that the service works.
    assert_eq!(client.check(asked("wrong")).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(ends.slots.in_flight(), 0);
    assert_eq!(ends.counted().await, (2, 1));
}

#[tokio::test]
async fn a_status_in_the_trailers_is_the_verdict() {
    let (outcomes, _guard) = Outcomes::watch();
    let (address, mut feeds) = beginning().await;
    let (mut client, ends) = client!(address);
    for (status, verdict, counted) in [
        ("0", &["success"][..], (1, 0)),
        ("14", &["failure", "UNAVAILABLE"][..], (2, 1)),
        ("4", &["failure", "DEADLINE_EXCEEDED"][..], (3, 2)),
        ("8", &["failure", "RESOURCE_EXHAUSTED"][..], (4, 3)),
        ("5", &["failure", "NOT_FOUND"][..], (5, 3)),
    ] {
        let mut stream = client.watch(asked("")).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        assert_eq!(ends.slots.in_flight(), 1);
        assert!(outcomes.take().is_empty());
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        feeds.recv().await.unwrap().send_trailers(trailers).await.unwrap();
        let end = stream.message().await;
        assert_eq!(end.map_or_else(|end| end.code() as i32, |_| 0).to_string(), status);
        assert_eq!(ends.counted().await, counted);
        assert_eq!(outcomes.take(), verdict);
    }
}

#[tokio::test]
async fn a_stream_that_the_caller_drops_is_cancelled_and_no_failure() {
    let (outcomes, _guard) = Outcomes::watch();
    let (mut client, ends) = client!(Scripted::new().serve().await);
    let mut stream = client.watch(asked("")).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    assert_eq!(ends.slots.in_flight(), 1);
    drop(stream);
    assert_eq!(ends.slots.in_flight(), 0);
    assert_eq!(ends.counted().await, (0, 0));
    assert_eq!(outcomes.take(), ["cancelled"]);
}

#[tokio::test]
async fn a_stream_that_ends_without_a_status_is_a_failure() {
    let (outcomes, _guard) = Outcomes::watch();
    let (address, mut feeds) = beginning().await;
    let (mut client, ends) = client!(address);
    let mut stream = client.watch(asked("")).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(feeds.recv().await.unwrap());
    stream.message().await.unwrap_err();
    assert_eq!(ends.counted().await, (1, 1));
    assert_eq!(outcomes.take(), ["failure", "UNKNOWN"]);
}

#[tokio::test]
async fn a_stream_that_stalls_for_too_long_is_ended_as_a_time_out() {
    let (outcomes, _guard) = Outcomes::watch();
    let (address, mut feeds) = beginning().await;
    let (mut idle, idle_ends) = client!(address);
    let (mut limited, limited_ends) = client!(address, attempt_timeout(SECOND));
    let streams = [
        (
            limited.watch(asked("")).await.unwrap().into_inner(),
            limited_ends,
            SECOND,
            "response body",
        ),
        (idle.watch(asked("")).await.unwrap().into_inner(), idle_ends, IDLE, "idle response body"),
    ];
    let _silent = [feeds.recv().await.unwrap(), feeds.recv().await.unwrap()];
    for (mut stream, ends, limit, name) in streams {
        stream.message().await.unwrap().unwrap();
        let (status, ()) = tokio::join!(stream.message(), elapse(limit));
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let Some(Rejection::TimedOut(late)) = rejection(&status) else { panic!("{status:?}") };
        assert_eq!(late.name(), name);
        // The caller still has the stream, but it holds no slot.
        assert_eq!(ends.slots.in_flight(), 0);
        assert_eq!(ends.counted().await, (1, 1));
        assert_eq!(outcomes.take(), ["failure", "timed_out"]);
    }
}
