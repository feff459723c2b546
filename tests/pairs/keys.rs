//! Fallbacks and caches in a stack for each key, and breakers by key beneath a cache.

use buttress::{
    Stack,
    circuit_breaker::{CircuitBreakerLayer, State},
    stack::KeyedStack,
};
use tower::Layer;

use super::*;

/// The first digit of a request is its tenant, and the second one is its key in a cache.
fn tenant(request: &u32) -> u32 {
    request / 10
}

fn by_item() -> CacheBuilder<u32, Text, ByKey> {
    CacheLayer::by_fn((|request| Some(request % 10)) as fn(&u32) -> Option<u32>)
}

type Slots<Key> = KeyedStack<u32, fn(&u32) -> u32, Key>;

/// Returns the stacks that a closure makes for the tenants.
fn by_tenant<St: buttress::stack::slots::Handles>(
    make: impl Fn(&u32) -> St + Send + Sync + 'static,
) -> Slots<St> {
    let tenant: fn(&u32) -> u32 = tenant;
    Stack::by_key(tenant, make).max_keys(2).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_key_has_entries_and_a_switch_of_its_own() {
    let world = World::default();
    let template = Stack::new().fallback(fallback()).cache(by_item().build().unwrap());
    let stacks = by_tenant(move |_| template.fresh());
    let service = stacks.layer(flat(world.service()));
    for (request, calls) in [(11, 1), (11, 1), (21, 2), (21, 2)] {
        assert_eq!((ask(&service, request).await.unwrap(), world.calls()), ("fresh", calls));
    }
    let switch = stacks.get(&1).unwrap().fallback_handle().unwrap();
    switch.switch_off();
    assert_eq!(ask(&service, 11).await.unwrap(), "fallback");
    assert_eq!(ask(&service, 21).await.unwrap(), "fresh");
    assert_eq!(switch.used_while_off(), 1);
}

#[tokio::test(start_paused = true)]
async fn entries_of_a_cache_that_stacks_share_outlive_the_stacks() {
    for (shares, calls) in [(true, 1), (false, 2)] {
        let world = World::default();
        let template = Stack::new().cache(cache().ttl(3_600 * SECOND).build().unwrap());
        let stacks = by_tenant(move |_| if shares { template.clone() } else { template.fresh() });
        let service = stacks.layer(flat(world.service()));
        ask(&service, 11).await.unwrap();
        sleep(700 * SECOND).await;
        ask(&service, 20).await.unwrap();
        assert!(stacks.get(&1).is_none());
        let before = world.calls();
        ask(&service, 11).await.unwrap();
        assert_eq!(world.calls() - before, calls - 1, "shared: {shares}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_is_switched_off_is_never_evicted() {
    let world = World::default();
    let template = Stack::new().fallback(fallback());
    let stacks = by_tenant(move |_| template.fresh());
    let service = stacks.layer(flat(world.service()));
    for tenant in 0..5 {
        ask(&service, 10 * tenant).await.unwrap();
        stacks.get(&tenant).unwrap().fallback_handle().unwrap().switch_off();
    }
    for other in 10..100 {
        ask(&service, 10 * other).await.unwrap();
    }
    sleep(3_600 * SECOND).await;
    ask(&service, 1_000).await.unwrap();
    for tenant in 0..5 {
        assert_eq!(ask(&service, 10 * tenant).await.unwrap(), "fallback", "{tenant}");
        stacks.get(&tenant).unwrap().fallback_handle().unwrap().switch_on();
    }
    for other in 10..20 {
        sleep(700 * SECOND).await;
        ask(&service, 10 * other).await.unwrap();
    }
    assert!(stacks.keys() <= 2, "{} stacks", stacks.keys());
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_stacks_share_keeps_no_stack_in_memory() {
    let world = World::default();
    let layer = fallback();
    let switch = layer.handle();
    let template = Stack::new();
    let stacks = by_tenant(move |_| template.fresh().fallback(layer.clone()));
    let service = stacks.layer(flat(world.service()));
    switch.switch_off();
    for tenant in 0..100 {
        assert_eq!(ask(&service, 10 * tenant).await.unwrap(), "fallback");
    }
    assert!(stacks.keys() <= 3, "{} stacks", stacks.keys());
    assert_eq!((world.calls(), switch.used_while_off()), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn the_open_circuit_of_a_key_gives_older_responses_for_that_key_alone() {
    let worlds = [World::default(), World::default()];
    let service = tower::service_fn({
        let worlds = worlds.clone();
        move |key: u32| worlds[key as usize - 1].service().oneshot(key)
    });
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(3).keyed_fn(|key: &u32| *key);
    let breaker = breaker.build().unwrap();
    let cache = cache().ttl(SECOND).if_error(100 * SECOND).hold_off(Duration::ZERO);
    let cache = cache.build().unwrap();
    let counts = cache.handle();
    let stack = Stack::new().cache(cache).circuit_breaker(breaker.clone());
    let service = stack.layer(flat(service));
    for key in [1, 2] {
        ask(&service, key).await.unwrap();
    }
    sleep(2 * SECOND).await;
    worlds[0].set(Mode::Fails("down"));
    for _ in 0..10 {
        assert_eq!(ask(&service, 1).await.unwrap(), "fresh");
    }
    assert_eq!(ask(&service, 2).await.unwrap(), "fresh");
    let state = |key| breaker.handle(&key).map(|breaker| breaker.state());
    assert_eq!((state(1), state(2)), (Some(State::Open), Some(State::Closed)));
    assert_eq!(worlds.map(|it| it.calls()), [1 + 3, 2], "an open circuit is not called");
    let counts = counts.counts();
    assert_eq!((counts.stale, counts.misses), (10, 3), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_beneath_the_open_circuit_of_a_key_is_one_rejection() {
    let world = World::default();
    let breaker = CircuitBreakerLayer::builder().keyed_fn(|key: &u32| *key).build().unwrap();
    let stack = Stack::new().cache(cache().build().unwrap()).circuit_breaker(breaker.clone());
    let service = stack.layer(flat(world.service()));
    ask(&service, 1).await.unwrap();
    ask(&service, 2).await.unwrap();
    breaker.handle(&2).unwrap().force_open();
    let crowd = (0..5).map(|_| ask(&service, 2));
    for result in futures::future::join_all(crowd).await {
        // A hit needs nothing beneath, so an open circuit does not matter.
        assert_eq!(result.unwrap(), "fresh");
    }
    sleep(100 * SECOND).await;
    let crowd = (0..5).map(|_| ask(&service, 2));
    for result in futures::future::join_all(crowd).await {
        assert_eq!(kind(result), "circuit_open");
    }
    assert_eq!(ask(&service, 1).await.unwrap(), "fresh");
    assert_eq!(world.calls(), 3);
}
