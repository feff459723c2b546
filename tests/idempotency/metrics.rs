//! Tests of the numbers in a registry.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::{Arc, Mutex},
};

use buttress::{
    CarryRejection,
    error::IdempotencyReason as Reason,
    idempotency::{IdempotencyLayer, Record, Resolution, RunOutcome, StoreError},
    keep::{Keep, Kept},
    telemetry::{Event, Interest, Observer, Source},
    testing::{cancel::CancelHarness, task::Spawned},
};
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt};

use super::{numbers::Numbers, support::*};

const SERIES: &str = "idempotency";

/// Returns a registered layer, its store and its numbers.
fn counted(change: impl FnOnce(Builder) -> Builder) -> (Guarded, Scripted<u64>, Numbers) {
    let (store, numbers) = (Scripted::new(), Numbers::new());
    let guard = change(over(&store)).build().unwrap().register(&numbers.registry);
    numbers.changes();
    (guard, store, numbers)
}

/// Checks the changes, but not those of the store's steps.
#[track_caller]
fn requests(numbers: &Numbers, expected: &[&str]) {
    let mut changes = numbers.changes();
    changes.retain(|it| !it.contains(".store.duration") && !it.contains(".active"));
    let mut expected: Vec<_> = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(changes, expected);
}

fn rejection(reason: &str) -> String {
    format!("rejections idempotency idempotency {reason} +1")
}

fn result(result: &str) -> String {
    format!("idempotency.requests idempotency {result} +1")
}

/// Returns the failed result of a worker.
fn broken() -> Worker {
    Worker::failing(Failure::Service("it broke"))
}

/// A recorder whose results cannot be replayed.
#[derive(Clone, Copy, Debug)]
struct Forgets;

impl Keep<u64> for Forgets {
    type Payload = u64;
    type Response = u64;
    type Error = StoreError;

    async fn keep(&self, response: u64) -> Kept<u64, u64> {
        Kept::not_kept(response)
    }

    fn replay(&self, payload: u64) -> Result<u64, StoreError> {
        Ok(payload)
    }
}

impl<Req, E: CarryRejection> Record<Req, u64, E> for Forgets {
    fn classify(&self, _: Result<&u64, &E>) -> RunOutcome {
        RunOutcome::Completed
    }

    fn pass(&self, response: u64) -> u64 {
        response
    }

    fn max_bytes(&self) -> usize {
        8
    }
}

#[tokio::test(start_paused = true)]
async fn all_series_of_a_layer_are_zero_before_its_first_request() {
    let (_guard, _store, numbers) = counted(|it| it);
    let all = numbers.all();
    let of_layer: Vec<_> = all.iter().filter(|(name, _)| name.contains(SERIES)).collect();
    // 11 rejections, 5 results, 22 durations, and three more.
    assert_eq!(of_layer.len(), 41);
    assert!(of_layer.iter().all(|(_, value)| **value == 0.0));
}

#[tokio::test(start_paused = true)]
async fn each_request_with_a_key_is_counted_once_by_its_result() {
    let (guard, _, numbers) = counted(|it| it);
    assert_eq!(call(&guard, &Worker::quick(), ask("k")).await, Ok(1));
    requests(&numbers, &[&result("run")]);
    for _ in 0..2 {
        assert_eq!(call(&guard, &Worker::quick(), ask("k")).await, Ok(1));
        requests(&numbers, &[&result("replayed")]);
    }
    // The service fails. The layer has not rejected the request.
    call(&guard, &broken(), ask("broken")).await.unwrap_err();
    requests(&numbers, &[&result("run"), "idempotency.unknown idempotency +1"]);
    let unguarded = call(&guard, &Worker::quick(), ask("unguarded")).await;
    assert_eq!(unguarded, Ok(1));
    requests(&numbers, &[]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_over_is_counted_apart() {
    let (store, numbers) = (Scripted::new(), Numbers::new());
    let guard = over(&store).rerun().build().unwrap().register(&numbers.registry);
    call(&guard, &broken(), ask("k")).await.unwrap_err();
    numbers.changes();
    assert_eq!(call(&guard, &Worker::quick(), ask("k")).await, Ok(1));
    requests(&numbers, &[&result("taken_over")]);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_waits_is_counted_once() {
    let (guard, _, numbers) = counted(|it| it.wait_for_duplicates(60 * SECOND));
    let worker = Worker::taking(5 * SECOND);
    let calls: Vec<_> = (0..4).map(|_| spawn(&guard, &worker, ask("k"))).collect();
    settle().await;
    assert_eq!(numbers.get("idempotency.active idempotency"), 1.0);
    requests(&numbers, &[&result("run")]);
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(1));
    }
    requests(&numbers, &["idempotency.requests idempotency replayed +3"]);
}

#[tokio::test(start_paused = true)]
async fn each_rejection_is_counted_once_under_its_reason() {
    let store = Scripted::new();
    let numbers = Numbers::new();
    let guard = scoped(&store).max_runs(1).build().unwrap().register(&numbers.registry);
    let worker = Worker::quick();
    assert_eq!(call(&guard, &worker, ask("done")).await, Ok(1));
    call(&guard, &broken(), ask("broken")).await.unwrap_err();
    numbers.changes();
    let long = "k".repeat(1_000);
    let asks = [
        (Ask { key: None, ..ask("") }, "key_missing"),
        (ask(&long), "key_malformed"),
        (Ask { tenant: "nobody", ..ask("k") }, "scope_missing"),
        (Ask { body: "too large", ..ask("k") }, "body_too_large"),
        (Ask { body: "incomplete", ..ask("k") }, "body_incomplete"),
        (Ask { body: "43", ..ask("done") }, "mismatch"),
        (ask("broken"), "unknown"),
    ];
    for (ask, reason) in asks {
        let has_key = ask.key.is_some();
        let answer = call(&guard, &worker, ask).await;
        assert!(rejected(&answer).is_some(), "{reason}");
        let expected = rejection(&format!("idempotency_{reason}"));
        match has_key {
            true => requests(&numbers, &[&expected, &result("rejected")]),
            false => requests(&numbers, &[&expected]),
        }
    }
    store.next(Step::Claim, [Fault::Fail, Fault::Fail]);
    let answer = call(&guard, &worker, ask("k")).await;
    assert_eq!(rejected(&answer), Some(Reason::StoreUnavailable));
    let down = rejection("idempotency_store_unavailable");
    requests(&numbers, &[&down, &result("rejected")]);
    let running = spawn(&guard, &Worker::taking(SECOND), ask("running"));
    settle().await;
    requests(&numbers, &[&result("run")]);
    for (key, reason) in [("running", "in_flight"), ("other", "full")] {
        assert!(rejected(&call(&guard, &worker, ask(key)).await).is_some());
        let expected = rejection(&format!("idempotency_{reason}"));
        requests(&numbers, &[&expected, &result("rejected")]);
    }
    assert!(running.await.unwrap().is_ok());

    let forgets = IdempotencyLayer::builder(store.clone(), Asks, Asks, Forgets).single_tenant();
    let guard = forgets.build().unwrap().register(&numbers.registry);
    assert_eq!(call(&guard, &worker, ask("once")).await, Ok(2));
    numbers.changes();
    assert!(rejected(&call(&guard, &worker, ask("once")).await).is_some());
    requests(&numbers, &[&rejection("idempotency_not_replayable"), &result("rejected")]);
    assert_eq!(numbers.unreached("rejections"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_rejected_later_is_still_a_run() {
    let (guard, store, numbers) = counted(|it| it);
    let late = call(&guard, &Worker::taking(60 * SECOND), ask("late")).await;
    assert_eq!(rejected(&late), Some(Reason::Unknown));
    let unknown = "idempotency.unknown idempotency +1";
    let rejection = rejection("idempotency_unknown");
    requests(&numbers, &[&result("run"), &rejection, unknown]);
    store.next(Step::Renew, [Fault::Stale]);
    let lost = call(&guard, &Worker::taking(20 * SECOND), ask("lost")).await;
    assert_eq!(rejected(&lost), Some(Reason::Unknown));
    let lease = "idempotency.leases.lost idempotency +1";
    requests(&numbers, &[&result("run"), &rejection, unknown, lease]);
}

/// Takes each step of the store at least once. Returns the layer.
async fn take_all_steps(store: &Scripted<u64>, numbers: &Numbers) -> Guarded {
    let builder = over(store).reserve_first().store_timeout(SECOND);
    let guard = builder.build().unwrap().register(&numbers.registry);
    let worker = Worker::new(|ask, run| async move {
        let _ = ask.run.as_ref().unwrap().save("checkpoint").await;
        sleep(15 * SECOND).await;
        if ask.key.as_deref() == Some("abandoned") {
            Err(Failure::Service("it broke"))
        } else {
            Ok(run)
        }
    });
    for key in ["first", "completed", "abandoned"] {
        let _ = call(&guard, &worker, ask(key)).await;
    }
    let mut leaving = Spawned::new(guard.layer(worker.clone()).oneshot(ask("released")));
    for _ in 0..2 {
        assert!(leaving.poll().is_pending());
    }
    drop(leaving);
    sleep(60 * SECOND).await;
    let operator = guard.handle();
    let _ = operator.count_unknown().await;
    let _ = operator.unknown(None, 10).await;
    let unknown = operator.unknown(None, 10).await.unwrap().pop().unwrap();
    let _ = operator.resolve(&unknown, Resolution::Never).await;
    guard
}

#[tokio::test(start_paused = true)]
async fn each_step_of_the_store_is_measured_once_with_its_outcome() {
    let names = [
        (Step::Claim, "claim"),
        (Step::MarkStarted, "mark_started"),
        (Step::Renew, "renew"),
        (Step::Checkpoint, "checkpoint"),
        (Step::Complete, "complete"),
        (Step::Release, "release"),
        (Step::Abandon, "abandon"),
        (Step::Resolve, "resolve"),
        (Step::List, "unknown"),
        (Step::Count, "count_unknown"),
        (Step::Sweep, "sweep"),
    ];
    for fault in [Fault::None, Fault::FailAfter] {
        let (store, numbers) = (Scripted::new(), Numbers::new());
        for (step, _) in names {
            // An operation can only be resolved once it was listed, and a run only after its claim.
            let needed = matches!(step, Step::Claim | Step::MarkStarted | Step::List);
            match needed {
                true => store.next(step, [fault]),
                false => store.next(step, [fault; 3]),
            }
        }
        let _guard = take_all_steps(&store, &numbers).await;
        for (step, name) in names {
            let series = |outcome| {
                numbers.get(&format!("idempotency.store.duration idempotency {name} {outcome}"))
            };
            let (success, failure) = (series("success"), series("failure"));
            assert_eq!(success + failure, store.taken(step) as f64, "{name}");
            match fault {
                Fault::None => assert!(success > 0.0 && failure == 0.0, "{name}"),
                _ => assert!(failure > 0.0, "{name}"),
            }
        }
    }
    let (guard, store, numbers) = counted(|it| it);
    store.next(Step::Claim, [Fault::AnswerLate(300 * MS)]);
    assert_eq!(call(&guard, &Worker::quick(), ask("k")).await, Ok(1));
    assert_eq!(numbers.millis("buttress.idempotency.store.duration", "claim"), 300);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_is_counted_once_wherever_it_leaves() {
    let (guard, _, numbers) = counted(|it| it.wait_for_duplicates(SECOND));
    let worker = Worker::taking(100 * MS);
    let mut keys = 0..;
    let started = std::cell::Cell::new(0);
    let make = || {
        let key = keys.next().unwrap().to_string();
        started.set(started.get() + 1);
        guard.layer(worker.clone()).oneshot(Ask { body: "slow", ..ask(&key) })
    };
    let pass = || advance(60 * MS);
    let mut unpolled = 0.0;
    let polls = CancelHarness::new(make)
        .run_with(pass, |polls| {
            // A request that is dropped before its first poll has not begun.
            unpolled += f64::from(u8::from(polls == 0));
            let counted = numbers.sum("idempotency.requests");
            assert_eq!(counted + unpolled, f64::from(started.get()), "{polls}");
        })
        .await;
    assert!(polls > 10, "{polls}");
    sleep(60 * SECOND).await;
    let sum = |result| numbers.get(&format!("idempotency.requests idempotency {result}"));
    assert!(sum("left") > 5.0 && sum("run") > 1.0);
    assert_eq!(sum("left") + sum("run") + unpolled, f64::from(started.get()));
    assert_eq!(numbers.get("idempotency.active idempotency"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_code_panics_is_counted_once() {
    let (guard, _, numbers) = counted(|it| it);
    let worker = Worker::new(|ask, run| async move {
        assert_ne!(ask.body, "panic in the service");
        Ok(run)
    });
    for (body, expected) in [
        ("panic in read", vec![result("left")]),
        ("panic in hand_over", vec![result("left")]),
        (
            "panic in the service",
            vec![result("run"), "idempotency.unknown idempotency +1".to_owned()],
        ),
    ] {
        let call = spawn(&guard, &worker, Ask { body, ..ask(body) });
        assert!(call.await.unwrap_err().is_panic());
        settle().await;
        requests(&numbers, &expected.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(numbers.get("idempotency.active idempotency"), 0.0);
    }
    // The request has no key yet.
    assert!(spawn(&guard, &worker, ask("panic in find_key")).await.unwrap_err().is_panic());
    requests(&numbers, &[]);
}

#[tokio::test(start_paused = true)]
async fn layers_with_the_same_name_count_together_and_take_nothing_back() {
    let (guard, _, numbers) = counted(|it| it.name("payments"));
    let other = over(&Scripted::new()).name("payments").build().unwrap();
    let other = other.register(&numbers.registry);
    let own = over(&Scripted::new()).name("refunds").build().unwrap().register(&numbers.registry);
    for guard in [&guard, &other, &own] {
        assert_eq!(call(guard, &Worker::quick(), ask("k")).await, Ok(1));
    }
    let run = |name| numbers.get(&format!("idempotency.requests {name} run"));
    assert_eq!((run("payments"), run("refunds")), (2.0, 1.0));
    drop(other);
    sleep(SECOND).await;
    assert_eq!(run("payments"), 2.0);
    drop((guard, own));
    sleep(60 * SECOND).await;
    assert!(numbers.all().keys().all(|name| !name.contains("payments")));
}

#[tokio::test(start_paused = true)]
async fn a_registry_is_drained_once_the_runs_have_ended_even_if_their_callers_left() {
    let (guard, _, numbers) = counted(|it| it);
    let mut drained = Spawned::new({
        let registry = numbers.registry.clone();
        async move { registry.drained().await }
    });
    let caller = spawn(&guard, &Worker::taking(10 * SECOND), ask("k"));
    settle().await;
    caller.abort();
    settle().await;
    assert!(drained.poll().is_pending());
    sleep(9 * SECOND).await;
    assert!(!drained.is_woken() && drained.poll().is_pending());
    sleep(2 * SECOND).await;
    assert!(drained.is_woken() && drained.poll().is_ready());
    assert_eq!(numbers.get("idempotency.active idempotency"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_closed_layer_is_not_ready() {
    let (guard, _, numbers) = counted(|it| it.name("payments"));
    assert!(numbers.registry.ready().is_ready());
    guard.handle().close();
    let ready = numbers.registry.ready();
    let [unready] = &ready.unready[..] else { panic!("{ready:?}") };
    assert_eq!((unready.layer.as_str(), unready.kind), ("payments", "idempotency"));
    assert_eq!((unready.stack.is_none(), unready.reason), (true, "closed"));
    drop(guard);
    assert!(numbers.registry.ready().is_ready());
}

/// An observer that keeps the texts of all events.
#[derive(Clone, Default)]
struct Texts(Arc<Mutex<Vec<String>>>);

impl Observer for Texts {
    fn on_event(&self, source: Source<'_>, event: &Event<'_>) {
        self.0.lock().unwrap().push(format!("{source:?} {event:?}"));
    }

    fn interest(&self) -> Interest {
        Interest::All
    }
}

#[tokio::test(start_paused = true)]
async fn neither_keys_nor_responses_are_shown() {
    let (guard, store, numbers) = counted(|it| it);
    let texts = Texts::default();
    numbers.registry.observe(texts.clone());
    let secret = "card-4242";
    let body = |body| Ask { body, ..ask(secret) };
    call(&guard, &broken(), body("card-4243")).await.unwrap_err();
    store.everything(Fault::Fail);
    call(&guard, &Worker::quick(), body("card-4244")).await.unwrap_err();
    let seen = texts.0.lock().unwrap();
    let events: BTreeSet<&str> = ["OperationUnknown", "StoreFailed", "Rejected", "Measured"].into();
    assert!(events.iter().all(|event| seen.iter().any(|it| it.contains(event))), "{seen:?}");
    let shown: Vec<&dyn Debug> = vec![&*seen, &numbers.registry];
    for shown in shown {
        assert!(!format!("{shown:?}").contains("card"));
    }
    assert!(numbers.all().keys().all(|name| !name.contains("card")));
}
