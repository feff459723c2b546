//! A fallback, a cache and a retry in one stack: what callers get, and what is counted.

use buttress::{
    Fault, Outcome, Rejection, Stack,
    circuit_breaker::{CircuitBreakerLayer, State},
    fallback::{self, Reason},
    retry::Backoff,
    telemetry::{Registry, Value, field},
};
use tower::Layer;

use super::*;

fn by_text(result: Result<&Text, &Failure>) -> Outcome {
    match result {
        Err(Error::Service("permanent")) => Outcome::Failure(Fault::Permanent),
        Err(Error::Service("in progress")) => {
            Outcome::Failure(Fault::InProgress { retry_after: None })
        }
        Err(_) => Outcome::Failure(Fault::Transient),
        Ok(_) => Outcome::Success,
    }
}

/// Each caller of a shared call is treated as the one that has the error itself.
#[tokio::test(start_paused = true)]
async fn all_callers_of_a_shared_call_fall_back_or_none() {
    for (text, also_permanent, falls_back) in [
        ("down", false, true),
        ("permanent", false, false),
        ("permanent", true, true),
        ("in progress", false, false),
        ("in progress", true, false),
    ] {
        let world = World::new(Mode::Slow(SECOND));
        let builder = FallbackLayer::builder(fallback_value());
        let builder = if also_permanent { builder.also_permanent() } else { builder };
        let stack = Stack::new().classify_fn(by_text).fallback(builder.build().unwrap());
        let stack = stack.cache(cache().build().unwrap());
        let slow = tower::service_fn({
            let world = world.clone();
            move |key: u32| {
                let inner = world.service();
                async move {
                    inner.oneshot(key).await?;
                    Err::<Text, _>(text)
                }
            }
        });
        let service = stack.layer(flat(slow));
        let calls = (0..5).map(|_| tokio::spawn(service.clone().oneshot(1)));
        for call in futures::future::join_all(calls).await {
            let result = call.unwrap();
            assert_eq!(result.is_ok(), falls_back, "{text} {also_permanent}: {result:?}");
        }
        assert_eq!(world.calls(), 1);
    }
}

fn fallback_value() -> FallbackValue<Text> {
    fallback::value("fallback")
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_a_shared_failure_is_that_of_the_service() {
    let world = World::new(Mode::Slow(SECOND));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let layer = FallbackLayer::from_fn(
        |_: &u32| (),
        move |(), reason| {
            tell.send(reason).unwrap();
            async { Some("fallback") }
        },
    );
    let late = Stack::new().fallback(layer).cache(cache().build().unwrap());
    let service = late.attempt_timeout(100 * MS).layer(flat(world.service()));
    let calls = (0..3).map(|_| tokio::spawn(service.clone().oneshot(1)));
    for call in futures::future::join_all(calls).await {
        assert_eq!(call.unwrap().unwrap(), "fallback");
    }
    for _ in 0..3 {
        let reason = told.recv().await.unwrap();
        assert!(matches!(reason, Reason::Rejected(Rejection::TimedOut(_))), "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_failure_counts_once_for_the_breaker_beneath_and_for_each_caller_above() {
    let world = World::new(Mode::Slow(SECOND));
    let failing = tower::service_fn({
        let world = world.clone();
        move |key: u32| {
            let inner = world.service();
            async move {
                inner.oneshot(key).await?;
                Err::<Text, _>("down")
            }
        }
    });
    let beneath = CircuitBreakerLayer::builder().consecutive_failures(5).build().unwrap();
    let above = CircuitBreakerLayer::builder().consecutive_failures(5).build().unwrap();
    let states = [beneath.handle(), above.handle()];
    let inner = Stack::new().cache(cache().build().unwrap()).circuit_breaker(beneath);
    let inner = inner.layer(flat(failing));
    let service = Stack::new().circuit_breaker(above).layer(inner);
    let calls = (0..5).map(|_| tokio::spawn(service.clone().oneshot(1)));
    for call in futures::future::join_all(calls).await {
        assert!(call.unwrap().is_err());
    }
    assert_eq!(world.calls(), 1);
    assert_eq!(states.map(|it| it.state()), [State::Closed, State::Open]);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_does_not_hide_the_probes_of_a_breaker() {
    let world = World::new(Mode::Fails("down"));
    let breaker = CircuitBreakerLayer::builder().open_for(SECOND).consecutive_failures(3);
    let breaker = breaker.probes(1).build().unwrap();
    let state = breaker.handle();
    let stack = Stack::new().fallback(super::fallback()).circuit_breaker(breaker);
    let service = stack.layer(flat(world.service()));
    for _ in 0..10 {
        assert_eq!(ask(&service, 0).await.unwrap(), "fallback");
    }
    assert_eq!((state.state(), world.calls()), (State::Open, 3));
    sleep(2 * SECOND).await;
    assert_eq!(ask(&service, 0).await.unwrap(), "fallback");
    assert_eq!((state.state(), world.calls()), (State::Open, 4), "a probe that has failed");
    world.set(Mode::Up);
    sleep(10 * SECOND).await;
    assert_eq!(ask(&service, 0).await.unwrap(), "fresh");
    assert_eq!(state.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_end_as_they_began_when_the_switch_is_thrown() {
    let world = World::new(Mode::Slow(SECOND));
    let layer = super::fallback();
    let switch = layer.handle();
    let stack = Stack::new().fallback(layer).cache(cache().build().unwrap());
    let service = stack.layer(flat(world.service()));
    let calls: Vec<_> = [0, 1, 1].map(|key| tokio::spawn(service.clone().oneshot(key))).into();
    settle().await;
    switch.switch_off();
    assert_eq!(ask(&service, 1).await.unwrap(), "fallback");
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "fresh");
    }
    assert_eq!(world.calls(), 2);
}

/// Returns the sum of a metric over its series with these values of attributes.
fn sum(registry: &Registry, name: &str, with: &[(&str, &str)]) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.instrument.name == name);
    let series = family.into_iter().flat_map(|family| &family.series);
    let matching =
        series.filter(|it| with.iter().all(|(key, value)| it.attribute(key) == Some(*value)));
    matching
        .map(|series| match &series.value {
            Value::Histogram(snapshot) => snapshot.count(),
            Value::Number(number) => *number as u64,
            other => panic!("{other:?}"),
        })
        .sum()
}

#[tokio::test(start_paused = true)]
async fn the_numbers_of_a_call_through_all_layers_add_up() {
    let world = World::default();
    let registry = Registry::new();
    let backoff = Backoff::constant(MS).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).retries(2).backoff(backoff).without_budget();
    let stack = Stack::new()
        .name("shop")
        .fallback(super::fallback())
        .cache(cache().ttl(SECOND).if_error(10 * SECOND).build().unwrap())
        .retry(retry.build().unwrap());
    let switch = stack.fallback_handle().unwrap();
    let service = stack.register(&registry).layer(flat(world.service()));
    // One call from each source.
    ask(&service, 1).await.unwrap();
    ask(&service, 1).await.unwrap();
    sleep(2 * SECOND).await;
    world.set(Mode::Fails("down"));
    assert_eq!(ask(&service, 1).await.unwrap(), "fresh");
    assert_eq!(ask(&service, 2).await.unwrap(), "fallback");
    switch.switch_off();
    assert_eq!(ask(&service, 1).await.unwrap(), "fallback");

    let calls = |outcome| sum(&registry, "buttress.call.duration", &[(field::OUTCOME, outcome)]);
    assert_eq!((calls("success"), calls("degraded"), calls("failure")), (2, 3, 0));
    assert_eq!(sum(&registry, "buttress.cache.requests", &[]), 4);
    assert_eq!(sum(&registry, "buttress.fallback.calls", &[]), 2);
    assert_eq!(world.calls(), 1 + 3 + 3);
    assert_eq!(sum(&registry, "buttress.rejections", &[]), 0);
}

#[tokio::test(start_paused = true)]
async fn a_registry_is_drained_when_its_shared_calls_have_ended() {
    let world = World::new(Mode::Slow(SECOND));
    let registry = Registry::new();
    let layer = cache().finish_abandoned().build().unwrap();
    let stack = Stack::new().name("shop").fallback(super::fallback()).cache(layer);
    let service = stack.register(&registry).layer(flat(world.service()));
    let caller = tokio::spawn(service.clone().oneshot(1));
    settle().await;
    caller.abort();
    settle().await;
    let began = Instant::now();
    registry.drained().await;
    assert_eq!(began.elapsed(), SECOND);
    assert_eq!(ask(&service, 1).await.unwrap(), "fresh");
    assert_eq!(world.calls(), 1, "the response was kept");
}

/// The probe ends with the reserve. Its place is free again, and its end is no success.
#[tokio::test(start_paused = true)]
async fn a_probe_that_is_cut_for_the_fallback_leaves_its_place_to_the_next_call() {
    let world = World::new(Mode::Fails("down"));
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(4).probes(1);
    let breaker = breaker.open_for(SECOND).max_open_for(SECOND).build().unwrap();
    let circuit = breaker.handle();
    let stack = Stack::new().fallback(fallback()).circuit_breaker(breaker);
    let service = stack.layer(flat(world.service()));
    while circuit.state() != State::Open {
        assert_eq!(ask(&service, 1).await.unwrap(), "fallback");
    }
    world.set(Mode::Hangs);
    let called = world.calls();
    for _ in 0..5 {
        tokio::time::advance(2 * SECOND).await;
        let both = async { tokio::join!(ask(&service, 1), ask(&service, 1)) };
        let (probe, other) = within(SECOND, both).await;
        assert_eq!((probe.unwrap(), other.unwrap()), ("fallback", "fallback"));
        assert_ne!(circuit.state(), State::Closed);
        assert_eq!(circuit.snapshot().probes(), 0);
    }
    assert_eq!(world.calls(), called + 5, "one probe each time");
    world.set(Mode::Up);
    tokio::time::advance(2 * SECOND).await;
    assert_eq!(within(SECOND, ask(&service, 1)).await.unwrap(), "fresh");
    assert_eq!(circuit.state(), State::Closed);
}
