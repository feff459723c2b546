//! Reading the rest of a response that will be retried.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{Response, StatusCode, Version};
use http_body::Body;
use pin_project_lite::pin_project;

use super::kept::Inner;
use crate::call::restore::Restore;

/// The most bytes that are read. Reading more would cost more than a new connection.
const MOST: usize = 64 << 10;

thread_local! {
    static DRAINING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether the body that is being polled is drained by a stack around it.
pub(super) fn is_draining() -> bool {
    DRAINING.get()
}

/// Returns whether the connection of a response can be reused only after its body was read.
///
/// Over HTTP/2, dropping the body resets only its own stream. After a 421, the retry needs another
/// connection.
pub(super) fn must_be_read<B>(response: &Response<B>) -> bool {
    response.version() < Version::HTTP_2 && response.status() != StatusCode::MISDIRECTED_REQUEST
}

/// Returns whether there is more of a body, and not certainly too much.
pub(super) fn is_worth_reading<B: Body>(body: &Inner<B>) -> bool {
    !body.is_end_stream() && body.size_hint().lower() <= MOST as u64
}

pin_project! {
    /// A body that is read and discarded.
    pub(super) struct Drain<B> {
        #[pin]
        body: Inner<B>,
        left: usize,
    }
}

impl<B: Body> Drain<B> {
    pub(super) fn new(body: Inner<B>) -> Self {
        Self { body, left: MOST }
    }

    /// Reads until the body has ended, or is too long.
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let _draining = Restore::after_setting(&DRAINING, true);
        while !this.body.is_end_stream() {
            let Some(Ok(frame)) = ready!(this.body.as_mut().poll_frame(cx)) else { break };
            // An empty frame counts too, because a body may consist of them without end.
            let read = frame.data_ref().map_or(0, Buf::remaining).max(1);
            match this.left.checked_sub(read) {
                Some(left) => *this.left = left,
                None => break,
            }
        }
        Poll::Ready(())
    }
}
