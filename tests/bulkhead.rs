//! Tests of the bulkhead layer through its public API.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::ready,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use buttress::{
    CarryRejection, Deadline, Error, Rejection, Stack,
    bulkhead::{BulkheadHandle, BulkheadLayer, QueuedBulkheadLayer},
    testing::{
        Flaky, FlakyHandle, PanicPoint, Reserving, Step,
        cancel::{CancelHarness, PanicHarness},
        task::{CountingWaker, Spawned, SpawnedService},
    },
    timeout::TimeoutLayer,
};
use tokio::{
    task::JoinSet,
    time::{Instant, advance, sleep},
};
use tower::{Layer, Service, ServiceExt, service_fn};

type Failure = Error<&'static str>;
type Inner = Flaky<&'static str, Failure>;

const MAX_WAIT: Duration = Duration::from_millis(500);

fn flaky(steps: impl IntoIterator<Item = Step<&'static str, Failure>>) -> Inner {
    Flaky::new(steps, || Ok("answer"))
}

/// Creates a service whose calls all hang until they are released.
fn held(calls: usize) -> (Inner, FlakyHandle<&'static str, Failure>) {
    let flaky = flaky((0..calls).map(|_| Step::RespondWhenReleased(Ok("held"))));
    let handle = flaky.handle();
    (flaky, handle)
}

fn rejecting(limit: u32) -> BulkheadLayer {
    BulkheadLayer::builder().max_concurrent(limit).build().unwrap()
}

fn queueing(limit: u32, capacity: u32) -> QueuedBulkheadLayer {
    BulkheadLayer::builder().max_concurrent(limit).queue(capacity, MAX_WAIT).build().unwrap()
}

fn backpressure(limit: u32) -> BulkheadLayer {
    BulkheadLayer::builder().max_concurrent(limit).backpressure().build().unwrap()
}

fn counts(handle: &BulkheadHandle) -> (u32, u32) {
    (handle.in_flight(), handle.queued())
}

fn kind<T: std::fmt::Debug>(result: Result<T, Failure>) -> &'static str {
    result.unwrap_err().rejection().map_or("no rejection", Rejection::kind)
}

/// Calls a ready clone of the service, and polls the call once.
fn start<S>(service: &S) -> Spawned<S::Future>
where
    S: Service<(), Response = &'static str, Error = Failure> + Clone,
{
    let mut service = SpawnedService::new(service.clone());
    assert!(service.poll_ready().is_ready());
    let mut call = service.call(());
    assert!(call.poll().is_pending());
    call
}

/// Starts a call that has a deadline, which does not end it here.
async fn start_within<S>(limit: Duration, service: &S) -> Spawned<S::Future>
where
    S: Service<(), Response = &'static str, Error = Failure> + Clone,
{
    Deadline::scope(Deadline::after(limit), async { start(service) }).await.unwrap()
}

/// Calls this instance when it is ready.
async fn go<S: Service<()>>(service: &mut S) -> Result<S::Response, S::Error> {
    service.ready().await?.call(()).await
}

#[tokio::test(start_paused = true)]
async fn bulkhead_full_error_is_full() {
    let (inner, flaky) = held(1);
    let layer = BulkheadLayer::builder().name("orders").max_concurrent(1).build().unwrap();
    let service = layer.layer(inner);
    let _first = start(&service);
    let error = service.oneshot(()).await.unwrap_err();
    let Some(Rejection::BulkheadFull(full)) = error.rejection() else { panic!("{error:?}") };
    assert_eq!((full.name(), full.limit()), ("orders", 1));
    assert_eq!((flaky.calls(), flaky.readiness_polls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_reserves_nothing_of_the_service() {
    let reserving = Reserving::new(held(1).0, usize::MAX);
    let slots = reserving.handle();
    let service = rejecting(1).layer(reserving);
    let first = start(&service);
    let mut rejected = service.clone();
    assert!(ServiceExt::<()>::ready(&mut rejected).await.is_ok());
    assert_eq!((slots.taken(), slots.reserved()), (1, 0));
    drop(first);
    // A rejection lasts until `call` consumes it.
    assert_eq!(kind(go(&mut rejected).await), "bulkhead_full");
    assert!(go(&mut rejected).await.is_ok());
    assert_eq!(slots.unready_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn queue_timeout_error_is_distinct() {
    let (inner, flaky) = held(1);
    let service = queueing(1, 8).layer(inner);
    let _first = start(&service);
    let began = Instant::now();
    let error = service.oneshot(()).await.unwrap_err();
    let Some(Rejection::QueueTimedOut(late)) = error.rejection() else { panic!("{error:?}") };
    assert_eq!((late.waited(), began.elapsed()), (MAX_WAIT, MAX_WAIT));
    assert_eq!(flaky.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn queue_is_bounded() {
    let layer = queueing(2, 3);
    let handle = layer.handle();
    let service = layer.layer(held(2).0);
    let _calls: Vec<_> = (0..5).map(|_| start(&service)).collect();
    assert_eq!(counts(&handle), (2, 3));
    assert_eq!(kind(service.clone().oneshot(()).await), "bulkhead_full");
    assert_eq!(counts(&handle), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn queued_call_holds_no_inner_reservation() {
    let (inner, flaky) = held(1);
    let reserving = Reserving::new(inner, usize::MAX);
    let slots = reserving.handle();
    let service = queueing(1, 8).layer(reserving);
    let first = start(&service);
    let mut queued: Vec<_> = (0..8).map(|_| start(&service)).collect();
    assert_eq!((slots.taken(), slots.reserved(), flaky.readiness_polls()), (1, 0, 1));
    drop(first);
    for call in &mut queued {
        assert!(call.is_woken());
        assert_eq!(call.poll(), Poll::Ready(Ok("answer")));
        assert_eq!(call.polls(), 2);
    }
    assert_eq!((slots.taken(), slots.unready_calls()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_first_come_first_served() {
    let layer = queueing(1, 8);
    let handle = layer.handle();
    let order = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&order);
    let inner = service_fn(move |number: u32| {
        let log = Arc::clone(&log);
        async move {
            log.lock().unwrap().push(number);
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<_, Failure>(())
        }
    });
    let service = layer.layer(inner);
    let mut calls = Vec::new();
    for number in 0..6 {
        let mut instance = service.clone();
        calls.push(instance.ready().await.unwrap().call(number));
    }
    assert_eq!(counts(&handle), (1, 5));
    for result in futures::future::join_all(calls).await {
        assert_eq!(result, Ok(()));
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(counts(&handle), (0, 0));
}

/// The slots, the time of a call and the limit of each caller, in the tests of lasting load.
const SLOTS: u32 = 50;
const CALL: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_millis(500);

/// The numbers of calls that were made, had a response in time, and began.
#[derive(Clone, Copy, Debug, Default)]
struct Became {
    calls: u32,
    answered: u32,
    begun: u32,
}

/// Sends calls for five seconds, and waits half a second more for the last ones.
///
/// `rate` returns the calls per millisecond, for each millisecond. The bulkhead can serve 1,000
/// calls a second.
async fn under_load(max_wait: Duration, rate: impl Fn(u32) -> f64) -> Became {
    let bulkhead = BulkheadLayer::builder().max_concurrent(SLOTS).queue(10_000, max_wait);
    let became = Arc::new(Mutex::new(Became::default()));
    let log = Arc::clone(&became);
    let inner = service_fn(move |()| {
        log.lock().unwrap().begun += 1;
        async {
            tokio::time::sleep(CALL).await;
            Ok::<_, Infallible>(())
        }
    });
    let service =
        Stack::new().total_timeout(LIMIT).bulkhead(bulkhead.build().unwrap()).service(inner);
    let mut due = 0.0;
    for millisecond in 0..5_000 {
        due += rate(millisecond);
        while due >= 1.0 {
            due -= 1.0;
            let (service, log) = (service.clone(), Arc::clone(&became));
            log.lock().unwrap().calls += 1;
            tokio::spawn(async move {
                let result = service.oneshot(()).await;
                log.lock().unwrap().answered += u32::from(result.is_ok());
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(LIMIT).await;
    *became.lock().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_queue_under_lasting_overload_answers_in_time_or_does_not_begin() {
    // The callers' deadline is as long as the wait, shorter by far, or all there is.
    for max_wait in [LIMIT, LIMIT * 60, Duration::MAX] {
        for load in [1.3, 2.0, 5.0] {
            let became = under_load(max_wait, |_| load).await;
            assert!(became.answered >= 5 * 950, "{load} for {max_wait:?}: {became:?}");
            assert!(became.begun <= 5 * 1_050 + 500, "{load} for {max_wait:?}: {became:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_keeps_up_answers_everybody() {
    let busy = under_load(LIMIT, |_| 0.9).await;
    // Five times as much as it can serve, for a tenth of each second.
    let bursts = under_load(LIMIT, |ms| if ms % 1_000 < 100 { 5.0 } else { 0.2 / 0.9 }).await;
    for became in [busy, bursts] {
        assert_eq!((became.answered, became.begun), (became.calls, became.calls));
    }
}

/// A queue before a worker pool is never empty, but each worker gets its turn.
#[tokio::test(start_paused = true)]
async fn a_pool_of_workers_over_fewer_slots_is_never_rejected() {
    let call = Duration::from_millis(50);
    let layer =
        BulkheadLayer::builder().max_concurrent(50).queue(1_000, call * 10).build().unwrap();
    let service = layer.layer(service_fn(move |(): ()| async move {
        sleep(call).await;
        Ok::<_, Failure>(())
    }));
    let end = Instant::now() + Duration::from_secs(30);
    let mut workers = JoinSet::new();
    for _ in 0..100 {
        let mut service = service.clone();
        workers.spawn(async move {
            while Instant::now() < end {
                let began = Instant::now();
                go(&mut service).await.unwrap();
                assert!(began.elapsed() <= call * 2 + Duration::from_millis(1));
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_newest_first_from_when_it_has_stood_for_its_wait_until_it_is_empty() {
    for stands in [MAX_WAIT - Duration::from_millis(1), MAX_WAIT, MAX_WAIT * 2] {
        let newest_first = stands >= MAX_WAIT;
        let layer = queueing(1, 8);
        let service = layer.layer(held(1).0);
        let running = start(&service);
        let mut waiters = vec![start(&service)];
        // The queue is never empty, though nobody waits for as long as it stands.
        for _ in 0..4 {
            advance(stands / 5).await;
            waiters.push(start(&service));
        }
        advance(stands - stands / 5 * 4).await;
        let mut order = vec![0, 1, 2, 3, 4];
        if newest_first {
            order.reverse();
        }
        drop(running);
        for waiter in order {
            let waiter = &mut waiters[waiter];
            assert!(waiter.is_woken(), "the queue stood for {stands:?}");
            assert_eq!(waiter.poll(), Poll::Ready(Ok("answer")), "it stood for {stands:?}");
        }
        assert_eq!(counts(&layer.handle()), (0, 0));

        // An empty queue starts over.
        let (inner, flaky) = held(1);
        let service = layer.layer(inner);
        let running = start(&service);
        let mut waiters = [start(&service), start(&service)];
        flaky.release();
        drop(running);
        assert_eq!(waiters.each_ref().map(Spawned::is_woken), [true, false]);
        assert!(waiters.iter_mut().all(|waiter| waiter.poll().is_ready()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_in_a_hurry_does_not_change_the_order_for_others() {
    let layer = queueing(1, 8);
    let service = layer.layer(held(1).0);
    let running = start(&service);
    let ms = Duration::from_millis(1);
    let mut waiters = Vec::new();
    for limit in [ms, ms, MAX_WAIT, ms] {
        waiters.push(start_within(limit, &service).await);
    }
    advance(ms * 20).await;
    assert_eq!(counts(&layer.handle()), (1, 4));
    drop(running);
    assert_eq!(waiters.iter().map(Spawned::wakes).collect::<Vec<_>>(), [1, 0, 0, 0]);

    // If all callers are in a hurry, their time counts.
    let service = queueing(1, 8).layer(held(1).0);
    let running = start(&service);
    let mut waiters = Vec::new();
    for limit in [ms * 10, ms * 20, ms * 10] {
        waiters.push(start_within(limit, &service).await);
    }
    advance(ms * 20).await;
    drop(running);
    assert_eq!(waiters.iter().map(Spawned::wakes).collect::<Vec<_>>(), [0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_the_queue() {
    let layer = queueing(1, 8);
    let handle = layer.handle();
    let service = layer.layer(held(1).0);
    let first = start(&service);
    let mut waiting = start(&service);
    drop(first);
    // The waiter already has the slot, although it has not been polled since.
    assert_eq!(counts(&handle), (1, 0));
    let _late = start(&service);
    assert_eq!(counts(&handle), (1, 1));
    assert_eq!(waiting.poll(), Poll::Ready(Ok("answer")));
}

#[tokio::test(start_paused = true)]
async fn a_slot_handed_to_a_dropped_waiter_goes_to_the_next() {
    let layer = queueing(1, 8);
    let handle = layer.handle();
    let service = layer.layer(held(1).0);
    let first = start(&service);
    let waiters: Vec<_> = (0..4).map(|_| start(&service)).collect();
    drop(first);
    let mut waiters = waiters.into_iter();
    // Each waiter was given the slot, and is dropped before it is polled again.
    for _ in 0..3 {
        let waiter = waiters.next().unwrap();
        assert!(waiter.is_woken());
        assert_eq!(waiter.cancel().holders(), 0);
    }
    let mut last = waiters.next().unwrap();
    assert_eq!(last.wakes(), 1);
    assert_eq!(last.poll(), Poll::Ready(Ok("answer")));
    assert_eq!(counts(&handle), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_loses_a_select_while_queued_starves_nobody() {
    let layer = queueing(1, 8);
    let handle = layer.handle();
    let (inner, flaky) = held(1);
    let service = layer.layer(inner);
    let first = start(&service);
    for _ in 0..20 {
        tokio::select! {
            biased;
            _ = service.clone().oneshot(()) => panic!("the slot is taken"),
            () = ready(()) => {}
        }
    }
    let mut patient = start(&service);
    tokio::select! {
        biased;
        _ = service.clone().oneshot(()) => panic!("the slot is taken"),
        () = ready(()) => {}
    }
    assert_eq!(counts(&handle), (1, 1));
    flaky.release();
    drop(first);
    assert_eq!(patient.poll(), Poll::Ready(Ok("answer")));
    assert_eq!(counts(&handle), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn aborted_waiters_leave_no_waker_behind() {
    let layer = queueing(1, 5_000);
    let handle = layer.handle();
    let service = layer.layer(held(1).0);
    let first = start(&service);
    let waiters: Vec<_> = (0..5_000).map(|_| start(&service)).collect();
    assert_eq!(counts(&handle), (1, 5_000));
    // Callers leave in no particular order.
    let (even, odd): (Vec<_>, Vec<_>) =
        waiters.into_iter().enumerate().partition(|(number, _)| number % 2 == 0);
    for (_, waiter) in even.into_iter().chain(odd.into_iter().rev()) {
        let waker = waiter.cancel();
        assert_eq!((waker.holders(), waker.wakes()), (0, 0));
    }
    assert_eq!(counts(&handle), (1, 0));
    drop(first);
    assert_eq!(counts(&handle), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn aborted_instances_under_backpressure_leave_no_waker_behind() {
    let layer = backpressure(1);
    let handle = layer.handle();
    let service = layer.layer(held(1).0);
    let _first = start(&service);
    let mut waiters = Vec::new();
    for _ in 0..5_000 {
        let mut waiter = SpawnedService::<_, ()>::new(service.clone());
        assert!(waiter.poll_ready().is_pending());
        waiters.push(waiter);
    }
    assert_eq!(handle.queued(), 5_000);
    for waiter in waiters {
        assert_eq!(waiter.cancel().holders(), 0);
    }
    assert_eq!(handle.queued(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_wakes_the_task_that_polled_it_last() {
    let service = queueing(1, 8).layer(held(1).0);
    let first = start(&service);
    let mut waiting = start(&service);
    let stale: CountingWaker = waiting.hand_over();
    assert!(waiting.poll().is_pending());
    drop(first);
    assert!(waiting.is_woken());
    assert_eq!(stale.wakes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_bigger_limit_wakes_exactly_as_many() {
    let layer = queueing(1, 8);
    let handle = layer.handle();
    let service = layer.layer(held(3).0);
    let _first = start(&service);
    let mut waiters: Vec<_> = (0..5).map(|_| start(&service)).collect();
    handle.resize(3).unwrap();
    assert_eq!(counts(&handle), (3, 3));
    let woken: Vec<_> = waiters.iter().map(Spawned::wakes).collect();
    assert_eq!(woken, [1, 1, 0, 0, 0]);
    assert!(waiters[0].poll().is_pending() && waiters[1].poll().is_pending());
    assert_eq!(handle.limit(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_limit_waits_for_calls_to_end() {
    let layer = queueing(3, 8);
    let handle = layer.handle();
    let service = layer.layer(held(3).0);
    let mut running: Vec<_> = (0..3).map(|_| start(&service)).collect();
    let waiting = start(&service);
    handle.resize(1).unwrap();
    assert_eq!(counts(&handle), (3, 1));
    running.pop();
    running.pop();
    assert_eq!((counts(&handle), waiting.is_woken()), ((1, 1), false));
    running.pop();
    assert_eq!((counts(&handle), waiting.wakes()), ((1, 0), 1));
    assert_eq!(handle.resize(0).unwrap_err().knob(), "resize");
    assert_eq!(handle.limit(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_limit_rejects_at_once() {
    let layer = rejecting(2);
    let handle = layer.handle();
    let service = layer.layer(held(1).0);
    let first = start(&service);
    handle.resize(1).unwrap();
    assert_eq!(kind(service.clone().oneshot(()).await), "bulkhead_full");
    drop(first);
    assert_eq!(service.oneshot(()).await, Ok("answer"));
}

#[tokio::test(start_paused = true)]
async fn a_queue_cut_by_an_outer_deadline_is_neither_full_nor_late() {
    let layer = queueing(1, 8);
    let handle = layer.handle();
    let limit = Duration::from_millis(50);
    let total = TimeoutLayer::builder(limit).name("total").build().unwrap();
    let service = total.layer(layer.layer(held(1).0));
    let _first = start(service.get_ref());
    let began = Instant::now();
    let error = service.clone().oneshot(()).await.unwrap_err();
    let Some(Rejection::TimedOut(late)) = error.rejection() else { panic!("{error:?}") };
    assert_eq!((late.name(), began.elapsed()), ("total", limit));
    assert_eq!(counts(&handle), (1, 0));

    // The owner has the only timer, and the queue keeps a waker.
    let mut call = start(&service);
    assert_eq!(call.hand_over().holders(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_comes_at_the_last_instant_is_taken() {
    let service = queueing(1, 8).layer(held(1).0);
    let first = start(&service);
    let mut waiting = start(&service);
    advance(MAX_WAIT).await;
    assert!(waiting.is_woken());
    drop(first);
    assert_eq!(waiting.poll(), Poll::Ready(Ok("answer")));
}

#[tokio::test(start_paused = true)]
async fn backpressure_keeps_the_place_of_who_stops_asking() {
    let layer = backpressure(1);
    let handle = layer.handle();
    let service = layer.layer(held(1).0);
    let first = start(&service);
    let mut abandoned = SpawnedService::<_, ()>::new(service.clone());
    let mut patient = SpawnedService::<_, ()>::new(service.clone());
    assert!(abandoned.poll_ready().is_pending() && patient.poll_ready().is_pending());
    drop(first);
    // The waiter has the slot until it calls or is dropped, although nobody polls it.
    assert!(abandoned.is_woken() && !patient.is_woken());
    assert_eq!(counts(&handle), (1, 1));
    drop(abandoned);
    assert_eq!(patient.wakes(), 1);
    assert!(patient.poll_ready().is_ready());
    assert!(patient.poll_ready().is_ready());
    assert_eq!(patient.call(()).poll(), Poll::Ready(Ok("answer")));
    assert_eq!(counts(&handle), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_ready_instance_holds_its_slot_until_it_is_dropped() {
    for clone_too in [false, true] {
        let layer = rejecting(1);
        let handle = layer.handle();
        let mut service = SpawnedService::<_, ()>::new(layer.layer(flaky([])));
        assert!(service.poll_ready().is_ready() && service.poll_ready().is_ready());
        assert_eq!(handle.in_flight(), 1);
        if clone_too {
            assert_eq!(kind(service.get_ref().clone().oneshot(()).await), "bulkhead_full");
        }
        drop(service);
        assert_eq!(handle.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_queued_call_over_a_service_that_is_never_ready_gives_its_slot_back() {
    let layer = queueing(1, 8);
    let handle = layer.handle();
    let flaky = flaky([Step::Unready]);
    let limit = Duration::from_millis(50);
    let total = TimeoutLayer::new(limit).including_readiness();
    let service = total.layer(layer.layer(flaky));
    for _ in 0..3 {
        let began = Instant::now();
        assert_eq!(kind(service.clone().oneshot(()).await), "timed_out");
        assert_eq!(began.elapsed(), limit);
        assert_eq!(counts(&handle), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_slot_comes_back_with_the_answer_though_the_future_is_kept() {
    let bulkhead = rejecting(1);
    let mut service = SpawnedService::new(bulkhead.layer(flaky([])));
    assert!(service.poll_ready().is_ready());
    let mut kept = service.call(());
    assert!(kept.poll().is_ready());
    assert_eq!(bulkhead.handle().in_flight(), 0);

    let queue = queueing(1, 8);
    let mut service = SpawnedService::new(queue.layer(flaky([])));
    assert!(service.poll_ready().is_ready());
    let mut kept_too = service.call(());
    assert!(kept_too.poll().is_ready());
    assert_eq!(queue.handle().in_flight(), 0);
    drop((kept, kept_too));
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_still_holds_its_slot() {
    struct SlotsOnDrop(BulkheadHandle, Arc<Mutex<Vec<u32>>>);
    impl Drop for SlotsOnDrop {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(self.0.in_flight());
        }
    }
    let layer = rejecting(4);
    let (handle, seen) = (layer.handle(), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::clone(&seen);
    let service = layer.layer(service_fn(move |()| {
        let on_drop = SlotsOnDrop(handle.clone(), Arc::clone(&log));
        async move {
            let _on_drop = on_drop;
            std::future::pending::<Result<&'static str, Failure>>().await
        }
    }));
    drop(start(&service));
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen, [1]);
    assert_eq!(layer.handle().in_flight(), 0);
}

#[test]
fn in_flight_returns_to_zero_after_cancel() {
    let layer = rejecting(2);
    let handle = layer.handle();
    let flaky = flaky([]);
    let script = flaky.handle();
    let service = layer.layer(flaky);
    CancelHarness::new(|| {
        script.push(Step::RespondAfterPolls(3, Ok("answer")));
        service.clone().oneshot(())
    })
    .run(|_| assert_eq!(counts(&handle), (0, 0)));
    assert_eq!(script.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn in_flight_returns_to_zero_after_cancel_in_the_queue() {
    let layer = queueing(1, 8);
    let handle = layer.handle();
    let flaky = flaky([]);
    let script = flaky.handle();
    let service = layer.layer(flaky);
    let (holder, passes) = (RefCell::new(None), Cell::new(0));
    let polls = CancelHarness::new(|| {
        passes.set(0);
        script.push(Step::RespondAfterPolls(2, Ok("answer")));
        let mut ready = SpawnedService::<_, ()>::new(service.clone());
        assert!(ready.poll_ready().is_ready());
        *holder.borrow_mut() = Some(ready);
        service.clone().oneshot(())
    })
    .run_with(
        || {
            passes.set(passes.get() + 1);
            if passes.get() == 2 {
                holder.borrow_mut().take();
            }
            ready(())
        },
        |_| {
            holder.borrow_mut().take();
            assert_eq!(counts(&handle), (0, 0));
            assert_eq!(script.in_flight(), 0);
        },
    )
    .await;
    assert_eq!(polls, 5);
}

#[test]
fn in_flight_returns_to_zero_after_panic() {
    let rejecting = rejecting(1);
    let queueing = queueing(1, 8);
    for point in PanicPoint::ALL {
        let flaky = flaky([]);
        let script = flaky.handle();
        let (plain, queued) = (rejecting.layer(flaky.clone()), queueing.layer(flaky));
        PanicHarness::new([point], |point| {
            script.push(point.step());
            plain.clone().oneshot(())
        })
        .run(|_| assert_eq!(counts(&rejecting.handle()), (0, 0)));
        PanicHarness::new([point], |point| {
            script.push(point.step());
            queued.clone().oneshot(())
        })
        .run(|_| assert_eq!(counts(&queueing.handle()), (0, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_queued_call_lets_the_next_one_in() {
    let layer = queueing(1, 8);
    let inner = flaky([Step::Hang, Step::PanicInPoll]);
    let service = layer.layer(inner);
    let first = start(&service);
    let mut panics = start(&service);
    let mut next = start(&service);
    drop(first);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| panics.poll()));
    assert!(panicked.is_err());
    drop(panics);
    assert_eq!(next.poll(), Poll::Ready(Ok("answer")));
    assert_eq!(counts(&layer.handle()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_layer_is_one_bulkhead_whatever_it_is_put_around() {
    let layer = rejecting(1);
    let (one, other) = (layer.layer(held(1).0), layer.clone().layer(flaky([])));
    let _first = start(&one);
    assert_eq!(kind(other.oneshot(()).await), "bulkhead_full");
}

#[test]
fn a_queue_takes_the_same_settings_before_and_after_it_is_asked_for() {
    let before = BulkheadLayer::builder().name("orders").max_concurrent(1).queue(1, MAX_WAIT);
    let after = QueuedBulkheadLayer::builder(1, MAX_WAIT).name("orders").max_concurrent(1);
    let built = [before, after].map(|builder| builder.build().unwrap());
    assert_eq!(format!("{:?}", built[0]), format!("{:?}", built[1]));
}

#[tokio::test(start_paused = true)]
async fn a_queue_may_wait_for_ever() {
    let layer = BulkheadLayer::builder().max_concurrent(1).queue(1, Duration::MAX).build().unwrap();
    let service = layer.layer(held(1).0);
    let first = start(&service);
    let mut waiting = start(&service);
    advance(Duration::from_secs(86_400 * 365)).await;
    assert!(waiting.poll().is_pending());
    drop(first);
    assert_eq!(waiting.poll(), Poll::Ready(Ok("answer")));
}

#[test]
fn a_free_slot_needs_no_runtime() {
    let (plain, queued) = (rejecting(1).layer(flaky([])), queueing(1, 1).layer(flaky([])));
    assert_eq!(Spawned::new(plain.oneshot(())).poll(), Poll::Ready(Ok("answer")));
    assert_eq!(Spawned::new(queued.oneshot(())).poll(), Poll::Ready(Ok("answer")));
}

/// Many threads cancel and resize at once. The limit is never exceeded, and no slot is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_limit_holds_across_threads() {
    let layer = BulkheadLayer::builder()
        .max_concurrent(4)
        .queue(10_000, Duration::from_secs(3_600))
        .build()
        .unwrap();
    let handle = layer.handle();
    let inner = flaky([]);
    let script = inner.handle();
    let service = layer.layer(service_fn(move |()| {
        let inner = inner.clone();
        async move {
            let answer = inner.oneshot(());
            tokio::task::yield_now().await;
            answer.await
        }
    }));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..2_000 {
        let service = service.clone();
        tasks.spawn(async move {
            if number % 3 == 0 {
                // The caller gives up, in the queue or in flight.
                let _ = tokio::select! {
                    biased;
                    answer = service.oneshot(()) => Some(answer),
                    () = tokio::task::yield_now() => None,
                };
            } else {
                assert_eq!(service.oneshot(()).await, Ok("answer"));
            }
        });
        if number % 500 == 0 {
            handle.resize(2 + number / 500).unwrap();
        }
    }
    while let Some(joined) = tasks.join_next().await {
        joined.unwrap();
    }
    assert_eq!(counts(&handle), (0, 0));
    assert!(script.peak_in_flight() <= 5, "{script:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_calls_and_the_queue() {
    let (inner, script) = held(3);
    let layer = BulkheadLayer::builder().max_concurrent(1).queue(5, MAX_WAIT).build().unwrap();
    let service = layer.layer(inner);
    let handle = layer.handle();
    assert!(Spawned::new(handle.drained()).poll().is_ready(), "nothing is in flight");

    let (mut first, mut second) = (start(&service), start(&service));
    let mut drains: Vec<_> = (0..3).map(|_| Spawned::new(handle.clone().drained())).collect();
    for drain in &mut drains {
        assert!(drain.poll().is_pending());
    }
    handle.resize(1).unwrap();
    drop(drains.remove(1));
    script.release();
    assert_eq!(first.poll(), Poll::Ready(Ok("held")));
    assert!(second.poll().is_pending());
    for drain in &mut drains {
        assert!(!drain.is_woken() && drain.poll().is_pending(), "{handle:?}");
    }
    script.release();
    assert_eq!(second.poll(), Poll::Ready(Ok("held")));
    // A new call does not take back what was told.
    let third = start(&service);
    for drain in &mut drains {
        assert!(drain.is_woken() && drain.poll().is_ready());
    }
    // Whoever comes after that waits for the new call.
    let mut late = Spawned::new(handle.drained());
    assert!(late.poll().is_pending());
    drop(third);
    assert!(late.is_woken() && late.poll().is_ready());
    assert_eq!(counts(&handle), (0, 0));
}

/// Drains among calls on other threads end, each with its own wake-up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_drain_misses_its_wake_up() {
    let layer = BulkheadLayer::builder()
        .max_concurrent(2)
        .queue(100, Duration::from_secs(3_600))
        .build()
        .unwrap();
    let handle = layer.handle();
    let inner = service_fn(|()| async {
        tokio::task::yield_now().await;
        Ok::<_, Failure>("answer")
    });
    let service = layer.layer(inner);
    for round in 0..2_000_u32 {
        let mut tasks = JoinSet::new();
        for number in 0..4 {
            let (service, handle) = (service.clone(), handle.clone());
            tasks.spawn(async move {
                if (number + round) % 3 == 0 {
                    // A caller that gives up in the queue or in flight.
                    let mut call = Spawned::new(service.oneshot(()));
                    let _ = call.poll();
                } else {
                    service.oneshot(()).await.unwrap();
                }
                handle.drained().await;
            });
        }
        let all = tokio::time::timeout(Duration::from_secs(20), tasks.join_all());
        all.await.expect("a drain never ended");
    }
    assert_eq!(counts(&handle), (0, 0));
}
