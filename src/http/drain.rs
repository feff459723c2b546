//! Reading the rest of a response that will be retried.

use std::{
    cell::Cell,
    mem,
    task::{Context, Poll},
};

use bytes::Buf;
use http::{HeaderMap, Response, StatusCode, Version, header};
use http_body::Body;

use super::kept::Inner;
use crate::call::restore::Restore;

/// The most bytes that are read. Reading more would cost more than a new connection.
const MOST: usize = 64 << 10;

thread_local! {
    static DRAINING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether the body that is being polled is drained by a stack around it.
///
/// The call of a body that several readers share ends when the stack of one of them drains it.
pub(super) fn is_draining() -> bool {
    DRAINING.get()
}

/// Returns whether the connection of a response can be reused only after its body was read.
///
/// Over HTTP/2, dropping the body resets only its own stream. After a 421, the retry needs another
/// connection. A server under load often closes the connection with its 503.
pub(super) fn must_be_read<B>(response: &Response<B>) -> bool {
    response.version() == Version::HTTP_11
        && response.status() != StatusCode::MISDIRECTED_REQUEST
        && !will_close(response.headers())
}

fn will_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).into_iter().filter_map(|it| it.to_str().ok());
    let mut options = values.flat_map(|value| value.split(','));
    options.any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// Returns whether there is more of a body, and not certainly too much.
pub(super) fn is_worth_reading<B: Body>(body: &Inner<B>) -> bool {
    !body.is_end_stream() && body.size_hint().lower() <= MOST as u64
}

/// Begins to read and discard a body.
pub(super) fn begin<B: Body>(body: &mut Inner<B>) {
    let unread = mem::replace(body, Inner::Gone);
    *body = Inner::Drained { body: Box::pin(unread), left: MOST };
}

/// Reads until the body has ended, or is too long.
pub(super) fn poll<B: Body>(body: &mut Inner<B>, cx: &mut Context<'_>) -> Poll<()> {
    // Taken out, so that a body that panics is not polled again.
    let mut taken = mem::replace(body, Inner::Gone);
    let Inner::Drained { body: unread, left } = &mut taken else { return Poll::Ready(()) };
    let _draining = Restore::after_setting(&DRAINING, true);
    while !unread.is_end_stream() {
        match unread.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                // An empty frame counts too, because a body may consist of them without end.
                let read = frame.data_ref().map_or(0, Buf::remaining).max(1);
                match left.checked_sub(read) {
                    Some(rest) => *left = rest,
                    None => break,
                }
            }
            Poll::Ready(_) => break,
            Poll::Pending => {
                *body = taken;
                return Poll::Pending;
            }
        }
    }
    unread.as_mut().end();
    Poll::Ready(())
}
