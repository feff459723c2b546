//! A stack around a tonic channel.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower_layer::Layer;
use tower_service::Service;

use super::timed_out;
use crate::{
    BoxError,
    error::Name,
    http::{BodyError, ReplayBody, ReplayBodyLayer, replay::MakeReplayable, wire},
    sealed::Sealed,
    timeout::{Limit, Timeout},
};

/// Puts a stack around a tonic channel; a generated client takes the result in place of the channel.
///
/// ```ignore
/// let channel = Endpoint::from_static("http://[::1]:50051").connect_lazy();
/// let channel = grpc::client(channel, Stack::standard_http());
/// let mut client = HealthClient::new(channel);
/// ```
///
/// - Beneath the stack the channel's error is made a `Status`, and above it each rejection is one: with
///   the code of the [table](crate::http::server), and the [`Rejection`](crate::Rejection) as its
///   `source()`. Left alone, tonic reports every rejection as `UNKNOWN`.
/// - The time-out of a single request, `tonic::Request::set_timeout`, bounds the whole call, retries
///   included.
/// - The body of a request is kept for as long as it may have to be sent again, in a
///   [`ReplayBody`].
///
/// Ask a `Status` for its `code()`: of a time-out the rejection is there only if it was this side that ended
/// the call first. The stack must be one that is [`http()`](crate::Stack::http).
///
/// A stream ends, as every gRPC call, when its deadline is over, which it was told: give a stack for
/// streams timeouts as long as they are.
///
/// What is retried says the stack's [`ReplaySafe`](crate::http::ReplaySafe): no method, unless it is told
/// to, but for requests that the server is proven not to have processed.
pub fn client<S, L>(channel: S, stack: L) -> GrpcClient<L::Service>
where
    L: Layer<GrpcChannel<S>>,
{
    let stacked = stack.layer(GrpcChannel { inner: channel });
    let replaying = ReplayBodyLayer::new().layer(stacked);
    GrpcClient { inner: Timeout::new(replaying, GrpcTimeout(()), Some(Name::from("grpc-timeout"))) }
}

/// A tonic channel beneath a stack. See [`client`].
#[derive(Clone, Debug)]
pub struct GrpcChannel<S> {
    inner: S,
}

accessors!(GrpcChannel<S>);

impl<S, R> Service<Request<ReplayBody<tonic::body::Body>>> for GrpcChannel<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = Status;
    type Future = GrpcChannelFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx).map_err(status_of)
    }

    fn call(&mut self, request: Request<ReplayBody<tonic::body::Body>>) -> Self::Future {
        GrpcChannelFuture { future: self.inner.call(request.map(tonic::body::Body::new)) }
    }
}

/// What tonic makes of an error, but for its own timer: that reads the `grpc-timeout` which is written
/// here, and when it is the first to fire the caller would read `CANCELLED` of its own deadline.
fn status_of(error: impl Into<BoxError>) -> Status {
    let status = Status::from_error(error.into());
    if !timed_out(&status) {
        return status;
    }
    let mut late = Status::deadline_exceeded(status.message());
    late.set_source(Arc::new(status));
    late
}

pin_project! {
    /// The future of a [`GrpcChannel`].
    #[must_use = "futures do nothing unless polled"]
    pub struct GrpcChannelFuture<F> {
        #[pin]
        future: F,
    }
}

impl<F, T, E> Future for GrpcChannelFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().future.poll(cx).map_err(status_of)
    }
}

impl<F> fmt::Debug for GrpcChannelFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcChannelFuture").finish_non_exhaustive()
    }
}

/// The time that a single request was given by `tonic::Request::set_timeout`; for ever without one.
#[derive(Clone, Copy, Debug)]
pub struct GrpcTimeout(());

impl Sealed for GrpcTimeout {}

impl<B> Limit<Request<B>> for GrpcTimeout {
    fn limit(&self, request: &Request<B>) -> Duration {
        wire::grpc_timeout(request.headers()).value.unwrap_or(Duration::MAX)
    }
}

/// A channel with a stack around it. Made by [`client`].
#[derive(Clone, Debug)]
pub struct GrpcClient<S> {
    inner: Timeout<MakeReplayable<S>, GrpcTimeout>,
}

impl<S, R, E> Service<Request<tonic::body::Body>> for GrpcClient<S>
where
    S: Service<Request<ReplayBody<tonic::body::Body>>, Response = Response<R>, Error = Status>,
    R: Body<Data = Bytes, Error = BodyError<E>>,
    E: Into<BoxError>,
{
    type Response = Response<GrpcBody<R>>;
    type Error = Status;
    type Future = GrpcClientFuture<
        <Timeout<MakeReplayable<S>, GrpcTimeout> as Service<Request<tonic::body::Body>>>::Future,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        GrpcClientFuture { future: self.inner.call(request) }
    }
}

pin_project! {
    /// The future of a [`GrpcClient`].
    #[must_use = "futures do nothing unless polled"]
    pub struct GrpcClientFuture<F> {
        #[pin]
        future: F,
    }
}

impl<F, R> Future for GrpcClientFuture<F>
where
    F: Future<Output = Result<Response<R>, Status>>,
{
    type Output = Result<Response<GrpcBody<R>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().future.poll(cx))?;
        Poll::Ready(Ok(response.map(|inner| GrpcBody { inner: Some(inner) })))
    }
}

impl<F> fmt::Debug for GrpcClientFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcClientFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// The body of a response, whose error is a `Status` of the right code.
    ///
    /// It has a `Default`, the empty body, for `with_interceptor` of a generated client asks for one.
    #[derive(Debug)]
    pub struct GrpcBody<B> {
        #[pin]
        inner: Option<B>,
    }
}

impl<B> Default for GrpcBody<B> {
    fn default() -> Self {
        Self { inner: None }
    }
}

impl<B, E> Body for GrpcBody<B>
where
    B: Body<Data = Bytes, Error = BodyError<E>>,
    E: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = self.project().inner.as_pin_mut() else { return Poll::Ready(None) };
        let frame = ready!(inner.poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| match error {
                BodyError::Rejected(rejection) => rejection.into(),
                BodyError::Service(error) => status_of(error),
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
