//! Endpoints beneath a fallback and a cache.

use buttress::{
    Outcome, Stack,
    endpoints::{Endpoints, EndpointsHandle},
};
use tower::Layer;

use super::*;

fn numbers(handle: &EndpointsHandle<Text>) -> (u64, u32) {
    let state = handle.states().remove(0);
    (state.failures, state.in_flight)
}

/// Endpoints beneath each choice of a fallback, a cache and a retry, which fail as the mode says.
macro_rules! each_stack {
    ($world:expr, |$service:ident, $handle:ident, $case:ident| $body:block) => {
        for number in 0..8 {
            let $case = (number & 1 > 0, number & 2 > 0, number & 4 > 0);
            let world: World = $world.clone();
            let endpoints = Endpoints::new(["a"], move |_: &Text| world.service());
            let $handle = endpoints.handle();
            let stack = Stack::new()
                .fallback($case.0.then(fallback))
                .cache($case.1.then(|| cache().ttl(SECOND).if_error(10 * SECOND).build().unwrap()))
                .retry($case.2.then(no_retries))
                .attempt_timeout(SECOND);
            let $service = stack.layer(endpoints);
            $body
        }
    };
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_times_out_counts_for_its_endpoint_in_every_stack() {
    let world = World::new(Mode::Hangs);
    each_stack!(world, |service, handle, case| {
        for key in [0, 1, 2] {
            assert_eq!(ask(&service, key).await.is_ok(), case.0);
        }
        settle().await;
        assert_eq!(numbers(&handle), (3, 0), "fallback, cache, retry: {case:?}");
    });
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_an_older_response_hides_counts_for_its_endpoint() {
    let world = World::default();
    each_stack!(world, |service, handle, case| {
        world.set(Mode::Up);
        assert_eq!(ask(&service, 1).await.unwrap(), "fresh");
        sleep(2 * SECOND).await;
        world.set(Mode::Hangs);
        assert_eq!(ask(&service, 1).await.is_ok(), case.0 || case.1);
        settle().await;
        assert_eq!(numbers(&handle), (1, 0), "fallback, cache, retry: {case:?}");
    });
}

#[tokio::test(start_paused = true)]
async fn the_classifier_of_the_stack_settles_the_calls_of_endpoints_beneath_a_cache() {
    fn alarmist(_: Result<&Text, &Failure>) -> Outcome {
        Outcome::Failure(buttress::Fault::Transient)
    }
    fn pessimist(_: Result<&Text, &Failure>) -> Outcome {
        Outcome::Failure(buttress::Fault::Permanent)
    }
    for (classify, mode, expected) in [
        (alarmist as fn(Result<&Text, &Failure>) -> Outcome, Mode::Up, 2),
        (pessimist, Mode::Fails("no"), 0),
    ] {
        let world = World::new(mode);
        let endpoints = Endpoints::new(["a"], move |_: &Text| world.service());
        let handle = endpoints.handle();
        let stack = Stack::new().classify_fn(classify).fallback(fallback());
        let stack = stack.cache(cache().build().unwrap()).layer(endpoints);
        _ = ask(&stack, 0).await;
        _ = ask(&stack, 1).await;
        settle().await;
        assert_eq!(numbers(&handle), (expected, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn callers_in_a_hurry_beneath_a_fallback_move_no_endpoint() {
    for (answers, caches) in [(true, false), (false, false), (true, true), (false, true)] {
        let world = World::new(Mode::Slow(500 * MS));
        let endpoints = Endpoints::new(["a"], move |_: &Text| world.service());
        let handle = endpoints.handle();
        let layer = FallbackLayer::from_fn(
            |_: &u32| (),
            move |(), _| async move { answers.then_some("fallback") },
        );
        let stack = Stack::new().fallback(layer).cache(caches.then(|| cache().build().unwrap()));
        let service = stack.total_timeout(5 * SECOND).layer(endpoints);
        for _ in 0..5 {
            assert_eq!(ask(&service, 0).await.unwrap(), "fresh");
        }
        for _ in 0..100 {
            assert_eq!(within(10 * MS, ask(&service, 0)).await.is_ok(), answers);
        }
        assert_eq!(numbers(&handle), (0, 0), "{answers} {caches}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_behind_a_fallback_is_avoided() {
    let worlds = [World::new(Mode::Hangs), World::default(), World::default()];
    let names = ["a", "b", "c"];
    let by_name = worlds.clone();
    let endpoints = Endpoints::new(names, move |name: &Text| {
        by_name[names.iter().position(|it| it == name).unwrap()].service()
    });
    let handle = endpoints.handle();
    let stack = Stack::new().fallback(fallback()).attempt_timeout(SECOND).layer(endpoints);
    for _ in 0..60 {
        ask(&stack, 0).await.unwrap();
    }
    let state = handle.states().remove(0);
    assert!(state.failures >= 1 && state.failures == u64::from(worlds[0].calls()), "{state:?}");
    assert!(state.failures <= 5, "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_endpoint_falls_back_and_is_not_retried() {
    let world = World::new(Mode::Hangs);
    let service = world.clone();
    let one = Endpoints::builder(["a"], move |_: &Text| service.service());
    let one = one.max_concurrent(1).build().unwrap();
    let retry = RetryLayer::new(ReplayClones);
    let bare = Stack::new().retry(retry.clone()).layer(one.clone());
    let service = Stack::new().fallback(fallback()).retry(retry).layer(one);
    let busy = tokio::spawn(bare.clone().oneshot(0));
    settle().await;
    let began = Instant::now();
    assert_eq!(kind(ask(&bare, 0).await), "no_endpoint");
    assert_eq!(ask(&service, 0).await.unwrap(), "fallback");
    assert_eq!((world.calls(), began.elapsed()), (1, Duration::ZERO), "no pause");
    busy.abort();
}
