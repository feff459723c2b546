//! Checks of instances whose responses are garbage, on real sockets.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use buttress::{
    endpoints::{EndpointStatus, Endpoints},
    http::HttpCheck,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{sockets::client_for, *};

/// The connections that are open.
#[derive(Clone, Default)]
struct Open(Arc<AtomicU32>);

impl Open {
    fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads a request, writes a response, and waits until the client closes the connection.
async fn respond(mut stream: TcpStream, response: &[u8], is_endless: bool) -> io::Result<()> {
    let mut request = [0; 1_024];
    while stream.read(&mut request).await? > 0 {
        stream.write_all(response).await?;
        if is_endless {
            loop {
                stream.write_all(&[b'x'; 1_024]).await?;
            }
        }
    }
    Ok(())
}

/// A server that responds in the same way to every request.
async fn server(
    response: &'static [u8],
    is_endless: bool,
    open: Open,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, mut tasks) = (listener.local_addr().unwrap(), JoinSet::new());
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let open = open.clone();
            connections.spawn(async move {
                open.0.fetch_add(1, Ordering::Relaxed);
                _ = respond(stream, response, is_endless).await;
                open.0.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    (address, tasks)
}

/// Checks an instance that always responds in this way.
async fn case(response: &'static [u8], is_endless: bool, expected: EndpointStatus) {
    let open = Open::default();
    let (address, _server) = server(response, is_endless, open.clone()).await;
    let endpoints = Endpoints::builder([address], client_for)
        .check(HttpCheck::get("http://shop/health").unwrap())
        .check_interval(200 * MS)
        .check_timeout(200 * MS)
        .build()
        .unwrap();
    let start = String::from_utf8_lossy(&response[..response.len().min(40)]);
    let status = || endpoints.handle().states()[0].status;
    let mut waited = 0;
    while waited < 200 || (status() != expected && waited < 2_000) {
        tokio::time::sleep(10 * MS).await;
        assert!(open.count() < 6, "{} connections: {start}", open.count());
        waited += 1;
    }
    assert_eq!(status(), expected, "{start}");
    drop(endpoints);
    for _ in 0..1_000 {
        if open.count() > 0 {
            tokio::time::sleep(10 * MS).await;
        }
    }
    assert_eq!(open.count(), 0, "{start}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_whose_checks_get_garbage_is_out_and_keeps_no_connections() {
    use EndpointStatus::{CheckFailed, Usable};
    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "x".repeat(1_000_000));
    let long: &'static [u8] = long.leak().as_bytes();
    let cases = [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..], false, Usable),
        (b"\x16\x03\x01\x00\xff garbage", false, CheckFailed),
        (b"HTTP/1.1 abc\r\n\r\n", false, CheckFailed),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", false, CheckFailed),
        // The end of the body never comes.
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", false, CheckFailed),
        (b"", false, CheckFailed),
        (long, false, CheckFailed),
        // Enough of an endless body is enough.
        (b"HTTP/1.1 200 OK\r\n\r\n", true, Usable),
        (b"HTTP/1.1 503 Busy\r\n\r\n", true, CheckFailed),
    ];
    let cases = cases.map(|(response, endless, status)| case(response, endless, status));
    futures::future::join_all(cases).await;
}
