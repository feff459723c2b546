//! Connections in memory, and servers of plain bytes.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    task::yield_now,
};
use tower::{Service, service_fn};

/// A stream in memory that can fail.
pub(crate) struct Wire {
    stream: DuplexStream,
    /// The error of each read after the first write.
    pub(crate) read: Option<io::ErrorKind>,
    /// The error of each write.
    pub(crate) write: Option<io::ErrorKind>,
    wrote: bool,
}

/// Returns the two ends of a connection in memory.
pub(crate) fn wire() -> (Wire, DuplexStream) {
    let (stream, server) = duplex(1 << 16);
    (Wire { stream, read: None, write: None, wrote: false }, server)
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.read {
            Some(kind) if self.wrote => Poll::Ready(Err(kind.into())),
            _ => Pin::new(&mut self.stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.write {
            Some(kind) => Poll::Ready(Err(kind.into())),
            None => {
                self.wrote = true;
                Pin::new(&mut self.stream).poll_write(cx, bytes)
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Returns a connector that uses the given streams, one after the other.
pub(crate) fn connector(
    wires: impl IntoIterator<Item = io::Result<Wire>>,
) -> impl Service<Uri, Response = TokioIo<Wire>, Error = io::Error, Future: Send + Unpin + 'static>
+ Clone
+ Send
+ Sync
+ 'static {
    let wires: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(wires.into_iter().collect()));
    service_fn(move |_: Uri| {
        let wire = wires.lock().unwrap().pop_front();
        let wire = wire.unwrap_or_else(|| Err(io::ErrorKind::ConnectionRefused.into()));
        Box::pin(async {
            yield_now().await;
            wire.map(TokioIo::new)
        })
    })
}

/// Reads the head of a request over HTTP/1, and writes `response`.
pub(crate) async fn answer(server: &mut DuplexStream, response: &str) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(server.read_buf(&mut request).await.unwrap(), 0, "no request");
    }
    server.write_all(response.as_bytes()).await.unwrap();
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// A server that speaks HTTP/2 in plain frames.
pub(crate) struct Frames<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Reads the preface of the client and sends the settings.
    pub(crate) async fn begin(mut stream: S) -> io::Result<Self> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await?;
        let mut frames = Self { stream };
        frames.send(SETTINGS, 0, 0, &[]).await?;
        Ok(frames)
    }

    /// Reads up to the head of the next request, and returns its stream.
    pub(crate) async fn request(&mut self) -> io::Result<u32> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await?,
                HEADERS => return Ok(u32::from_be_bytes(id)),
                _ => {}
            }
        }
    }

    pub(crate) async fn close(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    pub(crate) async fn send(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = Vec::from(length);
        frame.extend([kind, flags]);
        frame.extend(id.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).await
    }

    /// Says that the server processes no stream after `last`.
    pub(crate) async fn leave(&mut self, last: u32) -> io::Result<()> {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat()).await
    }

    /// Responds to a gRPC call with the status `OK`.
    pub(crate) async fn answer(&mut self, id: u32) -> io::Result<()> {
        const STATUS_200: u8 = 0x88;
        let mut block = vec![STATUS_200];
        for (name, value) in [("content-type", "application/grpc"), ("grpc-status", "0")] {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend(text.as_bytes());
            }
        }
        self.send(HEADERS, END_STREAM | END_HEADERS, id, &block).await
    }
}
