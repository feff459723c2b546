//! The layers that the test suites run over, each way to configure one with its own name.
//!
//! A suite runs over a list with `test_every!` or `for_every!`, and cannot leave out a row. A row
//! states what a suite must know of its layer. It also states what a layer does not do, with the
//! reason. Scenarios of a single layer are in its own suite.
//!
//! To add a layer, add a row to `layers!` for each way to configure it.
#![allow(dead_code, unused_imports, unused_macros, reason = "no suite needs all of it")]

#[cfg(feature = "http")]
#[macro_use]
mod over_http;
mod numbers;
mod row;
mod rules;
mod user;

pub(crate) use std::{future::ready, sync::Mutex, time::Duration};

pub(crate) use buttress::{
    Stack,
    bulkhead::{BulkheadBuilder, BulkheadLayer},
    cache::CacheLayer,
    chaos::{ChaosHandle, ChaosLayer},
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer},
    endpoints::Endpoints,
    fallback::{self, FallbackLayer},
    idempotency::{IdempotencyLayer, store::MemoryStore},
    retry::{Backoff, Budget, ReplayClones, RetryBuilder, RetryLayer},
    telemetry::{CallSpanLayer, Registry},
    timeout::TimeoutLayer,
};
pub(crate) use tower::{ServiceBuilder, layer::layer_fn};

#[cfg(feature = "http")]
pub(crate) use self::over_http::*;
pub(crate) use self::{
    numbers::assert_numbers_add_up,
    row::{
        Client, Effect, Failure, Obstacle, Retries, Row, Text, half_open, opened, taken, waiting,
        without_a_probe,
    },
    rules::{keeps_rules, rejects_by_rules},
    user::{
        Absent, CountedReplay, FallibleClassifier, NoReplay, PassOn, Request, Unguarded, UserCode,
        arm, disarm, key, limit, unkeyed,
    },
};

/// The time between two polls, in a suite that lets time pass.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// A limit that ends within the ticks that a suite waits for.
pub(crate) const LIMIT: Duration = Duration::from_millis(200);
/// A limit so short that a call of [`LIMIT`] has time for more than one attempt.
pub(crate) const ATTEMPT: Duration = Duration::from_millis(80);
/// The number of retries that the budget of a row pays for.
pub(crate) const FLOOR: u32 = 1_000;
/// A number larger than the calls of a suite.
const MANY: u32 = 1_000_000;

/// Creates a budget without deposits. Its balance shows how many retries were sent.
pub(crate) fn budget() -> Budget {
    Budget::builder().ratio(0.0).floor(FLOOR).build().unwrap()
}

pub(crate) fn retry<P>(replay: P) -> RetryBuilder<P> {
    let backoff = Backoff::constant(Duration::from_millis(25)).build().unwrap();
    RetryLayer::builder(replay).backoff(backoff).budget(budget())
}

/// Returns a bulkhead of one call, which shows every leak.
pub(crate) fn one_at_once() -> BulkheadBuilder {
    BulkheadLayer::builder().max_concurrent(1)
}

/// Returns a breaker that the suites do not trip, and that counts a call of one tick as slow.
pub(crate) fn breaker() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder().count_window(10_000).minimum_calls(10_000).slow_calls(TICK, 1.0)
}

pub(crate) fn breaker_by_time() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder()
        .time_window(Duration::from_secs(10))
        .minimum_calls(10_000)
        .slow_calls(TICK, 1.0)
}

/// Returns a breaker that trips on a streak that no suite reaches by chance, with one probe.
pub(crate) fn breaker_by_streak() -> CircuitBreakerBuilder {
    let builder = CircuitBreakerLayer::builder().without_failure_rate().consecutive_failures(100);
    builder.open_for(Duration::from_secs(1)).open_growth(1.0).probes(1)
}

/// Creates a half-open breaker, which stays half-open because it has more probes than calls.
pub(crate) fn half_open_breaker(builder: CircuitBreakerBuilder) -> CircuitBreakerLayer {
    half_open(builder.probes(MANY))
}

/// Arms a layer until the returned value is dropped.
pub(crate) fn armed(handle: ChaosHandle) -> impl Sized {
    struct DisarmOnDrop(ChaosHandle);

    impl Drop for DisarmOnDrop {
        fn drop(&mut self) {
            self.0.disarm();
        }
    }

    handle.arm_for(Duration::from_secs(3600)).unwrap();
    DisarmOnDrop(handle)
}

/// Puts a set of one endpoint around a service.
pub(crate) fn one_endpoint<S: Clone + Send + 'static>(inner: S) -> Endpoints<Text, S> {
    let inner = Mutex::new(inner);
    Endpoints::new(["one"], move |_: &Text| inner.lock().unwrap().clone())
}

/// Makes a row of this stack with all its layers. The bulkhead has one slot.
macro_rules! whole_stack {
    ($stack:expr, $bulkhead:expr, $when_full:expr, $breaker:expr) => {
        whole_stack!($stack, $bulkhead, $when_full, $breaker, CountedReplay::default(), 3)
    };
    ($stack:expr, $bulkhead:expr, $when_full:expr, $breaker:expr, $replay:expr, $retries:expr) => {{
        let (bulkhead, breaker, replay) = ($bulkhead, $breaker, $replay);
        let retry = retry(replay.clone()).retries($retries).build().unwrap();
        let budget = retry.budget().cloned().unwrap();
        let stack = $stack
            .total_timeout(TimeoutLayer::per_request_fn(limit))
            .retry(retry)
            .bulkhead(bulkhead.clone())
            .circuit_breaker(breaker.clone())
            .attempt_timeout(ATTEMPT)
            .classify(FallibleClassifier);
        // The numbers of a registered stack end with its last service.
        let kept = tower::Layer::layer(&stack, Client::new([], || Ok("response")));
        Row::new(stack)
            .when_idle(move || _ = &kept)
            .always_ready()
            .runs(&[UserCode::Limit, UserCode::Replay, UserCode::Classifier])
            .ends_a_hang_after(15)
            .retries(budget, Some(replay))
            .slots(bulkhead.handle())
            .full($when_full, bulkhead)
            .breaker(breaker.handle(), Effect::Rejects("circuit_open"))
    }};
}

/// Lists the layers, which keep the error type.
macro_rules! layers {
    ($run:ident $($with:tt)*) => { layers_of_any_response! { with_caches $run { $($with)* } } };
}

/// Adds the layers that keep responses, which must therefore be `Sync`.
macro_rules! with_caches {
    (($run:ident { $($with:tt)* }) $($rows:tt)*) => { $run! { ($($with)*)
        $($rows)*

        // A call with a key runs in its own task, which outlives a dropped call. Its scenarios are
        // in `tests/cache`.
        cache_unkeyed: Row::new(CacheLayer::by_fn(unkeyed).build().unwrap())
            .always_ready()
            .runs(&[UserCode::Key]),
        stack_of_cache: {
            let cache = CacheLayer::by_fn(unkeyed).build().unwrap();
            Row::new(Stack::new().cache(cache)).always_ready().runs(&[UserCode::Key])
        },
    } };
}

/// Lists the layers that also work with responses that are not `Sync`.
macro_rules! layers_of_any_response {
    ($run:ident $($with:tt)*) => { $run! { ($($with)*)
        timeout: Row::new(TimeoutLayer::new(LIMIT)).ends_a_hang_after(20),
        timeout_per_request: Row::new(TimeoutLayer::per_request_fn(limit))
            .runs(&[UserCode::Limit])
            .ends_a_hang_after(20),
        timeout_without_end: Row::new(TimeoutLayer::new(Duration::MAX)),
        timeout_named_at_run_time: {
            let builder = TimeoutLayer::builder(LIMIT).name(String::from("made at run time"));
            Row::new(builder.build().unwrap()).ends_a_hang_after(20)
        },
        total_timeout: Row::new(TimeoutLayer::new(LIMIT).including_readiness())
            .always_ready()
            .ends_a_hang_after(20),
        total_timeout_per_request:
            Row::new(TimeoutLayer::per_request_fn(limit).including_readiness())
                .always_ready()
                .runs(&[UserCode::Limit])
                .ends_a_hang_after(20),

        retry: {
            let retry = retry(ReplayClones).build().unwrap();
            let budget = retry.budget().cloned().unwrap();
            Row::new(retry).retries(budget, None)
        },
        retry_with_user_code: {
            let replay = CountedReplay::default();
            let retry = retry(replay.clone()).classify(FallibleClassifier).build().unwrap();
            let budget = retry.budget().cloned().unwrap();
            Row::new(retry)
                .runs(&[UserCode::Replay, UserCode::Classifier])
                .retries(budget, Some(replay))
        },
        retry_that_may_not:
            Row::new(RetryLayer::builder(NoReplay).without_budget().build().unwrap()),
        retry_by_default: Row::new(RetryLayer::new(ReplayClones)),

        bulkhead: {
            let layer = one_at_once().build().unwrap();
            let row = Row::new(layer.clone()).slots(layer.handle());
            row.full(Effect::Rejects("bulkhead_full"), layer)
        },
        bulkhead_backpressure: {
            let layer = one_at_once().backpressure().build().unwrap();
            Row::new(layer.clone()).slots(layer.handle()).full(Effect::Waits, layer)
        },
        bulkhead_queued: {
            let layer = one_at_once().queue(50, LIMIT).build().unwrap();
            Row::new(layer.clone()).slots(layer.handle()).full(Effect::Waits, layer)
        },
        bulkhead_queued_for_one: {
            let layer = one_at_once().queue(1, LIMIT).build().unwrap();
            let row = Row::new(layer.clone()).slots(layer.handle());
            row.obstacle("queue full", Effect::Rejects("bulkhead_full"), move || {
                let slot = taken(&layer);
                (waiting(&layer), slot)
            })
        },
        bulkhead_by_default: {
            let layer = BulkheadLayer::default();
            Row::new(layer.clone()).slots(layer.handle())
        },

        circuit_breaker_by_count: {
            let layer = breaker().build().unwrap();
            Row::new(layer.clone()).breaker(layer.handle(), Effect::Rejects("circuit_open"))
        },
        circuit_breaker_by_time: {
            let named = breaker_by_time().name(String::from("made at run time"));
            let layer = named.build().unwrap();
            Row::new(layer.clone()).breaker(layer.handle(), Effect::Rejects("circuit_open"))
        },
        circuit_breaker_by_streak: {
            let layer = breaker_by_streak().build().unwrap();
            let (open, probing) = (layer.clone(), layer.clone());
            Row::new(layer.clone())
                .breaker(layer.handle(), Effect::Rejects("circuit_open"))
                .obstacle("tripped", Effect::Rejects("circuit_open"), move || opened(&open))
                .obstacle("without a probe", Effect::Rejects("circuit_open"), move || {
                    without_a_probe(&probing)
                })
        },
        circuit_breaker_with_user_code: {
            let layer = breaker().classify(FallibleClassifier).build().unwrap();
            Row::new(layer.clone())
                .runs(&[UserCode::Classifier])
                .breaker(layer.handle(), Effect::Rejects("circuit_open"))
        },
        circuit_breaker_pend: {
            let layer = breaker().pend().build().unwrap();
            Row::new(layer.clone()).breaker(layer.handle(), Effect::Waits)
        },
        circuit_breaker_by_default: {
            let layer = CircuitBreakerLayer::new();
            Row::new(layer.clone()).breaker(layer.handle(), Effect::Rejects("circuit_open"))
        },
        circuit_breaker_half_open: {
            let layer = half_open_breaker(breaker());
            Row::new(layer.clone()).breaker(layer.handle(), Effect::Rejects("circuit_open"))
        },
        circuit_breaker_half_open_by_time: {
            let layer = half_open_breaker(breaker_by_time());
            Row::new(layer.clone()).breaker(layer.handle(), Effect::Rejects("circuit_open"))
        },
        circuit_breaker_half_open_pend: {
            let layer = half_open_breaker(breaker().pend());
            Row::new(layer.clone()).breaker(layer.handle(), Effect::Waits)
        },
        circuit_breaker_disabled: {
            let layer = CircuitBreakerLayer::new();
            layer.handle().disable();
            Row::new(layer)
        },
        keyed_circuit_breaker:
            Row::new(CircuitBreakerLayer::builder().keyed_fn(key).build().unwrap())
                .always_ready()
                .runs(&[UserCode::Key])
                .keyed_breaker(),
        keyed_circuit_breaker_with_user_code:
            Row::new(breaker_by_time().classify(FallibleClassifier).keyed_fn(key).build().unwrap())
                .always_ready()
                .runs(&[UserCode::Key, UserCode::Classifier])
                .keyed_breaker(),

        fallback: {
            let layer = FallbackLayer::from_fn(|_| (), |(), _| ready(None));
            Row::new(layer.clone()).switch(layer.handle())
        },
        fallback_with_user_code: {
            let source = fallback::from_fn(key, |_, _| ready(None));
            let layer = FallbackLayer::builder(source).classify(FallibleClassifier);
            let layer = layer.name(String::from("made at run time")).build().unwrap();
            Row::new(layer.clone())
                .runs(&[UserCode::Key, UserCode::Classifier])
                .switch(layer.handle())
        },
        fallback_by_service: {
            let layer = FallbackLayer::service(CountedReplay::default(), Absent::new());
            Row::new(layer).runs(&[UserCode::Replay])
        },

        call_span: Row::new(CallSpanLayer::new()),

        // A guarded request runs in its own task, which outlives a dropped call. Its scenarios
        // are in `tests/idempotency`.
        idempotency_unguarded: {
            let (store, none) = (MemoryStore::new(), Unguarded);
            let guard = IdempotencyLayer::builder(store, none, none, none).single_tenant();
            Row::new(guard.build().unwrap())
                .always_ready()
                .allocates("its future is boxed: next to a store the box costs nothing")
        },

        chaos: {
            let layer = ChaosLayer::builder().hangs(1.0).build().unwrap();
            let handle = layer.handle();
            Row::new(layer).obstacle("hanging", Effect::Waits, move || armed(handle.clone()))
        },
        chaos_late: {
            let layer = ChaosLayer::builder().delays(1.0, 3 * TICK).build().unwrap();
            let handle = layer.handle();
            Row::new(layer).obstacle("late", Effect::Waits, move || armed(handle.clone()))
        },
        chaos_armed: {
            let layer = ChaosLayer::builder().build().unwrap();
            layer.handle().arm_for(Duration::from_secs(3600)).unwrap();
            Row::new(layer)
        },
        stack_around_chaos: {
            let chaos = ChaosLayer::builder().hangs(1.0).build().unwrap();
            let handle = chaos.handle();
            let stack = Stack::new().bulkhead(one_at_once().build().unwrap());
            let layers = ServiceBuilder::new().layer(stack).layer(chaos).into_inner();
            Row::new(layers).obstacle("hanging", Effect::Waits, move || armed(handle.clone()))
        },

        stack_empty: Row::new(Stack::new()),
        stack_of_total_timeout:
            Row::new(Stack::new().total_timeout(LIMIT)).always_ready().ends_a_hang_after(20),
        stack_of_fallback: {
            let layer = FallbackLayer::from_fn(|_| (), |(), _| ready(None));
            let stack = Stack::new().fallback(layer.clone());
            Row::new(stack).switch(layer.handle())
        },
        stack_of_retry: {
            let retry = retry(ReplayClones).build().unwrap();
            let budget = retry.budget().cloned().unwrap();
            Row::new(Stack::new().retry(retry)).retries(budget, None)
        },
        stack_of_bulkhead: {
            let layer = one_at_once().build().unwrap();
            let row = Row::new(Stack::new().bulkhead(layer.clone())).slots(layer.handle());
            row.full(Effect::Rejects("bulkhead_full"), layer)
        },
        stack_of_queue: {
            let layer = one_at_once().queue(50, LIMIT).build().unwrap();
            let row = Row::new(Stack::new().bulkhead(layer.clone())).slots(layer.handle());
            row.full(Effect::Waits, layer)
        },
        stack_of_circuit_breaker: {
            let layer = breaker().build().unwrap();
            let row = Row::new(Stack::new().circuit_breaker(layer.clone()));
            row.breaker(layer.handle(), Effect::Rejects("circuit_open"))
        },
        stack_of_keyed_circuit_breaker: {
            let keyed = CircuitBreakerLayer::builder().keyed_fn(key).build().unwrap();
            Row::new(Stack::new().circuit_breaker(keyed)).always_ready().runs(&[UserCode::Key])
        },
        stack_of_attempt_timeout:
            Row::new(Stack::new().attempt_timeout(LIMIT)).ends_a_hang_after(20),
        stack_standard: Row::new(Stack::standard(ReplayClones)).always_ready(),
        stack_standard_for_one: {
            let bulkhead = one_at_once().build().unwrap();
            let named = CircuitBreakerLayer::builder().name(String::from("made at run time"));
            let breaker = named.build().unwrap();
            let stack = Stack::standard(ReplayClones)
                .bulkhead(bulkhead.clone())
                .circuit_breaker(breaker.clone());
            Row::new(stack)
                .always_ready()
                .slots(bulkhead.handle())
                .full(Effect::Rejects("bulkhead_full"), bulkhead)
                .breaker(breaker.handle(), Effect::Rejects("circuit_open"))
        },
        stack_standard_with_a_queue: {
            let queue = one_at_once().queue(50, LIMIT).build().unwrap();
            let stack = Stack::standard(ReplayClones).bulkhead(queue.clone());
            Row::new(stack).always_ready().slots(queue.handle())
        },
        stack_whole: whole_stack!(
            Stack::new(),
            one_at_once().build().unwrap(),
            Effect::Rejects("bulkhead_full"),
            breaker().build().unwrap()
        ),
        stack_whole_half_open: whole_stack!(
            Stack::new(),
            one_at_once().build().unwrap(),
            Effect::Rejects("bulkhead_full"),
            half_open_breaker(breaker())
        ),
        stack_whole_with_a_queue: whole_stack!(
            Stack::new(),
            one_at_once().queue(2, LIMIT).build().unwrap(),
            Effect::Waits,
            breaker().build().unwrap()
        ),
        stack_whole_with_a_queue_half_open: whole_stack!(
            Stack::new(),
            one_at_once().queue(2, LIMIT).build().unwrap(),
            Effect::Waits,
            half_open_breaker(breaker())
        ),
        stack_registered: {
            let (registry, bulkhead) = (Registry::new(), one_at_once().build().unwrap());
            let stack = Stack::new().name("orders").register(&registry);
            let (breaker, replay) = (breaker().build().unwrap(), CountedReplay::default());
            // No call has so many attempts, so the policy is asked before each of them.
            let attempts = replay.clone();
            whole_stack!(stack, bulkhead, Effect::Rejects("bulkhead_full"), breaker, replay, 20)
                .when_idle(move || assert_numbers_add_up(&registry, attempts.total()))
        },
        stack_registered_with_a_queue: {
            let registry = Registry::new();
            let bulkhead = one_at_once().queue(2, LIMIT).build().unwrap();
            let stack = Stack::new().name("orders").register(&registry);
            let breaker = half_open_breaker(breaker());
            let replay = CountedReplay::default();
            // No call has so many attempts, so the policy is asked before each of them.
            let attempts = replay.clone();
            whole_stack!(stack, bulkhead, Effect::Waits, breaker, replay, 20)
                .when_idle(move || assert_numbers_add_up(&registry, attempts.total()))
        },
        stack_of_options: {
            let replay = CountedReplay::default();
            let retry = retry(replay.clone()).build().unwrap();
            let budget = retry.budget().cloned().unwrap();
            let (bulkhead, breaker) = (one_at_once().build().unwrap(), breaker().build().unwrap());
            let stack = Stack::new()
                .total_timeout(Some(LIMIT))
                .retry(Some(retry))
                .bulkhead(Some(bulkhead.clone()))
                .circuit_breaker(Some(breaker.clone()))
                .attempt_timeout(Some(ATTEMPT));
            Row::new(stack)
                .always_ready()
                .runs(&[UserCode::Replay])
                .ends_a_hang_after(15)
                .retries(budget, Some(replay))
                .slots(bulkhead.handle())
                .full(Effect::Rejects("bulkhead_full"), bulkhead)
                .breaker(breaker.handle(), Effect::Rejects("circuit_open"))
        },
        stack_by_key: {
            let retry = retry(ReplayClones).build().unwrap();
            let template = Stack::standard(ReplayClones).retry(retry);
            let hosts = Stack::by_key(key, move |_| template.fresh()).build().unwrap();
            let watched = hosts.clone();
            Row::new(hosts).always_ready().runs(&[UserCode::Key]).when_idle(move || {
                watched.for_each(|_, stack| {
                    assert_eq!(stack.bulkhead_handle().unwrap().in_flight(), 0, "slots");
                });
            })
        },
        stack_by_key_of_one_stack: {
            let (bulkhead, breaker) = (one_at_once().build().unwrap(), breaker().build().unwrap());
            let replay = CountedReplay::default();
            let retry = retry(replay.clone()).build().unwrap();
            let budget = retry.budget().cloned().unwrap();
            let stack = Stack::new()
                .total_timeout(TimeoutLayer::per_request_fn(limit))
                .retry(retry)
                .bulkhead(bulkhead.clone())
                .circuit_breaker(breaker.clone())
                .attempt_timeout(ATTEMPT)
                .classify(FallibleClassifier);
            Row::new(Stack::by_key(key, move |_| stack.clone()).max_keys(2).build().unwrap())
                .always_ready()
                .runs(&[UserCode::Key, UserCode::Limit, UserCode::Replay, UserCode::Classifier])
                .ends_a_hang_after(15)
                .retries(budget, Some(replay))
                .slots(bulkhead.handle())
                .full(Effect::Rejects("bulkhead_full"), bulkhead)
                .breaker(breaker.handle(), Effect::Rejects("circuit_open"))
        },
        stack_of_absent_options: Row::new(
            Stack::new()
                .total_timeout(None::<Duration>)
                .retry(None::<RetryLayer<ReplayClones>>)
                .bulkhead(None::<BulkheadLayer>)
                .circuit_breaker(None::<CircuitBreakerLayer>)
                .attempt_timeout(None::<Duration>)
        ),
        stack_with_open_slots: {
            let bulkhead = one_at_once().build().unwrap();
            let stack = Stack::standard(ReplayClones).bulkhead(bulkhead.clone());
            Row::new(stack.around_call(PassOn).around_attempt(PassOn))
                .always_ready()
                .slots(bulkhead.handle())
                .full(Effect::Rejects("bulkhead_full"), bulkhead)
        },
    } };
}

/// Lists the ways into a stack that change the error type.
///
/// They are a separate list, because their inner service fails with an error that carries no
/// rejection. They add one layer to the layers of the stack. It maps the error and nothing else.
/// Endpoints are here too, because their error can carry a rejection.
macro_rules! ways_into_a_stack {
    ($run:ident $($with:tt)*) => { $run! { ($($with)*)
        stack_service: Row::new(layer_fn(|inner| {
            let bulkhead = one_at_once().build().unwrap();
            Stack::standard(ReplayClones).bulkhead(bulkhead).service::<_, Text, _>(inner)
        }))
        .always_ready(),
        stack_boxed: Row::new(layer_fn(|inner| {
            let bulkhead = one_at_once().build().unwrap();
            Stack::standard(ReplayClones).bulkhead(bulkhead).boxed::<_, Text>(inner)
        }))
        .always_ready(),
        endpoints: Row::new(layer_fn(one_endpoint)).always_ready(),
        stack_of_endpoints: Row::new(layer_fn(|inner| {
            let bulkhead = one_at_once().build().unwrap();
            // Without a retry, which would retry an error of the readiness.
            let stack = Stack::new().total_timeout(LIMIT).bulkhead(bulkhead);
            tower::Layer::layer(&stack, one_endpoint(inner))
        }))
        .always_ready()
        .ends_a_hang_after(20),
    } };
}

/// Runs an expression for every row of a list:
/// `for_every!(layers, |name, make| check(name, make))`.
///
/// `make` creates a new row at each call, half-open breakers included.
macro_rules! for_every {
    ($list:ident, |$name:ident, $make:ident| $check:expr) => {
        $list! { for_each_row |$name, $make| $check }
    };
}

macro_rules! for_each_row {
    ((|$name:ident, $make:ident| $check:expr) $($row:ident: $subject:expr,)*) => {$({
        let $name = stringify!($row);
        let $make = || {
            use $crate::layers::*;
            $subject
        };
        $check;
    })*};
}

/// Makes a test of every row of a list.
///
/// With `test_every!(layers, check)`, each test runs `check(name, make).await` on a paused clock,
/// in a module with the name of the function.
macro_rules! test_every {
    ($list:ident, $check:ident) => {
        $list! { test_each_row $check }
    };
}

macro_rules! test_each_row {
    (($check:ident) $($row:ident: $subject:expr,)*) => {
        mod $check {$(
            #[tokio::test(flavor = "current_thread", start_paused = true)]
            async fn $row() {
                use $crate::layers::*;
                super::$check(stringify!($row), || $subject).await;
            }
        )*}
    };
}
