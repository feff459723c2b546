//! A response body of which a part is read before its reader gets the response.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// The next frame of a body.
pub(super) type FrameOf<B> = Result<Frame<<B as Body>::Data>, <B as Body>::Error>;

/// A frame takes memory besides its data, so there are at most `most / PER_FRAME + SOME_FRAMES`.
const PER_FRAME: usize = 256;
const SOME_FRAMES: usize = 16;

pin_project! {
    /// A body, and the frames of it that were read ahead of its reader.
    pub(super) struct Ahead<B: Body> {
        // `None` after it has ended or failed.
        #[pin]
        rest: Option<B>,
        // The last one may be an error.
        frames: VecDeque<FrameOf<B>>,
        // The bytes of data in these frames.
        bytes: u64,
        // The size hint of the rest, from before it ended or failed.
        hint: SizeHint,
    }
}

/// The result of reading ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Whole,
    Failed,
    /// There is more of the body than was to be read.
    TooLong,
}

impl<B: Body> Ahead<B> {
    pub(super) fn new(body: B) -> Self {
        let hint = body.size_hint();
        Self { rest: Some(body), frames: VecDeque::new(), bytes: 0, hint }
    }

    /// Reads one frame of a body that may have `most` bytes. Returns `None` to be called again.
    pub(super) fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Option<Read>> {
        let mut this = self.project();
        let Some(mut rest) = this.rest.as_mut().as_pin_mut() else {
            return Poll::Ready(Some(Read::Whole));
        };
        let read = match ready!(rest.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => {
                *this.bytes += data_len(&frame);
                this.frames.push_back(Ok(frame));
                *this.hint = rest.size_hint();
                if rest.is_end_stream() {
                    Read::Whole
                } else if *this.bytes > most as u64
                    || this.frames.len() > most / PER_FRAME + SOME_FRAMES
                {
                    return Poll::Ready(Some(Read::TooLong));
                } else {
                    return Poll::Ready(None);
                }
            }
            Some(Err(error)) => {
                this.frames.push_back(Err(error));
                Read::Failed
            }
            None => Read::Whole,
        };
        this.rest.set(None);
        Poll::Ready(Some(read))
    }

    pub(super) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<FrameOf<B>>> {
        let this = self.project();
        let Some(frame) = this.frames.pop_front() else {
            return match this.rest.as_pin_mut() {
                Some(rest) => rest.poll_frame(cx),
                None => Poll::Ready(None),
            };
        };
        if let Ok(frame) = &frame {
            *this.bytes -= data_len(frame);
        }
        if this.frames.is_empty() {
            // The rest may take long, and needs no memory for frames.
            *this.frames = VecDeque::new();
        }
        Poll::Ready(Some(frame))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    /// Returns the size hint that the body itself would give at this frame.
    ///
    /// The size of a body that has failed must not look exact. A proxy would otherwise announce the
    /// part as the whole.
    pub(super) fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        let of_rest = self.rest.as_ref().map(Body::size_hint);
        let rest = of_rest.as_ref().unwrap_or(&self.hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(self.bytes));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(self.bytes));
        }
        hint
    }
}

fn data_len<D: Buf>(frame: &Frame<D>) -> u64 {
    frame.data_ref().map_or(0, |data| data.remaining() as u64)
}
