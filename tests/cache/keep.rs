//! Tests of responses that are kept in a form of their own.

use std::{convert::Infallible, sync::Arc};

use buttress::keep::{Keep, Kept};
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt, service_fn};

use super::*;

/// A response that is not `Clone`.
#[derive(Debug, PartialEq)]
struct Text(String);

/// Keeps texts. One that begins with `-` is not kept, and one that begins with `!` broke off.
struct KeepTexts;

impl Keep<Text> for KeepTexts {
    type Payload = Arc<str>;
    type Response = Text;
    type Error = Infallible;

    async fn keep(&self, text: Text) -> Kept<Arc<str>, Text> {
        sleep(SECOND).await;
        match text.0.as_bytes() {
            [b'-', ..] => Kept::not_kept(text),
            [b'!', ..] => Kept::broken_off(text),
            kept => {
                let bytes = kept.len();
                let payload = text.0.as_str().into();
                Kept::new(text, payload, bytes)
            }
        }
    }

    fn replay(&self, text: Arc<str>) -> std::result::Result<Text, Infallible> {
        Ok(Text(text.as_ref().to_owned()))
    }
}

/// Returns a service whose responses are these texts, in turn.
fn texts<const N: usize>(
    texts: [&'static str; N],
) -> impl Service<u32, Response = Text, Error = Error<io::Error>, Future: Send> + Clone + Send {
    let calls = Arc::new(AtomicU32::new(0));
    service_fn(move |_: u32| {
        let call = calls.fetch_add(1, Ordering::Relaxed) as usize;
        async move { Ok(Text(texts[call].to_owned())) }
    })
}

type ByKeep = ByFn<fn(&u32) -> Option<u32>, Arc<str>, KeepTexts>;

fn cache() -> CacheBuilder<u32, Arc<str>, ByKeep> {
    let key: fn(&u32) -> Option<u32> = |request| Some(*request);
    CacheLayer::by_fn(key).keep(KeepTexts)
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_not_clone_is_shared_and_kept() {
    let cache = cache().build().unwrap();
    let service = cache.layer(texts(["one", "two"]));
    let (first, second) = tokio::join!(service.clone().oneshot(1), service.clone().oneshot(1));
    assert_eq!((first.unwrap(), second.unwrap()), (Text("one".into()), Text("one".into())));
    assert_eq!(service.clone().oneshot(1).await.unwrap(), Text("one".into()));
    let counts = cache.handle().counts();
    assert_eq!((counts.misses, counts.collapsed, counts.hits), (1, 1, 1));
    // Those of the entry and of its key, and three of the response.
    assert_eq!(counts.bytes, 256 + 4 + 3);
    advance(60 * SECOND).await;
    assert_eq!(service.oneshot(1).await.unwrap(), Text("two".into()));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_not_kept_is_for_one_caller() {
    let cache = cache().build().unwrap();
    let service = cache.layer(texts(["-one", "-two", "-three"]));
    let (first, second) = tokio::join!(service.clone().oneshot(1), service.clone().oneshot(1));
    assert_eq!((first.unwrap(), second.unwrap()), (Text("-one".into()), Text("-two".into())));
    assert_eq!(service.oneshot(1).await.unwrap(), Text("-three".into()));
    assert_eq!(cache.handle().counts().hits, 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_broke_off_gives_the_last_good_one_to_all() {
    let cache = cache().last_good(60 * SECOND).build().unwrap();
    let service = cache.layer(texts(["one", "!two", "three"]));
    assert_eq!(service.clone().oneshot(1).await.unwrap(), Text("one".into()));
    let (first, second) = tokio::join!(service.clone().oneshot(1), service.clone().oneshot(1));
    assert_eq!((first.unwrap(), second.unwrap()), (Text("one".into()), Text("one".into())));
    advance(SECOND).await;
    assert_eq!(service.oneshot(1).await.unwrap(), Text("three".into()));
    assert_eq!(cache.handle().counts().stale, 2);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_broke_off_does_not_stop_the_sharing_of_later_ones() {
    let cache = cache().build().unwrap();
    let service = cache.layer(texts(["!one", "two"]));
    assert_eq!(service.clone().oneshot(1).await.unwrap(), Text("!one".into()));
    for _ in 0..2 {
        assert_eq!(service.clone().oneshot(1).await.unwrap(), Text("two".into()));
    }
    assert_eq!(cache.handle().counts().hits, 1);
}

#[tokio::test(start_paused = true)]
async fn the_time_and_the_size_are_those_of_the_payload() {
    let key: fn(&u32) -> Option<u32> = |request| Some(*request);
    let cache = CacheLayer::by_fn(key)
        .ttl_fn(|text: &Arc<str>| (**text == *"short").then_some(2 * SECOND))
        .keep(KeepTexts)
        .size_fn(|text| 10 * text.len())
        .build()
        .unwrap();
    let service = cache.layer(texts(["short", "a", "b"]));
    assert_eq!(service.clone().oneshot(1).await.unwrap(), Text("short".into()));
    assert_eq!(cache.handle().counts().bytes, 256 + 4 + 50);
    advance(2 * SECOND).await;
    for _ in 0..2 {
        assert_eq!(service.clone().oneshot(1).await.unwrap(), Text("a".into()));
        advance(50 * SECOND).await;
    }
}
