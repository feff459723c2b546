//! Tests of the memory of request bodies before the idempotency layer.
//!
//! The connections are pipes in memory with a server of hyper, on a paused clock.
#![cfg(feature = "http")]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use buttress::{
    BoxError, Stack,
    http::HttpServerLayer,
    idempotency::{IdempotencyLayer, store::MemoryStore},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::sleep,
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};

const MS: Duration = Duration::from_millis(1);
const BODY: usize = 1 << 20;

type Body = UnsyncBoxBody<Bytes, BoxError>;
type Service = BoxCloneService<Request<hyper::body::Incoming>, Response<Body>, Infallible>;

/// Returns a service with the default limits, which returns the number of bytes of a body.
fn service() -> Service {
    let layer = IdempotencyLayer::http(MemoryStore::new()).single_tenant().build().unwrap();
    let server = HttpServerLayer::builder(Stack::new()).outside(layer).build().unwrap();
    let handler = service_fn(|request: Request<_>| async move {
        let body = BodyExt::collect(request.into_body()).await.map(|body| body.to_bytes().len());
        let length = body.map_or_else(|_| "broken".to_owned(), |length| length.to_string());
        Ok::<_, Infallible>(Response::new(Full::from(length)))
    });
    let service = server.layer(handler);
    BoxCloneService::new(service.map_response(|response: Response<_>| {
        response.map(|body| UnsyncBoxBody::new(body.map_err(Into::into)))
    }))
}

/// Opens a connection and sends the head of a request.
async fn connect(service: Service, key: &str) -> DuplexStream {
    let (mut client, server) = duplex(16 << 10);
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(server), TowerToHyperService::new(service));
    tokio::spawn(connection);
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\nidempotency-key: {key}\r\ncontent-length: {BODY}\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client
}

/// Returns the status of the response.
async fn status(client: &mut DuplexStream) -> String {
    let mut line = [0; 12];
    client.read_exact(&mut line).await.unwrap();
    String::from_utf8_lossy(&line[9..]).into_owned()
}

/// Sends half a body and stalls. Counts the response, if there is one.
async fn stall(service: Service, key: String, ended: Arc<AtomicUsize>) {
    let mut client = connect(service, &key).await;
    // The server may respond and close the connection before it has read the half.
    let _ = client.write_all(&vec![7; BODY / 2]).await;
    assert_eq!(status(&mut client).await, "408");
    ended.fetch_add(1, Ordering::Relaxed);
}

#[tokio::test(start_paused = true)]
async fn an_honest_caller_is_answered_while_two_thousand_stall() {
    let service = service();
    let ended = Arc::new(AtomicUsize::new(0));
    let stall_all = |names: &'static str, callers: usize| {
        for caller in 0..callers {
            tokio::spawn(stall(service.clone(), format!("{names}-{caller}"), Arc::clone(&ended)));
        }
    };
    stall_all("early", 2_000);
    sleep(MS).await;
    // 64 MiB have room for 128 halves of 512 KiB.
    assert!(ended.load(Ordering::Relaxed) >= 2_000 - 128, "memory was not bounded");

    // The honest caller is slow, and more callers stall meanwhile.
    let mut honest = connect(service.clone(), "honest").await;
    for piece in 0..16 {
        honest.write_all(&vec![7; BODY / 16]).await.unwrap();
        if piece % 4 == 0 {
            stall_all(["a", "b", "c", "d"][piece / 4], 20);
        }
        sleep(100 * MS).await;
    }
    assert_eq!(status(&mut honest).await, "200");
}
