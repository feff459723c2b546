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
mod tests {
    use std::{convert::Infallible, mem::size_of, sync::Arc};

    use futures::{FutureExt, stream};
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::time::Instant;

    use super::*;
    use crate::{
        Fault, Outcome,
        call::ambient::Ambient,
        http::{
            BufferedBody,
            kept::Inner,
            live_body::Ends,
            read::{Read, read},
            reporters::TestOwner,
        },
    };

    type Frames = Vec<Result<Frame<Bytes>, &'static str>>;
    type Arriving =
        StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, &'static str>>>>;

    fn data(data: &'static str) -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(Bytes::from(data)))
    }

    fn trailers() -> HeaderMap {
        HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("a"))])
    }

    /// Returns a body whose call has not ended.
    fn live(frames: Frames) -> ResponseBody<Arriving> {
        let inner = Inner::Own { body: StreamBody::new(stream::iter(frames)) };
        let call = (Ambient::capture(), Instant::now());
        let owner = TestOwner::new(None);
        ResponseBody::live(LiveBody::new(inner, call, Ends::WithBody, false, None, owner))
    }

    /// Reads up to `most` bytes of a body, and creates it again from what was read.
    fn read_again<R: FromRead>(body: R, most: usize) -> R {
        let mut body = Box::pin(body);
        let Ok(read) = read(body.as_mut(), most, &mut ()).now_or_never().expect("no frame is late");
        match read {
            Read::Whole { data, trailers } => R::whole(data, trailers),
            Read::TooLong { data, over } => R::resumed(data, over, body),
            Read::Broken { data, error } => R::broken(data, error),
        }
    }

    fn next<R: Body + Unpin>(body: &mut R) -> Option<Result<Frame<R::Data>, R::Error>> {
        body.frame().now_or_never().expect("no frame is late")
    }

    fn text<E: fmt::Debug>(frame: Option<Result<Frame<Bytes>, E>>) -> Bytes {
        frame.unwrap().unwrap().into_data().unwrap()
    }

    fn has_ended<B: Body>(body: ResponseBody<B>) -> (bool, ResponseBody<B>) {
        let mut response = Response::new(body);
        (response.call_end().is_none(), response.into_body())
    }

    #[test]
    fn bytes_are_a_body_that_has_ended() {
        let response = response::<Full<Bytes>>(StatusCode::ACCEPTED, "two orders");
        assert_eq!(response.status(), 202);
        let (ended, mut body) = has_ended(response.into_body());
        assert!(ended);
        assert_eq!(body.size_hint().exact(), Some(10));
        assert!(!body.is_end_stream());
        assert_eq!(text(next(&mut body)), "two orders");
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(next(&mut body).is_none());
        for body in ["", ""].map(ResponseBody::<Full<Bytes>>::from) {
            assert!(body.is_end_stream());
        }
        assert!(ResponseBody::<Full<Bytes>>::default().is_end_stream());
    }

    #[test]
    fn a_body_of_other_data_is_created_from_bytes_too() {
        struct Other(Bytes);
        impl From<Bytes> for Other {
            fn from(data: Bytes) -> Self {
                Self(data)
            }
        }
        impl bytes::Buf for Other {
            fn remaining(&self) -> usize {
                self.0.len()
            }

            fn chunk(&self) -> &[u8] {
                &self.0
            }

            fn advance(&mut self, by: usize) {
                bytes::Buf::advance(&mut self.0, by);
            }
        }
        let mut body = ResponseBody::<Full<Other>>::from(vec![b'a'; 3]);
        let frame = next(&mut body).unwrap().unwrap();
        assert_eq!(frame.into_data().ok().unwrap().0, "aaa");
        let body = BufferedBody::<Full<Other>>::from(Bytes::from("aaa"));
        assert_eq!(body.size_hint().exact(), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_read_to_its_end_keeps_its_trailers() {
        let body = live(vec![data("a"), data("b"), Ok(Frame::trailers(trailers()))]);
        let (ended, mut body) = has_ended(read_again(body, 2));
        assert!(ended);
        // A server would otherwise send a `content-length`, and then no trailers.
        assert_eq!((body.size_hint().lower(), body.size_hint().exact()), (2, None));
        assert_eq!(text(next(&mut body)), "ab");
        assert!(!body.is_end_stream());
        assert_eq!(next(&mut body).unwrap().unwrap().into_trailers().unwrap(), trailers());
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_read_in_part_ends_its_call_with_its_rest() {
        let frames = || vec![data("a"), data("b"), data("cd"), data("e")];
        let (ended, mut body) = has_ended(read_again(live(frames()), 2));
        assert!(!ended);
        assert_eq!(body.size_hint().lower(), 4);
        assert_eq!(body.size_hint().exact(), None);
        for frame in ["ab", "cd", "e"] {
            assert!(!body.is_end_stream());
            assert_eq!(text(next(&mut body)), frame);
        }
        let (ended, mut body) = has_ended(body);
        assert!(!ended, "the body may have trailers");
        assert!(next(&mut body).is_none());
        let (ended, _) = has_ended(body);
        assert!(ended);

        // The same for the body that the idempotency layer returns, read or not.
        let mut unread = Response::new(BufferedBody::new(live(frames())));
        assert!(unread.call_end().is_some());
        let body = read_again(unread.into_body(), 2);
        let mut response = Response::new(body);
        assert!(response.call_end().is_some());
        let collected = response.body_mut().collect().now_or_never().unwrap().unwrap();
        assert_eq!(collected.to_bytes(), "abcde");
        assert!(response.call_end().is_none());
        let whole = BufferedBody::<ResponseBody<Arriving>>::from(Bytes::from("a"));
        assert!(Response::new(whole).call_end().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_read_twice_in_part_is_not_copied() {
        let body = live(vec![data("ab"), data("cd"), data("ef")]);
        let body = read_again(read_again(body, 2), 2);
        let (ended, mut body) = has_ended(body);
        assert!(!ended);
        for frame in ["ab", "cd", "ef"] {
            assert_eq!(text(next(&mut body)), frame);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_with_one_frame_that_is_too_long_ends_after_it() {
        let mut body = read_again(BufferedBody::new(Full::from("abc")), 2);
        assert!(!body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(text(next(&mut body)), "abc");
        assert!(body.is_end_stream());

        // A layer may also stop before it has read anything.
        let rest = Box::pin(live(vec![data("a")]));
        let mut body = ResponseBody::resumed(Bytes::new(), Bytes::new(), rest);
        assert_eq!(text(next(&mut body)), "a");
        assert!(next(&mut body).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_broke_off_fails_after_its_data_and_so_does_its_call() {
        let body = live(vec![data("a"), Err("reset")]);
        let mut response = Response::new(read_again(body, 2));
        let failure = response.call_end().and_then(|end| end.failure());
        assert_eq!(failure, Some((Outcome::Failure(Fault::Transient), Some("body"))));
        let mut body = response.into_body();
        assert_eq!((body.size_hint().lower(), body.size_hint().exact()), (1, None));
        assert_eq!(text(next(&mut body)), "a");
        assert!(!body.is_end_stream());
        assert_eq!(next(&mut body).unwrap().unwrap_err(), BodyError::Service("reset"));
        assert!(body.is_end_stream());
        let (ended, mut body) = has_ended(body);
        assert!(ended);
        assert!(next(&mut body).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_dropped_drops_its_rest() {
        let owned = Arc::new(());
        let owner = Arc::clone(&owned);
        let frames = (0..3).map(move |_| {
            let _owner = &owner;
            Ok::<_, Infallible>(Frame::data(Bytes::from("a")))
        });
        let body = BufferedBody::new(StreamBody::new(stream::iter(frames)));
        let mut body = read_again(body, 1);
        assert_eq!(text(next(&mut body)), "a");
        assert_eq!(Arc::strong_count(&owned), 2);
        drop(body);
        assert_eq!(Arc::strong_count(&owned), 1);
    }

    #[test]
    fn bytes_take_no_room_in_a_response() {
        assert_eq!(size_of::<ResponseBody<Full<Bytes>>>(), size_of::<LiveBody<Full<Bytes>>>());
        assert_eq!(size_of::<ResponseBody<String>>(), size_of::<LiveBody<String>>());
    }

    #[test]
    fn a_body_prints_no_data() {
        let body = ResponseBody::<Full<Bytes>>::from("secret");
        let printed = format!("{body:?}");
        assert_eq!(printed, r#"ResponseBody { body: Prefixed { read: 6, rest: "whole" } }"#);
        let body = BufferedBody::<Full<Bytes>>::from(Bytes::from("secret"));
        let printed = format!("{body:?}");
        assert_eq!(printed, r#"BufferedBody { body: Prefixed { read: 6, rest: "whole" } }"#);
    }
}
