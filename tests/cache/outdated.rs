//! Older responses that a later result has replaced, and responses that are not of the service.

use std::future::ready;

use buttress::{Fault, Outcome, fallback::FallbackLayer};
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceBuilder, ServiceExt};

use super::*;

#[tokio::test(start_paused = true)]
async fn an_older_response_is_not_given_after_a_newer_one_that_is_too_big() {
    let backend = Backend::after(Duration::ZERO);
    let cache = cache().ttl(SECOND).if_error(60 * SECOND);
    let cache = cache.size_fn(|call| if *call == 2 { usize::MAX } else { 0 }).build().unwrap();
    let service = cache.layer(backend.clone());
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    advance(SECOND).await;
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 2);
    backend.fails();
    assert!(service.oneshot(1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_older_response_is_not_given_after_a_permanent_failure() {
    for is_alone in [false, true] {
        let backend = Backend::after(Duration::ZERO);
        let kind = |result: std::result::Result<&u32, &Error<io::Error>>| match result {
            Ok(_) => Outcome::Success,
            Err(Error::Service(error)) if error.kind() == io::ErrorKind::NotFound => {
                Outcome::Failure(Fault::Permanent)
            }
            Err(_) => Outcome::Failure(Fault::Transient),
        };
        let cache = cache().ttl(SECOND).if_error(60 * SECOND).max_shared_calls(1);
        let service = cache.classify_fn(kind).build().unwrap().layer(backend.clone());
        assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
        advance(SECOND).await;
        backend.hangs();
        // There is room for one shared call only.
        let other = tokio::spawn(service.clone().oneshot(2));
        settle().await;
        if !is_alone {
            other.abort();
            settle().await;
        }
        let not_found = || Err(Error::Service(io::ErrorKind::NotFound.into()));
        backend.does(move |_, _| Box::pin(ready(not_found())));
        assert!(service.clone().oneshot(1).await.is_err());
        backend.fails();
        assert!(service.oneshot(1).await.is_err(), "alone: {is_alone}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_response_of_a_fallback_beneath_is_not_kept() {
    let backend = Backend::after(Duration::ZERO);
    backend.fails();
    let cache = cache().ttl(60 * SECOND).build().unwrap();
    let (handle, fallback) = (cache.handle(), FallbackLayer::value(0));
    let service = ServiceBuilder::new().layer(cache).layer(fallback).service(backend.clone());
    for _ in 0..2 {
        assert_eq!(service.clone().oneshot(1).await.unwrap(), 0);
    }
    assert_eq!((backend.calls(), handle.counts().entries), (2, 0));
    backend.does(|_, call| Box::pin(async move { Ok(call) }));
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 3, "the service is well again");
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_older_response_of_a_cache_beneath_is_not_kept_as_a_new_one() {
    let backend = Backend::after(Duration::ZERO);
    let outer = cache().ttl(SECOND).if_error(5 * SECOND).build().unwrap();
    let inner = cache().last_good(20 * SECOND).build().unwrap();
    let service = ServiceBuilder::new().layer(outer).layer(inner).service(backend.clone());
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    backend.fails();
    for _ in 0..19 {
        sleep(SECOND).await;
        assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    }
    sleep(SECOND).await;
    assert!(service.clone().oneshot(1).await.is_err(), "it is 20 s old");
}
