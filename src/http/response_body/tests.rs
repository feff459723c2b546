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
type Arriving = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, &'static str>>>>;

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
