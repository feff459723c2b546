//! Each series is reached, and an event counts in its own series only.

use std::{collections::BTreeSet, future::Future, pin::Pin, time::Duration};

use buttress::{
    Classify, Deadline, Fault, Outcome, RetryHint, Stack,
    circuit_breaker::CircuitBreakerLayer,
    retry::{Budget, replay_fn},
    telemetry::Registry,
    testing::{
        Step,
        task::{Spawned, SpawnedService},
    },
    timeout::TimeoutLayer,
};
use tokio::time::advance;
use tower::Layer;

use super::{
    DOWN, Failure, MS, OPEN_FOR, SECOND, Text, WELL, breaker, bulkhead, call, counted, counts,
    down, expected, flaky, hangs, orders, queued, retry, well,
};

type Running = Pin<Box<dyn Future<Output = ()>>>;
type Scenario = fn(Registry) -> Running;

/// A classifier of failures with a hint.
struct Says(Outcome, RetryHint);

impl Classify<Text, Failure> for Says {
    fn classify(&self, _: Result<&Text, &Failure>) -> Outcome {
        self.0
    }

    fn hint(&self, _: Result<&Text, &Failure>) -> RetryHint {
        self.1
    }
}

const TRANSIENT: Outcome = Outcome::Failure(Fault::Transient);

macro_rules! scenarios {
    ($($name:ident($registry:ident) [$($count:literal),* $(,)?] $body:block)+) => {
        /// The name of each scenario, the scenario, and all that it counts.
        const SCENARIOS: &[(&str, Scenario, &[&str])] = &[
            $((stringify!($name), |$registry| Box::pin(async move { $body }), &[$($count),*]),)+
        ];
    };
}

scenarios! {
    a_total_timeout(registry) ["rejections total_timeout timed_out"] {
        let _ = call(&orders(&registry).total_timeout(SECOND), hangs()).await;
    }
    an_attempt_timeout(registry) ["rejections attempt_timeout timed_out"] {
        let _ = call(&orders(&registry).attempt_timeout(SECOND), hangs()).await;
    }
    a_timeout_by_hand(registry) ["rejections timeout timed_out"] {
        let _ = call(&TimeoutLayer::new(SECOND).register(&registry), hangs()).await;
    }
    a_deadline_before_the_stack(registry) ["rejections total_timeout deadline_exceeded"] {
        let stack = orders(&registry).total_timeout(SECOND);
        let _ = Deadline::scope(Deadline::after(Duration::ZERO), call(&stack, well())).await;
    }
    a_deadline_before_the_attempt(registry) ["rejections attempt_timeout deadline_exceeded"] {
        let stack = orders(&registry).attempt_timeout(SECOND);
        let _ = Deadline::scope(Deadline::after(Duration::ZERO), call(&stack, well())).await;
    }
    a_deadline_before_a_timeout_by_hand(registry) ["rejections timeout deadline_exceeded"] {
        let layer = TimeoutLayer::new(SECOND).register(&registry);
        let _ = Deadline::scope(Deadline::after(Duration::ZERO), call(&layer, well())).await;
    }

    a_call_that_is_saved(registry)
    ["attempt.resends", "retry.delay", "retry.calls true success"] {
        let retry = retry().build().unwrap().register(&registry);
        assert_eq!(call(&retry, flaky([Step::Respond(DOWN)])).await, WELL);
    }
    a_call_that_goes_well(registry) ["retry.calls false success"] {
        let retry = retry().build().unwrap().register(&registry);
        assert_eq!(call(&retry, well()).await, WELL);
    }
    retries_that_are_exhausted(registry)
    ["attempt.resends", "retry.delay", "retry.ended retries", "retry.calls true failure"] {
        let _ = call(&retry().build().unwrap().register(&registry), down()).await;
    }
    an_empty_budget(registry) ["retry.ended budget", "retry.calls false failure"] {
        let budget = Budget::builder().ratio(0.0).floor(0).build().unwrap();
        let _ = call(&retry().budget(budget).build().unwrap().register(&registry), down()).await;
    }
    a_near_deadline(registry) ["retry.ended deadline", "retry.calls false failure"] {
        let retry = retry().build().unwrap().register(&registry);
        let _ = Deadline::scope(Deadline::after(MS), call(&retry, down())).await;
    }
    a_hint_over_the_cap(registry)
    ["http.hints over_cap", "retry.ended hint_over_cap", "retry.calls false failure"] {
        let says = Says(TRANSIENT, RetryHint::After(100 * SECOND));
        let _ = call(&retry().classify(says).build().unwrap().register(&registry), down()).await;
    }
    a_hint_that_is_kept(registry)
    [
        "http.hints kept", "attempt.resends", "retry.delay", "retry.calls true failure",
        "retry.ended retries",
    ] {
        let says = Says(TRANSIENT, RetryHint::After(SECOND));
        let _ = call(&retry().classify(says).build().unwrap().register(&registry), down()).await;
    }
    a_hint_to_stop(registry)
    ["http.hints stop", "retry.ended stop_hint", "retry.calls false failure"] {
        let says = Says(TRANSIENT, RetryHint::Stop);
        let _ = call(&retry().classify(says).build().unwrap().register(&registry), down()).await;
    }
    a_final_failure_with_a_hint_to_stop(registry)
    ["http.hints stop", "retry.ended stop_hint", "retry.calls false failure"] {
        let says = Says(Outcome::Failure(Fault::Permanent), RetryHint::Stop);
        let _ = call(&retry().classify(says).build().unwrap().register(&registry), down()).await;
    }
    a_final_failure(registry) ["retry.ended not_retryable", "retry.calls false failure"] {
        let says = Says(Outcome::Failure(Fault::Permanent), RetryHint::Unstated);
        let _ = call(&retry().classify(says).build().unwrap().register(&registry), down()).await;
    }
    a_request_that_is_not_replayed(registry)
    ["retry.ended not_replayable", "retry.calls false failure"] {
        let retry = buttress::retry::RetryLayer::new(replay_fn(|(): &()| None));
        let _ = call(&retry.register(&registry), down()).await;
    }
    no_retries(registry) ["retry.ended retries_disabled", "retry.calls false failure"] {
        let _ = call(&retry().retries(0).build().unwrap().register(&registry), down()).await;
    }
    a_retry_that_is_rejected(registry) [
        "attempt.resends", "retry.delay", "retry.ended rejected", "retry.calls true failure",
        "circuit_breaker.transitions open consecutive_failures",
        "rejections circuit_breaker circuit_open",
    ] {
        let stack = Stack::new().retry(retry().build().unwrap());
        let stack = stack.circuit_breaker(breaker().build().unwrap()).register(&registry);
        let _ = call(&stack, down()).await;
    }
    a_first_attempt_that_is_rejected(registry)
    ["retry.calls false failure", "rejections bulkhead bulkhead_full"] {
        let stack = Stack::new().retry(retry().build().unwrap()).bulkhead(bulkhead());
        let stack = stack.register(&registry);
        let mut holder = Spawned::new(call(&stack, hangs()));
        assert!(holder.poll().is_pending());
        let _ = call(&stack, well()).await;
    }
    a_service_that_is_not_ready_again(registry) [
        "attempt.resends", "retry.delay", "retry.ended rejected", "retry.calls true failure",
        "rejections retry not_ready",
    ] {
        // Without an error to return instead, the call ends with the rejection.
        let inner = flaky([Step::RespondAfter(SECOND, WELL)]);
        let handle = inner.handle();
        let says = Says(TRANSIENT, RetryHint::Unstated);
        let layer = retry().classify(says).build().unwrap().register(&registry);
        let mut running = Spawned::new(call(&layer, inner));
        assert!(running.poll().is_pending());
        handle.set_unready();
        advance(SECOND).await;
        assert!(running.poll().is_pending());
        advance(MS).await;
        assert!(running.poll().is_pending());
        advance(SECOND).await;
        assert!(running.poll().is_ready());
    }
    a_call_that_is_dropped(registry) [] {
        let layer = retry().build().unwrap().register(&registry);
        let mut running = Spawned::new(call(&layer, hangs()));
        assert!(running.poll().is_pending());
    }

    a_full_bulkhead(registry) ["rejections bulkhead bulkhead_full"] {
        let layer = bulkhead().register(&registry);
        let mut holder = Spawned::new(call(&layer, hangs()));
        assert!(holder.poll().is_pending());
        let _ = call(&layer, well()).await;
    }
    a_wait_in_the_queue(registry) ["bulkhead.queue.duration admitted"] {
        let layer = queued().register(&registry);
        let mut holder = Spawned::new(call(&layer, hangs()));
        let mut waits = Spawned::new(call(&layer, well()));
        assert!(holder.poll().is_pending() && waits.poll().is_pending());
        drop(holder);
        assert!(waits.poll().is_ready());
    }
    a_wait_that_is_too_long(registry)
    ["bulkhead.queue.duration timed_out", "rejections bulkhead queue_timed_out"] {
        let layer = queued().register(&registry);
        let mut holder = Spawned::new(call(&layer, hangs()));
        let mut waits = Spawned::new(call(&layer, well()));
        assert!(holder.poll().is_pending() && waits.poll().is_pending());
        advance(SECOND).await;
        assert!(waits.poll().is_ready());
    }
    a_waiting_caller_that_leaves(registry) ["bulkhead.queue.duration left: 2"] {
        let layer = queued().register(&registry);
        let mut holder = Spawned::new(call(&layer, hangs()));
        let mut waits = [(); 2].map(|()| Spawned::new(call(&layer, well())));
        assert!(holder.poll().is_pending());
        assert!(waits.iter_mut().all(|waits| waits.poll().is_pending()));
        // The second one leaves when a slot was handed to it.
        let [first, second] = waits;
        drop(first);
        drop(holder);
        drop(second);
    }
    a_wait_with_backpressure(registry)
    ["bulkhead.queue.duration admitted", "bulkhead.queue.duration left"] {
        let builder = buttress::bulkhead::BulkheadLayer::builder().max_concurrent(1).backpressure();
        let layer = builder.build().unwrap().register(&registry);
        let service = || SpawnedService::<_, ()>::new(layer.layer(well()));
        let (mut holder, mut waits, mut leaves) = (service(), service(), service());
        assert!(holder.poll_ready().is_ready());
        assert!(waits.poll_ready().is_pending() && leaves.poll_ready().is_pending());
        drop((leaves, holder));
        assert!(waits.poll_ready().is_ready());
    }

    a_failure_rate(registry) ["circuit_breaker.transitions open failure_rate"] {
        let builder = CircuitBreakerLayer::builder().minimum_calls(1);
        let _ = call(&builder.build().unwrap().register(&registry), down()).await;
    }
    a_slow_call_rate(registry) ["circuit_breaker.transitions open slow_call_rate"] {
        let builder = CircuitBreakerLayer::builder().minimum_calls(1).slow_calls(SECOND, 1.0);
        let slow = flaky([Step::RespondAfter(SECOND, WELL)]);
        let _ = call(&builder.build().unwrap().register(&registry), slow).await;
    }
    an_outage(registry) [
        "circuit_breaker.transitions open consecutive_failures",
        "rejections circuit_breaker circuit_open: 2",
        "circuit_breaker.transitions half_open open_time: 2",
        "circuit_breaker.probes failed",
        "circuit_breaker.transitions open probes_failed",
        "circuit_breaker.probes passed",
        "circuit_breaker.transitions closed probes_passed",
    ] {
        let layer = breaker().build().unwrap().register(&registry);
        for inner in [down(), well(), down(), well()] {
            let _ = call(&layer, inner).await;
            advance(OPEN_FOR / 2).await;
        }
        advance(3 * OPEN_FOR).await;
        let _ = call(&layer, well()).await;
    }
    a_probe_that_expires(registry) [
        "circuit_breaker.transitions open consecutive_failures",
        "circuit_breaker.transitions half_open open_time",
        "circuit_breaker.probes expired",
        "circuit_breaker.transitions open probes_failed",
        "rejections circuit_breaker circuit_open",
    ] {
        let layer = breaker().build().unwrap().register(&registry);
        let _ = call(&layer, down()).await;
        advance(OPEN_FOR).await;
        let mut probe = Spawned::new(call(&layer, hangs()));
        assert!(probe.poll().is_pending());
        advance(10 * SECOND).await;
        let _ = call(&layer, well()).await;
    }
    a_probe_that_is_returned(registry) [
        "circuit_breaker.transitions open consecutive_failures",
        "circuit_breaker.transitions half_open open_time",
        "circuit_breaker.probes returned",
    ] {
        let layer = breaker().build().unwrap().register(&registry);
        let _ = call(&layer, down()).await;
        advance(OPEN_FOR).await;
        let mut probe = Spawned::new(call(&layer, hangs()));
        assert!(probe.poll().is_pending());
    }
    changes_by_hand(registry) [
        "circuit_breaker.transitions forced_open forced: 2",
        "circuit_breaker.transitions disabled forced",
        "circuit_breaker.transitions closed forced",
    ] {
        let layer = breaker().build().unwrap().register(&registry);
        let handle = layer.handle();
        handle.force_open();
        handle.force_open();
        handle.disable();
        handle.disable();
        handle.force_open_for(SECOND);
        handle.close();
        handle.close();
        handle.reset();
    }
    keys_that_make_room(registry) ["circuit_breaker.keys.evicted: 3"] {
        let keyed = breaker().keyed_fn(|key: &u32| *key).max_keys(2).build().unwrap();
        let keyed = keyed.register(&registry);
        for key in 0..5 {
            let inner = tower::service_fn(|_: u32| async { WELL });
            tower::ServiceExt::oneshot(keyed.layer(inner), key).await.unwrap();
        }
    }
}

/// Returns a layer of each kind, so that the numbers outlive those of a scenario.
fn kept(registry: &Registry) -> impl Sized + use<> {
    (
        orders(registry),
        TimeoutLayer::new(SECOND).register(registry),
        retry().build().unwrap().register(registry),
        bulkhead().register(registry),
        breaker().build().unwrap().register(registry),
    )
}

#[tokio::test(start_paused = true)]
async fn each_event_counts_once_and_in_its_own_series() {
    for (name, scenario, counts) in SCENARIOS {
        let registry = Registry::new();
        let _kept = kept(&registry);
        scenario(registry.clone()).await;
        assert_eq!(counted(&registry), expected(counts), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_series_is_reached() {
    let registry = Registry::new();
    let _kept = kept(&registry);
    let all: BTreeSet<String> = counts(&registry).into_keys().collect();
    let reached = SCENARIOS.iter().flat_map(|(_, _, counts)| expected(counts).into_keys());
    assert_eq!(reached.collect::<BTreeSet<_>>(), all);
}
