//! The properties of the cache over HTTP.
#![cfg(feature = "http")]

#[path = "../support/bodies.rs"]
mod bodies;
mod counts;
mod extremes;
mod hosts;
mod outdated;

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use allocation_counter::measure;
use buttress::{
    Stack,
    cache::{CacheBuilder, CacheHandle, CacheLayer},
    endpoints::Endpoints,
    http::{
        Degraded, HttpClientLayer, ResponseBody, UntilEnd,
        cache::{HttpKey, HttpRules, HttpValue},
    },
    telemetry::DegradedBy,
};
use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderName, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use tokio::time::{Instant, Sleep, advance, sleep, timeout};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use self::bodies::EmptyFrames;

const SECOND: Duration = Duration::from_secs(1);

/// A body of frames, each after a pause. Its length is known if it is set.
struct Script {
    frames: VecDeque<(Duration, Bytes)>,
    pause: Option<Pin<Box<Sleep>>>,
    length: Option<u64>,
}

impl Script {
    fn new(frames: &[(Duration, &'static str)], length: Option<u64>) -> Self {
        let frames = frames.iter().map(|(pause, data)| (*pause, Bytes::from(*data))).collect();
        Self { frames, pause: None, length }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some((pause, _)) = self.frames.front() else { return Poll::Ready(None) };
        if !pause.is_zero() {
            let pause = *pause;
            let timer = self.pause.get_or_insert_with(|| Box::pin(sleep(pause)));
            std::task::ready!(timer.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(self.frames.pop_front().map(|(_, data)| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

type Client =
    BoxCloneSyncService<Request<String>, Response<ResponseBody<Script>>, buttress::BoxError>;
type Builder = CacheBuilder<HttpKey, HttpValue, HttpRules>;
type Handle = CacheHandle<HttpKey, HttpValue>;

/// A server that makes the response of its n-th call, after its pause or that in the extensions.
struct Server {
    client: Client,
    calls: Arc<AtomicU32>,
    cache: Handle,
}

impl Server {
    fn new(
        builder: Builder,
        pause: Duration,
        answer: impl Fn(u32, &Request<String>) -> Response<Script> + Clone + Send + Sync + 'static,
    ) -> Self {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let service = tower::service_fn(move |request: Request<String>| {
            let call = counted.fetch_add(1, Ordering::Relaxed) + 1;
            let response = answer(call, &request);
            let pause = response.extensions().get().copied().unwrap_or(pause);
            async move {
                sleep(pause).await;
                Ok::<_, io::Error>(response)
            }
        });
        let cache = builder.build().unwrap();
        let handle = cache.handle();
        let stack = Stack::new().cache(cache).total_timeout(5 * SECOND).http();
        Self { client: BoxCloneSyncService::new(stack.boxed(service)), calls, cache: handle }
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    async fn get(
        &self,
        headers: &[(&'static str, &'static str)],
    ) -> Response<ResponseBody<Script>> {
        self.send(Method::GET, headers).await
    }

    async fn send(
        &self,
        method: Method,
        headers: &[(&'static str, &'static str)],
    ) -> Response<ResponseBody<Script>> {
        self.client.clone().oneshot(request(method, headers)).await.unwrap()
    }
}

fn request(method: Method, headers: &[(&'static str, &'static str)]) -> Request<String> {
    let mut request = Request::builder().method(method).uri("http://shop.internal/rates?a=1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(String::new()).unwrap()
}

/// Returns a response with a body that is there at once.
fn respond(status: u16, headers: &[(&'static str, &str)]) -> Response<Script> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Script::new(&[(Duration::ZERO, "EUR 1.08")], Some(8))).unwrap()
}

async fn text(response: Response<ResponseBody<Script>>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

fn value<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_hit_says_so_and_how_old_it_is() {
    let server = Server::new(CacheLayer::http().ttl(60 * SECOND), Duration::ZERO, |_, _| {
        let mut response =
            respond(200, &[("content-type", "text/plain"), ("age", "7"), ("x-a", "1")]);
        response.headers_mut().append("connection", "x-b, close".parse().unwrap());
        response.headers_mut().append("x-b", "2".parse().unwrap());
        response
    });
    let first = server.get(&[]).await;
    assert_eq!(
        (value(&first, "cache-status"), value(&first, "age")),
        ("buttress; fwd=uri-miss", "7")
    );
    assert_eq!(text(first).await, "EUR 1.08");
    advance(3 * SECOND).await;
    let hit = server.get(&[]).await;
    let ttl = value(&hit, "cache-status").strip_prefix("buttress; hit; ttl=").unwrap();
    assert!((50..=57).contains(&ttl.parse::<u32>().unwrap()), "{ttl}");
    assert_eq!((value(&hit, "age"), value(&hit, "x-a")), ("10", "1"));
    assert_eq!((value(&hit, "connection"), value(&hit, "x-b")), ("", ""));
    assert!(hit.extensions().get::<Degraded>().is_none());
    assert_eq!(hit.body().size_hint().exact(), Some(8));
    assert_eq!(text(hit).await, "EUR 1.08");
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stale_response_is_marked() {
    let builder = CacheLayer::http().ttl(10 * SECOND).if_error(3_600 * SECOND);
    let server = Server::new(builder, Duration::ZERO, |call, _| match call {
        1 => respond(200, &[]),
        _ => respond(503, &[]),
    });
    drop(server.get(&[]).await);
    advance(30 * SECOND).await;
    // The second one is given without a call, because the first one has failed.
    for begin in ["buttress; fwd=stale; ttl=-2", "buttress; hit; ttl=-2"] {
        let stale = server.get(&[]).await;
        assert_eq!((stale.status(), value(&stale, "age")), (StatusCode::OK, "30"));
        let status = value(&stale, "cache-status");
        assert!(status.starts_with(begin), "{status}");
        assert!(status.ends_with("; detail=stale-if-error"), "{status}");
        let degraded = stale.extensions().get::<Degraded>().unwrap();
        assert_eq!((degraded.source(), degraded.age()), (DegradedBy::Stale, Some(30 * SECOND)));
        assert_eq!(text(stale).await, "EUR 1.08");
    }
    assert_eq!(server.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_response_says_why_it_was_forwarded() {
    for (is_stale, why) in [(false, "uri-miss"), (true, "stale")] {
        let builder = CacheLayer::http().ttl(10 * SECOND).if_error(3_600 * SECOND);
        let server = Server::new(builder.max_shared_calls(1), SECOND, |_, _| respond(200, &[]));
        if is_stale {
            drop(server.get(&[]).await);
            advance(30 * SECOND).await;
        }
        let responses = join_all((0..2).map(|_| server.get(&[]))).await;
        let statuses: Vec<_> = responses.iter().map(|it| value(it, "cache-status")).collect();
        let [first, joined] = statuses[..] else { panic!("{statuses:?}") };
        assert_eq!(first, format!("buttress; fwd={why}"));
        assert_eq!(joined, format!("buttress; fwd={why}; collapsed"));
        if is_stale {
            advance(30 * SECOND).await;
        } else {
            server.cache.forget_all();
        }
        // The only shared call is that of another URI.
        let mut other = request(Method::GET, &[]);
        *other.uri_mut() = Uri::from_static("http://shop.internal/");
        let (_, alone) = tokio::join!(server.client.clone().oneshot(other), server.get(&[]));
        assert_eq!(value(&alone, "cache-status"), format!("buttress; fwd={why}"));
        assert_eq!(server.cache.counts().bypassed, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_503_is_shared_and_not_kept() {
    let server = Server::new(CacheLayer::http(), SECOND, |_, _| respond(503, &[]));
    let results = join_all((0..100).map(|_| server.get(&[]))).await;
    assert!(results.iter().all(|response| response.status() == 503));
    for response in results {
        assert_eq!(text(response).await, "EUR 1.08");
    }
    assert_eq!((server.calls(), server.cache.counts().entries), (1, 0));
    drop(server.get(&[]).await);
    assert_eq!(server.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_users_answer_is_never_given() {
    for name in ["authorization", "cookie", "proxy-authorization"] {
        let server = Server::new(CacheLayer::http(), SECOND, |_, _| respond(200, &[]));
        // Together, one after the other, and after a request without credentials.
        let (a, b) = ([(name, "a")], [(name, "b")]);
        let (one, two) = tokio::join!(server.get(&a), server.get(&b));
        drop((one, two, server.get(&[(name, "a")]).await));
        assert_eq!((server.calls(), server.cache.counts().entries), (3, 0), "{name}");
        drop(server.get(&[]).await);
        let own = server.get(&[(name, "a")]).await;
        assert_eq!(value(&own, "cache-status"), "buttress; fwd=bypass");
        assert_eq!(server.calls(), 5, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn responses_of_a_scope_are_for_this_scope_only() {
    let builder = CacheLayer::http()
        .scope_fn(|headers, _| headers.get("x-user").map(|user| user.to_str().unwrap().to_owned()));
    let server = Server::new(builder, SECOND, |_, request| {
        let user = request.headers().get("x-user").map_or("", |it| it.to_str().unwrap());
        respond(200, &[("x-user", user)])
    });
    let of = |user| {
        server.get(if user == "a" {
            &[("x-user", "a"), ("cookie", "1")]
        } else {
            &[("x-user", "b"), ("cookie", "2")]
        })
    };
    let (a, b) = tokio::join!(of("a"), of("b"));
    assert_eq!((value(&a, "x-user"), value(&b, "x-user")), ("a", "b"));
    for user in ["a", "b"] {
        let hit = of(user).await;
        assert!(value(&hit, "cache-status").starts_with("buttress; hit"));
        assert_eq!(value(&hit, "x-user"), user);
    }
    assert_eq!(server.calls(), 2);
    // Credentials without a scope are nobody's.
    drop((server.get(&[("cookie", "1")]).await, server.get(&[("cookie", "1")]).await));
    assert_eq!(server.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_request_for_something_else_bypasses_the_cache() {
    let requests: &[(&'static str, &'static str)] = &[
        ("range", "bytes=0-1"),
        ("if-none-match", "\"a\""),
        ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("cache-control", "no-cache"),
        ("pragma", "no-cache"),
        ("idempotency-key", "\"k\""),
        ("upgrade", "websocket"),
    ];
    for request in requests {
        let server = Server::new(CacheLayer::http(), Duration::ZERO, |_, _| respond(200, &[]));
        drop(server.get(&[]).await);
        let other = server.get(&[*request]).await;
        assert_eq!(value(&other, "cache-status"), "buttress; fwd=bypass", "{request:?}");
        let hit = server.get(&[]).await;
        assert!(value(&hit, "cache-status").starts_with("buttress; hit"), "{request:?}");
        assert_eq!(server.calls(), 2);
    }
    // It is not given the response of a call that began before it.
    let server = Server::new(CacheLayer::http(), SECOND, |_, _| respond(200, &[]));
    let (shared, own) = ([], [("cache-control", "max-age=0")]);
    let (_, other) = tokio::join!(server.get(&shared), server.get(&own));
    assert_eq!(value(&other, "cache-status"), "buttress; fwd=bypass");
    assert_eq!(server.calls(), 2);
    // A GET with a body asks for something that is not in its key.
    let server = Server::new(CacheLayer::http(), Duration::ZERO, |_, _| respond(200, &[]));
    for _ in 0..2 {
        let request = request(Method::GET, &[]).map(|_| "query".to_owned());
        drop(server.client.clone().oneshot(request).await.unwrap());
    }
    assert_eq!(server.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_headers_of_the_key_tell_responses_apart() {
    let builder = CacheLayer::http().vary([HeaderName::from_static("x-region")]);
    let server = Server::new(builder, Duration::ZERO, |_, _| {
        respond(200, &[("vary", "Accept, x-region"), ("vary", "accept-encoding")])
    });
    let requests: [&[_]; 6] = [
        &[],
        &[("accept", "text/plain")],
        &[("accept", "text/html")],
        &[("accept-encoding", "gzip")],
        &[("accept-language", "de")],
        &[("x-region", "eu")],
    ];
    for _ in 0..2 {
        for request in requests {
            drop(server.get(request).await);
        }
        drop(server.send(Method::HEAD, &[]).await);
    }
    assert_eq!((server.calls(), server.cache.counts().hits), (7, 7));
}

#[tokio::test(start_paused = true)]
async fn a_response_for_one_caller_is_not_kept() {
    let responses: [(&str, &str); 9] = [
        ("set-cookie", "a=1"),
        ("cache-control", "no-store"),
        ("cache-control", "max-age=9, private"),
        ("vary", "*"),
        ("vary", "accept, cookie"),
        ("vary", "x-user"),
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("expires", "0"),
    ];
    for (name, line) in responses {
        let server = Server::new(CacheLayer::http(), Duration::ZERO, move |_, _| {
            respond(200, &[(name, line)])
        });
        for calls in 1..=3 {
            let response = server.get(&[]).await;
            assert_eq!(
                (text(response).await, server.calls()),
                ("EUR 1.08".into(), calls),
                "{name}: {line}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_can_shorten_its_time_but_not_lengthen_it() {
    for (line, fresh_for) in [("max-age=5", 5), ("max-age=9999", 60), ("public", 60)] {
        let builder = CacheLayer::http().ttl(60 * SECOND);
        let server = Server::new(builder, Duration::ZERO, move |_, _| {
            respond(200, &[("cache-control", line)])
        });
        drop(server.get(&[]).await);
        advance(fresh_for * SECOND * 8 / 10).await;
        drop(server.get(&[]).await);
        assert_eq!(server.calls(), 1, "{line}");
        advance(fresh_for * SECOND * 3 / 10).await;
        drop(server.get(&[]).await);
        assert_eq!(server.calls(), 2, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_must_be_revalidated_is_not_given_stale() {
    for line in ["must-revalidate", "proxy-revalidate", "s-maxage=10"] {
        let builder = CacheLayer::http().ttl(10 * SECOND).while_revalidate(3_600 * SECOND);
        let builder = builder.if_error(3_600 * SECOND);
        let server = Server::new(builder, Duration::ZERO, move |call, _| match call {
            1 => respond(200, &[("cache-control", line)]),
            _ => respond(503, &[]),
        });
        drop(server.get(&[]).await);
        assert_eq!((server.get(&[]).await.status(), server.calls()), (StatusCode::OK, 1));
        advance(30 * SECOND).await;
        assert_eq!(server.get(&[]).await.status(), 503, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_negative_response_is_not_given_stale() {
    let builder = CacheLayer::http().negative([StatusCode::NOT_FOUND], 5 * SECOND);
    let builder = builder.while_revalidate(3_600 * SECOND).if_error(3_600 * SECOND);
    let server = Server::new(builder, Duration::ZERO, |call, _| match call {
        1 => respond(404, &[]),
        _ => respond(503, &[]),
    });
    for _ in 0..2 {
        assert_eq!((server.get(&[]).await.status(), server.calls()), (StatusCode::NOT_FOUND, 1));
    }
    advance(5 * SECOND).await;
    assert_eq!(server.get(&[]).await.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn only_statuses_that_are_named_are_kept_besides_the_usual_ones() {
    for (status, calls) in [(200, 1), (301, 1), (404, 2), (302, 2), (500, 2), (410, 1)] {
        let builder = CacheLayer::http().negative([StatusCode::GONE], 5 * SECOND);
        let server = Server::new(builder, Duration::ZERO, move |_, _| respond(status, &[]));
        drop(server.get(&[]).await);
        drop(server.get(&[]).await);
        assert_eq!(server.calls(), calls, "{status}");
        advance(5 * SECOND).await;
        drop(server.get(&[]).await);
        assert_eq!(server.calls(), if [200, 301].contains(&status) { 1 } else { calls + 1 });
    }
    for status in [200, 429, 500, 503] {
        let status = StatusCode::from_u16(status).unwrap();
        let error = CacheLayer::http().negative([status], SECOND).build().unwrap_err();
        assert_eq!(error.knob(), "negative");
    }
}

#[tokio::test(start_paused = true)]
async fn not_shareable_does_not_serialise() {
    let stream = |_: u32, _: &Request<String>| {
        let body = Script::new(&[(SECOND, "one"), (3_600 * SECOND, "two")], None);
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    };
    let server = Server::new(CacheLayer::http(), SECOND, stream);
    // The others wait for the head of one call, and then ask together.
    let began = Instant::now();
    let responses = join_all((0..100).map(|_| server.get(&[]))).await;
    assert_eq!((began.elapsed(), server.calls()), (2 * SECOND, 100));
    drop(responses);
    // The key is known, so nobody waits for another one.
    let began = Instant::now();
    let responses = join_all((0..100).map(|_| server.get(&[]))).await;
    assert_eq!((began.elapsed(), server.calls()), (SECOND, 200));
    drop(responses);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_reaches_its_caller_at_once() {
    let long = "x".repeat(100_000);
    let long: &'static str = long.leak();
    type Frames = Vec<(Duration, &'static str)>;
    let bodies: [(Frames, Option<u64>); 3] = [
        // Of unknown length, and above the limit with and without a length.
        (vec![(Duration::ZERO, "one"), (3_600 * SECOND, "two")], None),
        (vec![(Duration::ZERO, long)], None),
        (vec![(3_600 * SECOND, long)], Some(100_000)),
    ];
    for (frames, length) in bodies {
        let server = Server::new(CacheLayer::http(), SECOND, move |_, _| {
            Response::new(Script::new(&frames, length))
        });
        let began = Instant::now();
        let response = server.get(&[]).await;
        assert_eq!((began.elapsed(), server.cache.counts().shared_calls), (SECOND, 0));
        if length.is_none() {
            let mut body = response.into_body();
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!((began.elapsed(), first.len() >= 3), (SECOND, true));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_leaves_time_to_ask_again() {
    let server = Server::new(CacheLayer::http(), SECOND, |_, _| {
        let frames = [(Duration::ZERO, "EUR "), (60 * SECOND, "1.08")];
        Response::new(Script::new(&frames, Some(8)))
    });
    let began = Instant::now();
    let responses = join_all((0..2).map(|_| server.get(&[]))).await;
    // The body has 2 of the 4 s that are left after its head. The one who waited then asks for
    // itself.
    assert_eq!(began.elapsed(), 4 * SECOND);
    drop(responses);
    assert_eq!(server.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_body_of_unknown_length_that_has_arrived_is_kept() {
    let server = Server::new(CacheLayer::http(), Duration::ZERO, |_, _| {
        let frames = [(Duration::ZERO, "EUR "), (Duration::ZERO, "1.08")];
        Response::new(Script::new(&frames, None))
    });
    for _ in 0..2 {
        assert_eq!(text(server.get(&[]).await).await, "EUR 1.08");
    }
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_forgets_the_uri_at_its_begin_and_at_its_end() {
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        let server = Server::new(CacheLayer::http(), SECOND, |_, _| respond(200, &[]));
        drop(server.get(&[]).await);
        let changing = server.send(method.clone(), &[("authorization", "a")]);
        tokio::pin!(changing);
        assert!(timeout(SECOND / 2, &mut changing).await.is_err());
        // What is read while it runs may be the state before it.
        drop(server.get(&[]).await);
        assert_eq!(server.calls(), 3, "{method}");
        drop(changing.await);
        drop(server.get(&[]).await);
        assert_eq!(server.calls(), 4, "{method}");
    }
    for method in [Method::OPTIONS, Method::TRACE, Method::HEAD] {
        let server = Server::new(CacheLayer::http(), Duration::ZERO, |_, _| respond(200, &[]));
        drop((server.get(&[]).await, server.send(method, &[]).await, server.get(&[]).await));
        assert_eq!(server.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_timed_out_or_was_dropped_forgets_too() {
    for is_dropped in [true, false] {
        let server = Server::new(CacheLayer::http(), Duration::ZERO, |_, request| {
            let mut response = respond(200, &[]);
            if request.method() == Method::POST {
                response.extensions_mut().insert(60 * SECOND);
            }
            response
        });
        let mut changing = Box::pin(server.client.clone().oneshot(request(Method::POST, &[])));
        assert!(timeout(SECOND, &mut changing).await.is_err());
        drop((server.get(&[]).await, server.get(&[]).await));
        assert_eq!(server.calls(), 2);
        if is_dropped {
            drop(changing);
        } else {
            // The total timeout ends it.
            assert!(changing.await.is_err());
        }
        // The entry that was made meanwhile is gone.
        drop(server.get(&[]).await);
        assert_eq!(server.calls(), 3);
    }
    // The same if it was never polled.
    let server = Server::new(CacheLayer::http(), Duration::ZERO, |_, _| respond(200, &[]));
    let changing = server.client.clone().call(request(Method::POST, &[]));
    drop(server.get(&[]).await);
    drop(server.get(&[]).await);
    assert_eq!(server.calls(), 1);
    drop(changing);
    drop(server.get(&[]).await);
    assert_eq!(server.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_uri_can_be_forgotten_by_hand() {
    let server = Server::new(CacheLayer::http(), Duration::ZERO, |_, _| respond(200, &[]));
    drop((server.get(&[]).await, server.get(&[("accept", "a")]).await));
    server.cache.forget_uri(&Uri::from_static("http://shop.internal/rates?a=1"));
    drop((server.get(&[]).await, server.get(&[("accept", "a")]).await));
    assert_eq!(server.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_hit_allocates_only_its_headers() {
    let client = tower::service_fn(|_: Request<Full<Bytes>>| async {
        let response = Response::builder().header("content-type", "text/plain");
        Ok::<_, io::Error>(response.body(Full::new(Bytes::from("EUR 1.08"))).unwrap())
    });
    let cache = CacheLayer::http().build().unwrap();
    let mut client = Stack::new().cache(cache).http().boxed(client);
    let request = || {
        let request = Request::get("http://shop.internal/rates").header("accept", "text/plain");
        request.body(Full::<Bytes>::default()).unwrap()
    };
    drop(client.ready().await.unwrap().call(request()).await.unwrap());
    drop(client.ready().await.unwrap().call(request()).await.unwrap());
    let (mut requests, mut context) =
        (vec![request()], Context::from_waker(std::task::Waker::noop()));
    let allocated = measure(|| {
        let mut call = std::pin::pin!(client.call(requests.pop().unwrap()));
        let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut context) else { panic!() };
        assert!(response.headers().contains_key(header::AGE));
    });
    // Two are the copy of the map, and one each is the value of `age` and of `cache-status`.
    assert_eq!(allocated.count_total, 4);
}

#[tokio::test(start_paused = true)]
async fn layers_by_hand_and_an_absent_layer_work_too() {
    let client = || {
        tower::service_fn(|_: Request<String>| async {
            Ok::<_, io::Error>(Response::new("EUR 1.08".to_owned()))
        })
    };
    let get = || request(Method::GET, &[]);
    let by_hand = tower::ServiceBuilder::new()
        .layer(UntilEnd::new(CacheLayer::http().build().unwrap()))
        .layer(HttpClientLayer::new())
        .map_err(buttress::Error::Service)
        .service(client());
    drop(by_hand.clone().oneshot(get()).await.unwrap());
    let hit = by_hand.oneshot(get()).await.unwrap();
    assert!(value(&hit, "cache-status").starts_with("buttress; hit"));

    for is_there in [false, true] {
        let cache = is_there.then(|| CacheLayer::http().build().unwrap());
        let client = Stack::standard_http().cache(cache).service(client());
        drop(client.clone().oneshot(get()).await.unwrap());
        let second = client.oneshot(get()).await.unwrap();
        assert_eq!(value(&second, "cache-status").starts_with("buttress; hit"), is_there);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_can_be_spawned_if_its_type_names_a_lifetime() {
    type Text = BoxBody<Bytes, buttress::BoxError>;
    let endpoints = Endpoints::new(["shop-1", "shop-2"], |_: &&'static str| {
        tower::service_fn(|_: Request<String>| async {
            Ok::<_, io::Error>(Response::new(Text::default()))
        })
    });
    let cache = CacheLayer::http().build().unwrap();
    let mut client = Stack::standard_http().cache(cache).layer(endpoints);
    let call = async move {
        let client = client.ready().await.unwrap();
        client.call(request(Method::GET, &[])).await.unwrap().status()
    };
    assert_eq!(tokio::spawn(call).await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_must_not_be_stored_leaves_the_last_good_response() {
    for header in [
        ("cache-control", "no-store"),
        ("cache-control", "private"),
        ("set-cookie", "error=1"),
        ("vary", "x-other"),
    ] {
        let builder = CacheLayer::http().ttl(10 * SECOND).if_error(3_600 * SECOND);
        let server = Server::new(builder, Duration::ZERO, move |call, _| match call {
            1 => respond(200, &[]),
            _ => respond(503, &[header]),
        });
        drop(server.get(&[]).await);
        for _ in 0..5 {
            advance(30 * SECOND).await;
            assert_eq!(server.get(&[]).await.status(), 200, "{header:?}");
        }
        assert_eq!(server.calls(), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn a_503_that_must_not_be_stored_is_one_call_for_a_crowd() {
    let server = Server::new(CacheLayer::http(), SECOND, |_, _| {
        respond(503, &[("cache-control", "no-store")])
    });
    let results = join_all((0..100).map(|_| server.get(&[]))).await;
    assert!(results.iter().all(|response| response.status() == 503));
    assert_eq!((server.calls(), server.cache.counts().entries), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_gives_the_last_good_response() {
    let calls = Arc::new(AtomicU32::new(0));
    let service = tower::service_fn(move |_: Request<String>| {
        let is_whole = calls.fetch_add(1, Ordering::Relaxed) == 0;
        let end = (!is_whole).then(|| Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        let frames = std::iter::once(Ok(Frame::data(Bytes::from("EUR")))).chain(end);
        let body = StreamBody::new(futures::stream::iter(frames));
        std::future::ready(Ok::<_, io::Error>(Response::new(body)))
    });
    let cache = CacheLayer::http().ttl(10 * SECOND).if_error(3_600 * SECOND).build().unwrap();
    let client = Stack::new().cache(cache).http().service(service);
    for _ in 0..4 {
        let response = client.clone().oneshot(request(Method::GET, &[])).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "EUR");
        advance(30 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_joined_in_vain_gets_the_last_good_response_too() {
    let builder = CacheLayer::http().ttl(10 * SECOND).if_error(3_600 * SECOND);
    let server = Server::new(builder, SECOND, |call, _| match call {
        1 => respond(200, &[]),
        2 => respond(200, &[("set-cookie", "a=1")]),
        _ => respond(503, &[]),
    });
    drop(server.get(&[]).await);
    advance(30 * SECOND).await;
    let (own, joined) = tokio::join!(server.get(&[]), server.get(&[]));
    assert_eq!((own.status(), value(&own, "set-cookie")), (StatusCode::OK, "a=1"));
    assert_eq!((joined.status(), server.calls()), (StatusCode::OK, 3));
    assert!(joined.extensions().get::<Degraded>().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_age_on_arrival_counts() {
    let server = Server::new(CacheLayer::http().ttl(60 * SECOND), Duration::ZERO, |_, _| {
        respond(200, &[("cache-control", "max-age=60"), ("age", "55")])
    });
    for (seconds, calls) in [(0, 1), (4, 1), (2, 2)] {
        advance(seconds * SECOND).await;
        drop(server.get(&[]).await);
        assert_eq!(server.calls(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_responds_again_is_asked_by_all() {
    let builder = CacheLayer::http().ttl(10 * SECOND).if_error(3_600 * SECOND);
    let server = Server::new(builder, Duration::ZERO, |call, _| match call {
        1 => respond(200, &[]),
        2 => respond(503, &[]),
        _ => respond(404, &[]),
    });
    drop(server.get(&[]).await);
    advance(30 * SECOND).await;
    assert_eq!(server.get(&[]).await.status(), 200);
    advance(SECOND).await;
    for _ in 0..3 {
        assert_eq!(server.get(&[]).await.status(), 404);
    }
    assert_eq!(server.calls(), 5);
}

// The clock is not paused, because it would stand while the body is ready.
#[tokio::test]
async fn a_body_of_empty_frames_holds_no_shared_call() {
    let cache = CacheLayer::http().finish_abandoned().build().unwrap();
    let handle = cache.handle();
    let service = tower::service_fn(|_: Request<String>| async {
        Ok::<_, std::io::Error>(Response::new(EmptyFrames::default()))
    });
    let stack = Stack::new().cache(cache).total_timeout(30 * SECOND).http().boxed(service);
    let request = Request::get("http://shop/").body(String::new()).unwrap();
    let response = timeout(10 * SECOND, stack.oneshot(request)).await;
    assert!(response.is_ok(), "the body is read for ever");
    while handle.counts().shared_calls > 0 {
        tokio::task::yield_now().await;
    }
}
