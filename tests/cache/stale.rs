use buttress::{CarryRejection, Deadline, Stack};
use futures::future::join_all;
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt};

use super::*;

/// Returns a service with an entry of the key 1 that is stale.
macro_rules! with_stale_entry {
    ($builder:expr, $backend:expr) => {{
        let cache = $builder.build().unwrap();
        let service = cache.layer($backend.clone());
        assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
        advance(10 * SECOND).await;
        (cache, service)
    }};
}

fn last_good() -> CacheBuilder<u32, u32, ByKey> {
    cache().ttl(10 * SECOND).if_error(60 * SECOND)
}

#[tokio::test(start_paused = true)]
async fn one_renewal_per_window() {
    let backend = Backend::after(SECOND);
    let renewed = cache().ttl(10 * SECOND).while_revalidate(20 * SECOND);
    let (cache, service) = with_stale_entry!(renewed, backend);
    for _ in 0..100 {
        assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    }
    settle().await;
    assert_eq!(backend.calls(), 2);
    advance(SECOND).await;
    settle().await;
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 2);
    let counts = cache.handle().counts();
    assert_eq!((counts.stale, counts.hits, counts.shared_calls), (100, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_last_good_response_is_given_if_the_call_fails() {
    let backend = Backend::after(Duration::ZERO);
    let (cache, service) = with_stale_entry!(last_good(), backend);
    backend.fails();
    let results = join_all((0..10).map(|_| service.clone().oneshot(1))).await;
    assert!(results.into_iter().all(|result| result.unwrap() == 1));
    assert_eq!((backend.calls(), cache.handle().counts().stale), (2, 10));
    advance(60 * SECOND).await;
    assert!(service.clone().oneshot(1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_always_asked_for_has_its_last_good_response() {
    let backend = Backend::after(Duration::ZERO);
    let service = cache().last_good(60 * SECOND).build().unwrap().layer(backend.clone());
    for call in 1..=3 {
        assert_eq!(service.clone().oneshot(1).await.unwrap(), call);
    }
    backend.fails();
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_final_is_not_hidden() {
    let backend = Backend::after(Duration::ZERO);
    let permanent = last_good().classify_fn(
        |result: std::result::Result<&u32, &Error<io::Error>>| match result {
            Ok(_) => buttress::Outcome::Success,
            Err(_) => buttress::Outcome::Failure(buttress::Fault::Permanent),
        },
    );
    let (_, service) = with_stale_entry!(permanent, backend);
    backend.fails();
    assert!(service.clone().oneshot(1).await.unwrap_err().service().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_hanging_service_delays_one_caller_a_second() {
    let backend = Backend::after(Duration::ZERO);
    let cache = last_good().build().unwrap();
    let timed = Stack::new().total_timeout(5 * SECOND).layer(backend.clone());
    let service = cache.layer(timed);
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    advance(10 * SECOND).await;
    backend.hangs();
    // The first failure takes a whole timeout, for all who wait.
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    let mut delayed = 0;
    for _ in 0..200 {
        let service = service.clone();
        let call = tokio::spawn(async move {
            let began = Instant::now();
            assert_eq!(service.oneshot(1).await.unwrap(), 1);
            began.elapsed()
        });
        settle().await;
        delayed += u32::from(!call.is_finished());
        advance(SECOND / 20).await;
    }
    assert!((5..=10).contains(&delayed), "{delayed} of 200 in 10 s");
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_patience_gets_the_older_response_and_the_call_goes_on() {
    let backend = Backend::after(Duration::ZERO);
    let (cache, service) = with_stale_entry!(last_good().patience(SECOND), backend);
    backend.does(|_, call| {
        Box::pin(async move {
            tokio::time::sleep(5 * SECOND).await;
            Ok(call)
        })
    });
    let began = Instant::now();
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    assert_eq!(began.elapsed(), SECOND);
    // The next one does not wait for the same call.
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    assert_eq!(began.elapsed(), SECOND);
    advance(4 * SECOND).await;
    settle().await;
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 2);
    assert_eq!((cache.handle().counts().shared_calls, backend.dropped()), (0, 0));
}

/// Makes 100 calls of a service that hangs, by callers with this much time.
async fn assert_all_in_time<S>(service: &S, time: Duration)
where
    S: Service<u32, Response = u32, Error = Error<io::Error>> + Clone,
{
    let began = Instant::now();
    let callers =
        (0..100).map(|_| Deadline::scope(Deadline::after(time), service.clone().oneshot(1)));
    for result in join_all(callers).await {
        assert_eq!(result.expect("in time").unwrap(), 1);
    }
    assert!(began.elapsed() < time, "{:?} of {time:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn all_callers_with_little_time_get_the_older_response_in_time() {
    for left in [1, 3, 5] {
        let backend = Backend::after(Duration::ZERO);
        let (cache, service) = with_stale_entry!(last_good(), backend);
        backend.hangs();
        assert_all_in_time(&service, left * SECOND).await;
        assert_eq!(cache.handle().counts().stale, 100);
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_stack_too_all_callers_get_the_older_response_in_time() {
    for left in [1, 3, 5] {
        let backend = Backend::after(Duration::ZERO);
        let stack = Stack::new().cache(last_good().build().unwrap()).total_timeout(5 * SECOND);
        let service = stack.layer(backend.clone());
        assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
        advance(10 * SECOND).await;
        backend.hangs();
        assert_all_in_time(&service, left * SECOND).await;
        assert_eq!(backend.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reserve_decides_how_long_a_caller_with_a_deadline_waits() {
    for (reserve, expected) in [(0.0, None), (0.1, Some(3_600)), (0.9, Some(3_000))] {
        let backend = Backend::after(Duration::ZERO);
        let (_, service) = with_stale_entry!(last_good().reserve(reserve), backend);
        backend.hangs();
        let began = Instant::now();
        let call = Deadline::scope(Deadline::after(4 * SECOND), service.clone().oneshot(1)).await;
        let given = call.ok().map(|_| began.elapsed().as_millis());
        assert_eq!(given, expected, "{reserve}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_that_the_service_asks_for_is_respected() {
    use buttress::{Fault, Outcome};
    let backend = Backend::after(Duration::ZERO);
    let busy =
        last_good().classify_fn(
            |result: std::result::Result<&u32, &Error<io::Error>>| match result {
                Ok(_) => Outcome::Success,
                Err(_) => Outcome::Failure(Fault::Overloaded { retry_after: Some(20 * SECOND) }),
            },
        );
    let (_, service) = with_stale_entry!(busy, backend);
    backend.fails();
    for (after, calls) in [(0, 2), (19, 2), (1, 3)] {
        advance(after * SECOND).await;
        assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
        assert_eq!(backend.calls(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_waited_in_vain_has_one_limit_from_its_arrival() {
    let backend = Backend::new(|_, call| {
        Box::pin(async move {
            tokio::time::sleep(4 * SECOND).await;
            assert!(call != 1, "the shared call panics");
            std::future::pending().await
        })
    });
    let cache = cache().build().unwrap();
    let service = Stack::new().cache(cache).total_timeout(5 * SECOND).layer(backend.clone());
    let first = tokio::spawn(service.clone().oneshot(1));
    settle().await;
    let began = Instant::now();
    let error = service.clone().oneshot(1).await.unwrap_err();
    assert_eq!(error.rejection().unwrap().kind(), "timed_out");
    assert_eq!((began.elapsed(), backend.calls()), (5 * SECOND, 2));
    assert!(first.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_success_of_a_caller_that_asks_alone_ends_the_hold_off() {
    let backend = Backend::after(Duration::ZERO);
    let limited = last_good().hold_off(10 * SECOND).max_shared_calls(1);
    let (_, service) = with_stale_entry!(limited, backend);
    backend.fails();
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    advance(10 * SECOND).await;
    // The only shared call is that of another key.
    backend.does(|key, call| {
        Box::pin(async move { if key == 1 { Ok(call) } else { std::future::pending().await } })
    });
    let other = tokio::spawn(service.clone().oneshot(2));
    settle().await;
    for call in [4, 5] {
        assert_eq!(service.clone().oneshot(1).await.unwrap(), call);
    }
    other.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stack_explains_its_cache_and_what_contradicts_it() {
    let stack = |builder: CacheBuilder<u32, u32, ByKey>| {
        Stack::new().cache(builder.build().unwrap()).attempt_timeout(SECOND)
    };
    let rules = |explanation: &buttress::stack::Explanation| -> Vec<_> {
        explanation.warnings().iter().map(|warning| warning.rule()).collect()
    };
    let known = stack(last_good().while_revalidate(SECOND)).total_timeout(5 * SECOND).explain();
    assert!(rules(&known).is_empty(), "{known}");
    let line = "keeps responses for up to 10s, renews them for 1s more, gives older ones for 60s \
                if a call fails";
    assert!(known.to_string().contains(line), "{known}");
    let none = stack(cache()).explain();
    assert_eq!(rules(&none), ["shared_call_without_limit"]);
    let impatient = stack(last_good().patience(5 * SECOND)).total_timeout(5 * SECOND).explain();
    assert_eq!(rules(&impatient), ["patience_longer_than_total"]);
}
