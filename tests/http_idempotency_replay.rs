//! Tests of what a caller gets for a recorded response, and of what is recorded at all.
#![cfg(feature = "http")]

mod http_support;

use std::{
    convert::Infallible,
    future::ready,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use buttress::{
    BoxError, Error, Fault, Outcome, Stack,
    circuit_breaker::CircuitBreakerLayer,
    http::{
        BufferedBody, GivenKey, HttpServerLayer, ReplaySafe, SetIdempotencyKeyLayer,
        idempotency::{HeaderKey, NotStarted, ReadHttp, RecordHttp},
        wire,
    },
    idempotency::{
        self, IdempotencyBuilder, IdempotencyLayer, Key, NoScope, SingleTenant, store::MemoryStore,
    },
    retry::RetryLayer,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tower::{
    Layer, ServiceExt, service_fn,
    util::{BoxCloneService, MapResponseLayer},
};

use self::http_support::*;

type Boxed = UnsyncBoxBody<Bytes, BoxError>;
type Builder<C = NoScope> =
    IdempotencyBuilder<MemoryStore<Vec<u8>>, HeaderKey, C, ReadHttp, RecordHttp>;
type Scoped = Builder<idempotency::Scoped<SingleTenant>>;
type Guarded = Request<BufferedBody<Body>>;
type Fields = &'static [(&'static str, &'static str)];
type Failure = Error<io::Error>;
type Server = BoxCloneService<Request<Body>, Response<Boxed>, Infallible>;

/// The trailers of a response of a handler.
#[derive(Clone)]
struct Trailers(HeaderMap);

/// A server with an idempotency layer, and the number of runs of its handler.
#[derive(Clone)]
struct Guard {
    server: Server,
    runs: Arc<AtomicUsize>,
}

impl Guard {
    fn of(handler: impl Fn(&Guarded) -> Answer + Clone + Send + Sync + 'static) -> Self {
        Self::with(Builder::single_tenant, handler)
    }

    fn with(
        build: impl FnOnce(Builder) -> Scoped,
        handler: impl Fn(&Guarded) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        let layer = build(IdempotencyLayer::http(MemoryStore::new())).build().unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let handler = service_fn(move |request: Guarded| {
            counted.fetch_add(1, Ordering::Relaxed);
            let (head, body) = handler(&request).into_parts();
            let body = match head.extensions.get() {
                Some(Trailers(trailers)) => {
                    let trailers = ready(Some(Ok(trailers.clone())));
                    UnsyncBoxBody::new(body.with_trailers(trailers))
                }
                None => UnsyncBoxBody::new(body),
            };
            async { Ok::<_, Infallible>(Response::from_parts(head, body)) }
        });
        let server = HttpServerLayer::builder(Stack::new()).outside(layer).build().unwrap();
        let boxed = MapResponseLayer::new(|response: Response<_>| {
            response.map(|body| UnsyncBoxBody::new(BodyExt::map_err(body, Into::into)))
        });
        Self { server: BoxCloneService::new(boxed.layer(server.layer(handler))), runs }
    }

    async fn send(&self, headers: &[(&str, &str)]) -> Response<Boxed> {
        let mut request = Request::post("/pay").body(Body::from("42 EUR")).unwrap();
        put(request.headers_mut(), "idempotency-key", "k");
        headers.iter().for_each(|(name, value)| put(request.headers_mut(), name, value));
        self.server.clone().oneshot(request).await.unwrap()
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }
}

fn is_replayed<B>(response: &Response<B>) -> bool {
    response.headers().contains_key("idempotency-replayed")
}

// The operation that a key stands for.

/// The path before a prefix was stripped.
#[derive(Clone)]
struct WholePath(String);

impl Guard {
    /// Sends a request through a router that strips the first segment of the path.
    async fn send_nested(&self, path: &str) -> Response<Boxed> {
        let (_, rest) = path[1..].split_once('/').unwrap();
        let mut request = Request::post(format!("/{rest}")).body(Body::from("42 EUR")).unwrap();
        put(request.headers_mut(), "idempotency-key", "k");
        request.extensions_mut().insert(WholePath(path.to_owned()));
        self.server.clone().oneshot(request).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn two_nested_routes_do_not_answer_for_each_other() {
    let guard = Guard::with(
        |builder| {
            let builder = builder.route_fn(|head| match head.extensions().get() {
                Some(WholePath(path)) => path.clone(),
                None => head.uri().path().to_owned(),
            });
            builder.single_tenant()
        },
        |request| {
            let WholePath(path) = request.extensions().get().unwrap();
            answer(201, &[("location", path)])
        },
    );
    for replayed in [false, true] {
        for path in ["/us/payments", "/eu/payments"] {
            let served = guard.send_nested(path).await;
            assert_eq!(
                (lines(served.headers(), "location"), is_replayed(&served)),
                (vec![path.to_owned()], replayed)
            );
        }
    }
    assert_eq!(guard.runs(), 2);
}

// Two requests with the same key.

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_sent_again_with_a_new_boundary_gets_its_response() {
    let guard = Guard::of(|_| answer(201, &[]));
    for (boundary, content, expected) in
        [("x1", "cat", (201, false)), ("y22", "cat", (201, true)), ("y22", "dog", (422, false))]
    {
        let body = format!("--{boundary}\r\n\r\n{content}\r\n--{boundary}--\r\n");
        let mut request = Request::post("/pay").body(Body::from(body)).unwrap();
        put(request.headers_mut(), "idempotency-key", "k");
        let kind = format!("multipart/form-data; boundary={boundary}");
        put(request.headers_mut(), "content-type", kind);
        let served = guard.server.clone().oneshot(request).await.unwrap();
        assert_eq!((served.status().as_u16(), is_replayed(&served)), expected, "{boundary}");
    }
}

#[tokio::test(start_paused = true)]
async fn fingerprint_fn_decides_what_makes_two_requests_the_same() {
    let read = ReadHttp::builder().fingerprint_fn(|head, body, parts| {
        parts.part(head.uri().path());
        parts.part(body.to_ascii_lowercase());
    });
    let (keys, read, record) = (HeaderKey::new(), read.build().unwrap(), RecordHttp::new());
    let layer = IdempotencyLayer::builder(MemoryStore::new(), keys, read, record);
    let guard = Guard::with(|_| layer.single_tenant(), |_| answer(201, &[]));
    for (query, body, expected) in [
        ("sig=1", "42 EUR", (201, false)),
        ("sig=2", "42 eur", (201, true)),
        ("sig=2", "43 eur", (422, false)),
    ] {
        let uri = format!("/pay?{query}");
        let mut request = Request::post(uri).body(Body::from(body)).unwrap();
        put(request.headers_mut(), "idempotency-key", "k");
        put(request.headers_mut(), "content-type", format!("text/{query}"));
        let served = guard.server.clone().oneshot(request).await.unwrap();
        assert_eq!((served.status().as_u16(), is_replayed(&served)), expected, "{query} {body}");
    }
}

// Responses that are not recorded.

fn is_limited(status: StatusCode, headers: &HeaderMap) -> bool {
    status == 429 && headers.contains_key("x-limit")
}

#[tokio::test(start_paused = true)]
async fn a_response_that_not_started_selects_frees_the_key() {
    let table: [(u16, Fields, bool); 4] = [
        (429, &[("x-limit", "9")], true),
        (429, &[], false),
        (400, &[("x-limit", "9")], false),
        (200, &[], false),
    ];
    for (status, headers, free) in table {
        let runs = Arc::new(AtomicUsize::new(0));
        let guard = Guard::with(
            |builder| builder.not_started(is_limited).single_tenant(),
            move |_| match runs.fetch_add(1, Ordering::Relaxed) {
                0 => answer(status, headers),
                _ => answer(201, &[]),
            },
        );
        let first = guard.send(&[]).await;
        assert_eq!(first.status(), status);
        let then = if free { 201 } else { status };
        for replayed in [!free, true] {
            let again = guard.send(&[]).await;
            assert_eq!((again.status().as_u16(), is_replayed(&again)), (then, replayed));
        }
        assert_eq!(guard.runs(), if free { 2 } else { 1 });
    }
}

/// The first attempt may have had an effect before the second one was limited.
#[tokio::test(start_paused = true)]
async fn a_selected_response_of_a_second_attempt_is_recorded() {
    let upstream = Upstream::saying([answer(503, &[]), answer(429, &[("x-limit", "9")])]);
    let unavailable = |result: Result<&Answer, &Failure>| match result {
        Ok(answer) if answer.status() == 503 => Outcome::Failure(Fault::Transient),
        _ => Outcome::Success,
    };
    let stack = Stack::new().retry(retry(1).classify_fn(unavailable).build().unwrap());
    let client = stack.service(upstream.clone());
    let forward = service_fn(move |_: Guarded| client.clone().oneshot(Request::default()));
    let layer = IdempotencyLayer::http(MemoryStore::new()).not_started(is_limited);
    let service = layer.single_tenant().build().unwrap().layer(forward);
    for replayed in [false, true] {
        let mut request = Request::post("/pay").body(Body::default()).unwrap();
        put(request.headers_mut(), "idempotency-key", "k");
        let served = service.clone().oneshot(request).await.unwrap();
        assert_eq!((served.status().as_u16(), is_replayed(&served)), (429, replayed));
    }
    assert_eq!(upstream.calls(), 2);
}

// The headers of a replayed response.

#[tokio::test(start_paused = true)]
async fn a_replay_keeps_the_headers_that_its_status_and_body_need() {
    let table: [(u16, Fields); 11] = [
        (401, &[("www-authenticate", "Bearer realm=\"a\""), ("www-authenticate", "Basic")]),
        (405, &[("allow", "GET, PUT")]),
        (415, &[("accept", "text/csv"), ("accept-post", "text/csv"), ("accept-patch", "a/b")]),
        (206, &[("content-range", "bytes 0-1/9"), ("accept-ranges", "bytes")]),
        (416, &[("content-range", "bytes */9")]),
        (201, &[("location", "/pay/1"), ("content-location", "/pay/1"), ("link", "</a>; rel=b")]),
        (200, &[("vary", "accept-language"), ("vary", "origin"), ("content-language", "de")]),
        (
            200,
            &[
                ("content-disposition", "attachment"),
                ("content-digest", "sha-256=:AA==:"),
                ("repr-digest", "sha-256=:AA==:"),
                ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("cache-control", "no-store"),
                ("preference-applied", "return=minimal"),
                ("x-content-type-options", "nosniff"),
            ],
        ),
        (
            200,
            &[
                ("access-control-allow-origin", "https://shop.example"),
                ("access-control-allow-credentials", "true"),
                ("access-control-expose-headers", "etag"),
                ("cross-origin-resource-policy", "same-site"),
                ("timing-allow-origin", "*"),
            ],
        ),
        (
            200,
            &[
                ("content-security-policy", "default-src 'self'"),
                ("content-security-policy", "sandbox"),
                ("cross-origin-embedder-policy", "require-corp"),
                ("cross-origin-opener-policy", "same-origin"),
                ("permissions-policy", "camera=()"),
                ("referrer-policy", "no-referrer"),
                ("x-frame-options", "DENY"),
            ],
        ),
        (503, &[("retry-after", "7")]),
    ];
    for (status, headers) in table {
        let secret = [("set-cookie2", "a=1"), ("connection", "close"), ("server", "me")];
        let guard = Guard::of(move |_| answer(status, &[headers, &secret].concat()));
        let first = guard.send(&[]).await;
        let again = guard.send(&[]).await;
        assert!(is_replayed(&again) && !is_replayed(&first) && guard.runs() == 1);
        for (name, _) in headers {
            let expected = lines(first.headers(), name);
            assert_eq!(lines(again.headers(), name), expected, "{status} {name}");
        }
        for (name, _) in secret {
            assert!(!again.headers().contains_key(name), "{status} {name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_encoded_record_is_replayed_unless_the_caller_asked_for_another_encoding() {
    const HTTP: &str = "accept-encoding";
    const GRPC: &str = "grpc-accept-encoding";
    let table: [(Fields, &[Fields], &[Fields]); 4] = [
        (
            &[("content-encoding", "GZip"), ("vary", "accept-encoding")],
            &[
                &[(HTTP, "gzip")],
                &[(HTTP, "br;q=1, GZIP ; q=0.1")],
                &[(HTTP, "br"), (HTTP, "x-gzip")],
                &[(HTTP, "*")],
                &[(HTTP, "identity;q=0, *;q=0.001")],
                &[],
                &[(GRPC, "identity")],
            ],
            &[
                &[(HTTP, "")],
                &[(HTTP, "br, identity")],
                &[(HTTP, "gzip;q=0")],
                &[(HTTP, "gzip; Q=0.000, *")],
                &[(HTTP, "*;q=0.0")],
                &[(HTTP, "gzipped")],
            ],
        ),
        (
            &[("content-encoding", "gzip, br"), ("content-encoding", "identity")],
            &[&[(HTTP, "br, gzip")], &[(HTTP, "*;q=0, gzip, br")]],
            &[&[(HTTP, "br")], &[(HTTP, "gzip")], &[(HTTP, "br, *;q=0")]],
        ),
        (
            &[("grpc-encoding", "zstd")],
            &[&[(GRPC, "identity,zstd")], &[], &[(HTTP, "identity")]],
            &[&[(GRPC, "gzip")], &[(GRPC, "identity")]],
        ),
        (&[("content-encoding", "identity"), ("grpc-encoding", "identity")], &[&[]], &[]),
    ];
    for (encoded, accepting, others) in table {
        let guard = Guard::of(move |_| answer(200, encoded));
        guard.send(accepting[0]).await;
        for asked in others {
            let rejected = guard.send(asked).await;
            assert_eq!((rejected.status().as_u16(), is_replayed(&rejected)), (409, false));
            assert!(!rejected.headers().contains_key("content-encoding"), "{asked:?}");
            let problem = rejected.into_body().collect().await.unwrap().to_bytes();
            assert!(problem.windows(14).any(|part| part == b"not_replayable"), "{problem:?}");
        }
        for asked in accepting {
            let replayed = guard.send(asked).await;
            assert!(is_replayed(&replayed), "{asked:?}");
            for (name, _) in encoded {
                assert!(replayed.headers().contains_key(*name), "{asked:?} {name}");
            }
        }
        assert_eq!(guard.runs(), 1);
    }
}

// Our client in front of the layer.

/// A gRPC response with headers, and with its status in trailers.
fn with_trailers(code: u8) -> Answer {
    let mut answer = answer(200, &[("content-type", "application/grpc")]);
    *answer.body_mut() = Body::from("message");
    let trailers = trailers_only(code, &[]).headers().clone();
    answer.extensions_mut().insert(Trailers(trailers));
    answer
}

#[tokio::test(start_paused = true)]
async fn our_client_sends_one_request_for_a_recorded_failure_and_counts_no_replay() {
    let after = [("retry-after", "1")];
    let table = [
        (answer(200, &[]), 0),
        (answer(404, &[]), 0),
        (answer(408, &[]), 1),
        (answer(409, &after), 0),
        (answer(425, &[]), 0),
        (answer(429, &after), 1),
        (answer(500, &[]), 1),
        (answer(502, &[]), 1),
        (answer(503, &after), 1),
        (trailers_only(0, &[]), 0),
        (trailers_only(5, &[]), 0),
        (trailers_only(10, &[("grpc-retry-pushback-ms", "5")]), 0),
        (trailers_only(14, &[]), 1),
        (with_trailers(0), 0),
        (with_trailers(14), 1),
    ];
    for (answer, failures) in table {
        let sent = answer.clone();
        let guard = Guard::of(move |_| sent.clone());
        let requests = Arc::new(AtomicUsize::new(0));
        let (server, counted) = (guard.server.clone(), Arc::clone(&requests));
        let transport = service_fn(move |request: Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            server.clone().oneshot(request)
        });
        let retry = RetryLayer::new(ReplaySafe::new());
        let (budget, breaker) = (retry.budget().unwrap().clone(), CircuitBreakerLayer::new());
        let (balance, health) = (budget.balance(), breaker.handle());
        let stack = Stack::new().retry(retry).circuit_breaker(breaker).http().service(transport);
        let client = SetIdempotencyKeyLayer::new().layer(stack);
        for calls in 1..=3 {
            let mut request =
                Request::post("/pay").extension(GivenKey::new(Key::new("k").unwrap()));
            if wire::is_grpc(answer.headers()) {
                request = request.header("content-type", "application/grpc");
            }
            let served = client.clone().oneshot(request.body(Body::default()).unwrap()).await;
            let served = served.unwrap();
            assert_eq!((served.status(), is_replayed(&served)), (answer.status(), calls > 1));
            served.into_body().collect().await.unwrap();
            assert_eq!(requests.load(Ordering::Relaxed), calls, "{answer:?}");
            assert!(budget.balance() >= balance, "{answer:?}");
            let seen = health.snapshot();
            assert_eq!((seen.calls(), seen.failures()), (calls as u64, failures), "{answer:?}");
        }
        assert_eq!(guard.runs(), 1);
    }
}

/// A response that was not recorded may be another one the next time.
#[tokio::test(start_paused = true)]
async fn only_a_recorded_failure_forbids_a_retry() {
    let advice = |response: &Response<Boxed>| {
        ["x-should-retry", "grpc-retry-pushback-ms"].map(|name| lines(response.headers(), name))
    };
    let not_started = Guard::of(|_| {
        let mut busy = answer(503, &[]);
        busy.extensions_mut().insert(NotStarted);
        busy
    });
    assert_eq!(advice(&not_started.send(&[]).await), [vec![], vec![] as Vec<String>]);
    let stop = [vec!["false".to_owned()], vec![]];
    let long = Body::from(vec![b'x'; 65_537]);
    let failed = Guard::of(move |_| answer(502, &[]).map(|_| long.clone()));
    assert_eq!(advice(&failed.send(&[]).await), stop, "each retry gets a 409");
}

#[tokio::test(start_paused = true)]
async fn the_trailers_of_every_recorded_grpc_failure_forbid_a_retry() {
    let too_long = vec![b'x'; 65_537];
    let cookie: Fields = &[("set-cookie", "a=b")];
    for (body, headers) in [(&b"x"[..], &[] as Fields), (&too_long, &[]), (b"x", cookie)] {
        for (code, advice) in [(0, &[] as &[&str]), (14, &["-1"])] {
            let mut answer = with_trailers(code);
            *answer.body_mut() = Body::from(body.to_vec());
            headers.iter().for_each(|(name, value)| put(answer.headers_mut(), name, value));
            let served = Guard::of(move |_| answer.clone()).send(&[]).await;
            let served = served.into_body().collect().await.unwrap();
            let trailers = served.trailers().unwrap();
            assert_eq!(lines(trailers, "grpc-retry-pushback-ms"), advice, "{headers:?} {code}");
            assert_eq!(served.to_bytes(), body);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn envoy_is_told_of_a_recorded_failure_too() {
    for (status, told) in [(502, vec!["true"]), (200, vec![])] {
        let handler = service_fn(move |_: Request<Body>| async move {
            Ok::<_, Infallible>(answer(status, &[("x-should-retry", "false")]))
        });
        let server = HttpServerLayer::builder(Stack::new()).for_envoy().build().unwrap();
        let served = server.layer(handler).oneshot(Request::default()).await.unwrap();
        assert_eq!(lines(served.headers(), "x-envoy-ratelimited"), told);
        assert_eq!(lines(served.headers(), "x-should-retry"), ["false"]);
    }
}
