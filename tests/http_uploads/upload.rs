//! A request body whose reader is observed.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use buttress::bulkhead::BulkheadLayer;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, Service, service_fn};

/// The pieces that a client sends.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Sends {
    /// Pieces of this size, without end.
    Pieces(usize),
    /// Nothing, while the connection stays open.
    Nothing,
    /// An end at once.
    End,
    /// Trailers, which are the end.
    Trailers,
    /// A broken connection.
    Error,
    Panic,
}

/// A body of a request. Its clones observe it.
#[derive(Clone)]
pub(crate) struct Upload {
    sends: Sends,
    length: Option<u64>,
    read: Arc<AtomicUsize>,
    polled: Arc<AtomicBool>,
    alive: Arc<()>,
}

impl Upload {
    pub(crate) fn new(sends: Sends) -> Self {
        let (read, polled) = (Arc::default(), Arc::default());
        Self { sends, length: None, read, polled, alive: Arc::default() }
    }

    /// Adds a `content-length`.
    pub(crate) fn of_length(mut self, length: u64) -> Self {
        self.length = Some(length);
        self
    }

    /// Returns the number of bytes that were read.
    pub(crate) fn read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }

    pub(crate) fn was_polled(&self) -> bool {
        self.polled.load(Ordering::Relaxed)
    }

    /// Returns whether only this observer is left.
    pub(crate) fn is_dropped(&self) -> bool {
        Arc::strong_count(&self.alive) == 1
    }

    pub(crate) fn post(&self) -> Request<Self> {
        Request::post("/upload").body(self.clone()).unwrap()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.polled.store(true, Ordering::Relaxed);
        match self.sends {
            Sends::Pieces(size) => {
                self.read.fetch_add(size, Ordering::Relaxed);
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![7; size])))))
            }
            Sends::Nothing => Poll::Pending,
            Sends::End => Poll::Ready(None),
            Sends::Trailers => Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new())))),
            Sends::Error => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            Sends::Panic => panic!("the body of the request panics"),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Calls a service that is always ready.
pub(crate) async fn call<S, B, R>(server: &mut S, request: Request<B>) -> Response<R>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
{
    poll_fn(|cx| server.poll_ready(cx)).await.unwrap();
    let Ok(response) = server.call(request).await;
    response
}

/// Returns a bulkhead without a free slot.
pub(crate) fn full() -> BulkheadLayer {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let mut service = bulkhead.layer(service_fn(|()| pending::<Result<(), buttress::Error<()>>>()));
    assert!(matches!(
        service.poll_ready(&mut Context::from_waker(Waker::noop())),
        Poll::Ready(Ok(()))
    ));
    // It holds the slot for the rest of the test.
    Box::leak(Box::new(service));
    bulkhead
}
