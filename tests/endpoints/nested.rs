//! Endpoints whose services are endpoints, such as regions of instances.

use buttress::{
    Fault, Outcome, Stack,
    retry::{Backoff, ReplayClones, RetryLayer},
};
use tower::Layer;

use super::*;

type Instances = Endpoints<Name, Client>;

/// Creates two regions of two instances each, and the handles of all.
fn regions(
    world: &World,
) -> (Endpoints<Name, Instances>, EndpointsHandle<Name>, [EndpointsHandle<Name>; 2]) {
    let [near, far] = [["a", "b"], ["c", "d"]].map(|names| world.endpoints(names));
    let handles = [near.handle(), far.handle()];
    let regions = Endpoints::new(["near", "far"], move |region: &Name| match *region {
        "near" => near.clone(),
        _ => far.clone(),
    });
    let handle = regions.handle();
    (regions, handle, handles)
}

/// Takes the response of one instance for a failure.
fn no_b(result: Result<&Name, &Error<Failure>>) -> Outcome {
    match result {
        Ok(&"b") | Err(_) => Outcome::Failure(Fault::Transient),
        Ok(_) => Outcome::Success,
    }
}

fn failures(handle: &EndpointsHandle<Name>) -> Vec<(Name, u64)> {
    handle.states().iter().map(|it| (it.address, it.failures)).collect()
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_a_call_counts_for_the_region_and_for_the_instance() {
    let retry = RetryLayer::builder(ReplayClones).retries(1).build().unwrap();
    let stack = Stack::new().classify_fn(no_b);
    for is_retried in [false, true] {
        let world = World::default();
        let (regions, handle, [near, far]) = regions(&world);
        assert!(handle.drain(&"far"));
        for _ in 0..2_000 {
            let stack = stack.clone();
            _ = match is_retried {
                false => stack.layer(regions.clone()).oneshot(()).await,
                true => stack.retry(retry.clone()).layer(regions.clone()).oneshot(()).await,
            };
        }
        assert_eq!(status(&near, "b"), EndpointStatus::Ejected, "{is_retried}");
        assert_eq!(failures(&near), [("a", 0), ("b", 5)]);
        assert_eq!(failures(&handle), [("near", 5), ("far", 0)]);
        assert_eq!([&handle, &near, &far].map(in_flight), [0; 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_times_out_counts_for_the_region_and_for_the_instance() {
    let world = World::default();
    let (regions, handle, [near, far]) = regions(&world);
    world.set("b", Mode::Hangs);
    assert!(handle.drain(&"far"));
    let stack = Stack::new().attempt_timeout(SECOND).layer(regions);
    while status(&near, "b") == EndpointStatus::Usable {
        _ = stack.clone().oneshot(()).await;
        assert!(world.calls("b") <= 5, "{near:?}");
    }
    assert_eq!(failures(&near), [("a", 0), ("b", 5)]);
    assert_eq!(failures(&handle), [("near", 5), ("far", 0)]);
    assert_eq!([&handle, &near, &far].map(in_flight), [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_avoids_the_region_and_the_instance() {
    let world = World::default();
    let (regions, handle, _) = regions(&world);
    assert!(handle.drain(&"far"));
    world.set("a", Mode::Fails);
    let backoff = Backoff::constant(MS).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).retries(1).backoff(backoff).without_budget();
    let client = Stack::new().retry(retry.build().unwrap()).layer(regions);
    for _ in 0..100 {
        // The only region is tried twice, and its second instance then.
        assert_eq!(client.clone().oneshot(()).await, Ok("b"));
    }
}
