//! The body of requests and responses that passed the idempotency layer.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{headers::forbid_retry_in_trailers, memory::HeldMemory};

pin_project! {
    /// The body of a request or a response that passed the idempotency layer.
    ///
    /// It yields the data that was already read from the body `B`, and then the rest of `B`. It is
    /// `Unpin` if `B` is. Its `Default` is an empty body.
    pub struct GuardedBody<B>
    where
        B: Body,
    {
        // The data that was read.
        first: Bytes,
        second: Second,
        #[pin]
        rest: Rest<B>,
        // `true` if the trailers of a gRPC call that failed get the advice not to retry.
        is_final: bool,
    }
}

/// The second part of a body, besides the first data that was read.
///
/// Both are in one field, because a body never has both.
enum Second {
    /// The frame that exceeded the limit, which is therefore not copied; or nothing.
    Data(Bytes),
    /// The memory of the first data, until the data is taken.
    Held { _memory: HeldMemory },
}

impl Second {
    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Held { .. } => 0,
        }
    }
}

impl Default for Second {
    fn default() -> Self {
        Self::Data(Bytes::new())
    }
}

pin_project! {
    #[project = RestProj]
    enum Rest<B>
    where
        B: Body,
    {
        // Nothing of the body was read.
        Untouched { #[pin] body: B },
        // The body was pinned to be read, and can no longer be moved.
        Begun { body: Pin<Box<B>> },
        // The body failed. `None` after the error was returned.
        Broken { error: Option<B::Error> },
        // The body was read to its end. `None` if it had no trailers, or after they were
        // returned.
        Ended { trailers: Option<Box<HeaderMap>> },
    }
}

impl<B: Body> GuardedBody<B> {
    /// Creates a body from one that was not read yet.
    pub fn new(body: B) -> Self {
        Self::made(Bytes::new(), Second::default(), Rest::Untouched { body })
    }

    /// Returns whether nothing of the body was read.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.rest, Rest::Untouched { .. })
    }

    pub(super) fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        let trailers = trailers.map(Box::new);
        Self::made(data, Second::default(), Rest::Ended { trailers })
    }

    /// Gives the body the memory of its data, which it holds until the data is taken.
    pub(super) fn holding(mut self, memory: Option<HeldMemory>) -> Self {
        if let Some(memory) = memory {
            self.second = Second::Held { _memory: memory };
        }
        self
    }

    /// Marks the body of a recorded response, whose failure is final.
    pub(super) fn marked_final(mut self) -> Self {
        self.is_final = true;
        self
    }

    /// Creates a body of the data that was read, the frame that exceeded the limit, and the rest.
    pub(super) fn begun(data: Bytes, over: Bytes, body: Pin<Box<B>>) -> Self {
        Self::made(data, Second::Data(over), Rest::Begun { body })
    }

    pub(super) fn broken(data: Bytes, error: B::Error) -> Self {
        Self::made(data, Second::default(), Rest::Broken { error: Some(error) })
    }

    fn made(first: Bytes, second: Second, rest: Rest<B>) -> Self {
        Self { first, second, rest, is_final: false }
    }
}

impl<B: Body<Data = Bytes>> Body for GuardedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if !this.first.is_empty() {
            if matches!(this.second, Second::Held { .. }) {
                *this.second = Second::default();
            }
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(this.first)))));
        }
        if this.second.len() > 0 {
            if let Second::Data(data) = std::mem::take(this.second) {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
        let mut polled = match this.rest.project() {
            RestProj::Untouched { body } => body.poll_frame(cx),
            RestProj::Begun { body } => body.as_mut().poll_frame(cx),
            RestProj::Broken { error } => Poll::Ready(error.take().map(Err)),
            RestProj::Ended { trailers } => {
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
            }
        };
        if let (true, Poll::Ready(Some(Ok(frame)))) = (*this.is_final, &mut polled) {
            frame.trailers_mut().map(forbid_retry_in_trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let read = self.first.is_empty() && self.second.len() == 0;
        read && match &self.rest {
            Rest::Untouched { body } => body.is_end_stream(),
            Rest::Begun { body } => body.is_end_stream(),
            Rest::Broken { error } => error.is_none(),
            Rest::Ended { trailers } => trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let read = (self.first.len() as u64).saturating_add(self.second.len() as u64);
        let rest = match &self.rest {
            Rest::Untouched { body } => body.size_hint(),
            Rest::Begun { body } => body.size_hint(),
            // With an exact length in its head, an HTTP/1 message could not signal that its body
            // broke off, and could not send trailers.
            Rest::Broken { error: Some(_) } | Rest::Ended { trailers: Some(_) } => {
                SizeHint::default()
            }
            Rest::Broken { error: None } | Rest::Ended { trailers: None } => {
                SizeHint::with_exact(0)
            }
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B: Body> Default for GuardedBody<B> {
    fn default() -> Self {
        Self::whole(Bytes::new(), None)
    }
}

impl<B: Body> fmt::Debug for GuardedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = match &self.rest {
            Rest::Untouched { .. } | Rest::Begun { .. } => "streaming",
            Rest::Broken { .. } => "broken",
            Rest::Ended { .. } => "whole",
        };
        // Only the length is written, because bodies of callers and of responses do not belong in
        // logs.
        f.debug_struct("GuardedBody")
            .field("read", &self.first.len().saturating_add(self.second.len()))
            .field("rest", &rest)
            .finish()
    }
}
