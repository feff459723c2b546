use buttress::{
    CarryRejection, Outcome, Rejection, Stack,
    context::{Attempt, Hop},
    error::SharedFailure,
    retry::{ReplayClones, RetryLayer},
};
use futures::future::join_all;
use tokio::time::{Instant, advance, timeout};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, ServiceExt, limit::ConcurrencyLimitLayer};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_crowd_is_one_call_even_over_a_limit_of_one() {
    let backend = Backend::after(SECOND);
    let cache = cache().build().unwrap();
    let limited = ConcurrencyLimitLayer::new(1).layer(backend.clone());
    let service = cache.layer(limited);
    let began = Instant::now();
    let results = join_all((0..100).map(|_| service.clone().oneshot(1))).await;
    assert!(results.iter().all(|result| *result.as_ref().unwrap() == 1));
    assert_eq!((backend.calls(), began.elapsed()), (1, SECOND));
    let counts = cache.handle().counts();
    assert_eq!((counts.misses, counts.collapsed, counts.shared_calls), (1, 99, 0));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_polled_twice() {
    let service = cache().build().unwrap().layer(Backend::after(SECOND));
    let mut first = task::spawn(service.clone().oneshot(1));
    let mut waiters: Vec<_> = (0..10).map(|_| task::spawn(service.clone().oneshot(1))).collect();
    assert_pending!(first.poll());
    for waiter in &mut waiters {
        assert_pending!(waiter.poll());
    }
    settle().await;
    advance(SECOND / 2).await;
    settle().await;
    assert!(waiters.iter().all(|waiter| !waiter.is_woken()));
    advance(SECOND / 2).await;
    settle().await;
    for waiter in &mut waiters {
        assert!(waiter.is_woken());
        assert_eq!(assert_ready_ok!(waiter.poll()), 1);
    }
    assert_eq!(assert_ready_ok!(first.poll()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_future_that_is_never_polled_keeps_nobody_waiting() {
    let backend = Backend::after(SECOND);
    let mut service = cache().build().unwrap().layer(backend.clone());
    let never_polled = service.call(1);
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    // It was made before, and gets what is there when it is polled.
    assert_eq!(never_polled.await.unwrap(), 1);
    assert_eq!(backend.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_began_may_leave_and_the_last_one_ends_it() {
    let backend = Backend::after(10 * SECOND);
    let cache = cache().build().unwrap();
    let service = cache.layer(backend.clone());
    let mut callers: Vec<_> = (0..3).map(|_| task::spawn(service.clone().oneshot(1))).collect();
    for caller in &mut callers {
        assert_pending!(caller.poll());
    }
    settle().await;
    for left in [2, 1] {
        drop(callers.remove(0));
        settle().await;
        assert_eq!((callers.len(), backend.dropped()), (left, 0));
    }
    drop(callers);
    settle().await;
    assert_eq!((backend.dropped(), cache.handle().counts().shared_calls), (1, 0));
    // The key is free.
    let mut again = task::spawn(service.clone().oneshot(1));
    assert_pending!(again.poll());
    settle().await;
    assert_eq!(backend.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_can_fill_the_cache() {
    let backend = Backend::after(SECOND);
    let service = cache().finish_abandoned().build().unwrap().layer(backend.clone());
    assert!(timeout(SECOND / 2, service.clone().oneshot(1)).await.is_err());
    advance(SECOND).await;
    settle().await;
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    assert_eq!((backend.calls(), backend.dropped()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_caller_in_a_hurry_cuts_nobody_short() {
    let backend = Backend::after(3 * SECOND);
    let service = cache().build().unwrap().layer(backend.clone());
    let hurried =
        buttress::Deadline::scope(buttress::Deadline::after(SECOND), service.clone().oneshot(1));
    let (hurried, other) = tokio::join!(hurried, service.clone().oneshot(1));
    assert!(hurried.is_err());
    assert_eq!(other.unwrap(), 1);
    assert_eq!(backend.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_frees_the_key_and_harms_only_who_began() {
    let backend = Backend::new(|_, call| {
        Box::pin(async move {
            tokio::time::sleep(SECOND).await;
            assert!(call != 1, "the first call panics");
            Ok(call)
        })
    });
    let cache = cache().build().unwrap();
    let service = cache.layer(backend.clone());
    let first = tokio::spawn(service.clone().oneshot(1));
    settle().await;
    let others = join_all((0..3).map(|_| service.clone().oneshot(1))).await;
    assert!(first.await.unwrap_err().is_panic());
    assert!(others.into_iter().all(|result| result.is_ok()));
    assert_eq!((backend.calls(), cache.handle().counts().shared_calls), (4, 0));
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_shared_and_not_kept() {
    let backend = Backend::after(SECOND);
    backend.does(|_, _| {
        Box::pin(async {
            tokio::time::sleep(SECOND).await;
            Err(Error::Service(io::ErrorKind::ConnectionReset.into()))
        })
    });
    let service = cache().name("rates").build().unwrap().layer(backend.clone());
    let results = join_all((0..100).map(|_| service.clone().oneshot(1))).await;
    assert_eq!(backend.calls(), 1);
    let (own, shared): (Vec<_>, Vec<_>) = results
        .into_iter()
        .map(std::result::Result::unwrap_err)
        .partition(|e| e.service().is_some());
    assert_eq!((own.len(), shared.len()), (1, 99));
    for error in shared {
        let Some(Rejection::Shared(failure)) = error.rejection() else { panic!("{error:?}") };
        assert_eq!(
            (failure.name(), failure.outcome()),
            ("rates", Outcome::Failure(buttress::Fault::Transient))
        );
    }
    service.clone().oneshot(1).await.unwrap_err();
    assert_eq!(backend.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_shared_as_it_is() {
    let backend = Backend::after(SECOND);
    backend.does(|_, _| {
        Box::pin(async {
            tokio::time::sleep(SECOND).await;
            Err(Error::rejected(buttress::error::BulkheadFull::new("orders", 3)))
        })
    });
    let service = cache().build().unwrap().layer(backend.clone());
    for result in join_all((0..10).map(|_| service.clone().oneshot(1))).await {
        assert_eq!(result.unwrap_err().rejection().unwrap().kind(), "bulkhead_full");
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_the_maximum_each_caller_asks_for_itself() {
    let backend = Backend::after(SECOND);
    let cache = cache().max_shared_calls(2).build().unwrap();
    let service = cache.layer(backend.clone());
    let keys = [1, 2, 3, 3, 1];
    let results = join_all(keys.map(|key| service.clone().oneshot(key))).await;
    assert!(results.iter().all(std::result::Result::is_ok));
    assert_eq!(backend.calls(), 4);
    assert_eq!((cache.handle().counts().bypassed, cache.handle().counts().entries), (2, 2));
    // The places are free again.
    assert_eq!(service.clone().oneshot(3).await.unwrap(), 5);
    assert_eq!(cache.handle().counts().entries, 3);
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_time_begins_and_joins_nothing() {
    let backend = Backend::after(SECOND);
    let cache = cache().build().unwrap();
    let service = Stack::new().total_timeout(2 * SECOND).layer(backend.clone());
    let service = cache.layer(service);
    let over = buttress::Deadline::after(Duration::ZERO);
    let ended = buttress::Deadline::scope(over, service.clone().oneshot(1)).await;
    let error = ended.unwrap().unwrap_err();
    assert_eq!(error.rejection().unwrap().kind(), "deadline_exceeded");
    assert_eq!((backend.calls(), cache.handle().counts().shared_calls), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn findings_of_a_retry_reach_each_waiter() {
    use buttress::retry::{Backoff, ReplayClones, RetryLayer};
    let backend = Backend::after(SECOND);
    backend.fails();
    let backoff = Backoff::constant(SECOND).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).backoff(backoff).retries(1).build().unwrap();
    let service = cache().build().unwrap().layer(retry.layer(backend.clone()));
    let observed = join_all((0..3).map(|_| Hop::observe(service.clone().oneshot(1)))).await;
    assert!(observed.iter().all(|(result, hop)| result.is_err() && hop.retries_exhausted()));
    assert_eq!(backend.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_waiters_are_woken_at_once() {
    let backend = Backend::after(SECOND);
    let service = cache().build().unwrap().layer(backend.clone());
    let mut callers: Vec<_> =
        (0..10_000).map(|_| task::spawn(service.clone().oneshot(1))).collect();
    for caller in &mut callers {
        assert_pending!(caller.poll());
    }
    settle().await;
    let began = std::time::Instant::now();
    advance(SECOND).await;
    settle().await;
    for caller in &mut callers {
        assert_ready_ok!(caller.poll());
    }
    // The bound is for an unoptimized build on a busy machine. A release takes about 2 ms.
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(backend.calls(), 1);
}

#[test]
fn a_shared_failure_can_be_made_by_others() {
    let failure = SharedFailure::new("a", Outcome::Ignored, "text");
    assert_eq!(Rejection::from(failure).kind(), "shared_failure");
}

#[tokio::test(start_paused = true)]
async fn the_attempts_of_a_shared_call_have_numbers_of_their_own() {
    let numbers = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&numbers);
    let backend = Backend::new(move |_, _| {
        log.lock().unwrap().push(Attempt::current().unwrap().number());
        Box::pin(async { Err(Error::Service(io::ErrorKind::Other.into())) })
    });
    let retry = || RetryLayer::builder(ReplayClones).retries(1).build().unwrap();
    let service = cache().build().unwrap().layer(retry().layer(backend));
    assert!(retry().layer(service).oneshot(1).await.is_err());
    assert_eq!(*numbers.lock().unwrap(), [1, 2, 1, 2]);
}
