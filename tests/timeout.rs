//! Tests of the timeout layer through its public API.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use buttress::{
    CarryRejection, Deadline, Error, Rejection,
    testing::{Flaky, PanicPoint, Reserving, Step, task::Spawned, task::SpawnedService},
    timeout::TimeoutLayer,
};
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

type Failure = Error<&'static str>;
type Inner = Flaky<&'static str, Failure>;

const LIMIT: Duration = Duration::from_millis(100);

fn flaky(steps: impl IntoIterator<Item = Step<&'static str, Failure>>) -> Inner {
    Flaky::new(steps, || Ok("answer"))
}

fn named(name: &'static str, limit: Duration) -> TimeoutLayer {
    TimeoutLayer::builder(limit).name(name).build().unwrap()
}

/// Returns the kind of the rejection, and the name of the layer that made it.
fn rejection<T>(result: Result<T, Failure>) -> Option<(&'static str, String)> {
    let error = result.err()?;
    let rejection = error.rejection()?;
    Some((rejection.kind(), rejection.name().to_owned()))
}

fn timed_out(name: &str) -> Option<(&'static str, String)> {
    Some(("timed_out", name.to_owned()))
}

/// The remaining time of each dropped future.
type Seen = Arc<Mutex<Vec<Option<Duration>>>>;

/// A value that records the deadline that it sees when it is dropped.
struct SeenOnDrop(Seen);

impl Drop for SeenOnDrop {
    fn drop(&mut self) {
        let left = Deadline::current().map(|deadline| deadline.remaining());
        self.0.lock().unwrap().push(left);
    }
}

/// Returns a copy of the records so far.
///
/// A copy is needed, because values that are dropped when an assertion fails lock it again.
fn seen_in(seen: &Seen) -> Vec<Option<Duration>> {
    seen.lock().unwrap().clone()
}

/// Creates a service that hangs, and the records of its dropped futures.
fn hangs_and_tells()
-> (impl Service<(), Response = (), Error = Failure, Future: Send> + Clone, Seen) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&seen);
    let service = service_fn(move |()| {
        let on_drop = SeenOnDrop(Arc::clone(&tell));
        async move {
            let _on_drop = on_drop;
            std::future::pending::<Result<(), Failure>>().await
        }
    });
    (service, seen)
}

#[tokio::test(start_paused = true)]
async fn timeout_counts_from_call() {
    let mut service = TimeoutLayer::new(LIMIT).layer(flaky([Step::Hang]));
    let service = ServiceExt::<()>::ready(&mut service).await.unwrap();
    let called = Instant::now();
    let call = service.call(());
    sleep(Duration::from_millis(60)).await;
    assert_eq!(rejection(call.await), timed_out("timeout"));
    assert_eq!(called.elapsed(), LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_call_first_polled_after_its_limit_ends_at_once() {
    let mut service = TimeoutLayer::new(LIMIT).layer(flaky([Step::Hang]));
    let call = ServiceExt::<()>::ready(&mut service).await.unwrap().call(());
    advance(LIMIT * 3).await;
    let began = Instant::now();
    assert_eq!(rejection(call.await), timed_out("timeout"));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn ready_result_beats_timer() {
    let flaky = flaky([Step::RespondWhenReleased(Ok("late, but there"))]);
    let handle = flaky.handle();
    let mut service = SpawnedService::new(TimeoutLayer::new(LIMIT).layer(flaky));
    assert!(service.poll_ready().is_ready());
    let mut call = service.call(());
    assert!(call.poll().is_pending());
    advance(LIMIT * 2).await;
    handle.release();
    assert_eq!(call.poll(), Poll::Ready(Ok("late, but there")));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_is_polled_twice_and_woken_once() {
    let flaky = flaky([Step::Hang]);
    let mut service = SpawnedService::new(TimeoutLayer::new(LIMIT).layer(flaky));
    assert!(service.poll_ready().is_ready());
    let mut call = service.call(());
    assert!(call.poll().is_pending());
    advance(LIMIT - Duration::from_millis(1)).await;
    assert!(!call.is_woken());
    advance(Duration::from_millis(1)).await;
    assert_eq!(call.wakes(), 1);
    assert!(call.poll().is_ready());
    assert_eq!(call.cancel().holders(), 0);
}

#[tokio::test(start_paused = true)]
async fn inner_future_is_dropped_before_the_rejection_is_returned() {
    let (inner, seen) = hangs_and_tells();
    let mut service = SpawnedService::new(TimeoutLayer::new(LIMIT).layer(inner));
    assert!(service.poll_ready().is_ready());
    let mut call = service.call(());
    assert!(call.poll().is_pending());
    advance(LIMIT).await;
    assert!(matches!(call.poll(), Poll::Ready(Err(Error::Rejected(Rejection::TimedOut(_))))));
    // The outer future still exists. The inner one was dropped.
    assert_eq!(seen_in(&seen), [Some(Duration::ZERO)]);
    drop(call);
    assert_eq!(seen_in(&seen).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_sees_its_deadline() {
    let (inner, seen) = hangs_and_tells();
    let mut service = SpawnedService::new(TimeoutLayer::new(LIMIT).layer(inner));
    assert!(service.poll_ready().is_ready());
    let mut call = service.call(());
    assert!(call.poll().is_pending());
    advance(Duration::from_millis(30)).await;
    assert_eq!(call.cancel().holders(), 0);
    assert_eq!(seen_in(&seen), [Some(Duration::from_millis(70))]);
    assert_eq!(Deadline::current(), None);
}

#[tokio::test(start_paused = true)]
async fn what_has_answered_is_dropped_under_its_deadline() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&seen);
    let inner = service_fn(move |()| {
        let on_drop = SeenOnDrop(Arc::clone(&tell));
        std::future::poll_fn(move |_| {
            let _ = &on_drop;
            Poll::Ready(Ok::<_, Failure>(()))
        })
    });
    let service = TimeoutLayer::new(LIMIT).layer(inner);
    assert_eq!(service.oneshot(()).await, Ok(()));
    assert_eq!(seen_in(&seen), [Some(LIMIT)]);
}

#[tokio::test(start_paused = true)]
async fn of_nested_timeouts_only_the_nearer_fires() {
    for (outer, inner, fires) in [(100, 50, "inner"), (50, 100, "outer"), (50, 50, "outer")] {
        let service = named("outer", Duration::from_millis(outer))
            .layer(named("inner", Duration::from_millis(inner)).layer(flaky([Step::Hang])));
        let began = Instant::now();
        assert_eq!(rejection(service.oneshot(()).await), timed_out(fires));
        assert_eq!(began.elapsed(), Duration::from_millis(50));
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_not_nearer_arms_no_timer() {
    let nested = |outer: u64, inner: u64| {
        let inner = TimeoutLayer::new(Duration::from_millis(inner)).layer(flaky([Step::Hang]));
        let mut service =
            SpawnedService::new(TimeoutLayer::new(Duration::from_millis(outer)).layer(inner));
        assert!(service.poll_ready().is_ready());
        let mut call = service.call(());
        assert!(call.poll().is_pending());
        // Only timers keep the waker. The service hangs and keeps nothing.
        call.hand_over().holders()
    };
    assert_eq!(nested(50, 100), 1);
    assert_eq!(nested(50, 50), 1);
    assert_eq!(nested(100, 50), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_keeps_the_call_from_the_service() {
    let flaky = flaky([]);
    let handle = flaky.handle();
    let fixed = named("late", LIMIT).layer(flaky.clone());
    let total = named("late", LIMIT).including_readiness().layer(flaky);

    let late = Some(("deadline_exceeded", "late".to_owned()));
    let call = Deadline::scope(Deadline::after(Duration::ZERO), fixed.clone().oneshot(()));
    assert_eq!(rejection(call.await.unwrap()), late);
    let call = Deadline::scope(Deadline::after(Duration::ZERO), total.oneshot(()));
    assert_eq!(rejection(call.await.unwrap()), late);
    assert_eq!(handle.calls(), 0);

    // The instance still works.
    assert_eq!(fixed.oneshot(()).await, Ok("answer"));
    assert_eq!(handle.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_rejected_keeps_its_readiness() {
    let reserving = Reserving::new(flaky([]), 1);
    let slots = reserving.handle();
    let mut service = TimeoutLayer::new(LIMIT).layer(reserving);
    Deadline::scope(Deadline::after(Duration::ZERO), async {
        let call = ServiceExt::<()>::ready(&mut service).await.unwrap().call(());
        assert!(call.await.is_err());
    })
    .await
    .unwrap();
    assert_eq!(slots.reserved(), 1);
    let ready = ServiceExt::<()>::ready(&mut service).await.unwrap();
    assert_eq!(ready.call(()).await, Ok("answer"));
    assert_eq!((slots.taken(), slots.unready_calls()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_zero_lets_through_only_what_is_ready_at_once() {
    let began = Instant::now();
    let service = TimeoutLayer::new(Duration::ZERO)
        .layer(flaky([Step::Respond(Ok("at once")), Step::RespondAfterPolls(1, Ok("later"))]));
    assert_eq!(service.clone().oneshot(()).await, Ok("at once"));
    assert_eq!(rejection(service.oneshot(()).await), timed_out("timeout"));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn limits_beyond_what_the_clock_can_express_are_no_limit() {
    let year = Duration::from_secs(86_400 * 365);
    for limit in [Duration::MAX, Duration::from_secs(u64::MAX / 4), year * 1_000] {
        let inner = flaky([Step::RespondAfter(year, Ok("a year later"))]);
        let service = TimeoutLayer::new(limit).layer(inner.clone());
        assert_eq!(service.oneshot(()).await, Ok("a year later"));
        let service = TimeoutLayer::new(limit).including_readiness().layer(inner);
        assert_eq!(service.oneshot(()).await, Ok("answer"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_can_depend_on_the_request() {
    let layer = TimeoutLayer::per_request_fn(|millis: &u64| Duration::from_millis(*millis));
    for millis in [20, 70] {
        let began = Instant::now();
        let error = layer.layer(flaky([Step::Hang])).oneshot(millis).await.unwrap_err();
        let Some(Rejection::TimedOut(timed_out)) = error.rejection() else { panic!("{error:?}") };
        assert_eq!(timed_out.limit(), Duration::from_millis(millis));
        assert_eq!(began.elapsed(), Duration::from_millis(millis));
    }
    let total = layer.including_readiness();
    let began = Instant::now();
    assert!(total.layer(flaky([Step::Unready])).oneshot(30).await.is_err());
    assert_eq!(began.elapsed(), Duration::from_millis(30));
}

#[tokio::test(start_paused = true)]
async fn readiness_is_forwarded_and_not_counted() {
    let flaky = flaky([Step::Unready]);
    let handle = flaky.handle();
    let mut service = SpawnedService::<_, ()>::new(TimeoutLayer::new(LIMIT).layer(flaky));
    assert!(service.poll_ready().is_pending());
    advance(LIMIT * 2).await;
    assert!(!service.is_woken());
    handle.set_ready();
    assert!(service.is_woken());
    assert!(service.poll_ready().is_ready());
    assert_eq!(service.call(()).poll(), Poll::Ready(Ok("answer")));
}

#[tokio::test(start_paused = true)]
async fn a_total_over_a_service_that_is_never_ready_answers_in_time() {
    let flaky = flaky([Step::Unready]);
    let handle = flaky.handle();
    let mut service = TimeoutLayer::new(LIMIT).including_readiness().layer(flaky);
    let began = Instant::now();
    let call = ServiceExt::<()>::ready(&mut service).await.unwrap().call(());
    assert_eq!(rejection(call.await), timed_out("timeout"));
    assert_eq!((began.elapsed(), handle.calls()), (LIMIT, 0));
    assert!(handle.readiness_polls() <= 4, "{handle:?}");
}

#[tokio::test(start_paused = true)]
async fn a_total_counts_waiting_and_calling_together() {
    let flaky = flaky([Step::Unready, Step::RespondAfter(Duration::from_millis(60), Ok("late"))]);
    let handle = flaky.handle();
    let mut service =
        SpawnedService::new(TimeoutLayer::new(LIMIT).including_readiness().layer(flaky));
    assert!(service.poll_ready().is_ready());
    let mut call = service.call(());
    assert!(call.poll().is_pending());
    advance(Duration::from_millis(50)).await;
    handle.set_ready();
    assert!(call.is_woken());
    assert!(call.poll().is_pending());
    assert_eq!(handle.calls(), 1);
    advance(Duration::from_millis(50)).await;
    assert!(matches!(call.poll(), Poll::Ready(Err(_))));
    assert_eq!(handle.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_total_keeps_no_place_in_a_queue_of_the_service() {
    let reserving = Reserving::new(flaky([]), 1);
    let slots = reserving.handle();
    let mut holder = SpawnedService::<_, ()>::new(reserving.clone());
    assert!(holder.poll_ready().is_ready());

    let total = TimeoutLayer::new(LIMIT).including_readiness().layer(reserving.clone());
    let mut idle = SpawnedService::<_, ()>::new(total);
    assert!(idle.poll_ready().is_ready() && idle.poll_ready().is_ready());
    assert_eq!(slots.waiting(), 0);

    // The call takes a slot, and keeps it.
    let mut call = idle.call(());
    assert!(call.poll().is_pending());
    let mut later = SpawnedService::<_, ()>::new(reserving);
    assert!(later.poll_ready().is_pending());
    drop(holder);
    assert!(call.is_woken() && !later.is_woken());
    assert_eq!(call.poll(), Poll::Ready(Ok("answer")));
    assert!(later.poll_ready().is_ready());
    assert_eq!(slots.unready_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_total_begin_un_ready() {
    let reserving = Reserving::new(flaky([]), 2);
    let slots = reserving.handle();
    let mut service =
        SpawnedService::new(TimeoutLayer::new(LIMIT).including_readiness().layer(reserving));
    assert!(service.poll_ready().is_ready());
    assert_eq!(slots.reserved(), 1);
    let clone = service.get_ref().clone();
    assert_eq!(service.call(()).poll(), Poll::Ready(Ok("answer")));
    assert_eq!(clone.oneshot(()).await, Ok("answer"));
    assert_eq!((slots.unready_calls(), slots.taken()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_total_that_is_dropped_leaves_the_queue() {
    let reserving = Reserving::new(flaky([]), 1);
    let slots = reserving.handle();
    let mut holder = SpawnedService::<_, ()>::new(reserving.clone());
    assert!(holder.poll_ready().is_ready());
    let total = TimeoutLayer::new(LIMIT).including_readiness().layer(reserving);
    let mut call = Spawned::new(total.oneshot(()));
    assert!(call.poll().is_pending());
    assert_eq!(slots.waiting(), 1);
    assert_eq!(call.cancel().holders(), 0);
    assert_eq!((slots.waiting(), slots.reserved()), (0, 1));
}

#[test]
fn an_answer_that_is_there_needs_no_runtime() {
    let mut fixed = SpawnedService::new(TimeoutLayer::new(LIMIT).layer(flaky([])));
    let mut total =
        SpawnedService::new(TimeoutLayer::new(LIMIT).including_readiness().layer(flaky([])));
    assert!(fixed.poll_ready().is_ready() && total.poll_ready().is_ready());
    assert_eq!(fixed.call(()).poll(), Poll::Ready(Ok("answer")));
    assert_eq!(total.call(()).poll(), Poll::Ready(Ok("answer")));
}

#[test]
fn a_panic_of_the_service_leaves_no_deadline_behind() {
    for point in PanicPoint::ALL {
        let service = TimeoutLayer::new(LIMIT).including_readiness().layer(flaky([point.step()]));
        let mut call = Spawned::new(service.oneshot(()));
        assert!(catch_unwind(AssertUnwindSafe(|| call.poll())).is_err());
        drop(call);
        assert_eq!(Deadline::current(), None, "{point:?}");
    }
}

#[tokio::test]
async fn a_call_that_uses_up_the_budget_of_its_task_is_still_ended() {
    // This test uses the real clock. A paused clock stands still while the task never waits.
    let busy = service_fn(|(): ()| async {
        loop {
            tokio::task::consume_budget().await;
        }
        #[allow(unreachable_code)]
        Ok::<(), Failure>(())
    });
    let service = TimeoutLayer::new(Duration::from_millis(20)).layer(busy);
    let error = service.oneshot(()).await.unwrap_err();
    assert_eq!(error.rejection().map(Rejection::kind), Some("timed_out"));
}
