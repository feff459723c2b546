//! Tests of calls through hyper's client, and of what its errors prove.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use buttress::{
    Error, Stack,
    http::{
        ReplayBody, ReplayBodyLayer, ReplaySafe,
        wire::{self, GrpcCode},
    },
    retry::{Backoff, Budget, Jitter, RetryBuilder, RetryLayer},
};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::ms;

type Hyper = Client<HttpConnector, ReplayBody<Full<Bytes>>>;
pub(crate) type Failure = Error<legacy::Error>;

/// Creates a client that retries nothing by itself.
pub(crate) fn hyper(http2: bool) -> Hyper {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .retry_canceled_requests(false)
        .build(connector)
}

/// Returns a retry with short pauses, for tests over sockets.
pub(crate) fn retry(safe: bool, max_attempts: u32) -> RetryBuilder<ReplaySafe> {
    let backoff = Backoff::constant(ms(1)).jitter(Jitter::None).build().unwrap();
    RetryLayer::builder(ReplaySafe::new().grpc_methods_fn(move |_| safe))
        .retries(max_attempts - 1)
        .backoff(backoff)
        .without_budget()
}

/// Makes a call, and returns its result and the `grpc-previous-rpc-attempts` of every request.
pub(crate) async fn send(
    client: &Hyper,
    address: SocketAddr,
    body: usize,
    retry: RetryBuilder<ReplaySafe>,
) -> (Result<GrpcCode, Failure>, Vec<String>) {
    let sent: Arc<Mutex<Vec<String>>> = Arc::default();
    let noting = {
        let (client, sent) = (client.clone(), Arc::clone(&sent));
        service_fn(move |request: Request<_>| {
            let previous = request.headers().get(wire::PREVIOUS_ATTEMPTS);
            let previous = previous.map_or("", |line| line.to_str().unwrap()).to_owned();
            sent.lock().unwrap().push(previous);
            client.request(request)
        })
    };
    let stack = Stack::new().retry(retry.build().unwrap()).http();
    let client = ServiceBuilder::new().layer(ReplayBodyLayer::new()).service(stack.service(noting));
    let request = Request::post(format!("http://{address}/orders.Orders/Place"))
        .header(CONTENT_TYPE, "application/grpc")
        .body(Full::from(vec![7; body]))
        .unwrap();
    let result: Result<Response<_>, Failure> = client.oneshot(request).await;
    let code = result.map(|response| wire::grpc_status(response.headers()).unwrap());
    let sent = sent.lock().unwrap().clone();
    (code, sent)
}

/// Returns a port on which nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_connection_that_is_refused_proves_a_call_unsent() {
    let address = nobody().await;
    let budget = Budget::builder().ratio(0.0).floor(10).build().unwrap();
    let retry = |max_attempts| retry(false, max_attempts).budget(budget.clone());
    // The second body would be too long to keep, but it was not read.
    for body in [5, 1 << 20] {
        let before = budget.balance();
        let (result, sent) = send(&hyper(true), address, body, retry(3)).await;
        let error = result.unwrap_err();
        let Error::Service(error) = error else { panic!("{error}") };
        assert!(error.is_connect(), "{error:?}");
        // The ordinary rules apply. It counts as an attempt, and the budget pays for it.
        assert_eq!(
            (sent, budget.balance()),
            (vec!["".into(), "1".into(), "2".into()], before - 2.0)
        );
    }
    let (_, sent) = send(&hyper(true), address, 5, retry(1)).await;
    assert_eq!(sent, [""]);
}
