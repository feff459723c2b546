use std::{
    collections::HashSet,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use proptest::{collection::vec, prelude::*};
use tokio::time::{Instant, advance};

use super::*;
use crate::{
    error::IdempotencyReason,
    http::BufferedBody,
    idempotency::{Digests, Fingerprint, Hold, Owner, ReadRequest, Run, StorageKey},
};

type Pieces = Result<Frame<Bytes>, &'static str>;

fn body(
    pieces: Vec<Pieces>,
) -> impl Body<Data = Bytes, Error = &'static str> + Send + Unpin + 'static {
    StreamBody::new(stream::iter(pieces))
}

fn data(bytes: impl Into<Bytes>) -> Pieces {
    Ok(Frame::data(bytes.into()))
}

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    };
    let mut fields = HeaderMap::new();
    for (name, value) in lines.iter().map(line) {
        fields.append(name, value);
    }
    fields
}

async fn read_by<B>(
    reader: &ReadHttp,
    request: Request<B>,
) -> Result<(Request<BufferedBody<B>>, Fingerprint), IdempotencyReason>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    let (request, digests) = reader.read(request, Digests::new(&[])).await?;
    Ok((request, digests.finish().current))
}

async fn fingerprint<B>(request: Request<B>) -> Fingerprint
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    read_by(&ReadHttp::new(), request).await.map(|(_, fingerprint)| fingerprint).unwrap()
}

/// The parts of a request.
#[derive(Clone, Debug)]
struct Parts {
    method: &'static str,
    uri: String,
    kinds: Vec<String>,
    body: Vec<u8>,
    trailers: Vec<(&'static str, String)>,
}

impl Parts {
    fn some() -> Self {
        Self {
            method: "POST",
            uri: "/pay/me?a=b".to_owned(),
            kinds: vec!["application/json".to_owned()],
            body: b"{\"amount\":100}".to_vec(),
            trailers: vec![("x-sum", "abc".to_owned())],
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut parts = Self::some();
        change(&mut parts);
        parts
    }

    async fn fingerprint(&self) -> Fingerprint {
        let mut request = Request::builder().method(self.method).uri(&self.uri);
        for kind in &self.kinds {
            request = request.header("content-type", kind);
        }
        let lines: Vec<_> =
            self.trailers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut pieces = vec![data(self.body.clone())];
        if !lines.is_empty() {
            pieces.push(Ok(Frame::trailers(fields(&lines))));
        }
        fingerprint(request.body(body(pieces)).unwrap()).await
    }
}

fn changed(text: &str, at: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
    String::from_utf8(bytes).unwrap()
}

#[tokio::test(start_paused = true)]
async fn two_requests_that_differ_in_anything_have_different_fingerprints() {
    let some = Parts::some();
    let mut all = vec![some.clone()];
    all.push(Parts::with(|parts| parts.method = "PUT"));
    // Changes every byte except the slash at the beginning of the path.
    for at in 1..some.uri.len() {
        all.push(Parts::with(|parts| parts.uri = changed(&some.uri, at)));
    }
    for at in 0..some.kinds[0].len() {
        all.push(Parts::with(|parts| parts.kinds = vec![changed(&some.kinds[0], at)]));
    }
    for at in 0..some.body.len() {
        all.push(Parts::with(|parts| parts.body[at] ^= 1));
    }
    for at in 0..3 {
        all.push(Parts::with(|parts| parts.trailers[0].1 = changed("abc", at)));
    }
    all.push(Parts::with(|parts| parts.trailers[0].0 = "x-sun"));
    all.push(Parts::with(|parts| parts.trailers.push(("x-sum", "abc".to_owned()))));
    all.push(Parts::with(|parts| parts.trailers.clear()));
    // An empty part differs from a missing part.
    all.push(Parts::with(|parts| parts.uri = "/pay/me".to_owned()));
    all.push(Parts::with(|parts| parts.uri = "/pay/me?".to_owned()));
    all.push(Parts::with(|parts| parts.kinds.clear()));
    all.push(Parts::with(|parts| parts.kinds = vec![String::new()]));
    all.push(Parts::with(|parts| parts.kinds.push(String::new())));
    all.push(Parts::with(|parts| parts.body.clear()));
    // The same bytes, in other parts.
    all.push(Parts::with(|parts| parts.uri = "/pay/m?ea=b".to_owned()));
    all.push(Parts::with(|parts| {
        parts.kinds = vec!["application/jso".to_owned()];
        parts.body.insert(0, b'n');
    }));
    all.push(Parts::with(|parts| {
        parts.body.extend(b"x-sumabc");
        parts.trailers.clear();
    }));
    let owned = |lines: &[(&'static str, &str)]| {
        lines.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    };
    all.push(Parts::with(|parts| parts.trailers = owned(&[("a", "b"), ("a", "c"), ("a", "d")])));
    all.push(Parts::with(|parts| parts.trailers = owned(&[("a", "b"), ("c", "d")])));
    let mut fingerprints = HashSet::new();
    for parts in &all {
        assert!(fingerprints.insert(parts.fingerprint().await), "{parts:?}");
    }
}

/// A form whose client writes `boundary` like this.
fn form(boundary: &str, written: &str, parts: &[&str]) -> Parts {
    let mut body = String::new();
    for part in parts {
        let head = "content-disposition: form-data; name=\"a\"";
        body += &format!("--{boundary}\r\n{head}\r\n\r\n{part}\r\n");
    }
    body += &format!("--{boundary}--\r\n");
    Parts::with(|parts| {
        parts.kinds = vec![format!("multipart/form-data; {written}")];
        parts.body = body.into_bytes();
    })
}

#[tokio::test(start_paused = true)]
async fn an_upload_with_another_boundary_is_the_same_request() {
    let parts = ["one", "", "--\r\n-- b\r\n-a\r\n--", "two\r\n"];
    let first = form("abc", "boundary=abc; n=7", &parts).fingerprint().await;
    let longest = "b".repeat(70);
    for (boundary, written) in [
        ("----WebKitFormBoundary7MA4YWxk", "boundary=----WebKitFormBoundary7MA4YWxk; n=7"),
        ("x;=y z", "N=7; Boundary=\"x;=y z\""),
        ("----=_Part_0_1.2", ";; boundary=----=_Part_0_1.2;n=\"7\" ;"),
        (&longest, &format!("boundary={longest};n=7")),
    ] {
        let form = form(boundary, written, &parts);
        assert_eq!(form.fingerprint().await, first, "{written}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_uploads_that_differ_are_not_the_same_request() {
    let upload = form("bound", "boundary=bound", &["one", "two"]);
    let mut fingerprints = HashSet::from([upload.fingerprint().await]);
    let text = String::from_utf8(upload.body.clone()).unwrap();
    let delimiters: Vec<_> = text.match_indices("--bound").map(|(at, _)| at).collect();
    for at in 0..upload.body.len() {
        if delimiters.iter().any(|start| (*start..start + 7).contains(&at)) {
            continue;
        }
        let mut other = upload.clone();
        other.body[at] = if other.body[at] == b'x' { b'y' } else { b'x' };
        assert!(fingerprints.insert(other.fingerprint().await), "{at}");
    }
    for parts in [&["one"][..], &["onetwo"], &["one", "two", ""], &["", "one", "two"], &[]] {
        let other = form("bound", "boundary=bound", parts);
        assert!(fingerprints.insert(other.fingerprint().await), "{parts:?}");
    }
    // Without one valid boundary, the content type counts as it is.
    let longer = format!("boundary={}", "b".repeat(71));
    let malformed = [
        "boundary=other",
        "boundary=",
        "a=b",
        "boundary=bound; boundary=1",
        "boundary=bound; boundary=2",
        "boundary=bound; boundary*0=1",
        "boundary=bound; boundary*0=2",
        "boundary=\"bou\\nd\"",
        "boundary=bound,1",
        &longer,
    ];
    for written in malformed {
        let other = form("bound", written, &["one", "two"]);
        assert!(fingerprints.insert(other.fingerprint().await), "{written}");
    }
    assert_eq!(fingerprints.len(), upload.body.len() - 3 * 7 + 1 + 5 + malformed.len());
}

#[tokio::test(start_paused = true)]
async fn a_boundary_within_the_content_of_an_upload_counts() {
    let nested = "content-type: multipart/mixed; boundary=i\r\n\r\n--i\r\n\r\nx\r\n--i--";
    for (content, inner) in [
        ("amount 1\n--B\nend", "B"),
        ("amount 1\n--B\r\nend", "B"),
        ("amount 1\r--B\r\nend", "B"),
        ("pay\r\n--B--1000 EUR", "B"),
        ("pay\r\n--Bx", "B"),
        ("pay\r\n--B \tx", "B"),
        ("pay\r\n--B\nx", "B"),
        (nested, "i"),
    ] {
        let mut fingerprints = HashSet::new();
        for boundary in ["q1", "q2"] {
            let content = content.replace(inner, boundary);
            let boundary = if inner == "B" { boundary } else { "b" };
            let upload = form(boundary, &format!("boundary={boundary}"), &[&content]);
            assert!(fingerprints.insert(upload.fingerprint().await), "{content}");
        }
    }
    // Of more delimiters than these, the hash would cost more than that of the bytes.
    for (parts, same) in [(999, true), (1_000, false)] {
        let parts = vec![""; parts];
        let [one, other] =
            ["a", "b"].map(|boundary| form(boundary, &format!("boundary={boundary}"), &parts));
        assert_eq!(one.fingerprint().await == other.fingerprint().await, same);
    }
}

#[tokio::test(start_paused = true)]
async fn every_parameter_of_a_content_type_counts_except_a_boundary() {
    let kind = |kind: &str| {
        let kinds = vec![kind.to_owned()];
        async { Parts::with(|parts| parts.kinds = kinds).fingerprint().await }
    };
    // The first of each row is the same as the others of its row.
    let table: [&[&str]; 14] = [
        &["application/json", "application/json;", "application/json ; ;"],
        &["application/json; charset=utf-8", "application/json;CHARSET=\"utf-8\""],
        &[
            "application/soap+xml; charset=utf-8; action=\"urn:Pay\"",
            "application/soap+xml;action=urn:Pay ; Charset=utf-8",
        ],
        &["application/soap+xml; charset=utf-8; action=\"urn:Refund\""],
        &["multipart/related; boundary=A; start=\"<1>\"", "Multipart/related; start=\"<1>\""],
        &["multipart/related; boundary=A; start=\"<2>\""],
        &["application/json; profile=\"a;b\""],
        &["application/json; profile=a;b=c"],
        &["application/json; profile=a;b"],
        &["application/json; version=1; version=2"],
        &["application/json; version=2; version=1"],
        &["application/json; boundary=x1"],
        &["application/json; boundary=x2"],
        &[
            "a/b; a=1; b=2; c=3; d=4; e=5; f=6; g=7; h=8",
            "a/b; h=8; g=7; f=6; e=5; d=4; c=3; b=2; a=1",
        ],
    ];
    let mut fingerprints = HashSet::new();
    for row in table {
        let first = kind(row[0]).await;
        assert!(fingerprints.insert(first), "{row:?}");
        for same in row {
            assert_eq!(kind(same).await == first, !same.starts_with('M'), "{same}");
        }
    }
    // More parameters than these are added as they are.
    let many = "a/b; a=1; b=2; c=3; d=4; e=5; f=6; g=7; h=8; i=9";
    assert!(fingerprints.insert(kind(many).await));
    assert!(fingerprints.insert(kind(&many.replace("=9", "=\"9\"")).await));
}

/// The texts of which uploads are made. An `@` stands for the boundary.
const TEXTS: [&str; 13] = [
    "\r\n--@\r\n",
    "\r\n--@--\r\n",
    "\r\n--@--",
    "\r\n--@",
    "--@",
    "\n--@\n",
    "\n--@\r\n",
    "@",
    "--",
    "\r\n",
    "\n",
    " ",
    "x",
];

/// Returns the contents of the parts, as a server reads them that searches for `\r\n--boundary`.
fn parts(boundary: &str, body: &str) -> Vec<String> {
    let (body, delimiter) = (format!("\r\n{body}"), format!("\r\n--{boundary}"));
    let parts = body.split(&delimiter).skip(1).map(str::to_owned);
    parts.take_while(|part| !part.starts_with("--")).collect()
}

/// Runs a future in a runtime where creating a timer panics.
fn without_timers<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #[test]
    fn two_uploads_with_the_same_fingerprint_have_the_same_content(
        texts in vec(prop::sample::select(TEXTS.to_vec()), 0..6),
        others in vec(prop::sample::select(TEXTS.to_vec()), 0..6),
        is_copy in any::<bool>(),
        boundaries in ("-?ab?-{0,2}", "-?ac?"),
        kinds in prop::array::uniform2("(;b=1)?;boundary=[@b](;boundary=[ab])?"),
    ) {
        let (one, other) = &boundaries;
        let write = |texts: &[&str], boundary: &str| {
            format!("--@{}", texts.concat()).replace('@', boundary)
        };
        let second = if is_copy { &texts } else { &others };
        let bodies = [write(&texts, one), write(second, other)];
        let [first, second] = [0, 1].map(|at| {
            let kind = if is_copy { &kinds[0] } else { &kinds[at] };
            let kind = kind.replace('@', [one, other][at]);
            Parts::with(|parts| {
                parts.kinds = vec![format!("multipart/form-data{kind}")];
                parts.body = bodies[at].clone().into_bytes();
            })
        });
        let [a, b] = [&first, &second].map(|upload| without_timers(upload.fingerprint()));
        let same = a == b;
        if same && first.kinds != second.kinds {
            let renamed = bodies[0].replace(&format!("--{one}"), &format!("--{other}"));
            prop_assert_eq!(&renamed, &bodies[1]);
            prop_assert_eq!(parts(one, &bodies[0]), parts(other, &bodies[1]));
        } else if same {
            prop_assert_eq!(&bodies[0], &bodies[1]);
        }
    }

    #[test]
    fn no_content_type_or_body_makes_it_panic(
        value in "[m;=\"\\\\ a\t/*,]{0,20}",
        body in "[-a\r\n ]{0,20}",
        boundary in "[-a]{1,3}",
    ) {
        let _ = media_type::MediaType::parse(value.as_bytes());
        let multipart = media_type::Multipart::parse(body.as_bytes(), boundary.as_bytes());
        if let Some(multipart) = multipart {
            let mut all = Vec::new();
            multipart.each_piece(|piece| all.push(piece.to_vec()));
            prop_assert_eq!(all.len(), multipart.pieces);
            prop_assert_eq!(all.join(format!("--{boundary}").as_bytes()), body.into_bytes());
        }
    }

    #[test]
    fn chunk_boundaries_do_not_change_the_fingerprint(
        chunks in vec(vec(any::<u8>(), 0..8), 0..8),
    ) {
        let whole = chunks.concat();
        let pieces = chunks.into_iter().map(data).collect();
        let [in_pieces, in_one] = [pieces, vec![data(whole)]].map(|pieces| {
            without_timers(fingerprint(Request::new(body(pieces))))
        });
        prop_assert_eq!(in_pieces, in_one);
    }
}

#[tokio::test(start_paused = true)]
async fn what_differs_from_one_sending_to_the_next_is_not_in_the_fingerprint() {
    let sent = |headers: &[(&str, &str)]| {
        let mut request = Request::post("/pay").body(Full::from("x")).unwrap();
        *request.headers_mut() = fields(headers);
        fingerprint(request)
    };
    let plain = sent(&[("content-type", "a/b")]).await;
    let again = [("date", "now"), ("content-type", "a/b"), ("x-envoy-attempt-count", "2")];
    assert_eq!(sent(&again).await, plain);

    let trailers = |lines| {
        let pieces = vec![data("x"), Ok(Frame::trailers(fields(lines)))];
        fingerprint(Request::new(body(pieces)))
    };
    assert_eq!(
        trailers(&[("a", "1"), ("b", "2")]).await,
        trailers(&[("b", "2"), ("a", "1")]).await
    );
}

#[tokio::test(start_paused = true)]
async fn the_service_gets_the_request_as_it_was_sent() {
    let trailers = fields(&[("x-sum", "9")]);
    let pieces = vec![data("he"), data(""), data("llo"), Ok(Frame::trailers(trailers.clone()))];
    let request = Request::post("/pay").header("x-of-mine", "yes").body(body(pieces)).unwrap();
    let (read, _) = read_by(&ReadHttp::new(), request).await.unwrap();
    assert_eq!(read.uri(), "/pay");
    assert_eq!(read.headers()["x-of-mine"], "yes");
    let collected = read.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers));
    assert_eq!(collected.to_bytes(), "hello");
}

#[tokio::test(start_paused = true)]
async fn a_body_one_byte_over_the_cap_is_too_large_and_one_at_the_cap_is_not() {
    let reader = ReadHttp::builder().max_body_bytes(10).build().unwrap();
    for pieces in [vec![data("0123456789")], vec![data("01234"), data("56789"), data("")]] {
        let (read, _) = read_by(&reader, Request::new(body(pieces))).await.unwrap();
        assert_eq!(read.body().size_hint().exact(), Some(10));
        assert_eq!(read.into_body().collect().await.unwrap().to_bytes(), "0123456789");
    }
    for pieces in [vec![data("0123456789a")], vec![data("0123456789"), data("a")]] {
        let read = read_by(&reader, Request::new(body(pieces))).await;
        assert_eq!(read.unwrap_err(), IdempotencyReason::BodyTooLarge);
    }
    let million = Bytes::from(vec![b'x'; (1 << 20) + 1]);
    for (length, fits) in [(1 << 20, true), ((1 << 20) + 1, false)] {
        let sent = Request::new(body(vec![data(million.slice(..length))]));
        assert_eq!(read_by(&ReadHttp::new(), sent).await.is_ok(), fits, "{length}");
    }
}

/// A body that announces its length, counts its polls, and yields no data.
struct Silent {
    length: u64,
    asked: Arc<AtomicUsize>,
    always_ready: bool,
}

impl Body for Silent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.always_ready {
            true => Poll::Ready(Some(Ok(Frame::data(Bytes::new())))),
            false => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.length);
        hint
    }
}

#[tokio::test(start_paused = true)]
async fn what_says_that_it_is_too_large_is_rejected_unread() {
    let asked = Arc::new(AtomicUsize::new(0));
    let length = (1 << 20) + 1;
    let silent = Silent { length, asked: Arc::clone(&asked), always_ready: false };
    let read = read_by(&ReadHttp::new(), Request::new(silent)).await;
    assert_eq!(read.unwrap_err(), IdempotencyReason::BodyTooLarge);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_in_time_is_incomplete() {
    let two = Duration::from_secs(2);
    for (reader, limit) in [
        (ReadHttp::new(), Duration::from_secs(30)),
        (ReadHttp::builder().body_timeout(two).build().unwrap(), two),
    ] {
        let silent = Silent { length: 0, asked: Arc::default(), always_ready: false };
        let began = Instant::now();
        let read = read_by(&reader, Request::new(silent)).await;
        assert_eq!(read.unwrap_err(), IdempotencyReason::BodyIncomplete);
        assert_eq!(began.elapsed(), limit);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_of_endless_empty_frames_lets_others_run_and_is_incomplete_in_time() {
    let asked = Arc::new(AtomicUsize::new(0));
    let endless = Silent { length: 0, asked: Arc::clone(&asked), always_ready: true };
    let reading =
        tokio::spawn(
            async move { read_by(&ReadHttp::new(), Request::new(endless)).await.map(|_| ()) },
        );
    tokio::task::yield_now().await;
    assert!(asked.load(Ordering::Relaxed) > 0);
    advance(Duration::from_secs(29)).await;
    assert!(!reading.is_finished());
    advance(Duration::from_secs(1)).await;
    assert_eq!(reading.await.unwrap(), Err(IdempotencyReason::BodyIncomplete));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_incomplete() {
    let broken = Request::new(body(vec![data("0123"), Err("broken")]));
    let read = read_by(&ReadHttp::new(), broken).await;
    assert_eq!(read.unwrap_err(), IdempotencyReason::BodyIncomplete);
}

#[tokio::test(start_paused = true)]
async fn an_upload_streams_and_its_body_is_not_in_the_fingerprint() {
    let reader = ReadHttp::builder().without_body().build().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let silent = Silent { length: 1 << 40, asked: Arc::clone(&asked), always_ready: true };
    let (request, fingerprint) = read_by(&reader, Request::new(silent)).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    assert_eq!(request.body().size_hint().lower(), 1 << 40);

    let other = Request::new(body(vec![data("x"), data("y")]));
    let (other, same) = read_by(&reader, other).await.unwrap();
    assert_eq!(fingerprint, same);
    assert_eq!(other.into_body().collect().await.unwrap().to_bytes(), "xy");
    let elsewhere = Request::post("/b").body(Full::from("x")).unwrap();
    assert_ne!(read_by(&reader, elsewhere).await.unwrap().1, fingerprint);
    // The fingerprint also differs from the one of an empty body.
    assert_ne!(self::fingerprint(Request::new(Full::<Bytes>::default())).await, fingerprint);
}

#[test]
fn a_body_that_is_there_at_once_needs_no_timer() {
    let pieces = vec![data("he"), data("llo")];
    without_timers(fingerprint(Request::new(body(pieces))));
}

#[tokio::test(start_paused = true)]
async fn the_service_finds_its_run_in_the_request() {
    let key = StorageKey::from_bytes([7; 32]);
    let run = Run::for_test(Hold::new(key, Owner::random(), 42), None);
    let reader = ReadHttp::new();
    let mut request = reader.pass(Request::new(Full::<Bytes>::from("x")));
    assert!(request.extensions().get::<Run>().is_none());
    ReadRequest::<Request<Full<Bytes>>>::hand_over(&reader, &mut request, &run);
    assert_eq!(request.extensions().get::<Run>().map(Run::fence), Some(42));
    assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "x");
}

const KIB: usize = 1 << 10;

/// Returns a reader with room for `total` KiB, of which one body may have half.
fn reader_of(total: usize) -> ReadHttp {
    let builder = ReadHttp::builder().max_body_bytes(total / 2 * KIB);
    builder.max_total_bytes(total * KIB).build().unwrap()
}

/// A request whose body arrives piece by piece.
struct Upload {
    pieces: Option<futures::channel::mpsc::UnboundedSender<Pieces>>,
    read: tokio::task::JoinHandle<Result<usize, IdempotencyReason>>,
}

impl Upload {
    /// Starts to read a request. The service takes the data of its body at once.
    fn begin(reader: &ReadHttp) -> Self {
        let (pieces, incoming) = futures::channel::mpsc::unbounded();
        let (reader, request) = (reader.clone(), Request::new(StreamBody::new(incoming)));
        let read = tokio::spawn(async move {
            let (request, _) = read_by(&reader, request).await?;
            Ok(request.into_body().collect().await.unwrap().to_bytes().len())
        });
        Self { pieces: Some(pieces), read }
    }

    async fn send(&self, bytes: usize) {
        let pieces = self.pieces.as_ref().unwrap();
        let _ = pieces.unbounded_send(data(vec![7; bytes]));
        tokio::task::yield_now().await;
    }

    async fn stalled(reader: &ReadHttp, bytes: usize) -> Self {
        let upload = Self::begin(reader);
        upload.send(bytes).await;
        upload
    }

    async fn is_ended(&self) -> bool {
        tokio::task::yield_now().await;
        self.read.is_finished()
    }

    async fn end(mut self) -> Result<usize, IdempotencyReason> {
        drop(self.pieces.take());
        self.read.await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn without_memory_the_body_that_progressed_least_is_ended() {
    let reader = reader_of(64);
    let (first, second, third) = (
        Upload::stalled(&reader, 20 * KIB).await,
        Upload::stalled(&reader, 20 * KIB).await,
        Upload::stalled(&reader, 20 * KIB).await,
    );
    first.send(3 * KIB).await;
    assert!(reader.buffered() > 60 * KIB && reader.buffered() <= 64 * KIB);
    // A small body that has paused for longest is spared.
    let newcomer = Upload::begin(&reader);
    newcomer.send(20 * KIB).await;
    assert!(second.is_ended().await);
    assert_eq!(second.end().await, Err(IdempotencyReason::BodyIncomplete));
    for upload in [first, third, newcomer] {
        assert!(!upload.is_ended().await);
        assert!(upload.end().await.is_ok());
    }
    assert_eq!(reader.buffered(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_small_body_that_pauses_outlives_large_ones_that_stall() {
    let reader = reader_of(1_024);
    let small = Upload::stalled(&reader, KIB).await;
    let mut stalled = Vec::new();
    for _ in 0..100 {
        let upload = Upload::stalled(&reader, 256 * KIB).await;
        assert!(!upload.is_ended().await, "a newcomer was ended");
        assert!(reader.buffered() <= 1_024 * KIB);
        stalled.push(upload);
    }
    assert_eq!(stalled.iter().filter(|upload| upload.read.is_finished()).count(), 97);
    small.send(KIB).await;
    assert_eq!(small.end().await, Ok(2 * KIB));
}

#[tokio::test(start_paused = true)]
async fn tiny_frames_are_no_progress_of_a_large_body() {
    let reader = reader_of(64);
    let trickling = Upload::stalled(&reader, 20 * KIB).await;
    let honest = Upload::stalled(&reader, 16 * KIB).await;
    for _ in 0..10 {
        honest.send(KIB).await;
        trickling.send(1).await;
    }
    let _newcomer = Upload::stalled(&reader, 16 * KIB).await;
    assert!(trickling.is_ended().await && !honest.is_ended().await);
    assert_eq!(honest.end().await, Ok(26 * KIB));
}

#[tokio::test(start_paused = true)]
async fn many_tricklers_do_not_outlast_an_upload_that_pauses() {
    let reader = reader_of(784);
    let mut tricklers = Vec::new();
    for _ in 0..20 {
        tricklers.push(Upload::stalled(&reader, 16 * KIB).await);
    }
    let honest = Upload::begin(&reader);
    for _ in 0..6 {
        honest.send(16 * KIB).await;
    }
    // Each grows by more than 1/64 in each round, and the upload does not grow at all.
    for _ in 0..5 {
        for trickler in &tricklers {
            trickler.send(300).await;
        }
    }
    let _newcomers =
        [Upload::stalled(&reader, 16 * KIB).await, Upload::stalled(&reader, 16 * KIB).await];
    assert!(!honest.is_ended().await);
    assert_eq!(tricklers.iter().filter(|trickler| trickler.read.is_finished()).count(), 1);
    assert_eq!(honest.end().await, Ok(96 * KIB));
}

#[tokio::test(start_paused = true)]
async fn tiny_bodies_do_not_make_others_look_old() {
    let reader = reader_of(64);
    let honest = Upload::stalled(&reader, 8 * KIB).await;
    for _ in 0..10 {
        let tiny = Upload::begin(&reader);
        for _ in 0..100 {
            tiny.send(1).await;
        }
    }
    // A large body that stalls has held more memory, and almost as long.
    let large = Upload::stalled(&reader, 32 * KIB).await;
    let one = Upload::stalled(&reader, 16 * KIB).await;
    let two = Upload::stalled(&reader, 16 * KIB).await;
    assert!(large.is_ended().await && !honest.is_ended().await);
    for upload in [honest, one, two] {
        assert!(upload.end().await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_holds_memory_until_the_service_has_taken_its_data() {
    let reader = reader_of(64);
    let body = || body(vec![data(vec![7; 16 * KIB]), data(vec![7; 16 * KIB])]);
    let (one, _) = read_by(&reader, Request::new(body())).await.unwrap();
    let (two, _) = read_by(&reader, Request::new(body())).await.unwrap();
    assert_eq!(reader.buffered(), 64 * KIB);
    // Complete bodies are not ended.
    let rejected = read_by(&reader, Request::new(body())).await.map(|_| ());
    assert_eq!(rejected, Err(IdempotencyReason::Full));
    drop(one);
    assert_eq!(reader.buffered(), 32 * KIB);
    let mut two = two.into_body();
    assert_eq!(two.frame().await.unwrap().unwrap().into_data().unwrap().len(), 32 * KIB);
    assert_eq!(reader.buffered(), 0);

    // A caller that leaves gives its memory back, too.
    let upload = Upload::stalled(&reader, 16 * KIB).await;
    assert_eq!(reader.buffered(), 16 * KIB);
    upload.read.abort();
    assert!(upload.is_ended().await);
    assert_eq!(reader.buffered(), 0);
}

/// The buffer grows by doubling, but not beyond the limit of one body.
#[tokio::test(start_paused = true)]
async fn no_body_holds_more_than_its_limit() {
    let reader = reader_of(64);
    let upload = Upload::begin(&reader);
    for sent in 1..=32 {
        upload.send(KIB).await;
        assert!((sent * KIB..=32 * KIB).contains(&reader.buffered()));
    }
    assert_eq!(upload.end().await, Ok(32 * KIB));
}
