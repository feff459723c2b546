//! A stack around a tonic channel.

use std::{
    collections::HashSet,
    error::Error as StdError,
    fmt,
    future::Future,
    iter::successors,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_service::Service;

use super::timed_out;
use crate::{
    BoxError, ConfigError, Rejection,
    call::lock::lock,
    error::{Name, WithCauses, rejection_of_tower},
    http::{BodyError, ReplayBody, ReplayBodyLayer, replay::MakeReplayable, wire},
    sealed::Sealed,
    stack::slots,
    telemetry::{Kind, Reporter},
    timeout::{KnownLimit, Limit, Timeout, TotalTimeout},
};

/// Wraps a tonic channel in a stack, for a generated client.
///
/// Give the result to the generated client instead of the channel. The stack must have
/// [`http()`](crate::Stack::http).
///
/// ```ignore
/// let channel = Endpoint::from_static("http://[::1]:50051").connect_lazy();
/// let channel = grpc::client(channel, Stack::standard_http());
/// let mut client = HealthClient::new(channel);
/// ```
///
/// - Beneath the stack, the channel's error becomes a `Status`. Above the stack, each rejection is
///   a `Status` with the code of the [table](crate::http::server) and the
///   [`Rejection`](crate::Rejection) as its `source()`. `status.rejection()` of
///   [`CarryRejection`](crate::CarryRejection) returns it. tonic alone would report every
///   rejection as `UNKNOWN`. The message of an error of the channel includes those of its causes.
/// - The timeout of a single request, `tonic::Request::set_timeout`, covers the call with all of
///   its retries.
/// - The body of a request is kept in a [`ReplayBody`] while a retry may need it, up to 64 KiB.
///
/// To detect a timeout, use the `code()` of the `Status`, which is always `DeadlineExceeded`. It is
/// not always a rejection, because three parties know the deadline. The server may respond with
/// this code. tonic's channel reads the same `grpc-timeout`, and may end the call a moment before
/// the stack does. The status then has the message `Timeout expired` and no rejection, and there is
/// no event "call timed out".
///
/// The timeouts of the stack also cover streams, because the server is told the deadline. Nothing
/// in a request says that its method streams. Name these methods with [`GrpcClient::streams`], or
/// a standard stack cuts each stream off after 2 s.
///
/// The stack's [`ReplaySafe`](crate::http::ReplaySafe) decides which calls are retried. By default
/// it replays a gRPC call only if the server is proven not to have processed it. Add the methods
/// that are safe to replay.
///
/// The type of the result is `GrpcClient<<St as Layer<GrpcChannel<S>>>::Service>`, where `St` is
/// the type of the stack, such as [`HttpStack`](crate::http::HttpStack), and `S` is the channel.
/// For another stack, box the result.
/// [The recipes](crate::guide::frameworks#how-do-i-use-a-stack-with-a-tonic-client) have both.
pub fn client<S, L>(channel: S, stack: L) -> GrpcClient<L::Service>
where
    S: Clone,
    L: Layer<GrpcChannel<S>> + slots::Untimed,
{
    let bodies = ReplayBodyLayer::new();
    let stacked = |stack: &L, channel| bodies.layer(stack.layer(GrpcChannel { inner: channel }));
    let name = Name::from("grpc-timeout");
    let reporter = Some(Arc::new(Reporter::new(Some(&name), Kind::Timeout)));
    let streaming = stacked(&stack.untimed(), channel.clone());
    let streaming = TotalTimeout::new(streaming, GrpcTimeout(()), reporter.clone());
    let streaming = Streams { methods: HashSet::new(), service: Mutex::new(streaming) };
    GrpcClient {
        inner: Timeout::new(stacked(&stack, channel), GrpcTimeout(()), reporter),
        streaming: Arc::new(streaming),
    }
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

/// Converts an error to a `Status`, as tonic does, with three differences.
///
/// - A rejection has its own code, by one of tower's layers or by one of this crate, such as
///   endpoints.
/// - tonic's timer reads the `grpc-timeout` that this crate writes. If it fires first, the caller
///   would see `CANCELLED` for its own deadline.
/// - The message says why. tonic's is that of one error in the chain, such as "tcp connect error".
fn status_of(error: impl Into<BoxError>) -> Status {
    let error = error.into();
    // Not that of a cause further down, such as a connector that timed out.
    let own = || error.source()?.downcast_ref::<Rejection>();
    if let Some(rejection) = rejection_of_tower(error.as_ref()).or_else(own) {
        return rejection.clone().into();
    }
    let status = Status::from_error(error);
    let (code, message) = if timed_out(&status) {
        (Code::DeadlineExceeded, status.message().to_owned())
    } else if let Some(message) = message_with_causes(&status) {
        (status.code(), message)
    } else {
        return status;
    };
    let (details, metadata) = (Bytes::copy_from_slice(status.details()), status.metadata().clone());
    let mut told = Status::with_details_and_metadata(code, message, details, metadata);
    told.set_source(Arc::new(status));
    told
}

/// Returns the message of a status with the causes of the error that it is from.
///
/// Returns `None` if it has no causes that the message lacks.
fn message_with_causes(status: &Status) -> Option<String> {
    let mut chain = successors(status.source(), |&error| error.source());
    let from = chain.find(|error| error.to_string() == status.message())?;
    let message = WithCauses(from).to_string();
    (message != status.message()).then_some(message)
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

/// The timeout of a single request, set by `tonic::Request::set_timeout`.
#[derive(Clone, Copy, Debug)]
pub struct GrpcTimeout(());

impl Sealed for GrpcTimeout {}

impl KnownLimit for GrpcTimeout {
    fn known_limit(&self) -> Option<Duration> {
        None
    }
}

impl<B> Limit<Request<B>> for GrpcTimeout {
    fn limit(&self, request: &Request<B>) -> Duration {
        wire::grpc_timeout(request.headers()).value.unwrap_or(Duration::MAX)
    }
}

/// The service of the other methods, which enforces the timeout of a single request.
type UnaryService<S> = Timeout<MakeReplayable<S>, GrpcTimeout>;

/// The service of methods that stream. The timeout of a request covers the wait for readiness.
///
/// A stream does not use the slot that [`GrpcClient`] has reserved in `poll_ready`. The stream may
/// then wait in its future.
type StreamService<S> = TotalTimeout<MakeReplayable<S>, GrpcTimeout>;

/// A tonic channel with a stack around it. Created by [`client`].
#[derive(Clone, Debug)]
pub struct GrpcClient<S> {
    inner: UnaryService<S>,
    streaming: Arc<Streams<S>>,
}

/// The methods that stream, and the same stack for them, without its timeouts.
#[derive(Debug)]
struct Streams<S> {
    methods: HashSet<String>,
    /// In a lock because it need not be `Sync`. It is only cloned.
    service: Mutex<StreamService<S>>,
}

impl<S: Clone> GrpcClient<S> {
    /// Adds methods that stream, by their paths, such as `/shop.Orders/Watch`.
    ///
    /// Default: none.
    ///
    /// The total timeout and the attempt timeout of the stack do not apply to these methods. The
    /// server is told no deadline but your own, which is that of `tonic::Request::set_timeout`, or
    /// of the request being served. Everything else applies: the retry while the stream opens, the
    /// slot of the bulkhead until its end, the breaker, and
    /// [`body_idle`](crate::http::HttpClientBuilder::body_idle), which ends a stream that is silent
    /// for 30 s. A server that accepts the call and sends no headers is not limited. Use
    /// `tokio::time::timeout` around the opening of the stream.
    ///
    /// ```ignore
    /// let channel = grpc::client(channel, Stack::standard_http());
    /// let mut client = OrdersClient::new(channel.streams(["/shop.Orders/Watch"])?);
    /// ```
    ///
    /// Two settings of the stack need care:
    ///
    /// - [`slow_calls`](crate::circuit_breaker::CircuitBreakerBuilder::slow_calls) of the breaker
    ///   counts the time to the end of a stream. Healthy streams would open the circuit.
    /// - A bulkhead with [`backpressure`] reserves a slot in `poll_ready`. A stream releases it and
    ///   waits for another one in its future, for as long as its own deadline allows.
    ///
    /// A path that no method has is not noticed. A prefix that the origin of a generated client
    /// adds does not matter. This method may be called several times.
    ///
    /// [`backpressure`]: crate::bulkhead::BulkheadBuilder::backpressure
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] for `streams` if a path does not have the form `/service/method`.
    pub fn streams<P>(self, paths: impl IntoIterator<Item = P>) -> Result<Self, ConfigError>
    where
        P: Into<String>,
    {
        let mut methods = self.streaming.methods.clone();
        for path in paths {
            let path = path.into();
            let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
            if !parts.is_some_and(|(of, method)| !of.is_empty() && is_name(method)) {
                let rule = "it must be the path of a method, such as `/shop.Orders/Watch`";
                return Err(ConfigError::new("streams", path, rule));
            }
            methods.insert(path);
        }
        let service = Mutex::new(lock(&self.streaming.service).clone());
        Ok(Self { inner: self.inner, streaming: Arc::new(Streams { methods, service }) })
    }
}

fn is_name(method: &str) -> bool {
    !method.is_empty() && !method.contains('/')
}

/// Returns the service and the method of a path, without the prefix of an origin.
fn method_of(path: &str) -> &str {
    path.rmatch_indices('/').nth(1).map_or(path, |(at, _)| &path[at..])
}

impl<S, R, E> Service<Request<tonic::body::Body>> for GrpcClient<S>
where
    S: Service<Request<ReplayBody<tonic::body::Body>>, Response = Response<R>, Error = Status>,
    S: Clone,
    R: Body<Data = Bytes, Error = BodyError<E>>,
    E: Into<BoxError>,
{
    type Response = Response<GrpcBody<R>>;
    type Error = Status;
    type Future = GrpcClientFuture<
        <UnaryService<S> as Service<Request<tonic::body::Body>>>::Future,
        <StreamService<S> as Service<Request<tonic::body::Body>>>::Future,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let methods = &self.streaming.methods;
        if methods.is_empty() || !methods.contains(method_of(request.uri().path())) {
            return GrpcClientFuture { call: Call::Unary { future: self.inner.call(request) } };
        }
        // Frees what `poll_ready` has reserved, such as a slot of the bulkhead.
        self.inner = self.inner.clone();
        let mut service = lock(&self.streaming.service).clone();
        GrpcClientFuture { call: Call::Stream { call: Box::pin(service.call(request)) } }
    }
}

pin_project! {
    /// The future of a [`GrpcClient`].
    #[must_use = "futures do nothing unless polled"]
    pub struct GrpcClientFuture<F, O> {
        #[pin]
        call: Call<F, O>,
    }
}

pin_project! {
    #[project = CallProj]
    enum Call<F, O> {
        Unary { #[pin] future: F },
        // Boxed, so that the futures of other calls stay small.
        Stream { call: Pin<Box<O>> },
    }
}

impl<F, O, R> Future for GrpcClientFuture<F, O>
where
    F: Future<Output = Result<Response<R>, Status>>,
    O: Future<Output = Result<Response<R>, Status>>,
{
    type Output = Result<Response<GrpcBody<R>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(match self.project().call.project() {
            CallProj::Unary { future } => future.poll(cx),
            CallProj::Stream { call } => call.as_mut().poll(cx),
        })?;
        Poll::Ready(Ok(response.map(|inner| GrpcBody { inner: Some(inner) })))
    }
}

impl<F, O> fmt::Debug for GrpcClientFuture<F, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcClientFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// The body of a response, whose error is a `Status` with the right code.
    ///
    /// `Default` is the empty body. The `with_interceptor` of a generated client requires it.
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
