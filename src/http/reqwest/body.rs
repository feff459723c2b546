//! The body of a request, which can be replayed.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::http::{
    ReplayBody, ReplayBodyLayer,
    replay::{ReplayBodyError, ReplayableBody},
};

/// The body of a request of a [`StackedClient`](super::StackedClient).
///
/// A body that was given as bytes or text, such as JSON, is shared by all attempts, whatever its
/// length. A stream is a [`ReplayBody`].
pub struct ReqwestBody(Kind);

enum Kind {
    Bytes(Bytes),
    Stream(ReplayBody<reqwest::Body>),
}

impl ReqwestBody {
    pub(super) fn new(body: Option<reqwest::Body>, streams: &ReplayBodyLayer) -> Self {
        let body = body.unwrap_or_default();
        match body.as_bytes() {
            // reqwest lends its bytes only as a slice. As a frame, they are not copied.
            Some(_) => Self::bytes(only_frame(body)),
            None => Self(Kind::Stream(streams.replayable(body))),
        }
    }

    fn bytes(bytes: Bytes) -> Self {
        Self(Kind::Bytes(bytes))
    }

    /// Copies the body, and a stream by `copy`.
    fn copied(
        &self,
        copy: impl FnOnce(&ReplayBody<reqwest::Body>) -> Option<ReplayBody<reqwest::Body>>,
    ) -> Option<Self> {
        Some(match &self.0 {
            Kind::Bytes(bytes) => Self::bytes(bytes.clone()),
            Kind::Stream(stream) => Self(Kind::Stream(copy(stream)?)),
        })
    }
}

/// Returns the bytes of a body that consists of one frame, which is there at once.
pub(super) fn only_frame(mut body: impl Body<Data = Bytes> + Unpin) -> Bytes {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(&mut body).poll_frame(&mut context) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    }
}

impl From<ReqwestBody> for reqwest::Body {
    fn from(body: ReqwestBody) -> Self {
        match body.0 {
            Kind::Bytes(bytes) => bytes.into(),
            Kind::Stream(stream) => Self::wrap(stream),
        }
    }
}

// Otherwise, the compiler would list it for each body that can be sent only once.
#[diagnostic::do_not_recommend]
impl ReplayableBody for ReqwestBody {
    fn copy(&self) -> Option<Self> {
        self.copied(ReplayBody::copy)
    }

    fn copy_unstarted(&self) -> Option<Self> {
        self.copied(ReplayBody::copy_unstarted)
    }

    fn end_copies(&self) -> bool {
        match &self.0 {
            Kind::Bytes(_) => true,
            Kind::Stream(stream) => stream.end_copies(),
        }
    }
}

impl Body for ReqwestBody {
    type Data = Bytes;
    type Error = ReplayBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplayBodyError>>> {
        match &mut self.0 {
            Kind::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(mem::take(bytes))))),
            Kind::Stream(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Bytes(bytes) => bytes.is_empty(),
            Kind::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(stream) => stream.size_hint(),
        }
    }
}

impl fmt::Debug for ReqwestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_tuple("ReqwestBody");
        match &self.0 {
            // The content may be secret.
            Kind::Bytes(bytes) => debug.field(&bytes.len()),
            Kind::Stream(stream) => debug.field(stream),
        };
        debug.finish()
    }
}
