//! Tests of bodies that break off on the wire.

use std::{
    fmt::Debug,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use buttress::{
    Stack,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
    http::{HttpClientBuilder, HttpClientLayer, HttpStack, ReplaySafe, reqwest::ReqwestClient},
    retry::{Backoff, RetryLayer},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use reqwest::redirect::Policy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::{Service, ServiceExt};

use super::peer::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM};

const PART: &[u8] = b"two";
const WHOLE: &[u8] = b"two orders";

/// The way in which the first body breaks off.
#[derive(Clone, Copy, Debug)]
enum Wire {
    Length,
    Chunked,
    Http2,
}

/// Starts a server that breaks off the body of its first response. Returns its address, and the
/// number of requests.
async fn serve(wire: Wire) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let _ = match wire {
                    Wire::Http2 => answer_http2(stream, &counted).await,
                    wire => answer_http1(stream, wire, &counted).await,
                };
            });
        }
    });
    (format!("http://{address}/orders"), requests)
}

async fn answer_http1(mut stream: TcpStream, wire: Wire, requests: &AtomicU32) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut request).await?, 0, "no request");
    }
    let first = requests.fetch_add(1, Relaxed) == 0;
    let part = if first { PART } else { WHOLE };
    let mut response = b"HTTP/1.1 200 OK\r\n".to_vec();
    match wire {
        Wire::Length => response.extend(b"content-length: 10\r\n\r\n"),
        _ => response
            .extend(format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", part.len()).bytes()),
    }
    response.extend(part);
    if !first && !matches!(wire, Wire::Length) {
        response.extend(b"\r\n0\r\n\r\n");
    }
    // The connection closes here.
    stream.write_all(&response).await
}

async fn answer_http2(stream: TcpStream, requests: &AtomicU32) -> io::Result<()> {
    const STATUS_200: u8 = 0x88;
    const INTERNAL_ERROR: [u8; 4] = [0, 0, 0, 2];
    let mut frames = Frames::begin(stream).await?;
    loop {
        let id = frames.request().await?;
        frames.send(HEADERS, END_HEADERS, id, &[STATUS_200]).await?;
        match requests.fetch_add(1, Relaxed) {
            0 => {
                frames.send(DATA, 0, id, PART).await?;
                frames.send(RST_STREAM, 0, id, &INTERNAL_ERROR).await?;
            }
            _ => frames.send(DATA, END_STREAM, id, WHOLE).await?,
        }
    }
}

/// Returns a stack that reads bodies of up to `most` bytes, and its breaker.
fn stack(most: Option<usize>) -> (HttpStack, CircuitBreakerHandle) {
    let backoff = Backoff::constant(Duration::from_millis(1)).build().unwrap();
    let retry = RetryLayer::builder(ReplaySafe::new()).backoff(backoff).build().unwrap();
    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let http = HttpClientLayer::builder();
    let http = most.into_iter().fold(http, HttpClientBuilder::body_buffer).build().unwrap();
    (Stack::standard_http().retry(retry).circuit_breaker(breaker).http_client(http), handle)
}

/// Reads the body of a GET. Returns its bytes, and `true` if it was whole.
async fn get<S, Q, B>(client: S, request: Request<Q>) -> (Vec<u8>, bool)
where
    S: Service<Request<Q>, Response = Response<B>, Error: Debug>,
    B: Body<Data = Bytes> + Unpin,
{
    let mut body = client.oneshot(request).await.unwrap().into_body();
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (read, false) };
        read.extend(frame.into_data().unwrap());
    }
    (read, true)
}

#[tokio::test]
async fn a_body_that_breaks_off_on_the_wire_is_retried_within_the_buffer() {
    for wire in [Wire::Length, Wire::Chunked, Wire::Http2] {
        for by_reqwest in [false, true] {
            for (most, read, seen) in [
                (Some(10), (WHOLE, true), (2, 1)),
                (Some(2), (PART, false), (1, 1)),
                (None, (PART, false), (1, 1)),
            ] {
                let told = format!("{wire:?}, {by_reqwest}, {most:?}");
                let (uri, requests) = serve(wire).await;
                let (stack, breaker) = stack(most);
                let got = if by_reqwest {
                    if matches!(wire, Wire::Http2) {
                        continue;
                    }
                    let client = reqwest::Client::builder();
                    let client = ReqwestClient::new(client, Policy::none()).unwrap();
                    let request = Request::get(uri).body(String::new()).unwrap();
                    get(stack.service(client), request).await
                } else {
                    let http2 = matches!(wire, Wire::Http2);
                    let client =
                        Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
                    let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
                    get(stack.service(client), request).await
                };
                assert_eq!(got, (read.0.to_vec(), read.1), "{told}");
                let counted = (breaker.snapshot().calls(), breaker.snapshot().failures());
                assert_eq!((counted, u64::from(requests.load(Relaxed))), (seen, seen.0), "{told}");
            }
        }
    }
}
