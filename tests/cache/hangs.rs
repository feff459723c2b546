//! A call that hangs holds neither its key nor its place.

use std::{convert::Infallible, future::pending};

use buttress::{
    CarryRejection, Rejection, Stack,
    keep::{Keep, Kept},
};
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt};

use super::*;

/// A backend of which the second call hangs.
fn hangs_once() -> Backend {
    Backend::new(|_, call| {
        Box::pin(async move {
            if call == 2 {
                pending::<()>().await;
            }
            Ok(call)
        })
    })
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_behind_an_older_response_holds_its_key_for_a_minute() {
    for renews in [true, false] {
        let builder = cache().ttl(SECOND);
        let builder = match renews {
            true => builder.while_revalidate(600 * SECOND),
            false => builder.if_error(600 * SECOND).patience(SECOND),
        };
        let backend = hangs_once();
        let cache = builder.build().unwrap();
        let (handle, service) = (cache.handle(), cache.layer(backend.clone()));
        assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
        sleep(2 * SECOND).await;
        for _ in 0..2 {
            assert_eq!(service.clone().oneshot(1).await.unwrap(), 1, "the older response");
        }
        settle().await;
        assert_eq!((handle.counts().shared_calls, backend.calls()), (1, 2));
        sleep(61 * SECOND).await;
        // It is ended although nobody asks.
        assert_eq!((handle.counts().shared_calls, backend.dropped()), (0, 1), "renews: {renews}");
        _ = service.clone().oneshot(1).await;
        settle().await;
        assert_eq!(service.clone().oneshot(1).await.unwrap(), 3, "renews: {renews}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_slow_goes_on_for_those_who_wait_and_is_not_joined_after_a_minute() {
    let backend = Backend::after(100 * SECOND);
    let service = cache().build().unwrap().layer(backend.clone());
    let first = tokio::spawn(service.clone().oneshot(1));
    sleep(59 * SECOND).await;
    let joined = tokio::spawn(service.clone().oneshot(1));
    sleep(2 * SECOND).await;
    let late = tokio::spawn(service.clone().oneshot(1));
    assert_eq!(first.await.unwrap().unwrap(), joined.await.unwrap().unwrap());
    assert_eq!((late.await.unwrap().unwrap(), backend.calls()), (2, 2));
}

/// A keep that hangs the second time.
struct HangsOnce(AtomicU32);

impl Keep<u32> for HangsOnce {
    type Payload = u32;
    type Response = u32;
    type Error = Infallible;

    async fn keep(&self, response: u32) -> Kept<u32, u32> {
        if self.0.fetch_add(1, Ordering::Relaxed) == 1 {
            pending::<()>().await;
        }
        Kept::new(response, response, 1)
    }

    fn replay(&self, payload: u32) -> std::result::Result<u32, Infallible> {
        Ok(payload)
    }
}

#[tokio::test(start_paused = true)]
async fn a_keep_that_hangs_holds_its_key_for_twice_the_total_timeout() {
    let cache = CacheLayer::by_fn(|key: &u32| Some(*key)).keep(HangsOnce(AtomicU32::new(0)));
    let cache = cache.ttl(SECOND).if_error(60 * SECOND).patience(SECOND).build().unwrap();
    let handle = cache.handle();
    let backend = Backend::after(Duration::ZERO);
    let stack = Stack::new().cache(cache).total_timeout(2 * SECOND).layer(backend.clone());
    for _ in 0..2 {
        assert_eq!(stack.clone().oneshot(7).await.unwrap(), 1);
        sleep(2 * SECOND).await;
    }
    sleep(3 * SECOND).await;
    assert_eq!(handle.counts().shared_calls, 0);
    let later = timeout(10 * SECOND, stack.clone().oneshot(7)).await;
    assert_eq!(later.unwrap().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_keep_that_hangs_keeps_no_caller_waiting_for_ever_in_a_stack_with_a_total_timeout() {
    for has_older in [false, true] {
        let keep = HangsOnce(AtomicU32::new(u32::from(!has_older)));
        let cache = CacheLayer::by_fn(|key: &u32| Some(*key)).keep(keep);
        let cache = cache.ttl(SECOND).if_error(60 * SECOND).build().unwrap();
        let handle = cache.handle();
        let backend = Backend::after(Duration::ZERO);
        let stack = Stack::new().cache(cache).total_timeout(2 * SECOND).layer(backend);
        if has_older {
            assert_eq!(stack.clone().oneshot(7).await.unwrap(), 1);
            sleep(2 * SECOND).await;
        }
        let calls = (0..3).map(|_| tokio::spawn(stack.clone().oneshot(7)));
        let calls = timeout(5 * SECOND, futures::future::join_all(calls)).await.unwrap();
        for result in calls.into_iter().map(std::result::Result::unwrap) {
            match has_older {
                true => assert_eq!(result.unwrap(), 1, "the older response"),
                false => {
                    let error = result.unwrap_err();
                    assert_eq!(error.rejection().map(Rejection::kind), Some("timed_out"));
                }
            }
        }
        assert_eq!(handle.counts().shared_calls, 0);
    }
}
