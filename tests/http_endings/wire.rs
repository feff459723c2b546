//! Servers and clients of hyper.

use std::{
    convert::Infallible,
    error::Error as StdError,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use http::{Request, Response};
use http_body::Body;
use http_body_util::Empty;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::{http1, http2},
    service::HttpService,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

impl Version {
    pub(super) const BOTH: [Self; 2] = [Self::Http1, Self::Http2];

    pub(super) fn client(self) -> Client<HttpConnector, Empty<Bytes>> {
        Client::builder(TokioExecutor::new()).http2_only(self == Self::Http2).build_http()
    }

    /// Serves every connection with this service, until the runtime of the test ends.
    pub(super) async fn serve<S, B>(self, service: S) -> SocketAddr
    where
        S: HttpService<Incoming, ResBody = B, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.serve_counted(service, Arc::default()).await
    }

    /// Does the same, and counts the connections.
    pub(super) async fn serve_counted<S, B>(
        self,
        service: S,
        connections: Arc<AtomicUsize>,
    ) -> SocketAddr
    where
        S: HttpService<Incoming, ResBody = B, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Relaxed);
                // A paused clock does not wait for the acknowledgement of a small packet.
                stream.set_nodelay(true).unwrap();
                let (io, service) = (TokioIo::new(stream), service.clone());
                match self {
                    Self::Http1 => {
                        let served = http1::Builder::new().serve_connection(io, service);
                        tokio::spawn(served.with_upgrades());
                    }
                    Self::Http2 => {
                        let builder = http2::Builder::new(TokioExecutor::new());
                        tokio::spawn(builder.serve_connection(io, service));
                    }
                }
            }
        });
        address
    }
}

/// Responds with these bytes to the first request, and gives the socket to the test.
pub(super) async fn answer_raw(bytes: &'static [u8]) -> (SocketAddr, oneshot::Receiver<TcpStream>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(socket.read_u8().await.unwrap());
        }
        socket.write_all(bytes).await.unwrap();
        let _ = sender.send(socket);
    });
    (address, receiver)
}

pub(super) fn get(address: SocketAddr) -> Request<Empty<Bytes>> {
    Request::get(format!("http://{address}/")).body(Empty::new()).unwrap()
}

/// Creates a response, with trailers allowed over HTTP/1.
pub(super) fn respond<B>(body: B) -> Response<B> {
    Response::builder().header("trailer", "x-checksum").body(body).unwrap()
}

/// Echoes the data of the upgraded connection, if the request is upgraded.
pub(super) fn echo_upgraded(request: Request<Incoming>) {
    tokio::spawn(async {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            echo(&mut TokioIo::new(upgraded)).await;
        }
    });
}

/// Echoes all data until the end.
pub(super) async fn echo(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let mut heard = [0; 4];
    while io.read_exact(&mut heard).await.is_ok() && io.write_all(&heard).await.is_ok() {}
}

/// Returns whether the upgraded connection echoes data.
pub(super) async fn echoes<B>(response: Response<B>) -> bool {
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    io.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    io.read_exact(&mut heard).await.unwrap();
    &heard == b"ping"
}
