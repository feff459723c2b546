//! Data that was read from a body, and what follows it.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Buf;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{
    ahead::FrameOf,
    body_end::{BODY, EndingBody},
    read::HeldMemory,
};
use crate::{Fault, call::completion::CallEnd};

/// Data that was read from the body `R`, and what follows it.
///
/// It needs no allocation if there are no trailers.
pub(super) struct Prefixed<R: Body> {
    /// `None` after it was taken, or if there is none.
    data: Option<R::Data>,
    then: Then<R>,
}

enum Then<R: Body> {
    /// The body was read to its end. Each field is `None` after it was taken or dropped.
    End { trailers: Option<Box<HeaderMap>>, held: Option<HeldMemory> },
    /// The body has more data. `over` was read last, and is not copied into the data before it.
    Rest { over: Option<R::Data>, rest: Pin<Box<R>> },
    /// The body failed. `None` after the error was taken.
    Failure(Option<Box<Failure<R::Error>>>),
}

struct Failure<E> {
    error: E,
    /// The end of a call that has failed, for the layers that get the response later.
    end: CallEnd,
}

impl<R: Body> Prefixed<R> {
    pub(super) fn whole(data: Option<R::Data>, trailers: Option<HeaderMap>) -> Self {
        Self::new(data, Then::End { trailers: trailers.map(Box::new), held: None })
    }

    pub(super) fn resumed(data: R::Data, over: R::Data, rest: Pin<Box<R>>) -> Self {
        Self::new(Some(data), Then::Rest { over: Some(over).filter(Buf::has_remaining), rest })
    }

    pub(super) fn broken(data: R::Data, error: R::Error) -> Self {
        let failure = Failure { error, end: CallEnd::failed(Fault::Transient, BODY) };
        Self::new(Some(data), Then::Failure(Some(Box::new(failure))))
    }

    fn new(data: Option<R::Data>, then: Then<R>) -> Self {
        Self { data: data.filter(Buf::has_remaining), then }
    }

    /// Holds the memory of a whole body until its data is taken.
    pub(super) fn hold(&mut self, memory: HeldMemory) {
        if let Then::End { held, .. } = &mut self.then {
            *held = Some(memory);
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<FrameOf<R>>> {
        if let Some(data) = self.data.take() {
            if let Then::End { held, .. } = &mut self.then {
                *held = None;
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match &mut self.then {
            Then::End { trailers, .. } => {
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            Then::Rest { over, rest } => match over.take() {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => rest.as_mut().poll_frame(cx),
            },
            Then::Failure(failure) => Poll::Ready(failure.take().map(|failure| Err(failure.error))),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.data.is_none()
            && match &self.then {
                Then::End { trailers, .. } => trailers.is_none(),
                Then::Rest { over, rest } => over.is_none() && rest.is_end_stream(),
                Then::Failure(failure) => failure.is_none(),
            }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let rest = match &self.then {
            Then::Rest { rest, .. } => rest.size_hint(),
            // With an exact length in its head, an HTTP/1 message could not signal that its body
            // broke off, and could not send trailers.
            Then::End { trailers: Some(_), .. } | Then::Failure(Some(_)) => SizeHint::default(),
            Then::End { trailers: None, .. } | Then::Failure(None) => SizeHint::with_exact(0),
        };
        let read = self.read();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }

    /// Returns the length of the data that was read and not yet taken.
    fn read(&self) -> u64 {
        let over = match &self.then {
            Then::Rest { over, .. } => over.as_ref(),
            Then::End { .. } | Then::Failure(_) => None,
        };
        let data = self.data.iter().chain(over);
        data.fold(0, |sum, data| sum.saturating_add(data.remaining() as u64))
    }
}

impl<R: EndingBody> Prefixed<R> {
    /// Returns the end of the call, or `None` if it has ended.
    pub(super) fn call_end(&mut self) -> Option<&mut CallEnd> {
        match &mut self.then {
            Then::End { .. } => None,
            Then::Rest { rest, .. } => rest.as_mut().pinned_call_end(),
            Then::Failure(failure) => failure.as_mut().map(|failure| &mut failure.end),
        }
    }
}

impl<R: Body> fmt::Debug for Prefixed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = match &self.then {
            Then::End { .. } => "whole",
            Then::Rest { .. } => "streaming",
            Then::Failure(_) => "broken",
        };
        // Only the length is written, because bodies of callers and of responses do not belong in
        // logs.
        f.debug_struct("Prefixed").field("read", &self.read()).field("rest", &rest).finish()
    }
}
