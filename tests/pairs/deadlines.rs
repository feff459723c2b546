//! Callers with little time, and the reserves of a fallback and a cache.

use buttress::Stack;
use tower::Layer;

use super::*;

#[tokio::test(start_paused = true)]
async fn callers_with_any_time_get_the_older_response_or_the_fallback_in_time() {
    for hundredths in [100_u32, 300, 10_000, 100_000, 500_000] {
        let time = 10 * hundredths * Duration::from_micros(1);
        let world = World::default();
        let layer = cache().ttl(SECOND).last_good(3_600 * SECOND).build().unwrap();
        let stack = Stack::standard(ReplayClones).fallback(fallback()).cache(layer);
        let service = stack.layer(flat(world.service()));
        ask(&service, 1).await.unwrap();
        sleep(2 * SECOND).await;
        world.set(Mode::Hangs);
        for (key, expected) in [(1, "fresh"), (2, "fallback"), (0, "fallback")] {
            let began = Instant::now();
            assert_eq!(within(time, ask(&service, key)).await.unwrap(), expected, "{time:?}");
            assert!(began.elapsed() <= time, "{time:?}: {:?}", began.elapsed());
            sleep(60 * SECOND).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_time_is_over_changes_nothing_for_others() {
    let world = World::default();
    let layer = cache().ttl(SECOND).last_good(3_600 * SECOND).build().unwrap();
    let handle = layer.handle();
    let service = Stack::standard(ReplayClones).cache(layer).layer(flat(world.service()));
    ask(&service, 1).await.unwrap();
    sleep(2 * SECOND).await;
    for _ in 0..3 {
        let over = Deadline::after(Duration::ZERO);
        sleep(MS).await;
        _ = Deadline::scope(over, ask(&service, 1)).await;
    }
    let before = handle.counts();
    assert_eq!(ask(&service, 1).await.unwrap(), "fresh");
    assert_eq!(handle.counts().stale, before.stale, "the next caller asks");
    assert_eq!(world.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_in_a_hurry_does_not_give_others_an_older_response() {
    for max_shared in [1_000, 1] {
        let world = World::new(Mode::Slow(50 * MS));
        let layer = cache().ttl(SECOND).last_good(3_600 * SECOND).max_shared_calls(max_shared);
        let layer = layer.build().unwrap();
        let handle = layer.handle();
        let stack = Stack::standard(ReplayClones).cache(layer);
        let service = stack.layer(flat(world.service()));
        ask(&service, 1).await.unwrap();
        sleep(2 * SECOND).await;
        let other = tokio::spawn(service.clone().oneshot(2));
        settle().await;
        assert_eq!(within(10 * MS, ask(&service, 1)).await.unwrap(), "fresh");
        assert_eq!(handle.counts().stale, 1);
        ask(&service, 1).await.unwrap();
        assert_eq!(handle.counts().stale, 1, "{max_shared}");
        other.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_call_has_the_time_of_no_caller() {
    let world = World::new(Mode::Slow(SECOND));
    let stack = Stack::standard(ReplayClones).fallback(fallback()).cache(cache().build().unwrap());
    let service = stack.layer(flat(world.service()));
    let first = tokio::spawn(within(100 * MS, service.clone().oneshot(1)));
    settle().await;
    let second = tokio::spawn(service.clone().oneshot(1));
    assert_eq!(first.await.unwrap().unwrap(), "fallback");
    assert_eq!(second.await.unwrap().unwrap(), "fresh");
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_degraded_call_without_a_total_timeout_is_bounded_by_its_caller() {
    let world = World::new(Mode::Hangs);
    let stack = Stack::new().fallback(fallback()).cache(cache().build().unwrap());
    let service = stack.layer(flat(world.service()));
    let began = Instant::now();
    for key in [0, 1] {
        assert_eq!(within(SECOND, ask(&service, key)).await.unwrap(), "fallback");
    }
    assert_eq!(began.elapsed(), 1_800 * MS);
}

/// The first response cannot be shared, and the caller that waited for it asks for itself.
#[tokio::test(start_paused = true)]
async fn a_caller_who_waited_in_vain_gets_the_older_response_within_its_time() {
    for time in [2 * SECOND, 4 * SECOND] {
        let world = World::default();
        let layer = cache().ttl(SECOND).last_good(3_600 * SECOND).build().unwrap();
        let stack = Stack::new().cache(layer).total_timeout(5 * SECOND);
        let calls = Arc::new(AtomicU32::new(0));
        let numbered = tower::service_fn({
            let (world, calls) = (world.clone(), Arc::clone(&calls));
            move |key: u32| {
                let (inner, number) = (world.service(), calls.fetch_add(1, Ordering::Relaxed));
                async move {
                    match number {
                        0 => inner.oneshot(key).await,
                        1 => {
                            sleep(SECOND).await;
                            panic!("the shared call")
                        }
                        _ => pending().await,
                    }
                }
            }
        });
        let service = stack.layer(flat(numbered));
        ask(&service, 1).await.unwrap();
        sleep(2 * SECOND).await;
        let first = tokio::spawn(service.clone().oneshot(1));
        settle().await;
        let began = Instant::now();
        assert_eq!(within(time, ask(&service, 1)).await.unwrap(), "fresh");
        assert!(began.elapsed() < time, "{:?}", began.elapsed());
        assert_eq!(calls.load(Ordering::Relaxed), 3);
        assert!(first.await.is_err());
    }
}
