//! Servers with a gate, clients that show the raw response, and waits without sleeping.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use buttress::{Rejection, bulkhead::BulkheadHandle, circuit_breaker::CircuitBreakerHandle};
use http::{HeaderMap, Method, Request, Response, Version, header};
use http_body::Body;
use http_body_util::{Empty, Full};
use hyper::{
    body::{Bytes, Incoming},
    client, server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::yield_now,
    time,
};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{
    Status,
    transport::{Endpoint, Server},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

pub(crate) const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A gate at which handlers wait until a test releases them.
#[derive(Clone)]
pub(crate) struct Gate {
    arrived: Arc<Semaphore>,
    released: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { arrived: Arc::new(Semaphore::new(0)), released: Arc::new(Semaphore::new(0)) }
    }

    /// Waits until the test releases this handler.
    pub(crate) async fn pass(&self) {
        self.arrived.add_permits(1);
        self.released.acquire().await.unwrap().forget();
    }

    /// Waits until `count` more handlers have arrived.
    pub(crate) async fn arrived(&self, count: u32) {
        self.arrived.acquire_many(count).await.unwrap().forget();
    }

    pub(crate) fn release(&self, count: usize) {
        self.released.add_permits(count);
    }
}

/// Runs the other tasks until the condition holds.
///
/// All tasks are on this thread, and data written to a socket can be read at once. If the condition
/// does not hold after very many turns, it never will.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..200_000 {
        if condition() {
            return;
        }
        yield_now().await;
    }
    panic!("never: {what}");
}

pub(crate) async fn until_free(slots: &BulkheadHandle) {
    until("all slots are free", || slots.in_flight() == 0).await;
}

/// Advances the clock at once, for timers only.
///
/// The clock is paused only here. A paused clock would advance by itself whenever all tasks wait
/// for a socket.
pub(crate) async fn elapse(time: Duration) {
    time::pause();
    time::advance(time).await;
    time::resume();
}

/// Returns the calls and failures that a breaker has counted.
pub(crate) fn counted(breaker: &CircuitBreakerHandle) -> (u64, u64) {
    let seen = breaker.snapshot();
    (seen.calls(), seen.failures())
}

/// Returns the rejection of a call of a generated client, if there is one.
pub(crate) fn rejection(status: &Status) -> Option<&Rejection> {
    std::error::Error::source(status).and_then(|source| source.downcast_ref())
}

pub(crate) async fn listen() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    (listener.local_addr().unwrap(), listener)
}

pub(crate) async fn serve_axum(app: Router) -> SocketAddr {
    let (address, listener) = listen().await;
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

/// Serves HTTP/2 without tonic, because tonic never breaks the rules of gRPC.
pub(crate) async fn serve_raw<B>(
    answer: impl Fn() -> Response<B> + Clone + Send + 'static,
) -> SocketAddr
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let (address, listener) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |_: Request<Incoming>| {
                let answer = answer();
                async { Ok::<_, Infallible>(answer) }
            });
            let server = server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// Sends one request over a connection of its own. The connection ends with the response.
pub(crate) async fn exchange<B>(address: SocketAddr, request: Request<B>) -> Response<Incoming>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    if request.version() == Version::HTTP_2 {
        let (mut client, connection) =
            client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        client.send_request(request).await.unwrap()
    } else {
        let (mut client, connection) = client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        client.send_request(request).await.unwrap()
    }
}

/// Returns a request for a page.
pub(crate) fn page(
    version: Version,
    method: Method,
    address: SocketAddr,
    path: &str,
) -> Request<Empty<Bytes>> {
    // HTTP/2 needs the complete URI, HTTP/1 only the path and a `Host` header.
    let uri = match version {
        Version::HTTP_2 => format!("http://{address}{path}"),
        _ => path.to_owned(),
    };
    let request = Request::builder().version(version).method(method).uri(uri);
    request.header(header::HOST, address.to_string()).body(Empty::new()).unwrap()
}

/// Returns a call of the health service as an HTTP request.
pub(crate) fn raw_check(address: SocketAddr) -> Request<Full<Bytes>> {
    let request = Request::post(format!("http://{address}{CHECK}")).version(Version::HTTP_2);
    let request =
        request.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
    request.body(Full::from(&[0u8; 5][..])).unwrap()
}

/// The encoded message of a response with the status `SERVING`.
pub(crate) const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

/// A health service whose response depends on the name of the requested service.
#[derive(Clone)]
pub(crate) struct Scripted {
    pub(crate) gate: Gate,
    /// The headers of every call.
    pub(crate) seen: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Scripted {
    pub(crate) fn new() -> Self {
        Self { gate: Gate::new(), seen: Arc::default() }
    }

    /// Starts a server with this service alone.
    pub(crate) async fn serve(&self) -> SocketAddr {
        self.serve_by(Server::builder()).await
    }

    pub(crate) async fn serve_by(&self, mut server: Server) -> SocketAddr {
        let (address, listener) = listen().await;
        let server = server.add_service(HealthServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    async fn answer(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<HealthCheckResponse, Status> {
        let (metadata, _, asked) = request.into_parts();
        self.seen.lock().unwrap().push(metadata.into_headers());
        match asked.service.as_str() {
            "held" => self.gate.pass().await,
            "ill" => return Err(Status::unavailable("ill")),
            "wrong" => return Err(Status::invalid_argument("wrong")),
            _ => {}
        }
        Ok(HealthCheckResponse { status: ServingStatus::Serving.into() })
    }
}

#[tonic::async_trait]
impl Health for Scripted {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        self.answer(request).await.map(tonic::Response::new)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Sends one message, and then nothing more.
    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let first = self.answer(request).await?;
        let stream = tokio_stream::once(Ok(first)).chain(tokio_stream::pending());
        Ok(tonic::Response::new(Box::pin(stream)))
    }
}

/// Returns a request for the service with this name.
pub(crate) fn asked(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::try_from(format!("http://{address}")).unwrap()
}
