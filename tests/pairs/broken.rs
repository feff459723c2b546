//! Responses whose bodies are known to be broken.

use std::io;

use ::http::{Request, Response};
use buttress::{
    BoxError, Stack,
    fallback::FallbackLayer,
    http::{HttpClientLayer, ReplaySafe},
};
use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tower::util::BoxCloneSyncService;

use super::*;

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
