//! Tests of an upload that its caller aborts. It moves no shared breaker, and proves nothing.
#![cfg(all(feature = "http", feature = "hyper"))]

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use buttress::{Stack, circuit_breaker::CircuitBreakerLayer, http::ReplaySafe};
use http::{Request, Version};
use http_body::{Body, Frame};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{io::AsyncReadExt, net::TcpListener};
use tower::ServiceExt;

/// An upload whose own source fails after the first frame.
#[derive(Clone)]
struct Upload(u32, io::ErrorKind);

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0 += 1;
        match self.0 {
            1 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"ten euros"))))),
            2..200 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Some(Err(self.1.into()))),
        }
    }
}

async fn server() -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/pay", listener.local_addr().unwrap());
    let seen = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                let _ = socket.read_to_end(&mut bytes).await;
                counter.fetch_add(
                    u32::from(bytes.windows(9).any(|seen| seen == b"ten euros")),
                    Ordering::Relaxed,
                );
            });
        }
    });
    (uri, seen)
}

#[tokio::test]
async fn uploads_that_break_off_do_not_open_the_breaker() {
    let (uri, _) = server().await;
    let breaker =
        CircuitBreakerLayer::builder().count_window(20).minimum_calls(20).build().unwrap();
    let handle = breaker.handle();
    let client = Client::builder(TokioExecutor::new()).build_http::<Upload>();
    let client = Stack::new().circuit_breaker(breaker).http().service(client);
    for _ in 0..10 {
        let request = Request::post(&uri)
            .version(Version::HTTP_11)
            .body(Upload(0, io::ErrorKind::ConnectionReset));
        println!("{:?}", client.clone().oneshot(request.unwrap()).await.map(drop));
    }
    assert_eq!(handle.snapshot().failures(), 0);
}

#[tokio::test]
async fn the_refused_connection_of_a_source_does_not_prove_a_post_unsent() {
    let (uri, seen) = server().await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Upload>();
    let client = Stack::standard(ReplaySafe::new()).http().service(client);
    let request = Request::post(&uri).body(Upload(0, io::ErrorKind::ConnectionRefused));
    println!("{:?}", client.oneshot(request.unwrap()).await.map(drop));
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}
