//! Tests of calls that end without a result: dropped, cut by a deadline, or panicked.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use buttress::{
    Deadline, Error, Outcome,
    circuit_breaker::{CircuitBreakerLayer, State},
    testing::{PanicPoint, Step},
    timeout::TimeoutLayer,
};
use futures::future::join_all;
use tokio::time::{advance, timeout};
use tower::{Layer, ServiceExt};

use super::{MS, Rig, SECOND, WELL, ten_calls};

#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_recorded_only_in_silence_and_if_it_ran_long() {
    for slow in [false, true] {
        let mut builder = ten_calls();
        if slow {
            builder = builder.slow_calls(SECOND, 1.0);
        }
        let rig = Rig::new(builder);
        // The silence begins with the first of them, and lasts for ten seconds. Nobody had a
        // response, so that it is long to run for two.
        let steps = [(2_000, 0), (2_000, 0), (2_000, 0), (5_999, 0), (1, 0), (1_999, 0)];
        for (ran, failures) in steps.into_iter().chain([(2_000, 1), (60_000, 2)]) {
            rig.inner.push(Step::Hang);
            let mut call = rig.ready().call(());
            assert!(call.poll().is_pending());
            advance(MS * ran).await;
            drop(call);
            let expected = (failures, failures, if slow { failures } else { 0 });
            assert_eq!(rig.window(), expected, "dropped after {ran} ms");
        }
        assert_eq!((rig.inner.in_flight(), rig.inner.dropped()), (0, 8));
    }
}

#[tokio::test(start_paused = true)]
async fn abandoned_after_is_configurable() {
    let rig = Rig::new(ten_calls().abandoned_after(MS * 5));
    for (ran, failures) in [(4, 0), (5, 1)] {
        rig.inner.push(Step::Hang);
        let mut call = rig.ready().call(());
        assert!(call.poll().is_pending());
        advance(MS * ran).await;
        drop(call);
        assert_eq!(rig.window(), (failures, failures, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_time_without_end_no_abandoned_call_counts() {
    let rig = Rig::new(ten_calls().abandoned_after(Duration::MAX));
    for _ in 0..100 {
        rig.inner.push(Step::Hang);
        assert!(timeout(SECOND * 60, rig.call()).await.is_err());
    }
    assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
    rig.trip_and_wait().await;
    for _ in 0..100 {
        rig.inner.push(Step::Hang);
        assert!(timeout(SECOND * 9, rig.call()).await.is_err());
        assert_eq!((rig.state(), rig.seen().probes()), (State::HalfOpen, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_ready_and_never_called_counts_for_nothing() {
    let rig = Rig::new(ten_calls());
    for _ in 0..100 {
        let service = rig.ready();
        advance(SECOND * 10).await;
        drop(service);
    }
    assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
}

#[tokio::test(start_paused = true)]
async fn fifty_callers_with_5_ms_left_do_not_open_the_breaker_of_a_healthy_20_ms_dependency() {
    for builder in [ten_calls(), CircuitBreakerLayer::builder().consecutive_failures(3)] {
        let rig = Rig::new(builder);
        let impatient = || {
            rig.inner.push(Step::RespondAfter(MS * 20, WELL));
            Deadline::scope(Deadline::after(MS * 5), rig.service.clone().oneshot(()))
        };
        for _ in 0..50 {
            assert!(impatient().await.is_err());
        }
        let results = join_all((0..50).map(|_| impatient())).await;
        assert!(results.iter().all(Result::is_err));
        assert_eq!(rig.inner.dropped(), 100);
        assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
        // Calls with enough time are not affected.
        rig.answer_after(MS * 20, WELL).await;
        assert_eq!(rig.window(), (1, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_the_caller_is_the_callers_impatience() {
    let layer = ten_calls().build().unwrap();
    let outer = TimeoutLayer::new(MS * 5);
    let rig = Rig::of(layer.handle(), |inner| outer.layer(layer.layer(inner)));
    for _ in 0..50 {
        rig.inner.push(Step::RespondAfter(MS * 20, WELL));
        assert!(rig.call().await.is_err());
    }
    assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_in_a_hurry_does_not_make_an_attempt_timeout_count() {
    // The attempt timeout is longer than the deadline, and does not end the call.
    let layer = ten_calls().build().unwrap();
    let attempt = TimeoutLayer::new(SECOND);
    let rig = Rig::of(layer.handle(), |inner| layer.layer(attempt.layer(inner)));
    for _ in 0..50 {
        rig.inner.push(Step::Hang);
        let hurried = Deadline::scope(Deadline::after(MS * 5), rig.call());
        assert!(hurried.await.is_err());
    }
    assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
}

#[tokio::test(start_paused = true)]
async fn patient_callers_of_a_hung_dependency_open_the_breaker() {
    let rig = Rig::new(ten_calls());
    // The first two begin the silence of ten seconds.
    for _ in 0..12 {
        assert_eq!(rig.state(), State::Closed);
        rig.inner.push(Step::Hang);
        assert!(timeout(SECOND * 5, rig.call()).await.is_err());
    }
    assert_eq!(rig.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn panicking_call_is_failure() {
    let rig = Rig::new(ten_calls());
    for (count, point) in
        [PanicPoint::Call, PanicPoint::Poll].into_iter().cycle().take(10).enumerate()
    {
        assert_eq!((rig.state(), rig.window()), (State::Closed, (count as u64, count as u64, 0)));
        rig.inner.push(point.step());
        let mut service = rig.ready();
        let ended = catch_unwind(AssertUnwindSafe(|| service.call(()).poll()));
        assert!(ended.is_err());
    }
    assert_eq!((rig.state(), rig.inner.in_flight()), (State::Open, 0));
    // The breaker itself still works.
    rig.rejected().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_counts_whoever_drops_the_future_and_whenever() {
    // A runtime catches the panic first. It drops the future later, when no thread is panicking.
    let rig = Rig::new(ten_calls());
    for count in 1..10 {
        rig.inner.push(Step::PanicInPoll);
        let mut call = rig.ready().call(());
        assert!(catch_unwind(AssertUnwindSafe(|| call.poll())).is_err());
        drop(call);
        assert_eq!(rig.window(), (count, count, 0));
    }
    rig.inner.push(Step::PanicInPoll);
    assert!(tokio::spawn(rig.service.clone().oneshot(())).await.unwrap_err().is_panic());
    assert_eq!(rig.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_classifier_is_a_failure() {
    let layer = ten_calls()
        .classify_fn(|result: Result<&&str, &Error<&str>>| match result {
            Ok(&"odd") => panic!("what is that"),
            _ => Outcome::Success,
        })
        .build()
        .unwrap();
    let rig = Rig::of(layer.handle(), |inner| layer.layer(inner));
    for count in 1..=10 {
        rig.inner.push(Step::Respond(Ok("odd")));
        let call = AssertUnwindSafe(|| rig.ready().call(()).poll());
        assert!(catch_unwind(call).is_err());
        assert_eq!(rig.state() == State::Open, count == 10);
    }
    assert_eq!(rig.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_panic_elsewhere_on_the_thread_is_not_the_calls() {
    let rig = Rig::new(ten_calls());
    rig.inner.push(Step::Hang);
    let mut call = rig.ready().call(());
    assert!(call.poll().is_pending());
    // The caller panics immediately, which drops the call.
    let unwound = catch_unwind(AssertUnwindSafe(move || {
        let _call = call;
        panic!("of the caller");
    }));
    assert!(unwound.is_err());
    assert_eq!(rig.window(), (0, 0, 0));
}
