//! Tests of the handle: its methods, its snapshots and its notifications.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use buttress::{
    Error, Fault, Outcome,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer, State},
    testing::{
        Step,
        task::{CountingWaker, Spawned},
    },
};
use tokio::time::advance;
use tower::{Layer, Service};
use tracing::{Event, Metadata, Subscriber, span};

use super::{DOWN, OPEN_FOR, Rig, SECOND, WELL, ten_calls};

/// A method of the handle.
type Turn = fn(&CircuitBreakerHandle);

#[tokio::test(start_paused = true)]
async fn forced_open_rejects_until_a_hand_closes_it() {
    let rig = Rig::new(ten_calls());
    rig.breaker.force_open();
    for _ in 0..3 {
        let error = rig.call().await.unwrap_err();
        let rejection = buttress::CarryRejection::rejection(&error).unwrap();
        assert_eq!((rejection.kind(), rejection.retry_after()), ("circuit_open", None));
        advance(OPEN_FOR * 100).await;
    }
    assert_eq!((rig.state(), rig.inner.calls()), (State::ForcedOpen, 0));
    assert_eq!(rig.seen().retry_after(), None);
    rig.breaker.close();
    rig.answer(WELL).await;
    assert_eq!((rig.state(), rig.window()), (State::Closed, (1, 0, 0)));
}

#[tokio::test(start_paused = true)]
async fn forced_closed_goes_on_by_itself_with_an_empty_window() {
    let rig = Rig::new(ten_calls());
    rig.trip().await;
    rig.breaker.close();
    assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
    rig.answers(9, DOWN).await;
    assert_eq!(rig.state(), State::Closed);
    rig.answer(DOWN).await;
    // The breaker remembers the previous trip, and this is the second.
    assert_eq!((rig.state(), rig.seen().retry_after()), (State::Open, Some(OPEN_FOR * 2)));
}

#[tokio::test(start_paused = true)]
async fn reset_is_as_good_as_new() {
    let rig = Rig::new(ten_calls());
    rig.trip().await;
    rig.breaker.reset();
    assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
    rig.answers(9, DOWN).await;
    // A reset also clears the window of a closed breaker.
    rig.breaker.reset();
    assert_eq!(rig.window(), (0, 0, 0));
    rig.trip().await;
    assert_eq!(rig.seen().retry_after(), Some(OPEN_FOR));
}

#[tokio::test(start_paused = true)]
async fn disabled_lets_all_through_and_counts_none() {
    let rig = Rig::new(ten_calls().consecutive_failures(1));
    rig.breaker.disable();
    rig.answers(1_000, DOWN).await;
    assert_eq!((rig.state(), rig.window().1), (State::Disabled, 0));
    advance(OPEN_FOR).await;
    rig.answer(DOWN).await;
    rig.breaker.force_open();
    rig.rejected().await;
    rig.breaker.disable();
    rig.answer(DOWN).await;
    rig.breaker.reset();
    rig.answer(DOWN).await;
    assert_eq!(rig.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn results_of_calls_from_before_a_forced_change_are_ignored() {
    let turns: [Turn; 4] = [
        CircuitBreakerHandle::reset,
        |handle| {
            handle.force_open();
            handle.close();
        },
        |handle| {
            handle.disable();
            handle.close();
        },
        |handle| {
            handle.force_open();
            handle.disable();
            handle.reset();
        },
    ];
    for turn in turns {
        for answer in [WELL, DOWN] {
            let rig = Rig::new(ten_calls().consecutive_failures(1));
            rig.inner.push(Step::RespondWhenReleased(answer.clone()));
            let mut call = rig.ready().call(());
            assert!(call.poll().is_pending());
            turn(&rig.breaker);
            rig.inner.release();
            assert_eq!(call.poll(), Poll::Ready(answer));
            assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_forced_change_ends_the_round_of_probes() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip_and_wait().await;
    rig.inner.push(Step::RespondWhenReleased(WELL));
    let mut probe = rig.ready().call(());
    assert!(probe.poll().is_pending());
    rig.breaker.force_open();
    assert_eq!(rig.seen().probes(), 0);
    rig.inner.release();
    assert_eq!(probe.poll(), Poll::Ready(WELL));
    assert_eq!(rig.state(), State::ForcedOpen);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_counts_openings_and_closings() {
    let rig = Rig::new(ten_calls());
    assert_eq!((rig.seen().opened(), rig.seen().closed()), (0, 0));
    rig.trip_and_wait().await;
    rig.answers(2, WELL).await;
    rig.breaker.force_open();
    rig.breaker.close();
    assert_eq!((rig.seen().opened(), rig.seen().closed()), (2, 2));
    assert_eq!(rig.seen().state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_an_open_breaker_is_the_same_whatever_the_window() {
    let calls = Rig::new(ten_calls());
    let time = Rig::new(CircuitBreakerLayer::builder().minimum_calls(10));
    assert_eq!(calls.window(), time.window());
    calls.trip().await;
    time.trip().await;
    assert_eq!(calls.window(), time.window());
}

#[tokio::test(start_paused = true)]
async fn a_watch_sees_every_transition_that_it_waits_for() {
    let rig = Rig::new(ten_calls().probes(1));
    let mut watch = rig.breaker.watch();
    assert_eq!(watch.current(), State::Closed);
    let mut seen = Vec::new();
    let mut step = |state: State, woken: bool| seen.push((state, woken));
    {
        let mut changed = Spawned::new(watch.changed());
        assert!(changed.poll().is_pending());
        rig.trip().await;
        assert!(changed.is_woken() && changed.wakes() == 1);
        step(changed.into_inner().await, true);
    }
    advance(OPEN_FOR).await;
    rig.answer(DOWN).await;
    // The breaker became half-open and opened again without a call. Only the last state counts.
    step(watch.changed().await, false);
    advance(OPEN_FOR * 2).await;
    let probe = rig.ready();
    step(watch.changed().await, false);
    drop(probe);
    rig.answer(WELL).await;
    step(watch.changed().await, false);
    rig.breaker.disable();
    step(watch.changed().await, false);
    let states: Vec<State> = seen.iter().map(|(state, _)| *state).collect();
    let expected = [State::Open, State::Open, State::HalfOpen, State::Closed, State::Disabled];
    assert_eq!(states, expected);
    assert!(Spawned::new(watch.changed()).poll().is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_watch_never_misses_a_change_that_led_back() {
    let rig = Rig::new(ten_calls());
    let mut watch = rig.breaker.watch();
    rig.breaker.force_open();
    rig.breaker.close();
    assert_eq!(Spawned::new(watch.changed()).poll(), Poll::Ready(State::Closed));
    assert!(Spawned::new(watch.changed()).poll().is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_wait_of_a_watch_loses_nothing_and_leaves_no_waker() {
    let rig = Rig::new(ten_calls());
    let mut watch = rig.breaker.watch();
    let first = {
        let mut changed = Spawned::new(watch.changed());
        assert!(changed.poll().is_pending());
        changed.cancel()
    };
    rig.breaker.force_open();
    assert_eq!(Spawned::new(watch.changed()).poll(), Poll::Ready(State::ForcedOpen));
    assert_eq!(first.holders(), 0);
    for _ in 0..5_000 {
        let mut watch = rig.breaker.watch();
        let mut changed = Spawned::new(watch.changed());
        assert!(changed.poll().is_pending());
        let waker = changed.cancel();
        drop(watch);
        assert_eq!(waker.holders(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_wakes_the_task_that_asked_last() {
    let rig = Rig::new(ten_calls());
    let mut watch = rig.breaker.watch();
    let mut changed = Spawned::new(watch.changed());
    assert!(changed.poll().is_pending());
    let former = changed.hand_over();
    assert!(changed.poll().is_pending());
    rig.breaker.force_open();
    assert_eq!((former.wakes(), former.holders(), changed.wakes()), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_classifier_may_turn_the_handle() {
    let turns: [(Turn, State); 4] = [
        (CircuitBreakerHandle::force_open, State::ForcedOpen),
        (CircuitBreakerHandle::close, State::Closed),
        (CircuitBreakerHandle::reset, State::Closed),
        (CircuitBreakerHandle::disable, State::Disabled),
    ];
    for (turn, state) in turns {
        for half_open in [false, true] {
            let handle = Arc::new(OnceLock::<CircuitBreakerHandle>::new());
            let inside = Arc::clone(&handle);
            let layer = ten_calls()
                .classify_fn(move |result: Result<&&str, &Error<&str>>| {
                    let handle = inside.get().unwrap();
                    let _ = (handle.snapshot(), handle.state(), handle.watch(), handle.clone());
                    if result == Ok(&"turn") {
                        turn(handle);
                    }
                    result.map_or(Outcome::Failure(Fault::Transient), |_| Outcome::Success)
                })
                .build()
                .unwrap();
            handle.set(layer.handle()).unwrap();
            let rig = Rig::of(layer.handle(), |inner| layer.layer(inner));
            if half_open {
                rig.trip_and_wait().await;
            }
            rig.answer(Ok("turn")).await;
            assert_eq!(
                (rig.state(), rig.seen().probes()),
                if half_open && state == State::Closed { (State::Closed, 0) } else { (state, 0) }
            );
        }
    }
}

/// The waker of an executor that polls immediately.
///
/// Waking it calls a method of the handle, and so does dropping it.
struct Reentrant {
    handle: CircuitBreakerHandle,
    entered: Arc<AtomicUsize>,
}

impl Reentrant {
    fn waker(handle: &CircuitBreakerHandle, entered: &Arc<AtomicUsize>) -> Waker {
        Arc::new(Self { handle: handle.clone(), entered: Arc::clone(entered) }).into()
    }

    fn enter(&self) {
        let _ = (self.handle.snapshot(), self.handle.watch());
        let mut watch = self.handle.watch();
        let _ = Spawned::new(watch.changed()).poll();
        self.entered.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wake for Reentrant {
    fn wake(self: Arc<Self>) {
        self.enter();
    }
}

impl Drop for Reentrant {
    fn drop(&mut self) {
        self.enter();
    }
}

/// Runs a closure that would hang if the test failed. The wait is long only in that case.
fn without_deadlock(run: impl FnOnce() + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        run();
        let _ = done.send(());
    });
    let result = ended.recv_timeout(SECOND * 10);
    assert!(result.is_ok() || thread.is_finished(), "it is deadlocked");
    thread.join().unwrap();
}

#[test]
fn a_woken_watcher_and_a_woken_waiter_may_turn_the_handle() {
    without_deadlock(|| {
        let rig = Rig::new(ten_calls().pend());
        rig.breaker.force_open();
        let entered = Arc::new(AtomicUsize::new(0));
        let waker = Reentrant::waker(&rig.breaker, &entered);
        let mut waiter = rig.service.clone();
        assert!(
            Service::<()>::poll_ready(&mut waiter, &mut Context::from_waker(&waker)).is_pending()
        );
        let mut watch = rig.breaker.watch();
        let mut changed = Box::pin(watch.changed());
        assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        rig.breaker.close();
        assert_eq!(entered.load(Ordering::SeqCst), 3, "woken twice and dropped once");
    });
}

#[test]
fn a_replaced_waker_is_not_dropped_under_a_lock() {
    without_deadlock(|| {
        let rig = Rig::new(ten_calls().pend());
        rig.breaker.force_open();
        let entered = Arc::new(AtomicUsize::new(0));
        let mut waiter = rig.service.clone();
        let mut watch = rig.breaker.watch();
        let mut changed = Box::pin(watch.changed());
        for _ in 0..2 {
            let waker = Reentrant::waker(&rig.breaker, &entered);
            let mut context = Context::from_waker(&waker);
            assert!(Service::<()>::poll_ready(&mut waiter, &mut context).is_pending());
            let waker = Reentrant::waker(&rig.breaker, &entered);
            assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        // The earlier tasks are gone.
        assert_eq!(entered.load(Ordering::SeqCst), 2);
        drop(changed);
        drop((waiter, watch));
        assert_eq!(entered.load(Ordering::SeqCst), 4);
    });
}

/// A subscriber that calls a method of the handle at every event of the breaker.
struct Observer {
    handle: CircuitBreakerHandle,
    events: Arc<AtomicUsize>,
}

impl Subscriber for Observer {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        let seen = self.handle.snapshot();
        if seen.state() == State::Open {
            self.handle.disable();
        }
        self.events.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn whoever_listens_to_events_may_turn_the_handle() {
    without_deadlock(|| {
        let rig = Rig::new(ten_calls().consecutive_failures(1));
        let events = Arc::new(AtomicUsize::new(0));
        let observer = || Observer { handle: rig.breaker.clone(), events: Arc::clone(&events) };
        // With a single subscriber, other threads may decide for tracing that nobody listens.
        let _other = tracing::Dispatch::new(observer());
        tracing::subscriber::with_default(observer(), || {
            rig.inner.push(Step::Respond(DOWN));
            assert!(rig.ready().call(()).poll().is_ready());
        });
        assert_eq!(rig.state(), State::Disabled);
        assert!(events.load(Ordering::SeqCst) >= 1);
    });
}

#[tokio::test(start_paused = true)]
async fn a_handle_keeps_no_waker_after_all_is_over() {
    let rig = Rig::new(ten_calls().pend());
    rig.breaker.force_open();
    let counting = CountingWaker::new();
    let waker = counting.waker();
    let mut waiters: Vec<_> = (0..10).map(|_| rig.service.clone()).collect();
    for waiter in &mut waiters {
        assert!(Service::<()>::poll_ready(waiter, &mut Context::from_waker(&waker)).is_pending());
    }
    drop(waker);
    assert_eq!(counting.holders(), 10);
    rig.breaker.close();
    assert_eq!((counting.wakes(), counting.holders()), (10, 0));
}
