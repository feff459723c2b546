//! Pairs of layers in stacks for HTTP.

use std::{convert::Infallible, io};

use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use buttress::{
    BoxError, Stack,
    cache::CacheLayer,
    chaos::ChaosLayer,
    endpoints::Endpoints,
    http::{
        Degraded, HttpClientLayer, HttpServerLayer, ReplaySafe, ResponseBody,
        SetIdempotencyKeyLayer, chaos::BodyChaosLayer,
    },
    idempotency::{IdempotencyLayer, store::MemoryStore},
    retry::Backoff,
    telemetry::DegradedBy,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tower::{Layer, util::BoxCloneSyncService};

use super::*;

type Body = UnsyncBoxBody<Bytes, BoxError>;
type Given = Response<Body>;
type Sent = Request<Full<Bytes>>;
type Upstream = BoxCloneSyncService<Sent, Given, io::Error>;

type Headers = &'static [(&'static str, &'static str)];

/// A frame of a body, after a pause.
type Step = (Duration, Result<Frame<Bytes>, &'static str>);

fn data(text: &'static str) -> Step {
    (Duration::ZERO, Ok(Frame::data(Bytes::from_static(text.as_bytes()))))
}

fn body(steps: Vec<Step>) -> Body {
    let frames = stream::iter(steps).then(|(pause, frame)| async move {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        frame.map_err(BoxError::from)
    });
    StreamBody::new(frames).boxed_unsync()
}

fn page(status: u16, headers: &[(&str, &str)], steps: Vec<Step>) -> Given {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body(steps)).unwrap()
}

/// A server that notes what it receives. Its n-th response is that of a function.
fn upstream(
    respond: impl Fn(u32, &Sent) -> Given + Clone + Send + Sync + 'static,
) -> (Upstream, Arc<Mutex<Vec<HeaderMap>>>) {
    let seen = Arc::<Mutex<Vec<HeaderMap>>>::default();
    let noted = Arc::clone(&seen);
    let service = tower::service_fn(move |request: Sent| {
        let mut seen = noted.lock().unwrap();
        seen.push(request.headers().clone());
        let response = respond(seen.len() as u32, &request);
        async move { Ok::<_, io::Error>(response) }
    });
    (BoxCloneSyncService::new(service), seen)
}

fn get() -> Sent {
    Request::get("http://shop.internal/rates").body(Full::default()).unwrap()
}

fn http_cache() -> CacheLayer<
    buttress::http::cache::HttpKey,
    buttress::http::cache::HttpValue,
    buttress::http::cache::HttpRules,
> {
    CacheLayer::http().ttl(10 * SECOND).if_error(100 * SECOND).build().unwrap()
}

fn spare() -> Response<&'static str> {
    Response::new("spare")
}

async fn text<B>(response: Response<ResponseBody<B>>) -> Result<String, BoxError>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
    ResponseBody<B>: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    let body = response.into_body().collect().await.map_err(Into::into)?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

fn source<B>(response: &Response<B>) -> Option<DegradedBy> {
    response.extensions().get::<Degraded>().map(Degraded::source)
}

#[tokio::test(start_paused = true)]
async fn the_bodies_of_endpoints_settle_their_calls_beneath_a_cache_and_a_fallback() {
    let trailers = |code: &str| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.parse().unwrap());
        (Duration::ZERO, Ok(Frame::trailers(trailers)))
    };
    let broken = || vec![data("a"), (Duration::ZERO, Err("broke off"))];
    let cases: [(&str, u16, Headers, Vec<_>, u64); 6] = [
        ("good", 200, &[], vec![data("a")], 0),
        ("status", 503, &[], vec![data("a")], 1),
        ("broken", 200, &[("content-length", "9")], broken(), 1),
        ("broken stream", 200, &[("content-type", "text/event-stream")], broken(), 1),
        ("trailers", 200, &[("content-type", "application/grpc")], vec![trailers("14")], 1),
        ("good trailers", 200, &[("content-type", "application/grpc")], vec![trailers("0")], 0),
    ];
    for (name, status, headers, steps, expected) in cases {
        for number in 0..8 {
            let case = (number & 1 > 0, number & 2 > 0, number & 4 > 0);
            let headers: Vec<_> =
                headers.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
            let steps = Mutex::new(Some(copy(&steps)));
            let steps = Arc::new(steps);
            let (server, _) = upstream(move |_, _| {
                let headers: Vec<_> = headers.iter().map(|(a, b)| (&**a, &**b)).collect();
                let steps = copy(steps.lock().unwrap().as_ref().unwrap());
                page(status, &headers, steps)
            });
            let endpoints = Endpoints::new(["a"], move |_: &Text| server.clone());
            let handle = endpoints.handle();
            let retry = RetryLayer::builder(ReplaySafe::new()).retries(0).build().unwrap();
            let service = Stack::new()
                .fallback(case.0.then(|| FallbackLayer::http(spare())))
                .cache(case.1.then(http_cache))
                .retry(case.2.then_some(retry))
                .http()
                .layer(endpoints);
            let response = service.oneshot(get()).await.unwrap();
            _ = text(response).await;
            settle().await;
            let state = handle.states().remove(0);
            assert_eq!((state.failures, state.in_flight), (expected, 0), "{name} {case:?}");
        }
    }
}

fn copy(steps: &[Step]) -> Vec<Step> {
    let frame = |frame: &Result<Frame<Bytes>, &'static str>| match frame {
        Ok(frame) => Ok(match frame.trailers_ref() {
            Some(trailers) => Frame::trailers(trailers.clone()),
            None => Frame::data(frame.data_ref().unwrap().clone()),
        }),
        Err(error) => Err(*error),
    };
    steps.iter().map(|(pause, it)| (*pause, frame(it))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_body_with_a_fault_is_never_kept() {
    for (chaos, whole_after) in [
        (BodyChaosLayer::builder().cuts(1.0), None),
        (BodyChaosLayer::builder().stalls(1.0), None),
        (BodyChaosLayer::builder().trickles(1.0, 5 * SECOND), Some("abc")),
    ] {
        for length in [None, Some("3")] {
            let chaos = chaos.clone().build().unwrap();
            let armed = chaos.handle();
            let headers: Vec<_> = length.iter().map(|it| ("content-length", *it)).collect();
            let headers: Vec<(String, String)> =
                headers.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
            let (server, seen) = upstream(move |_, _| {
                let headers: Vec<_> = headers.iter().map(|(a, b)| (&**a, &**b)).collect();
                page(200, &headers, vec![data("a"), data("b"), data("c")])
            });
            let stack = Stack::new().cache(http_cache()).total_timeout(5 * SECOND);
            let http = HttpClientLayer::builder().body_idle(30 * SECOND).build().unwrap();
            let service = stack.http_client(http).boxed(chaos.layer(server));
            armed.arm_for(3_600 * SECOND).unwrap();
            let response = service.clone().oneshot(get()).await.unwrap();
            assert_eq!(text(response).await.ok().as_deref(), whole_after);
            armed.disarm();
            let response = service.clone().oneshot(get()).await.unwrap();
            assert_eq!(text(response).await.unwrap(), "abc");
            let calls = seen.lock().unwrap().len();
            assert_eq!(calls, 2, "{length:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_sets_keys_leaves_reads_to_the_cache() {
    let (server, seen) = upstream(|_, _| page(200, &[], vec![data("a")]));
    let stack = Stack::standard(ReplaySafe::new()).cache(http_cache()).http();
    let service = SetIdempotencyKeyLayer::new().layer(stack.boxed(server));
    for _ in 0..3 {
        let response = service.clone().oneshot(get()).await.unwrap();
        assert_eq!(text(response).await.unwrap(), "a");
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shared_request_tells_nothing_of_the_callers_time_or_attempt() {
    let (server, seen) = upstream(|_, _| page(200, &[], vec![data("a")]));
    let stack = Stack::new().cache(http_cache()).http().boxed(server);
    let response = within(SECOND, stack.clone().oneshot(get())).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "a");
    // Another deadline is no other key.
    let response = within(2 * SECOND, stack.clone().oneshot(get())).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "a");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].contains_key("x-envoy-expected-rq-timeout-ms"), "{:?}", seen[0]);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_was_buffered_is_kept_with_its_trailers() {
    let (server, seen) = upstream(|_, _| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let pause = (10 * MS, Ok(Frame::data(Bytes::from_static(b"b"))));
        page(200, &[], vec![data("a"), pause, (Duration::ZERO, Ok(Frame::trailers(trailers)))])
    });
    let http = HttpClientLayer::builder().body_buffer(1_000).build().unwrap();
    let stack = Stack::standard(ReplaySafe::new()).cache(http_cache()).http_client(http);
    let service = stack.boxed(server);
    for _ in 0..2 {
        let response = service.clone().oneshot(get()).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "7");
        assert_eq!(collected.to_bytes(), "ab");
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn requests_and_responses_that_are_not_for_others_are_never_shared() {
    let (server, seen) = upstream(|_, request| {
        let grpc = request.headers().contains_key("te");
        page(200, if grpc { &[("content-type", "application/grpc")] } else { &[] }, vec![data("a")])
    });
    let service = Stack::new().cache(http_cache()).http().boxed(server);
    let grpc = || {
        let request = Request::post("http://shop.internal/Rates/Get").header("te", "trailers");
        request.header("content-type", "application/grpc").body(Full::from("x")).unwrap()
    };
    for _ in 0..2 {
        _ = service.clone().oneshot(grpc()).await.unwrap();
    }
    assert_eq!(seen.lock().unwrap().len(), 2);
    // HEAD and GET have entries of their own.
    let mut head = get();
    *head.method_mut() = Method::HEAD;
    for _ in 0..2 {
        _ = service.clone().oneshot(head.clone()).await.unwrap();
        _ = service.clone().oneshot(get()).await.unwrap();
    }
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn responses_that_a_guard_replays_are_never_kept() {
    let effects = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&effects);
    let handler =
        tower::service_fn(move |_: Request<buttress::http::BufferedBody<Full<Bytes>>>| {
            let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
            let body = Full::<Bytes>::from(number.to_string());
            async move { Ok::<_, buttress::Error<io::Error>>(Response::new(body)) }
        });
    let guard = IdempotencyLayer::http(MemoryStore::new()).single_tenant().build().unwrap();
    let whole = |response: Response<_>| {
        response.map(|body: buttress::http::BufferedBody<_>| {
            body.map_err(BoxError::from).boxed_unsync()
        })
    };
    let server =
        BoxCloneSyncService::<Sent, Given, _>::new(guard.layer(handler).map_response(whole));
    let service = Stack::new().cache(http_cache()).http().layer(server);
    let pay = || {
        let request = Request::post("http://shop.internal/rates").header("idempotency-key", "k");
        request.body(Full::from("x")).unwrap()
    };
    for _ in 0..3 {
        let response = service.clone().oneshot(pay()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "1");
    }
    assert_eq!(effects.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_response_falls_back_only_after_the_guard_has_seen_the_retries() {
    let effects = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&effects);
    let bank = tower::service_fn(move |_: Sent| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, buttress::Error<io::Error>>(Response::new(Full::<Bytes>::from("paid"))) }
    });
    let chaos = ChaosLayer::builder().lost_responses(1.0).build().unwrap();
    let backoff = Backoff::constant(MS).build().unwrap();
    let elsewhere = Arc::new(AtomicU32::new(0));
    let other = Arc::clone(&elsewhere);
    let second = tower::service_fn(move |_: Sent| {
        other.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, io::Error>(Response::new(Full::<Bytes>::from("elsewhere"))) }
    });
    let second = Stack::new().http().service(second);
    let retry = RetryLayer::builder(ReplaySafe::new()).retries(2).backoff(backoff);
    let stack = Stack::new()
        .fallback(FallbackLayer::service(ReplaySafe::new(), second))
        .retry(retry.without_budget().build().unwrap())
        .attempt_timeout(SECOND)
        .http();
    chaos.handle().arm_for(3_600 * SECOND).unwrap();
    let service = stack.layer(chaos.layer(bank));
    // It has no key, and may have had its effect. It goes nowhere else.
    let request = Request::post("http://shop.internal/pay").body(Full::from("x")).unwrap();
    assert!(service.clone().oneshot(request).await.is_err());
    assert_eq!((effects.load(Ordering::Relaxed), elsewhere.load(Ordering::Relaxed)), (1, 0));
    // What is safe is repeated, and then goes elsewhere.
    let response = service.oneshot(get()).await.unwrap();
    assert_eq!(source(&response), Some(DegradedBy::Fallback));
    assert_eq!((effects.load(Ordering::Relaxed), elsewhere.load(Ordering::Relaxed)), (4, 1));
}

/// A server whose handler calls another service through a stack.
async fn hop(falls_back: bool, caches: bool) -> Response<impl Sized> {
    let (server, _) = upstream(|_, _| page(503, &[], vec![]));
    let backoff = Backoff::constant(MS).build().unwrap();
    let retry = RetryLayer::builder(ReplaySafe::new()).retries(1).backoff(backoff);
    let stack = Stack::new()
        .fallback(falls_back.then(|| FallbackLayer::http(spare())))
        .cache(caches.then(http_cache))
        .retry(retry.without_budget().build().unwrap())
        .http();
    let client = stack.boxed(server);
    let handler = tower::service_fn(move |_: Sent| {
        let client = client.clone();
        async move {
            let response = client.oneshot(get()).await.unwrap();
            let status = response.status();
            Ok::<_, Infallible>(Response::builder().status(status).body(String::new()).unwrap())
        }
    });
    let server = HttpServerLayer::builder(Stack::new()).build().unwrap();
    server.layer(handler).oneshot(get()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_degraded_response_carries_no_advice_and_a_failure_does() {
    for caches in [false, true] {
        let degraded = hop(true, caches).await;
        assert_eq!(degraded.status(), 200);
        assert!(!degraded.headers().contains_key("x-should-retry"));
        let failed = hop(false, caches).await;
        assert_eq!(failed.status(), 503);
        assert_eq!(failed.headers()["x-should-retry"], "false", "cache: {caches}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_responds_to_a_shared_failure_as_to_its_outcome() {
    let slow = tower::service_fn(|_: Sent| async {
        sleep(SECOND).await;
        Err::<Response<Full<Bytes>>, _>(io::Error::from(io::ErrorKind::ConnectionReset))
    });
    let client = Stack::new().cache(http_cache()).http().service(slow);
    let handler = move |_: Sent| {
        let client = client.clone();
        async move {
            match client.oneshot(get()).await {
                Ok(_) => panic!("the service fails"),
                Err(error) => match error.rejection() {
                    Some(shared) => Err(buttress::Error::<Infallible>::rejected(shared.clone())),
                    None => Ok(Response::new(ResponseBody::<Full<Bytes>>::from(Bytes::new()))),
                },
            }
        }
    };
    let handler = tower::layer::layer_fn(move |_| tower::service_fn(handler.clone()));
    let unused = tower::service_fn(|_: Sent| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let server = HttpServerLayer::around(handler).layer(unused);
    let calls = (0..3).map(|_| server.clone().oneshot(get()));
    let results = futures::future::join_all(calls).await;
    let statuses: Vec<_> =
        results.into_iter().filter_map(Result::ok).map(|it| it.status()).collect();
    assert_eq!(statuses, [StatusCode::OK, StatusCode::BAD_GATEWAY, StatusCode::BAD_GATEWAY]);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_for_head_has_no_body() {
    let (server, _) = upstream(|_, _| page(503, &[], vec![]));
    let client = Stack::new().fallback(FallbackLayer::http(spare())).http().boxed(server);
    let mut head = get();
    *head.method_mut() = Method::HEAD;
    let response = client.oneshot(head).await.unwrap();
    assert_eq!(source(&response), Some(DegradedBy::Fallback));
    assert!(response.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_second_stack_of_a_fallback_has_its_own_attempts_and_the_rest_of_the_time() {
    let (first, _) = upstream(|_, _| page(503, &[], vec![]));
    let (second, seen) = upstream(|_, _| page(200, &[], vec![data("b")]));
    let second = Stack::standard(ReplaySafe::new()).name("second").http().service(second);
    let stack = Stack::standard(ReplaySafe::new()).name("first").http();
    let client = stack.fallback(FallbackLayer::service(ReplaySafe::new(), second)).service(first);
    let response = within(3 * SECOND, client.oneshot(get())).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "b");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    let left: u64 = seen[0]["x-envoy-expected-rq-timeout-ms"].to_str().unwrap().parse().unwrap();
    assert!(left <= 1_000, "the limit of the fallback: {left}");
    assert!(
        !seen[0].contains_key("x-envoy-attempt-count") || seen[0]["x-envoy-attempt-count"] == "1"
    );
}

/// The whole stack compiles in a task, in a struct and with absent layers.
#[tokio::test(start_paused = true)]
async fn all_layers_in_one_stack_spawn_and_have_a_name() {
    type Rates = BoxCloneSyncService<Sent, Response<ResponseBody<Full<Bytes>>>, BoxError>;
    struct Shop {
        rates: Rates,
    }
    let server = tower::service_fn(|_: Sent| async {
        Ok::<_, io::Error>(Response::new(Full::<Bytes>::from("a")))
    });
    let endpoints = Endpoints::new([String::from("a")], move |_: &String| server);
    let stack = Stack::standard_http().fallback(FallbackLayer::http(spare())).cache(http_cache());
    let client = stack.clone().layer(endpoints.clone());
    let task = tokio::spawn(async move {
        let response = client.oneshot(get()).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    });
    assert_eq!(task.await.unwrap(), "a");
    let boxed = BoxCloneSyncService::new(stack.layer(endpoints).map_err(BoxError::from));
    let shop = Shop { rates: boxed };
    let response = tokio::spawn(shop.rates.clone().oneshot(get())).await.unwrap().unwrap();
    assert_eq!(text(response).await.unwrap(), "a");
}
