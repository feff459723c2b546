//! Gauges are read from the state of the layers.

use buttress::{
    circuit_breaker::{CircuitBreakerLayer, State},
    retry::{Budget, ReplayClones, RetryLayer},
    telemetry::Registry,
    testing::{Step, task::Spawned},
};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};

use super::{
    DOWN, Failure, OPEN_FOR, SECOND, WELL, assert_gauges, breaker, bulkhead, call, counted, down,
    flaky, gauges, hangs, queued, retry, well,
};

#[tokio::test(start_paused = true)]
async fn a_bulkhead_shows_its_calls_and_its_limits() {
    let registry = Registry::new();
    let layer = queued().register(&registry);
    let mut calls = [(); 2].map(|()| Spawned::new(call(&layer, hangs())));
    assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
    let names = ["active", "limit", "queued", "queue.limit"].map(|it| format!("bulkhead.{it}"));
    let read = || names.each_ref().map(|name| gauges(&registry)[name]);
    assert_eq!(read(), [1.0, 1.0, 1.0, 2.0]);
    layer.handle().resize(5).unwrap();
    assert_eq!(read(), [2.0, 5.0, 0.0, 2.0]);
    drop(calls);
    assert_eq!(read(), [0.0, 5.0, 0.0, 2.0]);
    assert!(registry.ready().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_is_ready_because_load_is_no_illness() {
    let registry = Registry::new();
    let layer = bulkhead().register(&registry);
    let mut holder = Spawned::new(call(&layer, hangs()));
    assert!(holder.poll().is_pending());
    assert_gauges(&registry, &[("bulkhead.active", 1.0), ("bulkhead.queue.limit", 0.0)]);
    assert!(registry.ready().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_queue_without_a_limit_shows_none() {
    let registry = Registry::new();
    let builder = buttress::bulkhead::BulkheadLayer::builder().backpressure();
    let _layer = builder.build().unwrap().register(&registry);
    assert!(!gauges(&registry).contains_key("bulkhead.queue.limit"));
}

#[tokio::test(start_paused = true)]
async fn a_breaker_shows_its_state_and_its_window() {
    let registry = Registry::new();
    let builder = CircuitBreakerLayer::builder().minimum_calls(4).open_jitter(0.0);
    let builder = builder.slow_calls(SECOND, 1.0).probes(1);
    let layer = builder.build().unwrap().register(&registry);
    advance(SECOND).await;
    let slow = flaky([Step::RespondAfter(SECOND, WELL)]);
    for inner in [down(), slow, well()] {
        let _ = call(&layer, inner).await;
    }
    assert_gauges(
        &registry,
        &[
            ("circuit_breaker.state closed", 1.0),
            ("circuit_breaker.state open", 0.0),
            ("circuit_breaker.state.duration", 2.0),
            ("circuit_breaker.failure_ratio", 1.0 / 3.0),
            ("circuit_breaker.slow_ratio", 1.0 / 3.0),
            ("circuit_breaker.window.calls", 3.0),
        ],
    );
    let _ = call(&layer, down()).await;
    advance(10 * SECOND).await;
    assert_gauges(
        &registry,
        &[
            ("circuit_breaker.state closed", 0.0),
            ("circuit_breaker.state open", 1.0),
            ("circuit_breaker.state.duration", 10.0),
            ("circuit_breaker.next_probe", 20.0),
            ("circuit_breaker.window.calls", 0.0),
        ],
    );
    advance(OPEN_FOR).await;
    let mut probe = Spawned::new(call(&layer, hangs()));
    assert!(probe.poll().is_pending());
    assert_gauges(&registry, &[("circuit_breaker.state half_open", 1.0)]);
}

#[tokio::test(start_paused = true)]
async fn breakers_with_equal_names_show_the_times_of_the_worst() {
    let registry = Registry::new();
    let [first, ill, last] =
        [(); 3].map(|()| breaker().name("orders").build().unwrap().register(&registry));
    advance(1_000 * SECOND).await;
    let _ = call(&ill, down()).await;
    advance(10 * SECOND).await;
    assert_gauges(
        &registry,
        &[
            ("circuit_breaker.state open", 1.0),
            ("circuit_breaker.state.duration", 10.0),
            ("circuit_breaker.next_probe", 20.0),
        ],
    );
    last.handle().force_open();
    assert_gauges(
        &registry,
        &[("circuit_breaker.state forced_open", 1.0), ("circuit_breaker.state.duration", 0.0)],
    );
    assert!(!gauges(&registry).contains_key("circuit_breaker.next_probe"), "it stays open");
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn readiness_names_a_circuit_that_rejects_and_not_one_that_would_admit_a_probe() {
    let registry = Registry::new();
    let layer = breaker().name("orders").build().unwrap().register(&registry);
    let unready = || {
        let unready = registry.ready().unready;
        unready.into_iter().map(|it| (it.layer.to_string(), it.reason)).collect::<Vec<_>>()
    };
    assert_eq!(unready(), []);
    let _ = call(&layer, down()).await;
    assert_eq!(unready(), [("orders".to_owned(), "open")]);
    advance(OPEN_FOR).await;
    assert_eq!(unready(), []);
    layer.handle().force_open();
    assert_eq!(unready(), [("orders".to_owned(), "forced_open")]);
    layer.handle().force_open_for(SECOND);
    assert_eq!(unready(), [("orders".to_owned(), "forced_open")]);
    advance(SECOND).await;
    assert_eq!(unready(), []);
}

#[tokio::test(start_paused = true)]
async fn the_worst_of_equal_breakers_is_the_state() {
    let registry = Registry::new();
    let layers = [(); 2].map(|()| breaker().build().unwrap().register(&registry));
    let state = || {
        let gauges = gauges(&registry).into_iter();
        let mut states = gauges.filter(|(key, on)| key.contains(".state ") && *on == 1.0);
        let state = states.next().unwrap().0;
        assert_eq!(states.next(), None);
        state.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(state(), "closed");
    layers[0].handle().disable();
    assert_eq!(state(), "disabled");
    layers[1].handle().force_open();
    assert_eq!(state(), "forced_open");
}

#[tokio::test(start_paused = true)]
async fn keys_are_counted_by_state_and_those_that_are_forgotten_are_not() {
    let registry = Registry::new();
    let keyed = breaker().keyed_fn(|key: &(u32, bool)| key.0).max_keys(4).build().unwrap();
    let keyed = keyed.register(&registry);
    let service = keyed.layer(service_fn(|(_, works): (u32, bool)| async move {
        if works { WELL } else { DOWN }
    }));
    let call = async |key: u32, works: bool| {
        let _: Result<_, Failure> = service.clone().oneshot((key, works)).await;
    };
    let keys = |state: &str| gauges(&registry)[&format!("circuit_breaker.keys {state}")];
    let all = || ["closed", "open", "half_open", "forced_open", "disabled"].map(keys);
    assert_eq!(all(), [0.0; 5]);
    for key in 0..3 {
        call(key, key > 0).await;
    }
    assert_eq!(all(), [2.0, 1.0, 0.0, 0.0, 0.0]);
    assert_gauges(&registry, &[("circuit_breaker.state open", 1.0)]);
    let held = keyed.handle(&1).unwrap();
    // Others take the places of the keys 1 and 2.
    for key in 10..20 {
        call(key, true).await;
    }
    assert_eq!(all(), [3.0, 1.0, 0.0, 0.0, 0.0]);
    // A breaker that no call can reach is not counted.
    held.force_open();
    assert_eq!(all(), [3.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(held.state(), State::ForcedOpen);
    keyed.for_each(|_, handle| handle.disable());
    assert_eq!(all(), [0.0, 0.0, 0.0, 0.0, 4.0]);
    assert!(registry.ready().is_ready());
    keyed.for_each(|_, handle| handle.close());
    // Unused keys are forgotten by time, which evicts nobody.
    advance(3_000 * SECOND).await;
    let evicted = counted(&registry)["circuit_breaker.keys.evicted"];
    assert_eq!(keyed.keys(), 0);
    assert_eq!(all(), [0.0; 5]);
    assert_eq!(counted(&registry)["circuit_breaker.keys.evicted"], evicted);
}

#[tokio::test(start_paused = true)]
async fn a_budget_shows_what_is_left() {
    let registry = Registry::new();
    let budget = Budget::builder().floor(4).ratio(0.0).build().unwrap();
    let layer = retry().budget(budget.clone()).build().unwrap().register(&registry);
    let left = || ["ratio", "tokens"].map(|it| gauges(&registry)[&format!("retry.budget.{it}")]);
    assert_eq!(left(), [1.0, 4.0]);
    let _ = call(&layer, down()).await;
    assert_eq!(left(), [0.75, 3.0]);
    // Another retry of the same name shares the budget, whose tokens count once.
    let other = RetryLayer::builder(ReplayClones).budget(budget).build().unwrap();
    let _other = other.register(&registry);
    assert_eq!(left(), [0.75, 3.0]);
    let nothing = Budget::builder().floor(0).ratio(0.0).build().unwrap();
    let nothing =
        RetryLayer::builder(ReplayClones).name("nothing").budget(nothing).build().unwrap();
    let others = Registry::new();
    let _nothing = nothing.register(&others);
    assert_gauges(&others, &[("retry.budget.ratio", 0.0), ("retry.budget.tokens", 0.0)]);
}
