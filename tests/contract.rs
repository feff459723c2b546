//! Tests of the contract, over every layer and every way to configure it.
//!
//! `cargo test --test contract -- --nocapture` prints what was checked as a table.

#[macro_use]
mod layers;

use std::{
    any::{type_name, type_name_of_val},
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Arc, Mutex},
    task::Poll,
};

use buttress::{
    CarryRejection, Error, Fault, Outcome, Rejection, Stack,
    bulkhead::BulkheadHandle,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
    retry::replay_fn,
    testing::{
        CheckOutcome, Flaky, Report, Step,
        contract::{Contract, Inner, Rule},
        task::{Spawned, SpawnedService},
    },
};
use tower::{Layer, Service};

use self::layers::*;

fn contract<E: Send + 'static>(error: fn() -> E) -> Contract<Text, Text, E> {
    Contract::new(|| "request", || "response", error)
}

fn tick() -> impl Future<Output = ()> {
    tokio::time::advance(TICK)
}

fn standard() -> buttress::stack::StandardStack<ReplayClones> {
    let retry = retry(ReplayClones).build().unwrap();
    Stack::standard(ReplayClones).bulkhead(one_at_once().build().unwrap()).retry(retry)
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
    for_every!(layers, |name, make| table.layer(name, make).await);
    for_every!(ways_into_a_stack, |name, make| {
        table.wrapped(name, || fmt::Error, make).await;
    });
    for_every!(layers, |name, make| table.rejecting(name, &make()));
    table.print_and_assert();
}

// ===== the rules that the contract checks cannot see =====

/// Tests when the clock of a timeout starts, which the contract checks cannot see.
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

/// Tests that no lock is held while user code runs.
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
    let bulkhead = one_at_once().build().unwrap();
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
        TimeoutLayer::per_request_fn(move |_: &Text| {
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
    // The limit runs once, the policy before three of the four attempts, and both classifiers
    // after each attempt.
    assert_eq!(runs.load(Ordering::Relaxed), 1 + 3 + 2 * 4);
}

/// Tests that the accessors of every service reach the inner service.
#[test]
fn accessors_reach_the_service() {
    fn service<L: Layer<Client, Service: Service<Text>>>(row: Row<L>) -> L::Service {
        row.layer.layer(Flaky::new([], || Ok("response")))
    }
    // The outermost layer of a stack returns the next layer. The accessors only have to exist
    // there.
    fn reached<T>(name: Text, inner: &T) {
        let client = type_name::<Client>();
        assert!(name.starts_with("stack") || type_name_of_val(inner) == client, "{name}");
    }
    for_every!(layers, |name, make| {
        let mut service = service(make());
        reached(name, service.get_ref());
        reached(name, &*service.get_mut());
        reached(name, &service.into_inner());
    });
}

// ===== the table =====

#[derive(Default)]
struct Table {
    rows: Vec<(String, Report, usize)>,
}

impl Table {
    /// Checks a layer that keeps the error type.
    async fn layer<L>(&mut self, name: Text, make: impl Fn() -> Row<L> + Send + Sync)
    where
        L: Layer<Inner<Text, Failure>>,
        L::Service: Service<Text, Response = Text, Error = Failure, Future: Send + fmt::Debug>
            + Clone
            + Send
            + Sync
            + fmt::Debug,
    {
        self.wrapped(name, || Error::Service("error"), make).await;
    }

    /// Checks a layer through the bounds that its service needs.
    ///
    /// The future of the scripted service is not `Sync`.
    async fn wrapped<L, E>(
        &mut self,
        name: Text,
        error: fn() -> E,
        make: impl Fn() -> Row<L> + Send + Sync,
    ) where
        L: Layer<Inner<Text, E>>,
        L::Service: Service<Text, Response = Text, Future: Send + fmt::Debug>
            + Clone
            + Send
            + Sync
            + fmt::Debug,
        <L::Service as Service<Text>>::Error: CarryRejection + fmt::Debug,
        E: fmt::Debug + Send + 'static,
    {
        let report = keeps_rules(name, contract(error), make).await;
        self.rows.push((name.to_owned(), report, 2));
    }

    /// Checks a layer behind each obstacle that makes it reject.
    fn rejecting<L>(&mut self, name: Text, row: &Row<L>)
    where
        L: Layer<Inner<Text, Failure>, Service: Service<Text, Response = Text, Error = Failure>>,
    {
        for (obstacle, report) in rejects_by_rules(&contract(|| Error::Service("error")), row) {
            self.rows.push((format!("{name}, {obstacle}"), report, 0));
        }
    }

    fn print_and_assert(&self) {
        let rules: Vec<Rule> = Rule::GENERAL.into_iter().chain(Rule::REJECTING).collect();
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
        println!("{:52}{letters} passed", "+ passed   . not applicable");
        let mut checks = 0;
        for (name, report, by_type) in &self.rows {
            let mut passed = *by_type;
            print!("{name:52}");
            for rule in &rules {
                let verdicts: Vec<&CheckOutcome> = report
                    .findings()
                    .filter(|finding| finding.rule() == Some(*rule))
                    .map(|finding| finding.outcome())
                    .collect();
                checks +=
                    verdicts.iter().filter(|verdict| ***verdict == CheckOutcome::Passed).count();
                let sign = if verdicts.iter().any(|v| matches!(v, CheckOutcome::Failed(_))) {
                    "X"
                } else if verdicts.contains(&&CheckOutcome::Passed) {
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
