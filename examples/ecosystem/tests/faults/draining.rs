//! Tests of calls that a connection gives back because the server is closing it.

use std::{fmt::Debug, net::SocketAddr};

use buttress::{
    Stack,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
    http::{ReplaySafe, grpc},
    retry::{Budget, RetryLayer},
};
use http::{Request, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{JoinHandle, yield_now},
};
use tonic::{body::Body, transport::Endpoint};
use tower::{Service, ServiceExt};

use super::peer::{Frames, answer, connector, wire};

/// The pooled connection has ended, and its task has not noticed this yet.
#[tokio::test]
async fn a_call_that_is_given_back_by_a_dead_connection_is_answered_over_http1() {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    for retry_canceled in [true, false] {
        let (stack, budget, breaker) = stack();
        let ((first, mut dies), (second, mut lives)) = (wire(), wire());
        let client = Client::builder(TokioExecutor::new())
            .retry_canceled_requests(retry_canceled)
            .build::<_, Full<Bytes>>(connector([Ok(first), Ok(second)]));
        let client = stack.service(client);
        let request = || Request::post("http://a/orders").body(Full::from("order")).unwrap();
        let (response, ()) = tokio::join!(client.clone().oneshot(request()), answer(&mut dies, OK));
        drop(response.unwrap());
        yield_now().await;
        drop(dies);
        let (response, ()) = tokio::join!(client.oneshot(request()), answer(&mut lives, OK));
        assert_eq!(response.unwrap().status(), 200);
        assert_eq!((budget.balance(), breaker.snapshot().failures()), (1.0, 0));
    }
}

/// A server that excludes the second call of its first connection, and goes on with the first call.
struct Draining {
    address: SocketAddr,
    /// The first call has arrived.
    arrived: oneshot::Receiver<()>,
    /// Ends the first call.
    end: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

async fn draining() -> Draining {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (arrives, arrived) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let mut first = Frames::begin(listener.accept().await.unwrap().0).await.unwrap();
        let held = first.request().await.unwrap();
        arrives.send(()).unwrap();
        first.request().await.unwrap();
        first.leave(held).await.unwrap();

        let mut second = Frames::begin(listener.accept().await.unwrap().0).await.unwrap();
        let id = second.request().await.unwrap();
        second.answer(id).await.unwrap();
        ended.await.unwrap();
        first.answer(held).await.unwrap();
        // Neither connection carries another call.
        first.request().await.unwrap_err();
    });
    Draining { address, arrived, end, serving }
}

/// Returns a stack that can pay for no retry, its budget and its breaker.
fn stack() -> (buttress::http::HttpStack, Budget, CircuitBreakerHandle) {
    let budget = Budget::builder().ratio(0.0).floor(1).build().unwrap();
    let retry = RetryLayer::builder(ReplaySafe::new()).budget(budget.clone()).build().unwrap();
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
    let handle = breaker.handle();
    (Stack::standard_http().retry(retry).circuit_breaker(breaker), budget, handle)
}

async fn both_are_answered<S, B>(server: Draining, client: S, request: impl Fn() -> Request<B>)
where
    S: Service<Request<B>, Response: Send, Error: Debug + Send, Future: Send> + Clone,
    S: Send + 'static,
    B: Send + 'static,
{
    let held = tokio::spawn(client.clone().oneshot(request()));
    server.arrived.await.unwrap();
    client.clone().oneshot(request()).await.unwrap();
    server.end.send(()).unwrap();
    held.await.unwrap().unwrap();
    drop(client);
    server.serving.await.unwrap();
}

/// hyper notices the GOAWAY only when it gets the next request. That is the resent one.
#[tokio::test]
async fn a_call_that_is_given_back_twice_by_a_draining_connection_is_answered_over_grpc() {
    let server = draining().await;
    let (stack, budget, breaker) = stack();
    let channel = Endpoint::try_from(format!("http://{}", server.address)).unwrap();
    let client = grpc::client(channel.connect_lazy(), stack);
    both_are_answered(server, client, || {
        let request = Request::post("/shop.Orders/Place").header(CONTENT_TYPE, "application/grpc");
        request.body(Body::new(Full::new(Bytes::from_static(&[0; 5])))).unwrap()
    })
    .await;
    assert_eq!((budget.balance(), breaker.snapshot().failures()), (1.0, 0));
}

#[tokio::test]
async fn a_call_that_is_given_back_by_a_draining_connection_is_answered_over_http2() {
    for retry_canceled in [true, false] {
        let server = draining().await;
        let (stack, budget, breaker) = stack();
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .retry_canceled_requests(retry_canceled)
            .build_http::<Full<Bytes>>();
        let uri = format!("http://{}/orders", server.address);
        both_are_answered(server, stack.service(client), || {
            Request::post(&uri).body(Full::from("order")).unwrap()
        })
        .await;
        assert_eq!((budget.balance(), breaker.snapshot().failures()), (1.0, 0));
    }
}
