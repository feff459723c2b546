use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::status::write_status;
use crate::{call::hop::Hop, http::BodyError};

pin_project! {
    /// The body of a server's response.
    ///
    /// It is the body `B` that the stack around the handler returned, or a problem document if the
    /// call was rejected.
    pub struct HttpServerBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        // The findings of the body come too late for the head. The hop is still kept, because its
        // findings must not reach another request on the same thread.
        Handler { #[pin] body: B, hop: Hop, grpc: bool },
        Problem { document: Option<Bytes> },
    }
}

impl<B> HttpServerBody<B> {
    pub(super) fn handler(body: B, hop: Hop, grpc: bool) -> Self {
        Self { kind: Kind::Handler { body, hop, grpc } }
    }

    pub(super) fn problem(document: Bytes) -> Self {
        let document = Some(document).filter(|document| !document.is_empty());
        Self { kind: Kind::Problem { document } }
    }
}

impl<B, E> Body for HttpServerBody<B>
where
    B: Body<Data = Bytes, Error = BodyError<E>>,
{
    type Data = Bytes;
    type Error = BodyError<E>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.project().kind.project() {
            KindProj::Handler { body, hop, grpc } => {
                let frame = ready!(hop.run(|| body.poll_frame(cx)));
                Poll::Ready(match frame {
                    // An error would reset the stream. To a gRPC client, a reset looks like a
                    // failure of the handler.
                    Some(Err(BodyError::Rejected(rejection))) if *grpc => {
                        let mut trailers = HeaderMap::new();
                        write_status(&mut trailers, &rejection);
                        Some(Ok(Frame::trailers(trailers)))
                    }
                    frame => frame,
                })
            }
            KindProj::Problem { document } => {
                Poll::Ready(document.take().map(|document| Ok(Frame::data(document))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Handler { body, .. } => body.is_end_stream(),
            Kind::Problem { document } => document.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Handler { body, .. } => body.size_hint(),
            Kind::Problem { document } => {
                SizeHint::with_exact(document.as_ref().map_or(0, |document| document.len() as u64))
            }
        }
    }
}

/// Creates an empty body, which tower-http's layers need to respond instead of the service.
impl<B> Default for HttpServerBody<B> {
    fn default() -> Self {
        Self::problem(Bytes::new())
    }
}

impl<B: fmt::Debug> fmt::Debug for HttpServerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Handler { body, .. } => f.debug_tuple("HttpServerBody").field(body).finish(),
            Kind::Problem { document } => f.debug_tuple("HttpServerBody").field(document).finish(),
        }
    }
}
