//! Responses whose bodies are known to be broken, and responses that are degraded already.

use std::io;

use ::http::{Request, Response};
use buttress::{
    BoxError, Stack,
    cache::CacheLayer,
    fallback::FallbackLayer,
    http::{Degraded, HttpClientLayer, ReplaySafe},
    telemetry::field,
};
use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tower::{Layer, ServiceBuilder, util::BoxCloneSyncService};

use super::{capture::Capture, *};

type Body = UnsyncBoxBody<Bytes, BoxError>;
type Sent = Request<Full<Bytes>>;
type Upstream = BoxCloneSyncService<Sent, Response<Body>, io::Error>;

/// Returns a server that responds with these statuses in turn. The body of a 206 breaks off.
fn serving<const N: usize>(statuses: [u16; N]) -> (Upstream, Arc<AtomicU32>) {
    let calls = Arc::<AtomicU32>::default();
    let counted = Arc::clone(&calls);
    let service = tower::service_fn(move |_: Sent| {
        let call = counted.fetch_add(1, Ordering::Relaxed) as usize;
        let status = statuses[call.min(N - 1)];
        async move {
            let frames = match status {
                206 => vec![Ok(Frame::data("pa".into())), Err(BoxError::from("broke off"))],
                _ => vec![Ok(Frame::data(Bytes::from("page")))],
            };
            let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
            Ok::<_, io::Error>(Response::builder().status(status).body(body).unwrap())
        }
    });
    (BoxCloneSyncService::new(service), calls)
}

fn get(uri: &str) -> Sent {
    Request::get(uri).body(Full::default()).unwrap()
}

fn reads_ahead() -> HttpClientLayer {
    HttpClientLayer::builder().body_buffer(1_024).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_broken_response_of_the_other_service_does_not_hide_the_reason() {
    let (other, _) = serving([206]);
    let other = Stack::new().http_client(reads_ahead()).service::<_, Sent, _>(other);
    let fallback = FallbackLayer::service(ReplaySafe::new(), other);
    let handle = fallback.handle();
    let stack = Stack::new().http().fallback(fallback);
    let client = stack.service::<_, Sent, _>(serving([503]).0);
    let response = client.oneshot(get("http://shop.internal/")).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!((handle.used(), handle.failed()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_broken_response_of_a_call_that_is_not_shared_gives_the_last_good_one() {
    let (server, calls) = serving([200, 206]);
    let cache = CacheLayer::http().ttl(SECOND).if_error(60 * SECOND).max_shared_calls(1);
    let cache = cache.build().unwrap();
    let stack = Stack::new().cache(cache).http_client(reads_ahead());
    let server = tower::service_fn(move |request: Sent| {
        let server = server.clone();
        async move {
            if request.uri().path() == "/hangs" {
                std::future::pending::<()>().await;
            }
            server.oneshot(request).await
        }
    });
    let client = stack.service::<_, Sent, _>(server);
    drop(client.clone().oneshot(get("http://shop.internal/")).await.unwrap());
    sleep(2 * SECOND).await;
    let other = tokio::spawn(client.clone().oneshot(get("http://shop.internal/hangs")));
    settle().await;
    for _ in 0..2 {
        let response = client.clone().oneshot(get("http://shop.internal/")).await.unwrap();
        assert!(response.extensions().get::<Degraded>().is_some());
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "page");
    }
    // The second caller gets the older response without a call.
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    other.abort();
}

#[tokio::test(start_paused = true)]
async fn a_degraded_response_of_a_stack_is_not_kept_by_a_cache_around_it() {
    let (server, calls) = serving([503, 503, 200]);
    let stack = Stack::new().http().fallback(FallbackLayer::http(Response::new("spare")));
    let client = stack.service::<_, Sent, _>(server);
    let cache = CacheLayer::http().ttl(60 * SECOND).build().unwrap();
    let client = ServiceBuilder::new().layer(cache).service(client);
    for text in ["spare", "spare", "page", "page"] {
        let response = client.clone().oneshot(get("http://shop.internal/")).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_degraded_response_is_marked_for_all_callers_that_share_it() {
    let stack = Stack::new().http().fallback(FallbackLayer::http(Response::new("spare")));
    let client = stack.service::<_, Sent, _>(serving([503]).0);
    let cache = CacheLayer::http().build().unwrap();
    let handle = cache.handle();
    let client = ServiceBuilder::new().layer(cache).service(client);
    let calls = (0..3).map(|_| client.clone().oneshot(get("http://shop.internal/")));
    for response in futures::future::join_all(calls).await {
        assert!(response.unwrap().extensions().get::<Degraded>().is_some());
    }
    assert_eq!(handle.counts().collapsed, 2);
}

#[tokio::test(start_paused = true)]
async fn the_spans_of_all_callers_that_share_a_degraded_response_say_so() {
    let (capture, _guard) = Capture::start();
    let world = World::new(Mode::Fails("down"));
    let layer = FallbackLayer::value("spare");
    let stack = Stack::new().name("shelf").cache(super::cache().build().unwrap());
    let service = stack.layer(layer.layer(flat(world.service())));
    let calls = (0..3).map(|_| service.clone().oneshot(1));
    for result in futures::future::join_all(calls).await {
        assert_eq!(result.unwrap(), "spare");
    }
    assert_eq!(world.calls(), 1);
    let spans = capture.spans();
    let sources: Vec<_> = spans.iter().filter_map(|span| span.get(field::SOURCE)).collect();
    assert_eq!(sources, ["fallback"; 3]);
}
