//! A layer that reads the first frame of a response before it returns the head.

use std::{
    any::type_name,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    call::ended::polled_after_end,
    http::wire::{self, GrpcCode},
};

/// A layer that makes unary gRPC calls retryable when they fail after their response headers.
///
/// Some servers send headers first, and then only trailers with a failure. gRPC proposal A6 does
/// not retry such a call, because its headers have arrived. This layer departs from the proposal.
/// For the selected methods, it returns the headers only when the first frame has arrived. If that
/// frame is the trailers of a failed call, the layer merges headers and trailers into a
/// trailers-only response. A [retry](crate::retry) above can then retry the call.
///
/// Never select a streaming method. The server may wait for a message of the client, while the
/// client waits for the headers. The call then hangs until its deadline.
///
/// Put it directly around the channel, beneath the stack.
///
/// ```
/// use buttress::{Stack, http::grpc::FirstFrameLayer};
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, service_fn};
///
/// let channel = service_fn(|_: Request<String>| async {
///     Ok::<_, std::io::Error>(Response::new(String::new()))
/// });
/// let channel = ServiceBuilder::new()
///     .layer(FirstFrameLayer::new(|method: &str| method == "/orders.Orders/Get"))
///     .service(channel);
/// let client = Stack::standard_http().service(channel);
/// # let _ = client;
/// ```
pub struct FirstFrameLayer<F> {
    unary: Arc<F>,
}

impl<F> FirstFrameLayer<F>
where
    F: Fn(&str) -> bool,
{
    /// Creates a layer for the methods that `unary` selects by returning `true`.
    ///
    /// `unary` receives the path, such as `/package.Service/Method`. It is called for gRPC requests
    /// only.
    pub fn new(unary: F) -> Self {
        Self { unary: Arc::new(unary) }
    }
}

impl<F> Clone for FirstFrameLayer<F> {
    fn clone(&self) -> Self {
        Self { unary: Arc::clone(&self.unary) }
    }
}

impl<F> fmt::Debug for FirstFrameLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FirstFrameLayer({})", type_name::<F>())
    }
}

impl<S, F> Layer<S> for FirstFrameLayer<F> {
    type Service = FirstFrame<S, F>;

    fn layer(&self, inner: S) -> FirstFrame<S, F> {
        FirstFrame { inner, unary: Arc::clone(&self.unary) }
    }
}

/// A channel that reads the first frame of a response. Created by [`FirstFrameLayer`].
pub struct FirstFrame<S, F> {
    inner: S,
    unary: Arc<F>,
}

accessors!(FirstFrame<S, F>);

impl<S: Clone, F> Clone for FirstFrame<S, F> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), unary: Arc::clone(&self.unary) }
    }
}

impl<S: fmt::Debug, F> fmt::Debug for FirstFrame<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstFrame")
            .field("inner", &self.inner)
            .field("unary", &format_args!("{}", type_name::<F>()))
            .finish()
    }
}

impl<S, F, B, R> Service<Request<B>> for FirstFrame<S, F>
where
    S: Service<Request<B>, Response = Response<R>>,
    F: Fn(&str) -> bool,
    R: Body + Unpin,
{
    type Response = Response<FirstFrameBody<R>>;
    type Error = S::Error;
    type Future = FirstFrameFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let look = wire::is_grpc(request.headers()) && (self.unary)(request.uri().path());
        let future = self.inner.call(request);
        FirstFrameFuture { state: State::Calling { future, look } }
    }
}

pin_project! {
    /// The future of a [`FirstFrame`].
    #[must_use = "futures do nothing unless polled"]
    pub struct FirstFrameFuture<F, R> {
        #[pin]
        state: State<F, R>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R> {
        Calling { #[pin] future: F, look: bool },
        Looking { response: Option<Response<R>> },
    }
}

impl<F, R, E> Future for FirstFrameFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body + Unpin,
{
    type Output = Result<Response<FirstFrameBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let response = match state.as_mut().project() {
                StateProj::Calling { future, look } => {
                    let response = ready!(future.poll(cx))?;
                    let headers = response.headers();
                    let open = wire::grpc_status(headers).is_none() && wire::is_grpc(headers);
                    if !*look || !open || response.body().is_end_stream() {
                        return Poll::Ready(Ok(
                            response.map(|inner| FirstFrameBody::new(inner, None))
                        ));
                    }
                    response
                }
                StateProj::Looking { response: held } => {
                    let Some(response) = held.as_mut() else { polled_after_end() };
                    let frame = ready!(Pin::new(response.body_mut()).poll_frame(cx));
                    let response = held.take().expect("it was there a moment ago");
                    return Poll::Ready(Ok(looked_at(response, frame)));
                }
            };
            state.set(State::Looking { response: Some(response) });
        }
    }
}

/// Returns a failed call as a trailers-only response, and any other response unchanged.
fn looked_at<R: Body>(
    mut response: Response<R>,
    frame: Option<Result<Frame<R::Data>, R::Error>>,
) -> Response<FirstFrameBody<R>> {
    let failed = match &frame {
        Some(Ok(frame)) => frame.trailers_ref().filter(|trailers| {
            wire::grpc_status(trailers).is_some_and(|code| code != GrpcCode::Ok)
        }),
        _ => None,
    };
    if let Some(trailers) = failed {
        for name in trailers.keys() {
            response.headers_mut().remove(name);
        }
        for (name, value) in trailers {
            response.headers_mut().append(name, value.clone());
        }
        return response.map(|inner| FirstFrameBody { inner, next: Next::End });
    }
    response.map(|inner| FirstFrameBody::new(inner, Some(frame)))
}

impl<F, R> fmt::Debug for FirstFrameFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstFrameFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// The body of a response. If its first frame was read already, the reader still receives it.
    pub struct FirstFrameBody<B: Body> {
        #[pin]
        inner: B,
        next: Next<B::Data, B::Error>,
    }
}

/// The next frame for the reader.
enum Next<D, E> {
    /// The frame that was read already, or `None` if the body has ended.
    Seen(Option<Result<Frame<D>, E>>),
    /// The next frame of the inner body.
    Rest,
    /// No frame, because the trailers are in the head.
    End,
}

impl<B: Body> FirstFrameBody<B> {
    #[allow(clippy::type_complexity, reason = "it is what `poll_frame` gives")]
    fn new(inner: B, seen: Option<Option<Result<Frame<B::Data>, B::Error>>>) -> Self {
        Self { inner, next: seen.map_or(Next::Rest, Next::Seen) }
    }
}

impl<B: Body> Body for FirstFrameBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        match std::mem::replace(this.next, Next::Rest) {
            Next::Seen(frame) => Poll::Ready(frame),
            Next::Rest => this.inner.poll_frame(cx),
            Next::End => {
                *this.next = Next::End;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.next {
            Next::Seen(frame) => frame.is_none(),
            Next::Rest => self.inner.is_end_stream(),
            Next::End => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.inner.size_hint();
        match &self.next {
            Next::Seen(Some(Ok(frame))) => with_frame(rest, frame),
            Next::Seen(_) | Next::Rest => rest,
            Next::End => SizeHint::with_exact(0),
        }
    }
}

fn with_frame<D: bytes::Buf>(rest: SizeHint, frame: &Frame<D>) -> SizeHint {
    let seen = frame.data_ref().map_or(0, |data| data.remaining() as u64);
    let mut hint = SizeHint::new();
    hint.set_lower(rest.lower().saturating_add(seen));
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper.saturating_add(seen));
    }
    hint
}

impl<B: Body> fmt::Debug for FirstFrameBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstFrameBody").finish_non_exhaustive()
    }
}
