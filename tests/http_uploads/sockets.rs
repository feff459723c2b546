//! Clients with blocking sockets, over a server of hyper.

use std::{
    convert::Infallible,
    error::Error,
    future::{Ready, ready},
    io::{self, Read, Write},
    iter::repeat_with,
    net::{SocketAddr, TcpStream},
    str,
    time::{Duration, Instant},
};

use buttress::{
    Stack,
    circuit_breaker::CircuitBreakerLayer,
    http::HttpServerLayer,
    idempotency::{IdempotencyLayer, store::MemoryStore},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http1, service::HttpService};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{net::TcpListener, task::spawn_blocking};
use tower::{Layer, service_fn};

use super::upload::full;

const MIB: usize = 1 << 20;

/// The lengths of 8 MiB.
const LENGTHS: [&str; 2] = ["content-length: 8388608", "transfer-encoding: chunked"];

fn handler<B>(_: Request<B>) -> Ready<Result<Response<Empty<Bytes>>, Infallible>> {
    ready(Ok(Response::default()))
}

/// Serves every connection with this service, until the runtime of the test ends.
async fn serve<S, B>(service: S) -> SocketAddr
where
    S: HttpService<Incoming, ResBody = B, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(
                http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone()),
            );
        }
    });
    address
}

/// Starts a server that rejects `POST` by an open breaker, and responds to `GET`.
async fn rejecting() -> SocketAddr {
    let breaker = CircuitBreakerLayer::builder()
        .keyed_fn(|request: &Request<Incoming>| request.method().clone());
    let breaker = breaker.build().unwrap();
    let layer = HttpServerLayer::new(Stack::new().circuit_breaker(breaker.clone()));
    // The breaker of a key exists from its first call.
    let service = layer.layer(service_fn(handler::<Incoming>));
    let address = serve(TowerToHyperService::new(service)).await;
    blocking(move || upload(address, "content-length: 0", 0)).await.unwrap();
    breaker.handle(&http::Method::POST).unwrap().force_open();
    address
}

async fn blocking<T: Send + 'static>(client: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(client).await.unwrap()
}

/// Connects and sends the head of a `POST`.
fn post(address: SocketAddr, headers: &str) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(socket, "POST /upload HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n")?;
    Ok(socket)
}

/// Sends a body of this many bytes, and only then reads. A rejection leaves the connection open.
fn upload(address: SocketAddr, headers: &str, bytes: usize) -> io::Result<String> {
    let mut socket = post(address, headers)?;
    let piece = vec![b'7'; 64 << 10];
    for _ in 0..bytes / piece.len() {
        if headers.contains("chunked") {
            write!(socket, "{:x}\r\n", piece.len())?;
            socket.write_all(&piece)?;
            socket.write_all(b"\r\n")?;
        } else {
            socket.write_all(&piece)?;
        }
    }
    if headers.contains("chunked") {
        socket.write_all(b"0\r\n\r\n")?;
    }
    let response = read_response(&mut socket)?;
    if response.starts_with("HTTP/1.1 503 ") {
        get(&mut socket)?;
    }
    Ok(response)
}

/// Reads a response to its end, which its `content-length` tells.
fn read_response(socket: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    socket.read_exact(&mut body)?;
    Ok(head + str::from_utf8(&body).unwrap())
}

/// Sends another request on the same connection.
fn get(socket: &mut TcpStream) -> io::Result<String> {
    socket.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")?;
    read_response(socket)
}

/// Expects that each of ten clients that send 8 MiB reads the response.
async fn reaches(address: SocketAddr, headers: String, expected: &[&str]) {
    for _ in 0..10 {
        let headers = headers.clone();
        let response = blocking(move || upload(address, &headers, 8 * MIB)).await;
        let response = response.unwrap_or_else(|error| panic!("{expected:?}: {error}"));
        assert!(expected.iter().all(|line| response.contains(line)), "{response}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rejection_reaches_a_client_that_is_still_sending() {
    let layer = HttpServerLayer::new(Stack::new().bulkhead(full()));
    let service = layer.layer(service_fn(handler::<Incoming>));
    let address = serve(TowerToHyperService::new(service)).await;
    for length in LENGTHS {
        reaches(address, length.to_owned(), &["HTTP/1.1 503 ", "retry-after: 1"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rejection_by_the_idempotency_layer_reaches_a_client_that_is_still_sending() {
    let guard = IdempotencyLayer::http(MemoryStore::new()).single_tenant().build().unwrap();
    let server = HttpServerLayer::builder(Stack::new()).outside(guard).build().unwrap();
    let service = server.layer(service_fn(handler));
    let address = serve(TowerToHyperService::new(service)).await;
    for length in LENGTHS {
        reaches(address, length.to_owned(), &["HTTP/1.1 400 "]).await;
        let key = format!("idempotency-key: 7\r\n{length}");
        reaches(address, key, &["HTTP/1.1 413 "]).await;
    }
}

/// Expects a rejection at once, although the request has not arrived.
fn rejected_at_once(socket: &mut TcpStream) {
    let began = Instant::now();
    let response = read_response(socket).unwrap();
    assert!(response.starts_with("HTTP/1.1 503 ") && response.ends_with('}'), "{response}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_stops_sending_reads_the_whole_response_at_once() {
    let address = rejecting().await;
    blocking(move || {
        for length in LENGTHS {
            let mut socket = post(address, length).unwrap();
            write!(socket, "10000\r\n").unwrap();
            socket.write_all(&[b'7'; 64 << 10]).unwrap();
            rejected_at_once(&mut socket);
        }
        // The client that sends the rest later can go on with its connection.
        let mut socket = post(address, "content-length: 200000").unwrap();
        rejected_at_once(&mut socket);
        socket.write_all(&vec![b'7'; 200_000]).unwrap();
        assert!(get(&mut socket).unwrap().starts_with("HTTP/1.1 200 "));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn clients_that_stall_take_the_drain_from_nobody_else() {
    let address = rejecting().await;
    blocking(move || {
        let stalled = repeat_with(|| {
            let mut socket = post(address, LENGTHS[0]).unwrap();
            rejected_at_once(&mut socket);
            socket
        });
        let mut stalled: Vec<_> = stalled.take(64).collect();
        for length in LENGTHS.repeat(5) {
            upload(address, length, 8 * MIB).unwrap();
        }
        // The connection ends when its request is no longer read.
        let began = Instant::now();
        assert_eq!(stalled[0].read(&mut [0]).unwrap(), 0);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pipelined_request_is_answered_after_the_drain() {
    let address = rejecting().await;
    blocking(move || {
        let mut socket = post(address, "content-length: 3").unwrap();
        socket.write_all(b"777GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        rejected_at_once(&mut socket);
        let response = read_response(&mut socket).unwrap();
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_waits_to_continue_is_rejected_at_once() {
    let address = rejecting().await;
    blocking(move || {
        let mut socket = post(address, "expect: 100-continue\r\ncontent-length: 200000").unwrap();
        let (mut seen, began) = (String::new(), Instant::now());
        // The server closes the connection, because the client has not begun to send.
        socket.read_to_string(&mut seen).unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(seen.starts_with("HTTP/1.1 503 ") && seen.contains("content-length: "), "{seen}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_of_http_1_0_reads_the_response_to_its_end() {
    let address = rejecting().await;
    blocking(move || {
        let mut socket = TcpStream::connect(address).unwrap();
        let body = vec![b'7'; 8 * MIB];
        write!(socket, "POST / HTTP/1.0\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
        socket.write_all(&body).unwrap();
        let mut seen = String::new();
        socket.read_to_string(&mut seen).unwrap();
        assert!(seen.starts_with("HTTP/1.0 503 ") && seen.ends_with('}'), "{seen}");
    })
    .await;
}
