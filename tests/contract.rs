//! The contract kit, run on every layer and on every way to configure one.
//!
//! `cargo test --test contract -- --nocapture` prints what was checked as a table.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use buttress::{
    CarryRejection, Error, Fault, Outcome, Rejection, Stack,
    backoff::Backoff,
    bulkhead::{BulkheadBuilder, BulkheadHandle, BulkheadLayer, QueuedBulkheadLayer},
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerHandle, CircuitBreakerLayer, State},
    retry::{ReplayClones, RetryLayer, replay_fn},
    telemetry::CallSpanLayer,
    testing::{
        Flaky, Step,
        contract::{Contract, Inner, Report, Rule, Verdict},
        task::{Spawned, SpawnedService},
    },
    timeout::TimeoutLayer,
};
use tower::{Layer, Service};

type Text = &'static str;
type Failure = Error<Text>;
type Subject = Inner<Text, Failure>;

fn contract() -> Contract<Text, Text, Failure> {
    Contract::new(|| "request", || "response", || Error::Service("error"))
}

/// For the ways into a stack that change the error, whose inner service fails with this one.
fn plain_contract() -> Contract<Text, Text, fmt::Error> {
    Contract::new(|| "request", || "response", || fmt::Error)
}

/// Within 256 of these every limit here runs out.
fn tick() -> impl Future<Output = ()> {
    tokio::time::advance(Duration::from_millis(10))
}

// ===== what is checked =====

const LIMIT: Duration = Duration::from_secs(1);

fn retry() -> RetryLayer<ReplayClones> {
    let backoff = Backoff::constant(Duration::from_millis(25)).build().unwrap();
    RetryLayer::builder(ReplayClones).backoff(backoff).build().unwrap()
}

/// One call at once: what leaks then shows.
fn one_at_once() -> BulkheadBuilder {
    BulkheadLayer::builder().max_concurrent(1)
}

fn bulkhead() -> BulkheadLayer {
    one_at_once().build().unwrap()
}

fn backpressure() -> BulkheadLayer {
    one_at_once().backpressure().build().unwrap()
}

fn queued() -> QueuedBulkheadLayer {
    one_at_once().queue(1, LIMIT).build().unwrap()
}

fn count_window() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder().count_window(100).slow_calls(LIMIT, 1.0)
}

fn time_window() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder().time_window(Duration::from_secs(10)).slow_calls(LIMIT, 1.0)
}

fn standard() -> buttress::stack::StandardStack<ReplayClones> {
    Stack::standard(ReplayClones).bulkhead(bulkhead()).retry(retry())
}

/// A breaker that is half-open, with so many slots for probes.
async fn half_open(probes: u32) -> CircuitBreakerLayer {
    let builder = CircuitBreakerLayer::builder().consecutive_failures(1).probes(probes);
    let layer = builder.open_for(Duration::from_millis(10)).build().unwrap();
    let failing = layer.layer(Flaky::new([], || Err::<Text, _>(Failure::Service("down"))));
    assert!(call(failing).poll().is_ready());
    assert_eq!(layer.handle().state(), State::Open);
    tokio::time::advance(Duration::from_millis(20)).await;
    drop(taken_from(&layer));
    assert_eq!(layer.handle().state(), State::HalfOpen);
    layer
}

/// A readied service over the layer: it has the slot, or the lease.
fn taken_from<L>(layer: &L) -> SpawnedService<L::Service, Text>
where
    L: Layer<Flaky<Text, Failure>, Service: Service<Text>>,
{
    let hung = layer.layer(Flaky::new([Step::Hang], || Ok("response")));
    let mut service = SpawnedService::new(hung);
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
    service
}

fn call<S: Service<Text>>(service: S) -> Spawned<S::Future> {
    let mut service = SpawnedService::new(service);
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
    service.call("request")
}

// ===== the rules =====

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn every_layer_keeps_every_rule() {
    let mut table = Table::default();
    let timeout = || TimeoutLayer::new(LIMIT);

    table.layer("Timeout", contract(), |inner| timeout().layer(inner)).await;
    let per_request = || TimeoutLayer::per_request(|_: &Text| LIMIT);
    table.layer("Timeout per request", contract(), |inner| per_request().layer(inner)).await;
    let never = || TimeoutLayer::new(Duration::MAX);
    table.layer("Timeout without end", contract(), |inner| never().layer(inner)).await;
    table
        .layer("TotalTimeout", contract().always_ready(), |inner| {
            timeout().including_readiness().layer(inner)
        })
        .await;

    table.layer("Retry", contract(), |inner| retry().layer(inner)).await;
    let bare = || RetryLayer::builder(replay_fn(|_: &Text| None)).without_budget().build().unwrap();
    table.layer("Retry that may not", contract(), |inner| bare().layer(inner)).await;

    table.layer("Bulkhead", contract(), |inner| bulkhead().layer(inner)).await;
    table.layer("Bulkhead backpressure", contract(), |inner| backpressure().layer(inner)).await;
    table.layer("QueuedBulkhead", contract(), |inner| queued().layer(inner)).await;

    for (name, builder) in
        [("CircuitBreaker count", count_window()), ("CircuitBreaker time", time_window())]
    {
        let make = |inner| builder.clone().build().unwrap().layer(inner);
        table.layer(name, contract(), make).await;
    }
    let pend = || count_window().pend().build().unwrap();
    table.layer("CircuitBreaker pend", contract(), |inner| pend().layer(inner)).await;
    let probes = half_open(1_000_000).await;
    table.layer("CircuitBreaker half-open", contract(), |inner| probes.layer(inner)).await;
    assert_eq!(probes.handle().state(), State::HalfOpen);
    assert_eq!(probes.handle().snapshot().probes(), 0);
    let disabled = CircuitBreakerLayer::new();
    disabled.handle().disable();
    table.layer("CircuitBreaker disabled", contract(), |inner| disabled.layer(inner)).await;
    table
        .layer("KeyedCircuitBreaker", contract().always_ready(), |inner| {
            time_window().keyed(|request: &Text| *request).build().unwrap().layer(inner)
        })
        .await;

    table.layer("CallSpan", contract(), |inner| CallSpanLayer::new().layer(inner)).await;

    table.layer("Stack empty", contract(), |inner| Stack::new().layer(inner)).await;
    let total = || Stack::new().total_timeout(LIMIT);
    table.layer("Stack total", contract().always_ready(), |inner| total().layer(inner)).await;
    table.layer("Stack retry", contract(), |inner| Stack::new().retry(retry()).layer(inner)).await;
    table
        .layer("Stack bulkhead", contract(), |inner| Stack::new().bulkhead(bulkhead()).layer(inner))
        .await;
    table
        .layer("Stack queue", contract(), |inner| Stack::new().bulkhead(queued()).layer(inner))
        .await;
    table
        .layer("Stack breaker", contract(), |inner| {
            Stack::new().circuit_breaker(count_window().build().unwrap()).layer(inner)
        })
        .await;
    table
        .layer("Stack keyed", contract().always_ready(), |inner| {
            let keyed = CircuitBreakerLayer::builder().keyed(|request: &Text| *request);
            Stack::new().circuit_breaker(keyed.build().unwrap()).layer(inner)
        })
        .await;
    table
        .layer("Stack attempt", contract(), |inner| {
            Stack::new().attempt_timeout(LIMIT).layer(inner)
        })
        .await;

    table.layer("Stack standard", contract().always_ready(), |inner| standard().layer(inner)).await;
    table
        .layer("Stack standard queue", contract().always_ready(), |inner| {
            standard().bulkhead(queued()).layer(inner)
        })
        .await;
    table
        .wrapped("Stack standard service", plain_contract().always_ready(), |inner| {
            standard().service::<_, Text>(inner)
        })
        .await;
    table
        .wrapped("Stack standard boxed", plain_contract().always_ready(), |inner| {
            standard().boxed::<_, Text>(inner)
        })
        .await;

    refusals(&mut table).await;
    table.print_and_assert();
}

async fn refusals(table: &mut Table) {
    let forced_open = count_window().build().unwrap();
    forced_open.handle().force_open();
    table.refusing("CircuitBreaker forced open", |inner| forced_open.layer(inner));

    let tripped = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
    let failing = tripped.layer(Flaky::new([], || Err::<Text, _>(Failure::Service("down"))));
    assert!(call(failing).poll().is_ready());
    table.refusing("CircuitBreaker tripped", |inner| tripped.layer(inner));

    let half_open = half_open(1).await;
    let probe = taken_from(&half_open);
    table.refusing("CircuitBreaker without a slot", |inner| half_open.layer(inner));
    assert_eq!(half_open.handle().snapshot().probes(), 1);
    drop(probe);

    let keyed = CircuitBreakerLayer::builder().keyed(|request: &Text| *request).build().unwrap();
    assert!(call(keyed.layer(Flaky::new([], || Ok::<_, Failure>("response")))).poll().is_ready());
    keyed.handle(&"request").unwrap().force_open();
    table.refusing("KeyedCircuitBreaker forced open", |inner| keyed.layer(inner));

    let full = bulkhead();
    let _slot = taken_from(&full);
    table.refusing("Bulkhead full", |inner| full.layer(inner));

    let full = queued();
    let _slot = taken_from(&full);
    let mut waiting = call(full.layer(Flaky::new([], || Ok::<_, Failure>("response"))));
    assert!(waiting.poll().is_pending());
    table.refusing("QueuedBulkhead full", |inner| full.layer(inner));

    // In a stack the refusal passes through all that stands outside it, the retry too.
    let stack = standard().circuit_breaker(forced_open);
    table.refusing("Stack, breaker forced open", |inner| stack.layer(inner));
    let full = bulkhead();
    let _slot = taken_from(&full);
    let stack = standard().bulkhead(full);
    table.refusing("Stack, bulkhead full", |inner| stack.layer(inner));
}

// ===== the rules that cannot be found out by the kit =====

/// Rule 8.
#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_clock_of_a_timeout_starts_at_the_call() {
    async fn ends_at_its_limit<S>(service: S)
    where
        S: Service<Text, Error = Failure>,
    {
        let mut future = call(service);
        tokio::time::advance(LIMIT).await;
        let Poll::Ready(Err(error)) = future.poll() else {
            panic!("the first poll did not end the call");
        };
        assert!(matches!(error, Error::Rejected(Rejection::TimedOut(_))), "{error:?}");
    }
    let hung = || Flaky::new([Step::Hang], || Ok::<_, Failure>("response"));
    let unready = || Flaky::new([Step::Unready], || Ok::<_, Failure>("response"));
    let timeout = TimeoutLayer::new(LIMIT);
    ends_at_its_limit(timeout.layer(hung())).await;
    let total = timeout.including_readiness();
    ends_at_its_limit(total.layer(hung())).await;
    ends_at_its_limit(total.layer(unready())).await;
    ends_at_its_limit(standard().total_timeout(LIMIT).layer(hung())).await;
    ends_at_its_limit(standard().total_timeout(LIMIT).layer(unready())).await;
}

/// Rule 9.
#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn user_code_may_call_back_into_every_handle() {
    let handles: Arc<Mutex<Option<(CircuitBreakerHandle, BulkheadHandle)>>> = Arc::default();
    let runs = Arc::new(AtomicUsize::new(0));
    let call_back = {
        let (handles, runs) = (Arc::clone(&handles), Arc::clone(&runs));
        move || {
            let (breaker, bulkhead) = handles.lock().unwrap().clone().unwrap();
            breaker.snapshot();
            breaker.force_open();
            breaker.reset();
            bulkhead.resize(bulkhead.limit() + 1).unwrap();
            runs.fetch_add(1, Ordering::Relaxed);
        }
    };
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
    let bulkhead = bulkhead();
    *handles.lock().unwrap() = Some((breaker.handle(), bulkhead.handle()));
    let backoff = Backoff::constant(Duration::from_millis(1)).build().unwrap();
    let replay = {
        let call_back = call_back.clone();
        replay_fn(move |request: &Text| {
            call_back();
            Some(*request)
        })
    };
    let limit = {
        let call_back = call_back.clone();
        TimeoutLayer::per_request(move |_: &Text| {
            call_back();
            LIMIT
        })
    };
    let stack = Stack::new()
        .total_timeout(limit)
        .retry(RetryLayer::builder(replay).backoff(backoff).build().unwrap())
        .bulkhead(bulkhead)
        .circuit_breaker(breaker)
        .classify_fn(move |result: Result<&Text, &Failure>| {
            call_back();
            match result {
                Ok(_) => Outcome::Success,
                Err(_) => Outcome::Failure(Fault::Transient),
            }
        });
    let mut future = call(stack.layer(Flaky::new([], || Err(Failure::Service("down")))));
    while future.poll().is_pending() {
        tick().await;
    }
    // The limit once, the policy before three attempts of four, and both classifiers after each.
    assert_eq!(runs.load(Ordering::Relaxed), 1 + 3 + 2 * 4);
}

/// Rule 11, for the accessors.
#[test]
fn accessors_reach_the_service() {
    macro_rules! reach {
        ($($layer:expr),* $(,)?) => {$({
            let flaky = Flaky::new([], || Ok::<Text, Failure>("response"));
            let mut service = $layer.layer(flaky);
            let _: (&Flaky<_, _>, usize) = (service.get_ref(), 0);
            let _: &mut Flaky<Text, Failure> = service.get_mut();
            let _: Flaky<Text, Failure> = service.into_inner();
        })*};
    }
    let keyed = CircuitBreakerLayer::builder().keyed(|request: &Text| *request).build().unwrap();
    reach!(
        TimeoutLayer::new(LIMIT),
        TimeoutLayer::new(LIMIT).including_readiness(),
        retry(),
        bulkhead(),
        queued(),
        count_window().build().unwrap(),
        keyed,
        CallSpanLayer::new(),
    );
}

// ===== the table =====

#[derive(Default)]
struct Table {
    rows: Vec<(Text, Report, usize)>,
}

impl Table {
    /// Checks a layer, which leaves the type of the error alone.
    async fn layer<S>(
        &mut self,
        name: Text,
        contract: Contract<Text, Text, Failure>,
        make: impl FnMut(Subject) -> S + Send,
    ) where
        S: Service<Text, Response = Text, Error = Failure, Future: Send + fmt::Debug>,
        S: Clone + Send + Sync + fmt::Debug,
    {
        self.wrapped(name, contract, make).await;
    }

    /// The bounds are rules 10 and 11: the kit's future is not `Sync`.
    async fn wrapped<S, E>(
        &mut self,
        name: Text,
        contract: Contract<Text, Text, E>,
        make: impl FnMut(Inner<Text, E>) -> S + Send,
    ) where
        S: Service<Text, Response = Text, Future: Send + fmt::Debug>,
        S: Clone + Send + Sync + fmt::Debug,
        S::Error: CarryRejection + fmt::Debug,
        E: fmt::Debug + Send + 'static,
    {
        let report = contract.check_with(make, tick).await;
        self.rows.push((name, report, 2));
    }

    fn refusing<S>(&mut self, name: Text, make: impl FnMut(Subject) -> S)
    where
        S: Service<Text, Response = Text, Error = Failure>,
    {
        self.rows.push((name, contract().check_refusing(make), 0));
    }

    fn print_and_assert(&self) {
        let rules: Vec<Rule> = Rule::GENERAL.into_iter().chain(Rule::REFUSING).collect();
        for (letter, rule) in ('a'..).zip(&rules) {
            println!("{letter}  {rule}");
        }
        println!(
            "p  services and layers are Send, Sync and Clone when the inner one is; futures need \
             no Sync"
        );
        println!("q  everything is Debug\n");
        let letters: String =
            ('a'..).take(rules.len()).chain("pq".chars()).flat_map(|l| [l, ' ']).collect();
        println!("{:32}{letters} passed", "+ passed   . not applicable");
        let mut checks = 0;
        for (name, report, by_type) in &self.rows {
            let mut passed = *by_type;
            print!("{name:32}");
            for rule in &rules {
                let verdicts: Vec<&Verdict> = report
                    .findings()
                    .filter(|finding| finding.rule() == Some(*rule))
                    .map(|finding| finding.verdict())
                    .collect();
                checks += verdicts.iter().filter(|verdict| ***verdict == Verdict::Passed).count();
                let sign = if verdicts.iter().any(|v| matches!(v, Verdict::Failed(_))) {
                    "X"
                } else if verdicts.contains(&&Verdict::Passed) {
                    passed += 1;
                    "+"
                } else {
                    "."
                };
                print!("{sign} ");
            }
            let sign = if *by_type > 0 { "+" } else { "." };
            println!("{sign} {sign}  {passed:5}");
        }
        println!(
            "\n{} subjects, {checks} checks passed, over a mock and a reserving service",
            self.rows.len()
        );
        let broken: Vec<String> = self
            .rows
            .iter()
            .filter(|(_, report, _)| report.failures().next().is_some())
            .map(|(name, report, _)| {
                let failures: Vec<String> = report.failures().map(ToString::to_string).collect();
                format!("{name}:\n{}", failures.join("\n"))
            })
            .collect();
        assert!(broken.is_empty(), "rules are broken\n{}", broken.join("\n"));
    }
}
