//! Tests of panics in the code that the layer calls.

use buttress::{
    CarryRejection,
    error::IdempotencyReason as Reason,
    idempotency::{IdempotencyLayer, Record, RunOutcome, Settled, StoreError},
    keep::{Keep, Kept},
    testing::{Flaky, Step as Script},
};
use tower::{Layer, Service};

use super::support::*;

/// A recorder of numbers that panics at one point.
#[derive(Clone, Copy, Debug)]
struct Panics(&'static str);

impl Panics {
    fn at(self, place: &str) {
        assert!(self.0 != place, "{place}");
    }
}

impl Keep<u64> for Panics {
    type Payload = u64;
    type Response = u64;
    type Error = StoreError;

    async fn keep(&self, response: u64) -> Kept<u64, u64> {
        self.at("keep");
        match self.0 {
            "break" => Kept::broken_off(response),
            _ => Kept::new(response, response, 8),
        }
    }

    fn replay(&self, payload: u64) -> Result<u64, StoreError> {
        self.at("replay");
        match self.0 {
            "garble" => Err(StoreError::Garbled("nonsense")),
            _ => Ok(payload),
        }
    }
}

impl<Req, E: CarryRejection> Record<Req, u64, E> for Panics {
    fn classify(&self, result: Result<&u64, &E>) -> RunOutcome {
        self.at("judge");
        result.map_or(RunOutcome::Unknown, |_| match self.0 {
            "pass" => RunOutcome::NotStarted,
            _ => RunOutcome::Completed,
        })
    }

    fn pass(&self, response: u64) -> u64 {
        self.at("pass");
        response
    }

    fn mark_done(&self, _: &mut u64) {
        self.at("mark_done");
    }

    fn mark_replayed(&self, _: &mut u64) {
        self.at("mark_replayed");
    }

    fn max_bytes(&self) -> usize {
        self.at("max_bytes");
        8
    }
}

fn recorded_by(
    store: &Scripted<u64>,
    record: Panics,
) -> IdempotencyLayer<Scripted<u64>, Asks, buttress::idempotency::SingleTenant, Asks, Panics> {
    IdempotencyLayer::builder(store.clone(), Asks, Asks, record).single_tenant().build().unwrap()
}

/// Checks that a call panics with this message.
async fn panics<L, S>(layer: &L, service: &S, ask: Ask, message: &str)
where
    S: Clone,
    L: Layer<S>,
    L::Service: Service<Ask, Response = u64, Error = Failure, Future: Send> + Send + 'static,
{
    let panic = spawn(layer, service, ask).await.unwrap_err().into_panic();
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    assert!(said.is_some_and(|said| said.contains(message)), "{said:?} is not {message}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_before_the_claim_leaves_no_trace() {
    let (guard, store) = guard();
    let worker = Worker::quick();
    panics(&guard, &worker, ask("panic in find_key"), "find_key").await;
    panics(&guard, &worker, Ask { body: "panic in read", ..ask("k") }, "read").await;
    assert_eq!((worker.runs(), store.taken(Step::Claim)), (0, 0));
    nothing_is_left(guard, &store, SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_between_claim_and_run_leaves_the_key_free() {
    let (guard, store) = guard();
    let worker = Worker::quick();
    let body = "panic in hand_over";
    panics(&guard, &worker, Ask { body, ..ask("k") }, "hand_over").await;
    settle().await;
    assert_eq!((worker.runs(), guard.handle().in_flight()), (0, 0));
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
    nothing_is_left(guard, &store, 60 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_service_is_that_of_the_caller_and_the_operation_is_unknown() {
    for (script, reason) in [
        (Script::PanicInReadiness, None),
        (Script::PanicInCall, Some(Reason::Unknown)),
        (Script::PanicInPoll, Some(Reason::Unknown)),
    ] {
        let (guard, store) = guard();
        let said = format!("{script:?}");
        let service = Flaky::new([script], || Ok(1));
        panics(&guard, &service, ask("k"), "panic").await;
        assert_eq!(guard.handle().in_flight(), 0, "{said}");
        assert_eq!(rejected(&call(&guard, &service, ask("k")).await), reason, "{said}");
        nothing_is_left(guard, &store, 60 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_result_is_recorded_leaves_the_operation_unknown() {
    for place in ["judge", "keep", "mark_done", "pass"] {
        let store = Scripted::new();
        let layer = recorded_by(&store, Panics(place));
        let worker = Worker::quick();
        panics(&layer, &worker, ask("k"), place).await;
        assert_eq!(layer.handle().in_flight(), 0, "{place}");
        let again = call(&layer, &worker, ask("k")).await;
        assert_eq!(rejected(&again), Some(Reason::Unknown), "{place}");
        assert_eq!(worker.runs(), 1, "{place}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_result_is_given_again_is_that_of_the_caller() {
    let store = Scripted::new();
    let worker = Worker::quick();
    assert_eq!(call(&recorded_by(&store, Panics("nowhere")), &worker, ask("k")).await, Ok(1));
    for place in ["replay", "mark_replayed", "max_bytes"] {
        let layer = recorded_by(&store, Panics(place));
        panics(&layer, &worker, ask("k"), place).await;
        assert_eq!(layer.handle().in_flight(), 0, "{place}");
    }
    let garbled = call(&recorded_by(&store, Panics("garble")), &worker, ask("k")).await;
    assert_eq!(rejected(&garbled), Some(Reason::StoreUnavailable));
    assert_eq!(worker.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_is_unknown() {
    let store = Scripted::new();
    let layer = recorded_by(&store, Panics("break"));
    let worker = Worker::quick();
    assert_eq!(call(&layer, &worker, ask("k")).await, Ok(1));
    assert_eq!(rejected(&call(&layer, &worker, ask("k")).await), Some(Reason::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_it_is_reconciled_leaves_the_operation_unknown() {
    let store = Scripted::new();
    let guard = over(&store)
        .reconcile_fn(|_| async { panic!("reconcile") as Settled<u64> })
        .build()
        .unwrap();
    let failing = Worker::failing(Failure::Service("it broke"));
    call(&guard, &failing, ask("k")).await.unwrap_err();
    panics(&guard, &Worker::quick(), ask("k"), "reconcile").await;
    assert_eq!((guard.handle().in_flight(), guard.handle().count_unknown().await.unwrap()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_store_is_that_of_the_caller_or_of_nobody() {
    let (guard, store) = guard();
    let worker = Worker::taking(25 * SECOND);
    store.next(Step::Claim, [Fault::Panic]);
    panics(&guard, &worker, ask("k"), "the store panics").await;
    settle().await;
    assert_eq!((worker.runs(), guard.handle().in_flight()), (0, 0));
    // One task renews all leases. A panic must not affect the other runs.
    store.next(Step::Renew, [Fault::Panic]);
    assert_eq!(call(&guard, &Worker::taking(29 * SECOND), ask("k")).await, Ok(1));
    store.next(Step::Complete, [Fault::Panic]);
    let answer = call(&guard, &worker, ask("l")).await;
    assert_eq!(rejected(&answer), Some(Reason::Unknown));
    assert_eq!(guard.handle().in_flight(), 0);
    nothing_is_left(guard, &store, 60 * SECOND).await;
}
