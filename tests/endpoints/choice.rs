//! Which endpoint is called.

use std::task::Poll;

use buttress::{
    Fault, Outcome, Stack,
    retry::{Backoff, Budget, ReplayClones, RetryLayer},
    testing::task::Spawned,
    timeout::TimeoutLayer,
};
use tower::{Layer, service_fn};

use super::*;

fn retry(retries: u32) -> RetryLayer<ReplayClones> {
    let backoff = Backoff::constant(MS).build().unwrap();
    let builder = RetryLayer::builder(ReplayClones).retries(retries).backoff(backoff);
    builder.without_budget().build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_retry_takes_another_endpoint() {
    let world = World::default();
    // Neither is ejected, so only the memory of the call helps.
    let endpoints = world.builder(["a", "b", "c"]).max_ejected(0.0).build().unwrap();
    world.set("a", Mode::Fails);
    world.set("b", Mode::Fails);
    let inner = TimeoutLayer::new(SECOND).including_readiness().layer(endpoints);
    assert_eq!(calls(&retry(2).layer(inner), 200).await, 0);
    assert!(world.calls("a") > 0 && world.calls("b") > 0);
    assert_eq!(world.calls("c"), 200);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_times_out_was_at_its_endpoint() {
    let world = World::default();
    let endpoints = world.builder(["a", "b"]).max_ejected(0.0).build().unwrap();
    world.set("a", Mode::Hangs);
    let stack = Stack::new().retry(retry(1)).attempt_timeout(SECOND).layer(endpoints);
    assert_eq!(calls(&stack, 100).await, 0);
    assert!(world.calls("a") > 0);
    assert_eq!(world.calls("b"), 100);
}

#[tokio::test(start_paused = true)]
async fn of_two_both_are_tried_before_one_twice() {
    let world = World::default();
    let endpoints = world.builder(["a", "b"]).max_ejected(0.0).build().unwrap();
    world.set("a", Mode::Fails);
    world.set("b", Mode::Fails);
    let stack = retry(3).layer(endpoints);
    for call in 1..=50 {
        assert_eq!(calls(&stack, 1).await, 1);
        assert_eq!(world.calls("a") + world.calls("b"), 4 * call);
        assert!(world.calls("a") >= call && world.calls("b") >= call);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_around_a_stack_knows_what_the_stack_has_tried() {
    let world = World::default();
    let endpoints = world.builder(["a", "b", "c"]).max_ejected(0.0).build().unwrap();
    world.set("a", Mode::Fails);
    world.set("b", Mode::Fails);
    // Each of the two has one retry, so that the outer one meets the third endpoint.
    let stack = Stack::new().retry(retry(1)).layer(endpoints);
    assert_eq!(calls(&Stack::new().retry(retry(1)).layer(stack), 100).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_retry_around_a_stack_without_one_knows_which_endpoint_was_called() {
    let world = World::default();
    let endpoints = world.builder(["a", "b"]).max_ejected(0.0).build().unwrap();
    world.set("a", Mode::Fails);
    let stack = Stack::new().layer(endpoints);
    assert_eq!(calls(&Stack::new().retry(retry(1)).layer(stack), 100).await, 0);
}

#[tokio::test(start_paused = true)]
async fn calls_that_follow_each_other_know_nothing_of_each_other() {
    let world = World::default();
    let endpoints = world.builder(["a", "b"]).max_ejected(0.0).build().unwrap();
    world.set("a", Mode::Fails);
    // Without a retry, nothing remembers the endpoint.
    let failed = calls(&endpoints, 2_000).await;
    assert!(failed > 0, "the next call would avoid it");
    assert_eq!(world.calls("a"), failed);
}

#[tokio::test(start_paused = true)]
async fn calls_within_one_attempt_know_nothing_of_each_other() {
    for _ in 0..50 {
        let world = World::default();
        let endpoints = world.builder(["a", "b"]).max_ejected(0.0).build().unwrap();
        world.set("a", Mode::Fails);
        world.set("b", Mode::Fails);
        let (once, twice) = (retry(0).layer(endpoints.clone()), retry(1).layer(endpoints));
        let first = Arc::new(Mutex::new(""));
        let service = {
            let (world, first) = (world.clone(), Arc::clone(&first));
            service_fn(move |()| {
                let (world, first) = (world.clone(), Arc::clone(&first));
                let (once, twice) = (once.clone(), twice.clone());
                async move {
                    _ = once.oneshot(()).await;
                    *first.lock().unwrap() = if world.calls("a") > 0 { "a" } else { "b" };
                    // Its first attempt is made in the same poll.
                    twice.oneshot(()).await
                }
            })
        };
        assert_eq!(calls(&retry(0).layer(service), 1).await, 1);
        assert_eq!(world.calls("a") + world.calls("b"), 3);
        assert_eq!(world.calls(*first.lock().unwrap()), 2, "the other call has tried both");
    }
}

#[tokio::test(start_paused = true)]
async fn with_one_of_three_down_and_one_retry_no_call_fails() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b", "c"]);
    world.set("a", Mode::Fails);
    let budget = Budget::new();
    let retry = RetryLayer::builder(ReplayClones).retries(1).budget(budget).build().unwrap();
    assert_eq!(calls(&retry.layer(endpoints), 1_000).await, 0);
    assert!(world.calls("a") < 20, "{}", world.calls("a"));
}

#[tokio::test(start_paused = true)]
async fn a_fast_failure_draws_no_calls() {
    let world = World::default();
    let endpoints = world.builder(["a", "b", "c"]).max_ejected(0.0).build().unwrap();
    for name in ["b", "c"] {
        world.set(name, Mode::Slow(20 * MS));
    }
    world.set("a", Mode::Fails);
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let endpoints = endpoints.clone();
            tokio::spawn(async move { calls(&endpoints, 50).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // By calls under way alone, it would get most of them.
    assert!(world.calls("a") < 250, "{}", world.calls("a"));
}

/// Says nothing of a call without a response, as for a request that was given back.
fn says_nothing(result: Result<&Name, &Failure>) -> Outcome {
    if result.is_ok() { Outcome::Success } else { Outcome::Ignored }
}

/// Says that a call without a response has failed.
fn has_failed(result: Result<&Name, &Failure>) -> Outcome {
    if result.is_ok() { Outcome::Success } else { Outcome::Failure(Fault::Transient) }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_without_a_response_draws_no_calls_however_slow_the_others_are() {
    for classifier in [says_nothing, has_failed] {
        let world = World::default();
        let names = ["a", "b", "c", "d"];
        names.iter().for_each(|name| world.set(name, Mode::Slow(500 * MS)));
        world.set("a", Mode::Fails);
        let builder = world.builder(names).max_ejected(0.0).classify_fn(classifier);
        let endpoints = builder.build().unwrap();
        for _ in 0..1_000 {
            tokio::spawn(endpoints.clone().oneshot(()));
            tokio::time::sleep(2 * MS).await;
        }
        // The choices by the calls under way alone are left. By them, it would get 500.
        assert!(world.calls("a") < 60, "{}", world.calls("a"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_less_busy_of_two_is_called() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b"]);
    world.set("a", Mode::Hangs);
    world.set("b", Mode::Hangs);
    let handle = endpoints.handle();
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let mut call = Spawned::new(endpoints.clone().oneshot(()));
            assert!(call.poll().is_pending());
            call
        })
        .collect();
    assert!(handle.states().iter().all(|it| it.in_flight == 10), "{:?}", handle.states());
    drop(waiting);
    assert_eq!(in_flight(&handle), 0);
}

#[tokio::test(start_paused = true)]
async fn the_faster_of_two_gets_more_calls() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b"]);
    world.set("a", Mode::Slow(100 * MS));
    world.set("b", Mode::Slow(10 * MS));
    assert_eq!(calls(&endpoints, 400).await, 0);
    assert!(world.calls("b") > 5 * world.calls("a").max(1), "{world:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_at_its_limit_is_passed_over_and_none_is_a_rejection() {
    let world = World::default();
    let endpoints = world.builder(["a", "b"]).name("shop").max_concurrent(2).build().unwrap();
    world.set("a", Mode::Hangs);
    world.set("b", Mode::Hangs);
    let mut waiting: Vec<_> = (0..4).map(|_| Spawned::new(endpoints.clone().oneshot(()))).collect();
    assert!(waiting.iter_mut().all(|call| call.poll().is_pending()));
    assert_eq!((world.calls("a"), world.calls("b")), (2, 2));
    let mut rejected = Spawned::new(endpoints.clone().oneshot(()));
    let Poll::Ready(result) = rejected.poll() else { panic!("it waits") };
    let error = result.as_ref().unwrap_err();
    assert_eq!(error.rejection().unwrap().to_string(), "shop: no endpoint is left");
    assert_eq!(kind(result), "no_endpoint");
    waiting.pop();
    assert!(Spawned::new(endpoints.oneshot(())).poll().is_pending());
}

#[tokio::test(start_paused = true)]
async fn the_next_group_is_used_when_less_than_half_of_one_is_usable() {
    let world = World::default();
    let endpoints = world.builder(["a", "b", "c"]).group(1, ["far", "other"]).build().unwrap();
    let far = || world.calls("far") + world.calls("other");
    let handle = endpoints.handle();
    assert_eq!(calls(&endpoints, 50).await, 0);
    assert_eq!(far(), 0);
    // A drained endpoint is not one of its group.
    assert!(handle.drain(&"a"));
    world.set("b", Mode::Fails);
    world.set("c", Mode::Fails);
    let retry = retry(3).layer(endpoints);
    assert!(calls(&retry, 100).await < 5);
    assert!(far() > 90);
    // The nearer group is used again as soon as half of it is usable.
    world.set("c", Mode::Up);
    assert!(handle.remove(&"b"));
    tokio::time::advance(30 * SECOND).await;
    let before = far();
    assert_eq!(calls(&retry, 20).await, 0);
    assert_eq!(far(), before);
}
