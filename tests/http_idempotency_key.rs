//! Tests of the idempotency key of a client: which requests get one, and what it allows.
#![cfg(feature = "http")]

mod http_support;

use std::{
    collections::HashSet,
    convert::Infallible,
    future::{Ready, ready},
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
};

use allocation_counter::measure;
use buttress::{
    Error, Stack,
    http::{
        ClientKey, GivenKey, ReplaySafe, SetIdempotencyKeyLayer, idempotency_key::SetIdempotencyKey,
    },
    idempotency::Key,
    retry::RetryLayer,
};
use http::{HeaderName, Method, Request, Response, request};
use proptest::prelude::*;
use tower::{Layer, Service, ServiceExt, service_fn};

use self::http_support::*;

const NAME: &str = "idempotency-key";
const GRPC: &str = "application/grpc";

/// A service that returns the head of its request.
#[derive(Clone)]
struct Echo;

impl Service<Request<()>> for Echo {
    type Response = request::Parts;
    type Error = Infallible;
    type Future = Ready<Result<request::Parts, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        ready(Ok(request.into_parts().0))
    }
}

/// Returns the head that is sent for a request.
fn sent(layer: &SetIdempotencyKeyLayer, request: Request<()>) -> request::Parts {
    sent_by(&mut layer.layer(Echo), request)
}

fn sent_by(service: &mut SetIdempotencyKey<Echo>, request: Request<()>) -> request::Parts {
    let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    assert!(ready.is_ready());
    service.call(request).into_inner().unwrap()
}

fn post() -> Request<()> {
    Request::post("/payments").body(()).unwrap()
}

fn post_with(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = post();
    for (name, value) in headers {
        put(request.headers_mut(), name, value);
    }
    request
}

fn given(mut request: Request<()>, key: &str) -> Request<()> {
    request.extensions_mut().insert(GivenKey::new(Key::new(key).unwrap()));
    request
}

fn keys(sent: &request::Parts) -> Vec<String> {
    lines(&sent.headers, NAME)
}

fn only_key(sent: &request::Parts) -> String {
    let keys = keys(sent);
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys.into_iter().next().unwrap()
}

fn may_be_repeated(sent: &request::Parts) -> bool {
    sent.extensions.get::<ClientKey>().is_some()
}

/// Makes a call through the layer and a retry of three.
///
/// The upstream has the requests that were sent.
async fn attempts(layer: Option<&SetIdempotencyKeyLayer>, request: Request<()>) -> Upstream {
    let upstream = Upstream::saying([answer(503, &[]), answer(503, &[]), answer(200, &[])]);
    let retry = RetryLayer::builder(ReplaySafe::new()).retries(3).without_budget();
    let stack = Stack::new().retry(retry.build().unwrap()).http().service(upstream.clone());
    let request = request.map(|()| Body::from("100"));
    match layer {
        Some(layer) => layer.layer(stack).oneshot(request).await.unwrap(),
        None => stack.oneshot(request).await.unwrap(),
    };
    upstream
}

#[tokio::test(start_paused = true)]
async fn all_attempts_of_a_call_have_one_key() {
    let upstream = attempts(Some(&SetIdempotencyKeyLayer::new()), post()).await;
    let keys = upstream.lines(NAME);
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[0].len(), 1);
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test(start_paused = true)]
async fn every_attempt_has_the_extension() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let service = service_fn(move |request: Request<String>| {
        assert!(request.extensions().get::<ClientKey>().is_some());
        let before = counted.fetch_add(1, Ordering::Relaxed);
        ready(if before < 2 { Err(io::Error::other("reset")) } else { Ok(Response::new(before)) })
    });
    let retry = RetryLayer::builder(ReplaySafe::new()).without_budget().build().unwrap();
    let client = SetIdempotencyKeyLayer::new().layer(Stack::new().retry(retry).service(service));
    let request = Request::post("/").body(String::new()).unwrap();
    let answered: Result<_, Error<io::Error>> = client.oneshot(request).await;
    assert_eq!(answered.unwrap().into_body(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_post_is_sent_again_with_a_key_and_not_without() {
    let layer = SetIdempotencyKeyLayer::new();
    let patch = || Request::patch("/payments").body(()).unwrap();
    assert_eq!(attempts(Some(&layer), post()).await.calls(), 3);
    assert_eq!(attempts(Some(&layer), patch()).await.calls(), 3);
    assert_eq!(attempts(None, post()).await.calls(), 1);
    assert_eq!(attempts(None, patch()).await.calls(), 1);
}

#[test]
fn each_call_has_a_key_of_its_own_and_each_clone() {
    let layer = SetIdempotencyKeyLayer::new();
    let mut service = layer.layer(Echo);
    let mut clone = service.clone();
    let mut other = layer.clone().layer(Echo);
    let mut keys = HashSet::new();
    for _ in 0..10 {
        for service in [&mut service, &mut clone, &mut other] {
            assert!(keys.insert(only_key(&sent_by(service, post()))));
        }
    }
}

#[test]
fn no_two_of_many_keys_are_the_same() {
    let layer = SetIdempotencyKeyLayer::new();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let layer = layer.clone();
            thread::spawn(move || {
                let mut service = layer.layer(Echo);
                (0..2_500).map(|_| only_key(&sent_by(&mut service, post()))).collect::<Vec<_>>()
            })
        })
        .collect();
    let keys: HashSet<_> = threads.into_iter().flat_map(|keys| keys.join().unwrap()).collect();
    assert_eq!(keys.len(), 10_000);
}

#[test]
fn a_key_is_a_quoted_uuid_unless_it_is_bare() {
    let quoted = only_key(&sent(&SetIdempotencyKeyLayer::new(), post()));
    let bare = only_key(&sent(&SetIdempotencyKeyLayer::builder().bare().build().unwrap(), post()));
    assert_eq!((quoted.len(), bare.len()), (38, 36));
    assert!(quoted.starts_with('"') && quoted.ends_with('"'), "{quoted}");
    let is_uuid = |key: &str| key.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    assert!(is_uuid(&bare) && is_uuid(quoted.trim_matches('"')), "{bare} {quoted}");
}

#[test]
fn a_key_is_sent_in_the_header_that_is_set() {
    let name = HeaderName::from_static("x-request-id");
    let layer = SetIdempotencyKeyLayer::builder().header(name.clone()).build().unwrap();
    let parts = sent(&layer, post());
    assert!(parts.headers.contains_key(&name) && keys(&parts).is_empty());
    // A value in another header is not a key.
    let parts = sent(&layer, post_with(&[(NAME, "\"theirs\"")]));
    assert!(parts.headers.contains_key(&name) && may_be_repeated(&parts));
    let parts = sent(&layer, post_with(&[("x-request-id", "\"theirs\"")]));
    assert!(!may_be_repeated(&parts));
}

proptest! {
    #[test]
    fn a_server_reads_the_key_that_was_given(key in "[ -~]{1,255}", bare: bool) {
        let builder = SetIdempotencyKeyLayer::builder();
        let builder = if bare { builder.bare() } else { builder };
        let parts = sent(&builder.build().unwrap(), given(post(), &key));
        prop_assert!(may_be_repeated(&parts));
        let read = Key::parse(&only_key(&parts)).unwrap();
        prop_assert_eq!(read.as_str(), key);
    }
}

#[test]
fn only_a_key_that_would_be_misread_keeps_its_quotes() {
    let bare = SetIdempotencyKeyLayer::builder().bare().build().unwrap();
    let table = [
        ("payment-4711", "payment-4711"),
        ("a\"b\\c;d e", "a\"b\\c;d e"),
        ("\"a\"", r#""\"a\"""#),
        (" a", "\" a\""),
        ("a ", "\"a \""),
        ("a,b", "\"a,b\""),
    ];
    for (key, expected) in table {
        assert_eq!(only_key(&sent(&bare, given(post(), key))), expected);
    }
    let quoted = only_key(&sent(&SetIdempotencyKeyLayer::new(), given(post(), "a\"b\\c")));
    assert_eq!(quoted, r#""a\"b\\c""#);
}

#[test]
fn a_given_key_wins_over_the_header_and_over_the_kind_of_request() {
    let layer = SetIdempotencyKeyLayer::builder().for_requests_fn(|_| false).build().unwrap();
    let requests = [
        post(),
        post_with(&[(NAME, "\"theirs\""), (NAME, "\"and another\"")]),
        post_with(&[("content-type", GRPC)]),
        Request::put("/").body(()).unwrap(),
    ];
    for request in requests {
        let parts = sent(&layer, given(request, "ours"));
        assert_eq!(only_key(&parts), "\"ours\"");
        assert!(may_be_repeated(&parts));
        // The key must be removed. Otherwise every request made from this one would get it.
        assert!(parts.extensions.get::<GivenKey>().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_header_is_left_as_it_is_and_allows_nothing() {
    let layer = SetIdempotencyKeyLayer::new();
    for theirs in [&["\"theirs\""][..], &["theirs", "\"and another\""], &[""]] {
        let headers: Vec<_> = theirs.iter().map(|key| (NAME, *key)).collect();
        let parts = sent(&layer, post_with(&headers));
        assert_eq!(keys(&parts), theirs);
        assert!(!may_be_repeated(&parts));
        assert_eq!(attempts(Some(&layer), post_with(&headers)).await.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_trusted_header_counts_where_it_is_one_key_and_honoured() {
    let trusting = SetIdempotencyKeyLayer::builder().trust_header();
    let layer = trusting.clone().build().unwrap();
    for theirs in ["\"theirs\"", "theirs", "\"theirs\"; v=1"] {
        let upstream = attempts(Some(&layer), post_with(&[(NAME, theirs)])).await;
        assert_eq!(upstream.lines(NAME), [[theirs], [theirs], [theirs]]);
    }
    for malformed in ["", "\"theirs", "a,b", "\u{e9}"] {
        let parts = sent(&layer, post_with(&[(NAME, malformed)]));
        assert!(!may_be_repeated(&parts), "{malformed}");
    }
    let twice = post_with(&[(NAME, "\"theirs\""), (NAME, "\"theirs\"")]);
    assert!(!may_be_repeated(&sent(&layer, twice)));
    let elsewhere = trusting.for_requests_fn(|head| head.uri().path() != "/payments");
    let elsewhere = elsewhere.build().unwrap();
    assert!(!may_be_repeated(&sent(&elsewhere, post_with(&[(NAME, "theirs")]))));
}

#[tokio::test(start_paused = true)]
async fn only_what_the_layer_is_for_gets_a_key() {
    let layer = SetIdempotencyKeyLayer::new();
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "CONNECT", "PURGE"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let parts = sent(&layer, Request::builder().method(method.clone()).body(()).unwrap());
        assert!(keys(&parts).is_empty() && !may_be_repeated(&parts), "{method}");
    }
    let grpc = || post_with(&[("content-type", GRPC)]);
    let parts = sent(&layer, grpc());
    assert!(keys(&parts).is_empty() && !may_be_repeated(&parts));

    let routes =
        SetIdempotencyKeyLayer::builder().for_requests_fn(|head| head.uri().path() == "/payments");
    let routes = routes.build().unwrap();
    let search = Request::post("/search").body(()).unwrap();
    assert!(keys(&sent(&routes, search)).is_empty());
    let upstream = attempts(Some(&routes), grpc()).await;
    let keys: HashSet<_> = upstream.lines(NAME).concat().into_iter().collect();
    assert_eq!((upstream.calls(), keys.len()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_generator_is_asked_once_a_call_and_shown_the_request() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let builder = SetIdempotencyKeyLayer::builder().generate_fn(move |head| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        Key::new(format!("{}-{number}", head.uri().path())).unwrap()
    });
    let layer = builder.build().unwrap();
    for call in 0..2 {
        let upstream = attempts(Some(&layer), post()).await;
        let expected = format!("\"/payments-{call}\"");
        assert_eq!(upstream.lines(NAME), vec![vec![expected]; 3]);
    }
    sent(&layer, given(post(), "given"));
    sent(&layer, post_with(&[(NAME, "theirs")]));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn the_outer_of_two_layers_gives_the_key() {
    let always = |key: &'static str| {
        let builder =
            SetIdempotencyKeyLayer::builder().generate_fn(move |_| Key::new(key).unwrap());
        builder.build().unwrap()
    };
    let (outer, inner) = (always("outer"), always("inner"));
    let parts = outer.layer(inner.layer(Echo)).oneshot(post()).await.unwrap();
    assert_eq!(only_key(&parts), "\"outer\"");
    assert!(may_be_repeated(&parts));
}

#[test]
fn a_setting_changes_no_clone_that_was_made_before() {
    let builder = SetIdempotencyKeyLayer::builder();
    let before = builder.clone().build().unwrap();
    let bare = builder.bare().build().unwrap();
    assert_eq!(only_key(&sent(&before, post())).len(), 38);
    assert_eq!(only_key(&sent(&bare, post())).len(), 36);
}

#[test]
fn a_key_costs_one_allocation() {
    let bare = SetIdempotencyKeyLayer::builder().bare().build().unwrap();
    for layer in [SetIdempotencyKeyLayer::new(), bare] {
        let mut service = layer.layer(Echo);
        sent_by(&mut service, post());
        let mut request = post_with(&[("accept", "text/plain")]);
        request.extensions_mut().insert(7_u32);
        let mut parts = None;
        let info = measure(|| parts = Some(service.call(request)));
        assert_eq!(info.count_total, 1);
        assert!(may_be_repeated(&parts.unwrap().into_inner().unwrap()));
    }
}

#[test]
fn layers_and_services_are_shared_between_threads() {
    const fn shared<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    shared::<SetIdempotencyKeyLayer>();
    shared::<SetIdempotencyKey<()>>();
    shared::<GivenKey>();
    let builder = SetIdempotencyKeyLayer::builder().generate_fn(|_| unreachable!());
    let told = format!("{builder:?}");
    assert!(told.contains("generate_fn: true"), "{told}");
    assert!(told.contains("for_requests_fn: false"), "{told}");
    let told = format!("{:?}", builder.build().unwrap());
    assert!(told.contains("generate: true") && told.contains("for_requests: false"), "{told}");
}
