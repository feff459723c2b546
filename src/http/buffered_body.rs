//! A body of which a part may have been read.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    body_end::EndingBody,
    prefixed::Prefixed,
    read::{FromRead, HeldMemory},
    response_body::ResponseBody,
};
use crate::call::completion::{CallEnd, Degraded, StreamingResponse};

pin_project! {
    /// A body of which a part may have been read.
    ///
    /// It yields the data that was already read from the body `B`, and then the rest of `B`. The
    /// [idempotency layer](crate::idempotency) gives such bodies to its handler and to its caller.
    ///
    /// Create it from bytes, for a body that is whole. Its `Default` is an empty body. It is
    /// `Unpin` if `B` is.
    ///
    /// ```
    /// use buttress::http::BufferedBody;
    /// use bytes::Bytes;
    /// use http_body::Body;
    ///
    /// let body = BufferedBody::<String>::from(Bytes::from("two orders"));
    /// assert_eq!(body.size_hint().exact(), Some(10));
    /// ```
    pub struct BufferedBody<B: Body> {
        #[pin]
        kind: Kind<B>,
        change_trailers: Option<fn(&mut HeaderMap)>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B: Body> {
        Unread { #[pin] body: B },
        Read { read: Prefixed<BufferedBody<B>> },
    }
}

impl<B: Body> BufferedBody<B> {
    /// Creates a body from one that was not read yet.
    pub fn new(body: B) -> Self {
        Self::of(Kind::Unread { body })
    }

    fn of(kind: Kind<B>) -> Self {
        Self { kind, change_trailers: None }
    }

    fn read(read: Prefixed<Self>) -> Self {
        Self::of(Kind::Read { read })
    }

    /// Returns whether nothing of the body was read.
    pub(super) fn is_unread(&self) -> bool {
        matches!(self.kind, Kind::Unread { .. })
    }

    /// Holds the memory of a whole body until its data is taken.
    pub(super) fn holding(mut self, memory: Option<HeldMemory>) -> Self {
        if let (Kind::Read { read }, Some(memory)) = (&mut self.kind, memory) {
            read.hold(memory);
        }
        self
    }

    /// Changes the trailers when they arrive.
    pub(super) fn change_trailers(&mut self, change: fn(&mut HeaderMap)) {
        self.change_trailers = Some(change);
    }
}

impl<B: Body<Data = Bytes>> FromRead for BufferedBody<B> {
    fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self::read(Prefixed::whole(Some(data), trailers))
    }

    fn resumed(data: Bytes, over: Bytes, rest: Pin<Box<Self>>) -> Self {
        Self::read(Prefixed::resumed(data, over, rest))
    }

    fn broken(data: Bytes, error: B::Error) -> Self {
        Self::read(Prefixed::broken(data, error))
    }
}

impl<B: Body> From<Bytes> for BufferedBody<B>
where
    B::Data: From<Bytes>,
{
    fn from(data: Bytes) -> Self {
        Self::read(Prefixed::whole(Some(data.into()), None))
    }
}

impl<B: Body> Default for BufferedBody<B> {
    fn default() -> Self {
        Self::read(Prefixed::whole(None, None))
    }
}

impl<B: EndingBody> EndingBody for BufferedBody<B> {
    fn call_end(&mut self) -> Option<&mut CallEnd> {
        match &mut self.kind {
            Kind::Unread { body } => body.call_end(),
            Kind::Read { read } => read.call_end(),
        }
    }

    fn pinned_call_end(self: Pin<&mut Self>) -> Option<&mut CallEnd> {
        match self.project().kind.project() {
            KindProj::Unread { body } => body.pinned_call_end(),
            KindProj::Read { read } => read.call_end(),
        }
    }
}

/// A body that was read to its end has ended its call.
impl<B: Body> StreamingResponse for Response<BufferedBody<ResponseBody<B>>> {
    fn call_end(&mut self) -> Option<&mut CallEnd> {
        self.body_mut().call_end()
    }

    fn mark_degraded(&mut self, degraded: Degraded) {
        self.extensions_mut().insert(degraded);
    }
}

impl<B: Body> Body for BufferedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let mut polled = match this.kind.project() {
            KindProj::Unread { body } => body.poll_frame(cx),
            KindProj::Read { read } => read.poll_frame(cx),
        };
        if let (Some(change), Poll::Ready(Some(Ok(frame)))) = (this.change_trailers, &mut polled) {
            frame.trailers_mut().map(change);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Unread { body } => body.is_end_stream(),
            Kind::Read { read } => read.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Unread { body } => body.size_hint(),
            Kind::Read { read } => read.size_hint(),
        }
    }
}

impl<B: Body> fmt::Debug for BufferedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut body = f.debug_struct("BufferedBody");
        match &self.kind {
            Kind::Unread { .. } => body.finish_non_exhaustive(),
            Kind::Read { read } => body.field("body", read).finish(),
        }
    }
}
