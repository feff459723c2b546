//! Tests of callers that join and leave a shared call at the same time.

use std::{
    future::pending,
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use tokio::{
    task::{AbortHandle, yield_now},
    time::Instant,
};

use super::{
    hashing::Hashed,
    shared_call::{Ended, Part, Permit, Place, SharedCalls},
};
use crate::call::hop::Hop;

type Calls = Arc<SharedCalls<u32, u32>>;

const KEY: u32 = 1;

const DAY: Duration = Duration::from_secs(86_400);

fn calls() -> Calls {
    Arc::new(SharedCalls::new(1_024))
}

fn key() -> Hashed<u32> {
    Hashed::new(7, KEY)
}

/// Joins or begins a call. Returns the place, and the permit of a call that was begun.
fn take_part(calls: &Calls, generation: u64) -> (Place<u32, u32>, Option<Permit>) {
    match calls.join_or_begin(&key(), || generation, Instant::now() + DAY, |_| None::<()>) {
        Ok(Part::Began(place, permit)) => (place, Some(permit)),
        Ok(Part::Joined(place)) => (place, None),
        Ok(Part::Full) | Err(()) => panic!("there is room"),
    }
}

/// A step of one of three callers, or the end of the call that is in the table.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The first time it takes part, and the second time it leaves.
    Caller(usize),
    End,
}

/// Returns all orders of two steps of each of three callers, with the end at each place.
fn all_orders() -> Vec<Vec<Step>> {
    fn extend(left: [u8; 3], order: &mut Vec<Step>, all: &mut Vec<Vec<Step>>) {
        if left == [0; 3] {
            for place in 0..=order.len() {
                let mut with_end = order.clone();
                with_end.insert(place, Step::End);
                all.push(with_end);
            }
            all.push(order.clone());
        }
        for caller in 0..3 {
            if left[caller] > 0 {
                let mut left = left;
                left[caller] -= 1;
                order.push(Step::Caller(caller));
                extend(left, order, all);
                order.pop();
            }
        }
    }
    let mut all = Vec::new();
    extend([2; 3], &mut Vec::new(), &mut all);
    all
}

#[tokio::test]
async fn in_every_order_a_call_ends_with_its_last_caller_and_not_before() {
    let orders = all_orders();
    assert_eq!(orders.len(), 90 * 8);
    for order in orders {
        let calls = calls();
        let mut places: [Option<Place<u32, u32>>; 3] = [None, None, None];
        let mut tasks: Vec<(AbortHandle, Permit)> = Vec::new();
        for step in &order {
            match *step {
                Step::Caller(caller) if places[caller].is_none() => {
                    let (place, permit) = take_part(&calls, 0);
                    if let Some(permit) = permit {
                        let task = tokio::spawn(pending::<()>()).abort_handle();
                        place.call().set_task(task.clone());
                        tasks.push((task, permit));
                    }
                    places[caller] = Some(place);
                }
                Step::Caller(caller) => places[caller] = None,
                Step::End => {
                    if let Some(place) = places.iter().flatten().last() {
                        let call = Arc::clone(place.call());
                        if call.ended().is_none() {
                            calls.remove(&key(), &call, || ());
                            call.end(Ended::NotShareable { failed: false }, Hop::default());
                        }
                    }
                }
            }
            yield_now().await;
            // Whoever has a place has the result, or a task that still runs.
            let running = tasks.iter().filter(|(task, _)| !task.is_finished()).count();
            let waiting = places.iter().flatten().any(|place| place.call().ended().is_none());
            assert!(!waiting || running > 0, "{order:?}");
        }
        drop(places);
        yield_now().await;
        let (_, permit) = take_part(&calls, 0);
        assert!(permit.is_some(), "the key is free after {order:?}");
    }
}

#[test]
fn callers_on_many_threads_never_join_a_call_that_was_left() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 5_000;
    let (calls, barrier) = (calls(), Barrier::new(THREADS));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                barrier.wait();
                for round in 0..ROUNDS {
                    let (place, permit) = take_part(&calls, (round / 1_000) as u64);
                    let another = place.of_call();
                    drop(place);
                    assert!(another.call().ended().is_none());
                    drop((another, permit));
                }
            });
        }
    });
    assert_eq!(calls.count(), 0);
    let (_, permit) = take_part(&calls, 99);
    assert!(permit.is_some(), "the table is empty");
}
