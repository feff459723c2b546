//! Layers above endpoints and caches: queues, breakers, retries, and whole runtimes.

use buttress::{
    Stack,
    bulkhead::BulkheadLayer,
    chaos::ChaosLayer,
    circuit_breaker::{CircuitBreakerLayer, State},
    context::Attempt,
    endpoints::{EndpointStatus, Endpoints, EndpointsHandle},
    retry::Backoff,
    telemetry::{Registry, field},
};
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, retry::Policy, service_fn};

use super::{capture::Capture, *};

type Fleet = EndpointsHandle<Text>;

/// Endpoints of these names, each with a world of its own.
fn endpoints<const N: usize>(
    names: [Text; N],
    worlds: &[World; N],
) -> Endpoints<Text, impl Responds + use<N>> {
    let worlds = worlds.clone();
    Endpoints::new(names, move |name: &Text| {
        worlds[names.iter().position(|it| it == name).unwrap()].service()
    })
}

fn calls(handle: &Fleet) -> Vec<u64> {
    handle.states().iter().map(|it| it.calls).collect()
}

fn in_flight(handle: &Fleet) -> u32 {
    handle.states().iter().map(|it| it.in_flight).sum()
}

fn retry(retries: u32) -> RetryLayer<ReplayClones> {
    let backoff = Backoff::constant(MS).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).retries(retries).backoff(backoff);
    retry.without_budget().build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_queued_call_chooses_its_endpoint_when_it_leaves_the_queue() {
    let worlds = [World::new(Mode::Slow(SECOND)), World::new(Mode::Slow(SECOND))];
    let endpoints = endpoints(["a", "b"], &worlds);
    let handle = endpoints.handle();
    let queue = BulkheadLayer::builder().max_concurrent(1).queue(10, 60 * SECOND).build().unwrap();
    let service = Stack::new().bulkhead(queue).layer(endpoints);
    let calls: Vec<_> = (0..5).map(|_| tokio::spawn(service.clone().oneshot(0))).collect();
    settle().await;
    assert_eq!(in_flight(&handle), 1, "a call in the queue is at no endpoint");
    let busy = handle.states().iter().position(|it| it.in_flight == 1).unwrap();
    handle.drain(&["a", "b"][busy]);
    calls[2].abort();
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.is_ok(), number != 2);
    }
    let mut expected = [3, 3];
    expected[busy] = 1;
    assert_eq!(self::calls(&handle), expected);
    assert_eq!(worlds.map(|it| u64::from(it.calls())), expected);
}

/// The endpoint that never works is ejected after five failures, whatever the draws are.
#[tokio::test(start_paused = true)]
async fn a_breaker_closes_by_a_probe_that_goes_to_the_endpoint_that_works() {
    for down in [Mode::Fails("down"), Mode::Hangs] {
        let worlds = [World::new(down), World::new(down)];
        let endpoints = endpoints(["a", "b"], &worlds);
        let handle = endpoints.handle();
        let breaker = CircuitBreakerLayer::builder().consecutive_failures(4).probes(1);
        let breaker = breaker.open_for(SECOND).max_open_for(SECOND).build().unwrap();
        let state = breaker.handle();
        let stack = Stack::new().circuit_breaker(breaker).attempt_timeout(100 * MS);
        let service = stack.layer(endpoints);
        while state.state() == State::Closed {
            assert!(ask(&service, 0).await.is_err());
        }
        assert_eq!(calls(&handle).iter().sum::<u64>(), 4);
        worlds[1].set(Mode::Up);
        let mut probes = 0;
        while state.state() != State::Closed {
            sleep(2 * SECOND).await;
            _ = ask(&service, 0).await;
            probes += 1;
            assert!(probes <= 6, "{down:?}: {:?}", handle.states());
        }
        let states = handle.states();
        assert!(states[0].failures <= 5 && in_flight(&handle) == 0, "{down:?}: {states:?}");
    }
}

/// A policy of tower that repeats each failure.
#[derive(Clone)]
struct Times(u32);

impl Policy<u32, Text, Failure> for Times {
    type Future = tokio::time::Sleep;

    fn retry(&mut self, _: &mut u32, result: &mut Result<Text, Failure>) -> Option<Self::Future> {
        result.as_ref().err()?;
        self.0 = self.0.checked_sub(1)?;
        Some(sleep(MS))
    }

    fn clone_request(&mut self, request: &u32) -> Option<u32> {
        Some(*request)
    }
}

/// A service that fails after a second.
fn fails_late(world: &World) -> impl Responds + use<> {
    let world = world.clone();
    service_fn(move |key: u32| {
        let call = world.service().oneshot(key);
        async move {
            call.await?;
            Err("down")
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_retries_of_a_crowd_above_a_cache_are_one_call_each_time() {
    for ours in [true, false] {
        for bypasses in [false, true] {
            let world = World::new(Mode::Slow(SECOND));
            let cache = cache().build().unwrap();
            let counts = cache.handle();
            let service = Stack::new().cache(cache).layer(flat(fails_late(&world)));
            let key = u32::from(!bypasses);
            let crowd: Vec<_> = match ours {
                true => {
                    let service = retry(2).layer(service);
                    (0..20).map(|_| tokio::spawn(service.clone().oneshot(key))).collect()
                }
                false => {
                    let service = tower::retry::Retry::new(Times(2), service);
                    (0..20).map(|_| tokio::spawn(service.clone().oneshot(key))).collect()
                }
            };
            for call in crowd {
                assert!(call.await.unwrap().is_err());
            }
            let expected = if bypasses { 3 * 20 } else { 3 };
            assert_eq!(world.calls(), expected, "ours: {ours}, bypasses: {bypasses}");
            assert_eq!(counts.counts().shared_calls, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_beneath_a_cache_see_the_attempts_of_the_stack_alone() {
    let seen = Arc::<Mutex<Vec<(u32, Text)>>>::default();
    for caches in [false, true] {
        let noted = Arc::clone(&seen);
        let endpoints = Endpoints::new(["a", "b", "c"], move |name: &Text| {
            let (name, noted) = (*name, Arc::clone(&noted));
            service_fn(move |_: u32| {
                let attempt = Attempt::current().map_or(0, |attempt| attempt.number());
                noted.lock().unwrap().push((attempt, name));
                async { Err::<Text, _>("down") }
            })
        });
        let stack = Stack::new().cache(caches.then(|| cache().build().unwrap())).retry(retry(2));
        let service = retry(1).layer(stack.layer(endpoints));
        assert!(ask(&service, 1).await.is_err());
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let numbers: Vec<_> = seen.iter().map(|(number, _)| *number).collect();
        // A shared call is not the call of one caller, so its attempts begin with 1.
        let expected = if caches { [1, 2, 3, 1, 2, 3] } else { [1, 2, 3, 4, 5, 6] };
        assert_eq!(numbers, expected, "cache: {caches}");
        // Without the cache, the second round knows that the call has failed at each of them.
        for round in seen.chunks(3).take(if caches { 2 } else { 1 }) {
            let mut names: Vec<_> = round.iter().map(|(_, name)| *name).collect();
            names.sort_unstable();
            assert_eq!(names, ["a", "b", "c"], "cache: {caches}: {seen:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_behind_a_partition_is_avoided_and_comes_back_when_it_heals() {
    let chaos = ChaosLayer::builder().partition_fn(|_: &u32| true).build().unwrap();
    let partition = chaos.handle();
    let world = World::default();
    let service = world.clone();
    let endpoints = Endpoints::builder(["a", "b", "c"], move |name: &Text| {
        tower::util::option_layer((*name == "a").then(|| chaos.clone())).layer(service.service())
    });
    let endpoints = endpoints.max_eject_for(30 * SECOND).build().unwrap();
    let handle = endpoints.handle();
    let stack = Stack::new().retry(retry(1)).attempt_timeout(100 * MS);
    let service = stack.layer(endpoints);
    partition.arm_for(60 * SECOND).unwrap();
    while handle.states()[0].status == EndpointStatus::Usable {
        assert_eq!(ask(&service, 0).await.unwrap(), "fresh", "a retry goes to another endpoint");
        assert!(handle.states()[0].calls <= 5, "{:?}", handle.states());
    }
    let before = handle.states();
    assert_eq!((before[0].failures, before[0].in_flight), (5, 0));
    for _ in 0..100 {
        ask(&service, 0).await.unwrap();
    }
    assert_eq!(handle.states()[0].calls, before[0].calls, "it gets no calls");
    sleep(61 * SECOND).await;
    for _ in 0..300 {
        ask(&service, 0).await.unwrap();
    }
    let after = handle.states().remove(0);
    assert_eq!((after.status, after.failures), (EndpointStatus::Usable, 5));
    assert!(after.calls > before[0].calls + 30, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn readiness_says_nothing_of_layers_that_still_respond() {
    let registry = Registry::new();
    let world = World::default();
    let names = ["a", "b"];
    let endpoints = endpoints(names, &[world.clone(), world.clone()]).register(&registry);
    let fleet = endpoints.handle();
    let breaker = CircuitBreakerLayer::new();
    let circuit = breaker.handle();
    let layer = fallback();
    let switch = layer.handle();
    let stack = Stack::new().name("shop").fallback(layer).cache(cache().build().unwrap());
    let service = stack.circuit_breaker(breaker).register(&registry).layer(endpoints);
    let unready = || {
        let unready = registry.ready().unready;
        unready.into_iter().map(|it| it.reason).collect::<Vec<_>>()
    };
    assert!(unready().is_empty());
    switch.switch_off();
    assert_eq!(ask(&service, 0).await.unwrap(), "fallback");
    assert!(unready().is_empty(), "calls get the fallback");
    switch.switch_on();

    world.set(Mode::Fails("down"));
    for _ in 0..15 {
        assert_eq!(ask(&service, 0).await.unwrap(), "fallback");
    }
    let out = fleet.states().iter().filter(|it| it.status != EndpointStatus::Usable).count();
    assert_eq!(out, 1, "the last one stays");
    assert!(unready().is_empty(), "an endpoint is left");
    fleet.drain(&"a");
    assert!(unready().is_empty());
    fleet.drain(&"b");
    assert_eq!(unready(), ["no_endpoint"]);
    for name in names {
        fleet.remove(&name);
    }
    assert_eq!(unready(), ["no_endpoint"]);
    assert_eq!(ask(&service, 0).await.unwrap(), "fallback");
    fleet.insert("a");
    circuit.force_open();
    assert_eq!(unready().len(), 1, "{:?}", unready());
    assert_ne!(unready(), ["no_endpoint"]);
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_call_names_the_outermost_layer_that_responded() {
    let world = World::default();
    let stack = Stack::new().name("shop").fallback(fallback());
    let stack = stack.cache(cache().ttl(SECOND).if_error(10 * SECOND).build().unwrap());
    let service = stack.retry(retry(1)).layer(flat(world.service()));
    for (mode, key, after, source, outcome) in [
        (Mode::Up, 1, 0, None, "success"),
        (Mode::Up, 1, 0, Some("cache"), "success"),
        (Mode::Fails("down"), 1, 2, Some("stale"), "degraded"),
        (Mode::Fails("down"), 2, 0, Some("fallback"), "degraded"),
        (Mode::Fails("down"), 0, 0, Some("fallback"), "degraded"),
        (Mode::Up, 0, 0, None, "success"),
    ] {
        world.set(mode);
        sleep(after * SECOND).await;
        let (capture, _guard) = Capture::start();
        ask(&service, key).await.unwrap();
        let spans = capture.spans();
        let call = spans.iter().find(|span| span.name == "call").unwrap();
        assert_eq!(call.get(field::SOURCE), source, "{mode:?} {key}");
        assert_eq!(call.get(field::OUTCOME), Some(outcome), "{mode:?} {key}");
    }
}

/// A shared call runs on the runtime of the caller that began it.
#[test]
fn a_caller_whose_shared_call_is_not_driven_any_more_does_not_wait_for_ever() {
    for has_older in [false, true] {
        let world = World::new(Mode::Up);
        let layer = cache().ttl(SECOND).if_error(600 * SECOND).build().unwrap();
        let stack = Stack::new().cache(layer).total_timeout(2 * SECOND);
        let service = stack.layer(flat(world.service()));
        let (first, second) = (runtime(), runtime());
        if has_older {
            second.block_on(ask(&service, 1)).unwrap();
            second.block_on(async { sleep(2 * SECOND).await });
        }
        world.set(Mode::Hangs);
        // Leaves the call to the callers of the other runtime.
        let began = first.spawn(service.clone().oneshot(1));
        first.block_on(settle());
        let joined = second.spawn(service.clone().oneshot(1));
        second.block_on(settle());
        began.abort();
        let waits = async { tokio::time::timeout(10 * SECOND, joined).await };
        let result = second.block_on(waits).expect("it does not wait for ever").unwrap();
        match has_older {
            true => assert_eq!(result.unwrap(), "fresh"),
            false => assert_eq!(kind(result), "timed_out"),
        }
        world.set(Mode::Up);
        second.block_on(async { sleep(2 * SECOND).await });
        assert_eq!(second.block_on(ask(&service, 1)).unwrap(), "fresh", "the key is free");
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

#[test]
fn a_runtime_that_shuts_down_leaves_nothing_under_way() {
    for falls_back in [true, false] {
        let worlds = [World::new(if falls_back { Mode::Fails("down") } else { Mode::Hangs })];
        let endpoints = endpoints(["a"], &worlds);
        let fleet = endpoints.handle();
        let responds = FallbackLayer::from_fn(|_: &u32| (), |(), _| pending::<Option<Text>>());
        let layer = cache().finish_abandoned().build().unwrap();
        let counts = layer.handle();
        let bulkhead = BulkheadLayer::new();
        let slots = bulkhead.handle();
        let stack = Stack::new().fallback(falls_back.then_some(responds)).cache(layer);
        let service = stack.bulkhead(bulkhead).layer(endpoints);
        let first = runtime();
        for key in [0, 1, 1] {
            first.spawn(service.clone().oneshot(key));
        }
        first.block_on(settle());
        assert_eq!(slots.in_flight(), if falls_back { 0 } else { 2 });
        drop(first);
        assert_eq!((slots.in_flight(), in_flight(&fleet)), (0, 0), "falls back: {falls_back}");
        assert_eq!(counts.counts().shared_calls, 0);
        worlds[0].set(Mode::Up);
        let result = runtime().block_on(ask(&service, 1));
        assert_eq!(result.unwrap(), "fresh", "the key is free");
    }
}

#[test]
fn a_caller_whose_shared_call_ends_with_its_runtime_asks_for_itself() {
    let world = World::new(Mode::Hangs);
    let service = Stack::new().cache(cache().build().unwrap()).layer(flat(world.service()));
    let (first, second) = (runtime(), runtime());
    first.spawn(service.clone().oneshot(1));
    first.block_on(settle());
    let joined = second.spawn(service.clone().oneshot(1));
    second.block_on(settle());
    assert_eq!(world.calls(), 1);
    world.set(Mode::Up);
    drop(first);
    assert_eq!(second.block_on(joined).unwrap().unwrap(), "fresh");
    assert_eq!(world.calls(), 2);
}
