//! Restarts a server ten times under load, and counts what became of each call.
//!
//! ```sh
//! cargo run -p ecosystem --example graceful_restart
//! ```
//!
//! A client makes 200 calls a second, over HTTP/1, HTTP/2 and gRPC. Each is a POST that is not safe
//! to repeat. A restart is graceful: the server ends the calls that have arrived, and rejects the
//! others with `Connection: close` or a GOAWAY. Over HTTP/2 and gRPC no call may be lost or run
//! twice. Over HTTP/1, a request may be on its way while the server closes an idle connection.
//! Nobody can know what became of it, so it is not sent again, and counts as ambiguous.

use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt::Debug,
    future::pending,
    iter::successors,
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{BoxError, Stack, http::grpc};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tonic::transport::Endpoint;
use tower::{Service, ServiceExt};

const RESTARTS: usize = 10;
/// The time between two restarts.
const LIFE: Duration = Duration::from_millis(400);
/// The time between two calls.
const CALL: Duration = Duration::from_millis(5);
const WORK: Duration = Duration::from_millis(8);
const CALLS: usize = (RESTARTS + 1) * LIFE.as_millis() as usize / CALL.as_millis() as usize;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Http1,
    Http2,
    Grpc,
}

/// The number of times that the server has run each call.
type Runs = Arc<Mutex<HashMap<String, u32>>>;

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let mut kept = true;
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Grpc] {
        kept &= run(protocol).await?.report(protocol);
    }
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(protocol: Protocol) -> Result<Results, BoxError> {
    let runs = Runs::default();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(serve(listener, protocol, Arc::clone(&runs)));
    let mut results = match protocol {
        Protocol::Grpc => {
            let channel = Endpoint::try_from(format!("http://{address}"))?.connect_lazy();
            let client = grpc::client(channel, Stack::standard_http());
            let body = || tonic::body::Body::new(Full::new(Bytes::from_static(&[0; 5])));
            call(client, address, body).await
        }
        _ => {
            let client: Client<HttpConnector, _> = Client::builder(TokioExecutor::new())
                .http2_only(protocol == Protocol::Http2)
                .build_http();
            let body = || Full::new(Bytes::from_static(b"order"));
            call(Stack::standard_http().service(client), address, body).await
        }
    };
    server.abort();
    results.executed_twice = runs.lock().unwrap().values().filter(|runs| **runs > 1).count();
    Ok(results)
}

/// Serves, and restarts after each [`LIFE`]. The listener stays open, as it does under systemd.
async fn serve(listener: TcpListener, protocol: Protocol, runs: Runs) -> Result<(), BoxError> {
    for restart in 0..=RESTARTS {
        let connections = GracefulShutdown::new();
        let end = async {
            match restart {
                RESTARTS => pending().await,
                _ => sleep(LIFE).await,
            }
        };
        tokio::pin!(end);
        loop {
            let stream = tokio::select! {
                () = &mut end => break,
                stream = listener.accept() => stream?.0,
            };
            stream.set_nodelay(true)?;
            connect(stream, protocol, &connections, &runs);
        }
        tokio::spawn(connections.shutdown());
    }
    Ok(())
}

/// Serves one connection.
fn connect(stream: TcpStream, protocol: Protocol, connections: &GracefulShutdown, runs: &Runs) {
    let runs = Arc::clone(runs);
    let service = service_fn(move |request| handle(request, Arc::clone(&runs)));
    let stream = TokioIo::new(stream);
    if protocol == Protocol::Http1 {
        let server = http1::Builder::new().serve_connection(stream, service);
        tokio::spawn(connections.watch(server));
    } else {
        let server = http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service);
        tokio::spawn(connections.watch(server));
    }
}

/// Runs one call.
async fn handle(request: Request<Incoming>, runs: Runs) -> Result<Response<Full<Bytes>>, BoxError> {
    let call = request.uri().path().to_owned();
    request.into_body().collect().await?;
    *runs.lock().unwrap().entry(call).or_default() += 1;
    sleep(WORK).await;
    let response = Response::builder().header(CONTENT_TYPE, "application/grpc");
    Ok(response.header("grpc-status", "0").body(Full::default())?)
}

/// Makes the calls.
async fn call<S, B, R>(client: S, address: SocketAddr, body: impl Fn() -> B) -> Results
where
    S: Service<Request<B>, Response = Response<R>, Future: Send> + Clone + Send + 'static,
    S::Error: Into<BoxError> + Debug + Send,
    R: Send + 'static,
    B: Send + 'static,
{
    let mut calls = JoinSet::new();
    let mut ticks = interval(CALL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..CALLS {
        ticks.tick().await;
        let request = Request::post(format!("http://{address}/shop.Orders/{number}"))
            .header(CONTENT_TYPE, "application/grpc")
            .body(body())
            .expect("the URI is valid");
        let client = client.clone();
        calls.spawn(async move {
            let answer = timeout(Duration::from_secs(6), client.oneshot(request)).await;
            answer.map_err(BoxError::from)?.map(drop).map_err(Into::into)
        });
    }
    let mut results = Results::default();
    while let Some(result) = calls.join_next().await {
        results.count(result.map_err(BoxError::from).and_then(|result| result));
    }
    results
}

#[derive(Default)]
struct Results {
    calls: usize,
    answered: usize,
    executed_twice: usize,
    /// The server may or may not have run these calls.
    ambiguous: usize,
    lost: usize,
    errors: Vec<String>,
}

impl Results {
    fn count(&mut self, result: Result<(), BoxError>) {
        self.calls += 1;
        let Err(error) = result else {
            self.answered += 1;
            return;
        };
        let broken = |error: &hyper::Error| {
            // The connection ended after a write, or while the call waited for a stream.
            let gone = error.to_string() == "dispatch task is gone";
            gone || (!error.is_canceled() && !error.is_closed() && !error.is_user())
        };
        let first: &(dyn StdError + 'static) = error.as_ref();
        let mut causes = successors(Some(first), |&error| error.source());
        if causes.any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(broken)) {
            self.ambiguous += 1;
        } else {
            self.lost += 1;
        }
        self.errors.push(format!("{error:?}"));
    }

    /// Prints the results, and returns whether the promise was kept.
    fn report(&self, protocol: Protocol) -> bool {
        let Self { calls, answered, executed_twice, ambiguous, lost, errors } = self;
        // The first errors are enough to see the cause.
        for error in errors.iter().take(3) {
            println!("{protocol:?}: {error}");
        }
        println!(
            "summary {{\"protocol\":\"{protocol:?}\",\"restarts\":{RESTARTS},\"calls\":{calls},\
             \"answered\":{answered},\"executed_twice\":{executed_twice},\
             \"ambiguous\":{ambiguous},\"lost\":{lost}}}"
        );
        let answered_enough = match protocol {
            Protocol::Http1 => answered * 100 >= calls * 95,
            Protocol::Http2 | Protocol::Grpc => answered == calls,
        };
        answered_enough && *executed_twice == 0 && *lost == 0
    }
}
