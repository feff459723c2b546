//! The end of a call: its response, or the end of the response's body.
//!
//! A call with a streaming response has not ended when the head of the response arrives. Its slot
//! of a bulkhead, its admission by a breaker and its span must last until the end of the body. A
//! layer whose calls end [`AtEnd`] therefore moves them into the response. The layers of
//! `buttress::http` do this for HTTP and gRPC. A response of another kind takes part by
//! implementing [`StreamingResponse`].

use std::{
    convert::Infallible,
    mem,
    task::{Context, Poll},
};

use crate::sealed::Sealed;

pub use super::{call_end::CallEnd, degraded::Degraded};

/// The end of a call. This trait is sealed and implemented by [`AtHead`] and [`AtEnd`].
pub trait Completion<Res>: Sealed {
    /// A response that is drained before its request is retried.
    type Unread;

    /// Returns the [`CallEnd`] that the response holds, or `None` if the call has ended.
    fn end(response: &mut Res) -> Option<&mut CallEnd>;

    /// Returns the response if it may have to be drained, and drops it otherwise.
    fn unread(response: Res) -> Option<Self::Unread>;

    /// Drains a response, as [`StreamingResponse::poll_drain`] does.
    fn poll_drain(unread: &mut Self::Unread, cx: &mut Context<'_>) -> Poll<()>;

    /// Marks a degraded response, as [`StreamingResponse::mark_degraded`] does.
    fn mark_degraded(response: &mut Res, degraded: Degraded);
}

/// The end of a request that a layer rejects. This trait is sealed.
///
/// [`AtHead`] and [`AtEnd`] drop the request. The stack of an HTTP server reads the rest of it, so
/// that a client that is still sending receives the response.
pub trait Discard<Req>: Sealed {
    /// Takes the request.
    fn discard(request: Req) {
        drop(request);
    }
}

/// Ends a call when its response arrives. Every layer outside `buttress::http` does so by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtHead;

/// Ends a call when the body of its response ends, fails or is dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtEnd;

/// A response that continues after its head, and owns the [`CallEnd`] of its call.
///
/// Create a [`CallEnd`] with each response. When the response ends, call the method of `CallEnd`
/// that says how it ended.
///
/// ```
/// use buttress::{
///     Outcome,
///     completion::{CallEnd, StreamingResponse},
/// };
/// use std::time::Duration;
///
/// /// The rows of a query, read one by one.
/// struct Rows {
///     left: Vec<String>,
///     end: Option<CallEnd>,
/// }
///
/// impl StreamingResponse for Rows {
///     fn call_end(&mut self) -> Option<&mut CallEnd> {
///         self.end.as_mut()
///     }
/// }
///
/// impl Iterator for Rows {
///     type Item = String;
///
///     fn next(&mut self) -> Option<String> {
///         let row = self.left.pop();
///         if row.is_none() {
///             if let Some(mut end) = self.end.take() {
///                 // The rows were in memory: no read had to wait.
///                 end.complete(Outcome::Success, Duration::ZERO);
///             }
///         }
///         row
///     }
/// }
///
/// let mut rows = Rows { left: vec!["first".to_owned()], end: Some(CallEnd::new()) };
/// assert_eq!(rows.by_ref().count(), 1);
/// assert!(rows.call_end().is_none());
/// ```
#[diagnostic::on_unimplemented(
    message = "a response of type `{Self}` does not report its end",
    note = "for HTTP, use `Stack::http()` or put an `HttpClientLayer` next to the service: \
            the response is then an `http::Response<buttress::http::ResponseBody<B>>`"
)]
pub trait StreamingResponse {
    /// Returns the [`CallEnd`] that the response holds, or `None` if the call has ended.
    fn call_end(&mut self) -> Option<&mut CallEnd>;

    /// Reads and discards the rest of a response whose request will be retried.
    ///
    /// Over some protocols, a connection can be reused only after the response was read to its end.
    /// The retry layer therefore calls this method during its pause. It drops the response when the
    /// method is ready, or when the pause ends.
    ///
    /// Without an implementation it is ready at once. An implementation must end the call before it
    /// waits, and limit the amount that it reads. A [`CallEnd`] that is still open while the method
    /// waits is dropped, because nothing may be held during a pause. Without a pause, the method is
    /// called once. It is not called again after it was ready.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }

    /// Marks a response that a layer gave instead of the service.
    ///
    /// An HTTP response gets the mark as an extension. Without an implementation, nothing happens.
    fn mark_degraded(&mut self, degraded: Degraded) {
        let _ = degraded;
    }
}

impl Sealed for AtHead {}
impl Sealed for AtEnd {}

impl<Req> Discard<Req> for AtHead {}
impl<Req> Discard<Req> for AtEnd {}

impl<Res> Completion<Res> for AtHead {
    type Unread = Infallible;

    #[inline]
    fn end(_: &mut Res) -> Option<&mut CallEnd> {
        None
    }

    fn unread(_: Res) -> Option<Infallible> {
        None
    }

    fn poll_drain(unread: &mut Infallible, _: &mut Context<'_>) -> Poll<()> {
        match *unread {}
    }

    fn mark_degraded(_: &mut Res, _: Degraded) {}
}

impl<Res: StreamingResponse> Completion<Res> for AtEnd {
    type Unread = Res;

    #[inline]
    fn end(response: &mut Res) -> Option<&mut CallEnd> {
        response.call_end()
    }

    fn unread(response: Res) -> Option<Res> {
        Some(response)
    }

    fn poll_drain(unread: &mut Res, cx: &mut Context<'_>) -> Poll<()> {
        let polled = unread.poll_drain(cx);
        if polled.is_pending() {
            // Nothing may be held during the pause.
            if let Some(end) = unread.call_end() {
                drop(mem::take(end));
            }
        }
        polled
    }

    fn mark_degraded(response: &mut Res, degraded: Degraded) {
        response.mark_degraded(degraded);
    }
}

/// Returns the [`CallEnd`] that the response of a result holds, or `None` if the call has ended.
#[inline]
pub(crate) fn end_of<M, T, E>(result: &mut Result<T, E>) -> Option<&mut CallEnd>
where
    M: Completion<T>,
{
    result.as_mut().ok().and_then(M::end)
}
