//! The body of a response: one that arrives, or data that is there already.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    body_end::EndingBody, body_error::BodyError, drain, live_body::LiveBody, prefixed::Prefixed,
    read::FromRead,
};
use crate::call::completion::{CallEnd, Degraded, StreamingResponse};

pin_project! {
    /// The body of a response, whose end is the end of the call.
    ///
    /// It holds permits, admissions and spans until it ends, fails, reaches a limit or is dropped.
    /// Read it to its end, or drop it.
    ///
    /// Frames, trailers and size hints pass through unchanged. It is `Unpin` when the inner body
    /// is.
    ///
    /// Create it from bytes, for a response that no service sent. Such a body holds nothing. Its
    /// `Default` is an empty body. [`response`] creates it with its head.
    pub struct ResponseBody<B: Body> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B: Body> {
        Live { #[pin] body: LiveBody<B> },
        Read { read: Prefixed<ResponseBody<B>> },
    }
}

/// Creates a response from bytes, of the type that a stack with [`http()`](crate::Stack::http)
/// returns.
///
/// Use it for a response that replaces the response of the service. It has no headers, and its call
/// has ended.
///
/// ```
/// use buttress::{BoxError, Stack, http::response};
/// use http::{Request, Response, StatusCode};
/// use http_body_util::BodyExt;
/// use tower::{ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), BoxError> {
/// let client = service_fn(|_: Request<String>| async {
///     Err::<Response<String>, _>(std::io::Error::other("no route to the host"))
/// });
/// let client = Stack::standard_http().service(client);
///
/// let recommendations = match client.oneshot(Request::default()).await {
///     Ok(recommendations) => recommendations,
///     Err(_) => response(StatusCode::OK, "[]"),
/// };
/// assert_eq!(recommendations.into_body().collect().await?.to_bytes(), "[]");
/// # Ok(())
/// # }
/// ```
pub fn response<B: Body>(status: StatusCode, body: impl Into<Bytes>) -> Response<ResponseBody<B>>
where
    B::Data: From<Bytes>,
{
    let mut response = Response::new(ResponseBody::from(body.into()));
    *response.status_mut() = status;
    response
}

impl<B: Body> ResponseBody<B> {
    #[inline(always)]
    pub(super) fn live(body: LiveBody<B>) -> Self {
        Self { kind: Kind::Live { body } }
    }

    fn read(read: Prefixed<Self>) -> Self {
        Self { kind: Kind::Read { read } }
    }
}

impl<B: Body<Data = Bytes>> FromRead for ResponseBody<B> {
    fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self::read(Prefixed::whole(Some(data), trailers))
    }

    fn resumed(data: Bytes, over: Bytes, rest: Pin<Box<Self>>) -> Self {
        Self::read(Prefixed::resumed(data, over, rest))
    }

    fn broken(data: Bytes, error: Self::Error) -> Self {
        Self::read(Prefixed::broken(data, error))
    }
}

impl<B: Body> From<Bytes> for ResponseBody<B>
where
    B::Data: From<Bytes>,
{
    fn from(data: Bytes) -> Self {
        Self::read(Prefixed::whole(Some(data.into()), None))
    }
}

impl<B: Body> From<&'static str> for ResponseBody<B>
where
    B::Data: From<Bytes>,
{
    fn from(data: &'static str) -> Self {
        Bytes::from(data).into()
    }
}

impl<B: Body> From<String> for ResponseBody<B>
where
    B::Data: From<Bytes>,
{
    fn from(data: String) -> Self {
        Bytes::from(data).into()
    }
}

impl<B: Body> From<Vec<u8>> for ResponseBody<B>
where
    B::Data: From<Bytes>,
{
    fn from(data: Vec<u8>) -> Self {
        Bytes::from(data).into()
    }
}

impl<B: Body> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::read(Prefixed::whole(None, None))
    }
}

impl<B: Body> EndingBody for ResponseBody<B> {
    #[inline]
    fn call_end(&mut self) -> Option<&mut CallEnd> {
        match &mut self.kind {
            Kind::Live { body } => body.call_end(),
            Kind::Read { read } => read.call_end(),
        }
    }

    fn pinned_call_end(self: Pin<&mut Self>) -> Option<&mut CallEnd> {
        match self.project().kind.project() {
            KindProj::Live { body } => body.pinned_call_end(),
            KindProj::Read { read } => read.call_end(),
        }
    }
}

impl<B: Body> StreamingResponse for Response<ResponseBody<B>> {
    #[inline]
    fn call_end(&mut self) -> Option<&mut CallEnd> {
        self.body_mut().call_end()
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let must_be_read = drain::must_be_read(self);
        match &mut self.body_mut().kind {
            Kind::Live { body } if must_be_read => body.poll_drain(cx),
            Kind::Live { .. } | Kind::Read { .. } => Poll::Ready(()),
        }
    }

    fn mark_degraded(&mut self, degraded: Degraded) {
        self.extensions_mut().insert(degraded);
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = BodyError<B::Error>;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        match self.project().kind.project() {
            KindProj::Live { body } => body.poll_frame(cx),
            KindProj::Read { read } => read.poll_frame(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Live { body } => body.is_end_stream(),
            Kind::Read { read } => read.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Live { body } => body.size_hint(),
            Kind::Read { read } => read.size_hint(),
        }
    }
}

impl<B: Body> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut body = f.debug_struct("ResponseBody");
        match &self.kind {
            Kind::Live { body: live } => body.field("body", live),
            Kind::Read { read } => body.field("body", read),
        };
        body.finish()
    }
}

#[cfg(test)]
mod tests;
