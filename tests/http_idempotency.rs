//! Tests of the key of an HTTP request, the record of a response, and rejections.
#![cfg(feature = "http")]

mod http_support;

use std::{
    collections::HashSet,
    convert::Infallible,
    future::pending,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    Error, Outcome, Rejection, Stack,
    bulkhead::BulkheadLayer,
    error::{
        BulkheadFull, CircuitOpen, DeadlineExceeded, IdempotencyReason, IdempotencyRejected,
        NotReady, QueueTimedOut, RateLimited, TimedOut,
    },
    http::{
        BufferedBody, HttpServerLayer, ResponseBody,
        idempotency::{HeaderKey, NotStarted, RecordHttp},
        server::HttpServerBody,
    },
    idempotency::{
        Completed, FindKey, InvalidKey, Key, Record, RequestKey, RunOutcome, StoreError,
    },
    keep::{Keep, Kept, KeptPart},
};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    time::advance,
};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    layer::{layer_fn, util::Identity},
    service_fn,
};

use self::http_support::*;

// The key of a request.

fn asked(method: &str, lines: &[&[u8]]) -> Request<()> {
    let mut request = Request::builder().method(method).uri("/pay?a=b").body(()).unwrap();
    for line in lines {
        put(request.headers_mut(), "idempotency-key", line);
    }
    request
}

fn found(keys: &HeaderKey, lines: &[&[u8]]) -> Result<RequestKey, InvalidKey> {
    keys.find_key(&asked("POST", lines))
}

#[test]
fn a_quoted_and_a_bare_key_are_one() {
    let key = Ok(RequestKey::Key(Key::new("8e03-978e").unwrap()));
    let sent: [&[u8]; 5] = [
        b"8e03-978e",
        b" 8e03-978e\t",
        b"\"8e03-978e\"",
        b"\"8e03-978e\"; v=1",
        b"\"8e03-978e\";a=\"1,2\";b=\"\\\",\"",
    ];
    for sent in sent {
        assert_eq!(found(&HeaderKey::new(), &[sent]), key, "{}", sent.escape_ascii());
    }
}

#[test]
fn what_cannot_be_a_key_is_rejected() {
    use InvalidKey::{Empty, Malformed, Repeated, TooLong};
    let (most, more) = ([b'a'; 255], [b'a'; 256]);
    let hostile: [(&[&[u8]], InvalidKey); 18] = [
        (&[b""], Empty),
        (&[b"  "], Empty),
        (&[b"\"\""], Empty),
        (&[b"\""], Malformed),
        (&[b"\"a"], Malformed),
        (&[b"\"a\\"], Malformed),
        (&[b"\"a\\b\""], Malformed),
        (&[b"\"a\"b"], Malformed),
        (&[b"a\tb"], Malformed),
        (&[b"caf\xc3\xa9"], Malformed),
        (&[b"\"\xff\""], Malformed),
        (&[&more], TooLong),
        // Two lines are rejected, even if they agree.
        (&[b"a", b"a"], Repeated),
        (&[b"a", b"\xff"], Repeated),
        (&[b"a, a"], Repeated),
        (&[b"\"a\", \"b\""], Repeated),
        (&[b"\"a\";v=1, \"b\""], Repeated),
        (&[b"\"a\";v=\"\\\"\", \"b\""], Repeated),
    ];
    for keys in [HeaderKey::new(), HeaderKey::builder().optional().build().unwrap()] {
        for (lines, why) in &hostile {
            assert_eq!(found(&keys, lines), Err(*why), "{lines:?}");
        }
        assert!(matches!(found(&keys, &[&most]), Ok(RequestKey::Key(_))));
    }
}

#[test]
fn all_but_safe_requests_and_tunnels_must_have_a_key() {
    let keys = HeaderKey::new();
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "CONNECT"] {
        for lines in [&[] as &[&[u8]], &[b"k"], &[b"\xff"]] {
            assert_eq!(keys.find_key(&asked(method, lines)), Ok(RequestKey::Unguarded), "{method}");
        }
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "LOCK"] {
        assert_eq!(keys.find_key(&asked(method, &[])), Ok(RequestKey::Missing), "{method}");
        assert!(
            matches!(keys.find_key(&asked(method, &[b"k"])), Ok(RequestKey::Key(_))),
            "{method}"
        );
    }
}

#[test]
fn what_is_guarded_and_where_the_key_is_can_be_set() {
    assert_eq!(
        found(&HeaderKey::builder().optional().build().unwrap(), &[]),
        Ok(RequestKey::Unguarded)
    );

    let only = HeaderKey::builder().only_fn(|head| head.uri().path() == "/refund");
    let only = only.build().unwrap();
    assert_eq!(found(&only, &[]), Ok(RequestKey::Unguarded));
    assert_eq!(found(&only, &[b"k"]), Ok(RequestKey::Unguarded));
    let all = HeaderKey::builder().only_fn(|_| true).build().unwrap();
    assert_eq!(found(&all, &[]), Ok(RequestKey::Missing));
    // `only_fn` selects among guarded requests, and cannot make a read return a stale response.
    assert_eq!(all.find_key(&asked("GET", &[b"k"])), Ok(RequestKey::Unguarded));

    let elsewhere = HeaderKey::builder().header(HeaderName::from_static("x-request-key"));
    let elsewhere = elsewhere.build().unwrap();
    assert_eq!(found(&elsewhere, &[b"k"]), Ok(RequestKey::Missing));
    let mut request = asked("POST", &[]);
    put(request.headers_mut(), "x-request-key", "k");
    assert_eq!(elsewhere.find_key(&request), Ok(RequestKey::Key(Key::new("k").unwrap())));
}

#[test]
fn an_operation_is_a_method_and_a_route() {
    let operation = |keys: &HeaderKey, method, uri| {
        let mut parts = Vec::new();
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        keys.operation(&request, &mut |part| parts.push(part.to_vec()));
        parts
    };
    let by_path = HeaderKey::new();
    let one = operation(&by_path, "POST", "/pay/1?a=b");
    assert_eq!(one, [b"POST".to_vec(), b"/pay/1".to_vec()]);
    assert_eq!(operation(&by_path, "POST", "/pay/1?c"), one);
    assert_ne!(operation(&by_path, "POST", "/pay/2"), one);
    assert_ne!(operation(&by_path, "PUT", "/pay/1"), one);

    let by_route = HeaderKey::builder().route_fn(|_| "pay".to_owned()).build().unwrap();
    let one = operation(&by_route, "POST", "/pay/1");
    assert_eq!(one, [b"POST".to_vec(), b"pay".to_vec()]);
    assert_eq!(operation(&by_route, "POST", "/pay/2"), one);
    assert_ne!(operation(&by_route, "PUT", "/pay/1"), one);
}

// The record of a response.

type Failure = Error<Infallible>;

/// Keeps and marks a response, as the layer does with the first one.
async fn kept<B>(recorder: &RecordHttp, response: Response<B>) -> Keeping<B>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Send,
{
    let Kept { mut response, part, .. } = recorder.keep(response).await;
    let completed = match part {
        KeptPart::Payload { payload, bytes } => Some(Completed::replayable(payload, bytes)),
        KeptPart::NotKept => Some(Completed::not_replayable()),
        KeptPart::BrokenOff => None,
    };
    if completed.is_some() {
        Record::<Request<()>, Response<B>, Failure>::mark_done(recorder, &mut response);
    }
    Keeping { response, completed }
}

#[derive(Debug)]
struct Keeping<B: http_body::Body> {
    response: Response<BufferedBody<B>>,
    completed: Option<Completed<Vec<u8>>>,
}

type Replayed = Response<BufferedBody<Empty<Bytes>>>;

fn replay(recorder: &RecordHttp, payload: Vec<u8>) -> Result<Replayed, StoreError> {
    let mut replayed = Keep::<Response<Empty<Bytes>>>::replay(recorder, payload)?;
    Record::<Request<()>, _, Failure>::mark_replayed(recorder, &mut replayed);
    Ok(replayed)
}

/// Returns the response to a retry, from the recorded result.
fn again(recorder: &RecordHttp, completed: Option<Completed<Vec<u8>>>) -> Replayed {
    let completed = completed.expect("it was recorded");
    let payload = completed.payload.expect("it can be given again");
    assert_eq!(payload.len(), completed.size);
    assert!(payload.len() <= max_bytes(recorder));
    replay(recorder, payload).unwrap()
}

fn max_bytes(recorder: &RecordHttp) -> usize {
    Record::<Request<()>, Response<Body>, Failure>::max_bytes(recorder)
}

fn cannot_be_given_again<B>(kept: &Keeping<B>) -> bool
where
    B: http_body::Body,
{
    kept.completed == Some(Completed::not_replayable())
}

type Piece = Result<Frame<Bytes>, &'static str>;
type Pieces = StreamBody<stream::Iter<std::vec::IntoIter<Piece>>>;

fn body(pieces: impl IntoIterator<Item = Piece>) -> Pieces {
    StreamBody::new(stream::iter(pieces.into_iter().collect::<Vec<_>>()))
}

fn data(bytes: impl Into<Bytes>) -> Piece {
    Ok(Frame::data(bytes.into()))
}

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    lines.iter().for_each(|(name, value)| put(&mut fields, name, value));
    fields
}

fn response<B>(status: u16, headers: &[(&str, &str)], body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    *response.headers_mut() = fields(headers);
    response
}

/// A body that must not be read.
struct Untouchable;

impl http_body::Body for Untouchable {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("nobody is to read this body")
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(65_537);
        hint
    }
}

#[test]
fn every_response_is_completed_but_one_that_says_that_nothing_began() {
    let judge = |result: Result<&Answer, &Failure>| {
        Record::<Request<()>, _, _>::classify(&RecordHttp::new(), result)
    };
    for status in [200, 201, 302, 400, 401, 403, 404, 409, 422, 429, 500, 503, 504] {
        let mut answer = answer(status, &[]);
        assert_eq!(judge(Ok(&answer)), RunOutcome::Completed, "{status}");
        answer.extensions_mut().insert(NotStarted);
        assert_eq!(judge(Ok(&answer)), RunOutcome::NotStarted, "{status}");
    }
    let rejections: [(Rejection, RunOutcome); 7] = [
        (CircuitOpen::new("b", None).into(), RunOutcome::NotStarted),
        (BulkheadFull::new("f", 1).into(), RunOutcome::NotStarted),
        (QueueTimedOut::new("q", PAUSE).into(), RunOutcome::NotStarted),
        (RateLimited::new("l", None).into(), RunOutcome::NotStarted),
        (DeadlineExceeded::new("d").into(), RunOutcome::NotStarted),
        (TimedOut::new("t", PAUSE).into(), RunOutcome::Unknown),
        (NotReady::new("r", PAUSE).into(), RunOutcome::Unknown),
    ];
    for (rejection, verdict) in rejections {
        assert_eq!(judge(Err(&Error::rejected(rejection.clone()))), verdict, "{rejection:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_is_given_again_as_it_was_and_says_so() {
    let recorder = RecordHttp::new();
    for status in [200, 201, 400, 500, 599] {
        let headers = [
            ("content-type", "application/json"),
            ("content-language", "de"),
            ("content-encoding", "gzip"),
            ("location", "/payments/1"),
            ("etag", "\"1\""),
            ("retry-after", "3"),
        ];
        let sent = response(status, &headers, body([data("he"), data(""), data("llo")]));
        let kept = kept(&recorder, sent).await;
        let mut expected = fields(&headers);
        if status >= 400 {
            put(&mut expected, "x-should-retry", "false");
        }
        assert_eq!(*kept.response.headers(), expected);
        assert_eq!(kept.response.status(), status);
        assert_eq!(kept.response.body().size_hint().exact(), Some(5));
        assert_eq!(kept.response.into_body().collect().await.unwrap().to_bytes(), "hello");

        let again = again(&recorder, kept.completed);
        assert_eq!(again.status(), status);
        put(&mut expected, "idempotency-replayed", "true");
        assert_eq!(*again.headers(), expected);
        assert_eq!(again.body().size_hint().exact(), Some(5));
        assert_eq!(again.into_body().collect().await.unwrap().to_bytes(), "hello");
    }
}

#[tokio::test(start_paused = true)]
async fn of_the_headers_only_those_allowed_are_kept() {
    let headers = [
        ("authorization", "secret"),
        ("connection", "close, x-of-this-hop"),
        ("connection", " ETag "),
        ("content-length", "2"),
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("etag", "\"1\""),
        ("idempotency-replayed", "maybe"),
        ("keep-alive", "1"),
        ("server", "me"),
        ("trailer", "x-sum"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("x-of-mine", "1"),
        ("x-of-mine", "2"),
        ("x-of-this-hop", "1"),
        ("x-unknown", "1"),
    ];
    let recorder = RecordHttp::builder()
        .keep_header(HeaderName::from_static("x-of-mine"))
        .keep_header(HeaderName::from_static("x-of-this-hop"))
        .build()
        .unwrap();
    let kept = kept(&recorder, response(200, &headers, Body::from("ok"))).await;
    assert_eq!(*kept.response.headers(), fields(&headers), "the first answer is as it is");
    let expected = [("x-of-mine", "1"), ("x-of-mine", "2"), ("idempotency-replayed", "true")];
    assert_eq!(*again(&recorder, kept.completed).headers(), fields(&expected));
}

#[test]
fn what_is_never_kept_cannot_be_asked_for() {
    for name in [
        "set-cookie",
        "authorization",
        "proxy-authorization",
        "date",
        "connection",
        "keep-alive",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "content-length",
        "idempotency-replayed",
    ] {
        for builder in [RecordHttp::builder(), RecordHttp::builder().allow_set_cookie()] {
            let rejected = builder.keep_header(HeaderName::from_static(name)).build().unwrap_err();
            assert_eq!(rejected.knob(), "keep_header");
            assert!(rejected.value().contains(name), "{rejected}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_with_cookies_is_kept_only_where_that_is_allowed() {
    let headers = [("set-cookie", "a=1"), ("set-cookie", "b=2")];
    let kept_by_default = kept(&RecordHttp::new(), response(200, &headers, Untouchable)).await;
    assert!(cannot_be_given_again(&kept_by_default));
    assert_eq!(*kept_by_default.response.headers(), fields(&headers));

    let recorder = RecordHttp::builder().allow_set_cookie().build().unwrap();
    let kept = kept(&recorder, response(200, &headers, Body::from("ok"))).await;
    let again = again(&recorder, kept.completed);
    assert_eq!(lines(again.headers(), "set-cookie"), ["a=1", "b=2"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_one_byte_over_the_cap_streams_and_one_at_the_cap_is_kept() {
    let recorder = RecordHttp::builder().max_body_bytes(10).build().unwrap();
    for pieces in [vec![data("0123456789")], vec![data("01234"), data("56789"), data("")]] {
        let kept = kept(&recorder, response(200, &[], body(pieces))).await;
        let again = again(&recorder, kept.completed).into_body().collect().await.unwrap();
        assert_eq!(again.to_bytes(), "0123456789");
        assert_eq!(kept.response.into_body().collect().await.unwrap().to_bytes(), "0123456789");
    }
    let trailers = fields(&[("x-sum", "9")]);
    for (pieces, all) in [
        (vec![data("0123456789a")], "0123456789a"),
        (vec![data("012345678"), data("9a"), data("bc")], "0123456789abc"),
        (vec![data("01"), data("23456789"), data("a"), data("bc")], "0123456789abc"),
    ] {
        let pieces = pieces.into_iter().chain([Ok(Frame::trailers(trailers.clone()))]);
        let kept = kept(&recorder, response(200, &[], body(pieces))).await;
        assert!(cannot_be_given_again(&kept));
        let collected = kept.response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), all);
    }
    let million = Bytes::from(vec![b'x'; 65_537]);
    for (length, fits) in [(65_536, true), (65_537, false)] {
        let sent = response(200, &[], body([data(million.slice(..length))]));
        let kept = kept(&RecordHttp::new(), sent).await;
        assert_eq!(!cannot_be_given_again(&kept), fits, "{length}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_says_that_it_is_too_long_is_not_read_by_the_guard() {
    let kept = kept(&RecordHttp::new(), response(200, &[], Untouchable)).await;
    assert!(cannot_be_given_again(&kept));
    assert_eq!(kept.response.body().size_hint().lower(), 65_537);
}

#[tokio::test(start_paused = true)]
async fn what_streams_past_the_cap_is_read_no_further_than_somebody_asks() {
    let given = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&given);
    // The body never ends, and is not `Unpin`.
    let endless = StreamBody::new(stream::unfold((), move |()| {
        let counted = Arc::clone(&counted);
        async move {
            counted.fetch_add(1, Ordering::Relaxed);
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"four"))), ()))
        }
    }));
    let recorder = RecordHttp::builder().max_body_bytes(10).build().unwrap();
    let kept = kept(&recorder, response(200, &[], endless)).await;
    assert!(cannot_be_given_again(&kept));
    assert_eq!(given.load(Ordering::Relaxed), 3);
    let mut body = pin!(kept.response.into_body());
    assert_eq!(body.size_hint().lower(), 12);
    let mut read = Vec::new();
    while read.len() < 20 {
        let frame = body.as_mut().frame().await.unwrap().unwrap();
        read.extend_from_slice(frame.data_ref().unwrap());
    }
    assert_eq!(read, b"fourfourfourfourfour");
    assert_eq!(given.load(Ordering::Relaxed), 5);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_is_not_recorded_and_breaks_off_for_the_caller_too() {
    let broken = body([data("he"), data("llo"), Err("broken"), data("never")]);
    let kept = kept(&RecordHttp::new(), response(200, &[], broken)).await;
    assert_eq!(kept.completed, None);
    let mut body = kept.response.into_body();
    assert_eq!(body.size_hint().exact(), None);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
    assert!(!body.is_end_stream());
    assert_eq!(body.frame().await.unwrap().unwrap_err(), "broken");
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn trailers_are_given_again() {
    let recorder = RecordHttp::new();
    let trailers = fields(&[("x-sum", "9"), ("x-sum", "10"), ("grpc-status", "0")]);
    for data in [vec![data("hello")], vec![]] {
        let pieces = data.into_iter().chain([Ok(Frame::trailers(trailers.clone()))]);
        let headers = [("content-type", "application/grpc"), ("trailer", "x-sum")];
        let kept = kept(&recorder, response(200, &headers, body(pieces))).await;
        let again = again(&recorder, kept.completed);
        assert_eq!(again.headers()["trailer"], "x-sum");
        let first = kept.response.into_body();
        for (exact, end) in [
            (first.size_hint().exact(), first.is_end_stream()),
            (again.body().size_hint().exact(), again.body().is_end_stream()),
        ] {
            // Otherwise HTTP/1 would send the length in the head, and then could not send
            // trailers.
            assert_eq!((exact, end), (None, false));
        }
        let [first, again] =
            [first.collect().await.unwrap(), again.into_body().collect().await.unwrap()];
        assert_eq!(first.trailers(), Some(&trailers));
        assert_eq!(again.trailers(), Some(&trailers));
        assert_eq!(first.to_bytes(), again.to_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn what_grpc_says_in_its_head_is_given_again() {
    let recorder = RecordHttp::new();
    let headers = [("grpc-message", "no%20funds"), ("grpc-status-details-bin", "AAA")];
    let kept = kept(&recorder, trailers_only(9, &headers)).await;
    assert!(kept.response.body().is_end_stream());
    let again = again(&recorder, kept.completed);
    assert!(again.body().is_end_stream(), "trailers only");
    assert_eq!(again.headers()["content-type"], "application/grpc");
    assert_eq!(again.headers()["grpc-status"], "9");
    assert_eq!(again.headers()["grpc-message"], "no%20funds");
    assert_eq!(again.headers()["grpc-status-details-bin"], "AAA");
}

#[tokio::test(start_paused = true)]
async fn what_ends_at_its_head_is_kept_without_its_body() {
    let recorder = RecordHttp::new();
    for status in [204, 304] {
        let headers = [("etag", "\"1\""), ("content-length", "7")];
        let kept = kept(&recorder, response(status, &headers, Untouchable)).await;
        let again = again(&recorder, kept.completed);
        assert_eq!(again.status(), status);
        assert_eq!(again.headers()["etag"], "\"1\"");
        assert!(!again.headers().contains_key(header::CONTENT_LENGTH));
        assert!(again.body().is_end_stream());
    }
    // The response to HEAD has the length of a body that is not there.
    let kept = kept(&recorder, response(200, &[("content-length", "7")], Body::default())).await;
    assert_eq!(kept.response.headers()["content-length"], "7");
    let again = again(&recorder, kept.completed);
    assert!(!again.headers().contains_key(header::CONTENT_LENGTH));
    assert!(again.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_is_left_alone_and_not_given_again() {
    let kept = kept(&RecordHttp::new(), response(101, &[("upgrade", "x")], Untouchable)).await;
    assert!(cannot_be_given_again(&kept));
    assert_eq!(kept.response.headers()["upgrade"], "x");
    // Only the request shows that a `CONNECT` opens a tunnel. Therefore it is not guarded at all.
    let connect = Request::builder().method(Method::CONNECT).uri("a.example:1").body(()).unwrap();
    assert_eq!(HeaderKey::new().find_key(&connect), Ok(RequestKey::Unguarded));
}

#[tokio::test(start_paused = true)]
async fn headers_that_take_more_than_was_set_aside_are_not_kept() {
    for (length, fits) in [(8_000, true), (8_300, false)] {
        let etag = "e".repeat(length);
        for sent in [
            response(200, &[("etag", &etag)], body([data("ok")])),
            response(200, &[], body([data("ok"), Ok(Frame::trailers(fields(&[("e", &etag)])))])),
        ] {
            let recorder = RecordHttp::builder().max_body_bytes(2).build().unwrap();
            let kept = kept(&recorder, sent).await;
            assert_eq!(!cannot_be_given_again(&kept), fits, "{length}");
        }
    }
}

/// Masks a payload. This is no cipher, but the result is not plain.
fn masked(mut payload: Vec<u8>) -> Vec<u8> {
    payload.iter_mut().for_each(|byte| *byte ^= 0x55);
    payload.push(7);
    payload
}

fn unmasked(mut payload: Vec<u8>) -> Option<Vec<u8>> {
    (payload.pop() == Some(7)).then_some(())?;
    payload.iter_mut().for_each(|byte| *byte ^= 0x55);
    Some(payload)
}

#[tokio::test(start_paused = true)]
async fn what_is_sealed_is_not_plain_and_is_opened_again() {
    let recorder = RecordHttp::builder().seal_fn(masked, unmasked).build().unwrap();
    let kept = kept(&recorder, response(200, &[], Body::from("a secret"))).await;
    let payload = kept.completed.clone().and_then(|completed| completed.payload).unwrap();
    assert!(!payload.windows(6).any(|window| window == b"secret"));
    let opened = again(&recorder, kept.completed).into_body().collect().await.unwrap();
    assert_eq!(opened.to_bytes(), "a secret");

    let mut foreign = payload.clone();
    foreign.push(0);
    assert!(matches!(replay(&recorder, foreign), Err(StoreError::Garbled(_))));
    assert!(replay(&RecordHttp::new(), payload).is_err());
}

#[tokio::test(start_paused = true)]
async fn what_sealing_makes_larger_than_was_set_aside_is_not_kept() {
    for (growth, fits) in [(1 << 10, true), (10 << 10, false)] {
        let seal = move |payload: Vec<u8>| [payload, vec![0; growth]].concat();
        let builder = RecordHttp::builder().max_body_bytes(2).seal_fn(seal, Some);
        let kept = kept(&builder.build().unwrap(), response(200, &[], Body::from("ok"))).await;
        assert_eq!(!cannot_be_given_again(&kept), fits, "{growth}");
    }
}

#[test]
fn a_record_of_a_newer_version_is_rejected_and_not_misread() {
    let recorder = RecordHttp::new();
    assert!(matches!(replay(&recorder, vec![2, 0, 200]), Err(StoreError::Newer(2))));
    for garbage in [vec![], vec![0], vec![1], vec![1, 0, 200]] {
        assert!(matches!(replay(&recorder, garbage), Err(StoreError::Garbled(_))));
    }
}

proptest! {
    #[test]
    fn no_payload_makes_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = replay(&RecordHttp::new(), payload);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_writes_itself_is_what_the_guard_would_have_written() {
    let recorder = RecordHttp::builder().max_body_bytes(10).build().unwrap();
    let (long, cookie) = ("0123456789a", [("set-cookie", "a=1")]);
    let headers = [("etag", "\"1\""), ("x-unknown", "1")];
    for (status, headers, body) in [
        (201, &headers[..], "hello"),
        (200, &[], ""),
        (204, &[], "unread"),
        (200, &[], long),
        (200, &cookie, "x"),
        (101, &[], ""),
    ] {
        let kept = kept(&recorder, response(status, headers, Body::from(body))).await;
        let encoded = recorder.encode(&response(status, headers, body));
        assert_eq!(kept.completed, Some(encoded), "{status} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_passed_on_is_not_read() {
    let recorder = RecordHttp::new();
    let passed =
        Record::<Request<()>, _, Failure>::pass(&recorder, response(200, &[], Untouchable));
    assert_eq!(passed.body().size_hint().lower(), 65_537);
    let passed =
        Record::<Request<()>, _, Failure>::pass(&recorder, response(200, &[], body([data("x")])));
    assert_eq!(passed.into_body().collect().await.unwrap().to_bytes(), "x");
}

// A replayed response on the wire.

/// Returns the bytes that a client reads from a server that replays this payload.
async fn on_the_wire(method: &str, payload: Vec<u8>) -> String {
    let (mut client, server) = duplex(4_096);
    let service = hyper::service::service_fn(move |_| {
        let response = replay(&RecordHttp::new(), payload.clone());
        async { Ok::<_, Infallible>(response.unwrap()) }
    });
    let serving = tokio::spawn(
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service),
    );
    let request =
        format!("{method} / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut read = String::new();
    client.read_to_string(&mut read).await.unwrap();
    serving.await.unwrap().unwrap();
    read.to_ascii_lowercase()
}

#[tokio::test]
async fn the_length_of_a_replayed_response_is_told_as_its_kind_wants_it() {
    async fn recorded<B>(sent: Response<B>) -> Vec<u8>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Send,
    {
        kept(&RecordHttp::new(), sent).await.completed.unwrap().payload.unwrap()
    }
    let lying = [("content-length", "7")];
    let whole = recorded(response(200, &lying, body([data("hello")]))).await;
    let read = on_the_wire("POST", whole).await;
    assert!(read.contains("content-length: 5\r\n") && read.ends_with("\r\n\r\nhello"), "{read}");

    let empty = recorded(response(200, &lying, Body::default())).await;
    let read = on_the_wire("POST", empty.clone()).await;
    assert!(read.contains("content-length: 0\r\n"), "{read}");
    let read = on_the_wire("HEAD", empty).await;
    assert!(!read.contains("content-length: 7") && read.ends_with("\r\n\r\n"), "{read}");

    for status in [204, 304] {
        let read = on_the_wire("POST", recorded(response(status, &lying, Body::default())).await);
        let read = read.await;
        assert!(!read.contains("content-length"), "{read}");
        assert!(!read.contains("transfer-encoding") && read.ends_with("\r\n\r\n"), "{read}");
    }

    let pieces = [data("hello"), Ok(Frame::trailers(fields(&[("x-sum", "9")])))];
    let trailed = recorded(response(200, &[("trailer", "x-sum")], body(pieces))).await;
    let read = on_the_wire("POST", trailed).await;
    assert!(read.contains("transfer-encoding: chunked\r\n"), "{read}");
    assert!(read.ends_with("0\r\nx-sum: 9\r\n\r\n"), "{read}");
}

// The response of a server to a rejection.

type Served = Response<HttpServerBody<ResponseBody<Body>>>;

/// Responds as if the stack had rejected every request.
async fn rejected(protocol: Protocol, rejection: Rejection) -> Served {
    let rejecting = layer_fn(move |_| {
        let rejection = rejection.clone();
        service_fn(move |_: Request<Body>| {
            let rejected = Err(Error::rejected(rejection.clone()));
            async { rejected as Result<Response<ResponseBody<Body>>, Failure> }
        })
    });
    let handler = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(answer(200, &[])) });
    HttpServerLayer::around(rejecting).layer(handler).oneshot(protocol.request(&[])).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_reason_of_the_guard_has_its_status_its_type_and_its_time_to_come_back() {
    use IdempotencyReason::*;
    // For a run in flight, the layer knows when to retry. The time given with other reasons is
    // not passed on.
    let said = Duration::from_millis(2_500);
    let table = [
        (KeyMissing, 400, 3, None),
        (KeyMalformed, 400, 3, None),
        (ScopeMissing, 500, 13, None),
        (BodyTooLarge, 413, 8, None),
        (BodyIncomplete, 408, 4, None),
        (Mismatch, 422, 3, None),
        (InFlight, 409, 10, Some(("3", "2500"))),
        (NotReplayable, 409, 9, None),
        (Unknown, 409, 9, None),
        (StoreUnavailable, 503, 14, Some(("1", "1000"))),
        (Full, 503, 14, Some(("1", "1000"))),
    ];
    let mut types = HashSet::new();
    for (reason, status, code, again) in table {
        let rejection: Rejection = IdempotencyRejected::new("guard", reason, Some(said)).into();
        let served = rejected(Protocol::Http, rejection.clone()).await;
        assert_eq!(served.status(), status, "{reason:?}");
        let after = lines(served.headers(), "retry-after");
        assert_eq!(after, again.map(|(after, _)| after).into_iter().collect::<Vec<_>>());
        assert!(!served.headers().contains_key("x-should-retry"));
        assert!(served.extensions().get::<NotStarted>().is_none());
        let document = served.into_body().collect().await.unwrap().to_bytes();
        let document = std::str::from_utf8(&document).unwrap().to_owned();
        let page = "https://docs.rs/buttress/latest/buttress/error/enum.IdempotencyReason.html";
        let kind = format!(r#""type":"{page}#variant.{reason:?}","#);
        assert!(document.contains(&kind), "{document}");
        assert!(types.insert(kind));

        let served = rejected(Protocol::Grpc, rejection).await;
        assert_eq!(lines(served.headers(), "grpc-status"), [code.to_string()], "{reason:?}");
        let pushback = lines(served.headers(), "grpc-retry-pushback-ms");
        assert_eq!(pushback, again.map(|(_, pushback)| pushback).into_iter().collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_frees_the_key_of_a_guard_around_the_server_only_if_nothing_began() {
    let rejections: [(Rejection, bool); 7] = [
        (CircuitOpen::new("b", None).into(), true),
        (BulkheadFull::new("f", 1).into(), true),
        (QueueTimedOut::new("q", PAUSE).into(), true),
        (RateLimited::new("l", None).into(), true),
        (DeadlineExceeded::new("d").into(), true),
        (TimedOut::new("t", PAUSE).into(), false),
        (NotReady::new("r", PAUSE).into(), false),
    ];
    for (rejection, free) in rejections {
        for protocol in BOTH {
            let served = rejected(protocol, rejection.clone()).await;
            let said = served.extensions().get::<NotStarted>().is_some();
            assert_eq!(said, free, "{rejection:?}");
        }
    }
    let late = Protocol::Grpc.request(&[("grpc-timeout", "0n")]);
    let handler = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(answer(200, &[])) });
    let server = HttpServerLayer::around(Identity::new()).layer(handler);
    let served = server.clone().oneshot(late).await.unwrap();
    assert!(served.extensions().get::<NotStarted>().is_some());
    let served = server.oneshot(Protocol::Grpc.request(&[])).await.unwrap();
    assert!(served.extensions().get::<NotStarted>().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_rejection_after_an_attempt_does_not_say_that_nothing_began() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = service_fn(move |_: Request<Body>| {
        let before = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            match before {
                0 => Ok::<_, Infallible>(answer(503, &[])),
                _ => pending().await,
            }
        }
    });
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let unavailable = |result: Result<&Response<ResponseBody<Body>>, &Failure>| match result {
        Ok(response) if response.status().is_success() => Outcome::Success,
        _ => Outcome::Failure(buttress::Fault::Transient),
    };
    let stack =
        Stack::new().retry(retry(1).classify_fn(unavailable).build().unwrap()).bulkhead(bulkhead);
    let server = HttpServerLayer::new(stack).layer(handler);

    let retried = tokio::spawn(server.clone().oneshot(Request::default()));
    tokio::task::yield_now().await;
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let other = tokio::spawn(server.clone().oneshot(Request::default()));
    tokio::task::yield_now().await;
    assert_eq!(calls.load(Ordering::Relaxed), 2, "the other has the only slot");
    advance(PAUSE).await;

    let served = retried.await.unwrap().unwrap();
    assert_eq!(served.status(), 503);
    assert_eq!(lines(served.headers(), "content-type"), ["application/problem+json"]);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert!(served.extensions().get::<NotStarted>().is_none(), "the handler was asked once");
    let served = server.oneshot(Request::default()).await.unwrap();
    assert!(served.extensions().get::<NotStarted>().is_some());
    other.abort();
}

/// A replacement for the idempotency layer, which only reads the body and counts.
#[derive(Clone)]
struct Counted<S>(S, Arc<AtomicUsize>);

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Failure, Future: Send + 'static>,
    R: http_body::Body<Data = Bytes, Error: Send> + Send,
{
    type Response = Response<BufferedBody<R>>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response<BufferedBody<R>>, Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let future = self.0.call(request);
        let freed = Arc::clone(&self.1);
        Box::pin(async move {
            let result = future.await;
            let recorder = RecordHttp::new();
            let outcome = Record::<Request<()>, _, _>::classify(&recorder, result.as_ref());
            if outcome == RunOutcome::NotStarted {
                freed.fetch_add(1, Ordering::Relaxed);
            }
            Ok(kept(&recorder, result?).await.response)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_guard_stands_outside_the_bulkhead_and_inside_the_answers() {
    let freed = Arc::new(AtomicUsize::new(0));
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let guard = layer_fn({
        let freed = Arc::clone(&freed);
        move |inner| Counted(inner, Arc::clone(&freed))
    });
    let layer =
        HttpServerLayer::builder(Stack::new().bulkhead(bulkhead)).outside(guard).limit(PAUSE);
    let layer = layer.build().unwrap();
    let handler = service_fn(|request: Request<Body>| async move {
        match request.uri().path() {
            "/slow" => pending().await,
            _ => Ok::<_, Infallible>(response(200, &[], body([data("he"), data("llo")]))),
        }
    });
    let server = ServiceBuilder::new().layer(layer).service(handler);
    let asked =
        |path: &str| server.clone().oneshot(Request::post(path).body(Body::default()).unwrap());

    // The layer has read the body of the inner response. Its slot is free before anybody reads
    // the outer body.
    let held = asked("/").await.unwrap();
    let served = asked("/").await.unwrap();
    assert_eq!((held.status(), served.status()), (StatusCode::OK, StatusCode::OK));
    assert_eq!(held.into_body().collect().await.unwrap().to_bytes(), "hello");

    let slow = tokio::spawn(asked("/slow"));
    tokio::task::yield_now().await;
    assert_eq!(asked("/").await.unwrap().status(), 503);
    assert_eq!(freed.load(Ordering::Relaxed), 1, "it saw the refusal as what it is");
    assert_eq!(slow.await.unwrap().unwrap().status(), 504);
}

#[test]
fn a_body_behind_the_guard_is_what_the_body_in_it_is() {
    const fn body<T: Send + Sync + Unpin + std::fmt::Debug + Default>() {}
    body::<BufferedBody<Full<Bytes>>>();
    let empty = BufferedBody::<Full<Bytes>>::default();
    assert!(empty.is_end_stream());
    assert_eq!(empty.size_hint().exact(), Some(0));
}
