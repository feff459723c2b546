//! The services beneath the layers, and the requests and bodies that they exchange.
//!
//! Their responses must be opaque to the compiler. Otherwise it removes the branches of the
//! layers that a call does not take.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    hint::black_box,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use buttress::Error;
use bytes::Bytes;
use http::{HeaderName, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use tower_service::Service;

#[derive(Clone, Copy, Debug)]
pub struct Unavailable;

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the service is unavailable")
    }
}

impl std::error::Error for Unavailable {}

pub type Failure = Error<Unavailable>;

/// A service that responds at once with the request.
#[derive(Clone, Copy)]
pub struct Echo;

impl Service<u64> for Echo {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(black_box(Ok(request)))
    }
}

/// An [`Echo`] for one case only.
///
/// With another type of service, a case shares no code with those around an [`Echo`], whose figures
/// would change with the inlining decisions of the compiler.
#[derive(Clone, Copy)]
pub struct OwnEcho<const CASE: usize>;

impl<const CASE: usize> Service<u64> for OwnEcho<CASE> {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(black_box(Ok(request)))
    }
}

/// A service that fails at once.
#[derive(Clone, Copy)]
pub struct Broken;

impl Service<u64> for Broken {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: u64) -> Self::Future {
        ready(black_box(Err(Error::Service(Unavailable))))
    }
}

/// A future that is pending on its first poll.
pub struct Waiting<T> {
    value: Option<T>,
    waited: bool,
}

impl<T> Waiting<T> {
    fn new(value: T) -> Self {
        Self { value: Some(value), waited: false }
    }
}

impl<T: Unpin> Future for Waiting<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if !black_box(self.waited) {
            self.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.value.take().expect("it is polled until it is ready"))
    }
}

/// A service that responds with the request after it has been pending once.
#[derive(Clone, Copy)]
pub struct SlowEcho;

impl Service<u64> for SlowEcho {
    type Response = u64;
    type Error = Failure;
    type Future = Waiting<Result<u64, Failure>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        Waiting::new(black_box(Ok(request)))
    }
}

/// A body of one frame, or of none.
#[derive(Clone)]
pub struct Chunk(Option<Bytes>);

impl Body for Chunk {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    /// Always returns `false`, as for a body from the network: the reader must poll for the end.
    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A body that has arrived with its head, for one case only, as [`OwnEcho`] is.
#[derive(Clone)]
pub struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// An HTTP client for one case only. It responds at once.
#[derive(Clone, Copy)]
pub struct OwnClient;

impl Service<Request<Whole>> for OwnClient {
    type Response = Response<Whole>;
    type Error = Failure;
    type Future = Ready<Result<Response<Whole>, Failure>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<Whole>) -> Self::Future {
        ready(black_box(Ok(Response::new(Whole(Some(Bytes::from_static(b"hello")))))))
    }
}

/// An HTTP client that responds with five bytes after it has been pending once.
#[derive(Clone, Copy)]
pub struct MockClient;

impl<B> Service<Request<B>> for MockClient {
    type Response = Response<Chunk>;
    type Error = Failure;
    type Future = Waiting<Result<Response<Chunk>, Failure>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Self::Future {
        Waiting::new(Ok(Response::new(Chunk(Some(Bytes::from_static(b"hello"))))))
    }
}

static URI: LazyLock<Uri> = LazyLock::new(|| Uri::from_static("http://orders.internal/orders/42"));

pub fn get(_: u64) -> Request<Chunk> {
    let mut request = Request::new(Chunk(None));
    *request.uri_mut() = URI.clone();
    request
}

/// Makes a GET whose body is known to be empty, so that a cache may keep the response.
pub fn bodiless(_: u64) -> Request<Whole> {
    let mut request = Request::new(Whole(None));
    *request.uri_mut() = URI.clone();
    request
}

/// Makes an idempotent POST. Numbers of the same length make keys of the same length.
pub fn post(number: u64) -> Request<Chunk> {
    const KEY: HeaderName = HeaderName::from_static("idempotency-key");
    let key = format!("{number:032x}");
    let mut request = Request::new(Chunk(Some(Bytes::from_static(b"amount=42"))));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = URI.clone();
    request.headers_mut().insert(KEY, key.try_into().expect("hexadecimal digits"));
    request
}
