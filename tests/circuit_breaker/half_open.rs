//! Tests of probes: their number, their lease and their results.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Barrier,
    task::Poll,
    thread,
    time::Duration,
};

use buttress::{
    circuit_breaker::{CircuitBreakerLayer, State},
    testing::{PanicPoint, Step},
};
use futures::future::join_all;
use tokio::time::{advance, timeout};

use super::{
    DOWN, LEASE, MS, OPEN_FOR, Rig, SECOND, WELL, assert_rejected, is_rejected, ten_calls,
};

#[tokio::test(start_paused = true)]
async fn half_open_sparse_probes_close() {
    let window = CircuitBreakerLayer::builder().time_window(MS * 50).minimum_calls(10);
    for builder in [ten_calls(), window.open_jitter(0.0)] {
        let rig = Rig::new(builder.probe_success_ratio(1.0));
        rig.trip_and_wait().await;
        for _ in 0..3 {
            assert_ne!(rig.state(), State::Closed);
            rig.answer(WELL).await;
            advance(SECOND * 600).await;
        }
        assert_eq!(rig.state(), State::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn enough_successful_probes_close_and_the_verdict_is_not_put_off() {
    // The number of probes, the success ratio, and the number that must succeed.
    let cases = [(3, 0.5, 2), (1, 0.1, 1), (5, 0.1, 1), (5, 1.0, 5), (10, 0.3, 3), (4, 0.5, 2)];
    for (probes, ratio, needed) in cases {
        let rig = Rig::new(ten_calls().probes(probes).probe_success_ratio(ratio));
        rig.trip_and_wait().await;
        rig.answers((probes - needed) as usize, DOWN).await;
        rig.answers(needed as usize - 1, WELL).await;
        assert_ne!(rig.state(), State::Closed, "{probes} {ratio}");
        rig.answer(WELL).await;
        assert_eq!(rig.state(), State::Closed, "{probes} {ratio}");

        let rig = Rig::new(ten_calls().probes(probes).probe_success_ratio(ratio));
        rig.trip_and_wait().await;
        rig.answers((probes - needed) as usize, DOWN).await;
        assert_eq!(rig.seen().opened(), 1, "{probes} {ratio}");
        rig.answer(DOWN).await;
        assert_eq!((rig.state(), rig.seen().opened()), (State::Open, 2), "{probes} {ratio}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ratio_of_probes_is_met_exactly() {
    // In floating point, 0.55 times 100 is a little more than 55.
    for (probes, ratio, needed) in [(100, 0.55, 55), (100, 0.07, 7), (50, 0.14, 7), (25, 0.28, 7)] {
        let rig = Rig::new(ten_calls().probes(probes).probe_success_ratio(ratio));
        rig.trip_and_wait().await;
        rig.answers(needed, WELL).await;
        assert_eq!(rig.state(), State::Closed, "{ratio} of {probes}");
    }
}

#[tokio::test(start_paused = true)]
async fn half_open_admits_no_more_probes_than_configured_of_500_concurrent_callers() {
    let rig = Rig::new(ten_calls());
    rig.trip_and_wait().await;
    let before = rig.inner.calls();
    rig.inner.otherwise(|| DOWN);
    for _ in 0..3 {
        rig.inner.push(Step::RespondAfter(SECOND, DOWN));
    }
    let results = join_all((0..500).map(|_| rig.call())).await;
    assert_eq!(rig.inner.calls() - before, 3);
    assert_eq!(results.iter().filter(|result| is_rejected(result)).count(), 497);
    assert_eq!((rig.state(), rig.seen().probes()), (State::Open, 0));
}

#[test]
fn half_open_admits_no_more_probes_than_configured_across_threads() {
    // This test uses real threads and a real clock, where an open time of a nanosecond ends at
    // once.
    let open_for = Duration::from_nanos(1);
    let rig =
        Rig::new(ten_calls().open_for(open_for).max_open_for(open_for).consecutive_failures(1));
    for _ in 0..200 {
        rig.breaker.reset();
        rig.inner.push(Step::Respond(DOWN));
        assert!(rig.ready().call(()).poll().is_ready());
        let barrier = Barrier::new(4);
        let ready: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let mut clones: Vec<_> = (0..8).map(|_| rig.spawned()).collect();
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        for clone in &mut clones {
                            assert!(clone.poll_ready().is_ready());
                        }
                        clones
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!((rig.state(), rig.seen().probes()), (State::HalfOpen, 3));
        let sent = rig.inner.calls();
        let mut under_way = Vec::new();
        for _ in 0..3 {
            rig.inner.push(Step::Hang);
        }
        for mut service in ready {
            let mut call = service.call(());
            match call.poll() {
                Poll::Ready(result) => assert_rejected(&result),
                Poll::Pending => under_way.push(call),
            }
        }
        assert_eq!((under_way.len(), rig.inner.calls() - sent), (3, 3));
        assert_eq!(rig.seen().probes(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn half_open_hung_probe_expires() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip_and_wait().await;
    rig.inner.push(Step::Hang);
    let mut hung = rig.ready().call(());
    assert!(hung.poll().is_pending());
    advance(LEASE - MS).await;
    rig.rejected().await;
    assert_eq!(rig.state(), State::HalfOpen);
    advance(MS).await;
    // The next caller finds the failed probe, and is rejected for the whole next open time.
    rig.rejected().await;
    assert_eq!((rig.state(), rig.seen().retry_after()), (State::Open, Some(OPEN_FOR * 2)));
    assert!(!hung.is_woken());
}

#[tokio::test(start_paused = true)]
async fn late_results_of_an_expired_lease_are_ignored() {
    for answer in [WELL, DOWN] {
        let rig = Rig::new(ten_calls().probes(2));
        rig.trip_and_wait().await;
        rig.inner.push(Step::RespondWhenReleased(answer.clone()));
        let mut late = rig.ready().call(());
        assert!(late.poll().is_pending());
        advance(LEASE).await;
        rig.inner.release();
        assert_eq!(late.poll(), Poll::Ready(answer));
        // The late probe has failed once, and no more. One of two probes must succeed.
        assert_eq!((rig.state(), rig.seen().probes()), (State::HalfOpen, 0));
        rig.answer(WELL).await;
        assert_eq!(rig.state(), State::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_success_does_not_close_the_round_after_the_one_that_it_belongs_to() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip_and_wait().await;
    rig.inner.push(Step::RespondWhenReleased(WELL));
    let mut late = rig.ready().call(());
    assert!(late.poll().is_pending());
    advance(LEASE).await;
    rig.rejected().await;
    advance(OPEN_FOR * 2).await;
    rig.inner.push(Step::Hang);
    let mut probe = rig.ready().call(());
    assert!(probe.poll().is_pending());
    rig.inner.release();
    assert_eq!(late.poll(), Poll::Ready(WELL));
    assert_eq!((rig.state(), rig.seen().probes()), (State::HalfOpen, 1));
}

#[tokio::test(start_paused = true)]
async fn stale_epoch_results_are_ignored() {
    for answer in [WELL, DOWN] {
        let rig = Rig::new(ten_calls());
        let mut from_before: Vec<_> = (0..20)
            .map(|_| {
                rig.inner.push(Step::RespondWhenReleased(answer.clone()));
                let mut call = rig.ready().call(());
                assert!(call.poll().is_pending());
                call
            })
            .collect();
        rig.trip_and_wait().await;
        rig.inner.push(Step::RespondAfter(SECOND, WELL));
        let mut probe = rig.ready().call(());
        assert!(probe.poll().is_pending());
        rig.inner.release();
        for call in from_before.drain(..15) {
            assert_eq!(call.into_inner().await, answer);
        }
        assert_eq!((rig.state(), rig.seen().probes()), (State::HalfOpen, 1));
        // Late probes do not count after the breaker has closed, nor when they are dropped.
        assert_eq!(probe.into_inner().await, WELL);
        rig.answer(WELL).await;
        assert_eq!(rig.state(), State::Closed);
        for call in from_before.drain(..3) {
            assert_eq!(call.into_inner().await, answer);
        }
        drop(from_before);
        assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn slow_probe_does_not_close_slow_tripped_breaker() {
    let rig = Rig::new(ten_calls().slow_calls(SECOND, 0.5));
    for _ in 0..10 {
        rig.answer_after(SECOND, WELL).await;
    }
    assert_eq!(rig.state(), State::Open);
    advance(OPEN_FOR).await;
    rig.answer_after(SECOND, WELL).await;
    rig.answer_after(SECOND, WELL).await;
    assert_eq!(rig.state(), State::Open);
    advance(OPEN_FOR * 2).await;
    rig.answer_after(SECOND - MS, WELL).await;
    rig.answer_after(SECOND - MS, WELL).await;
    assert_eq!(rig.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ended_although_the_service_was_ready_gives_no_verdict() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip_and_wait().await;
    let mut late = rig.ready();
    rig.rejected().await;
    advance(LEASE).await;
    // The slot is free again. A caller that returns takes a new one.
    rig.inner.push(Step::RespondWhenReleased(WELL));
    let mut call = late.call(());
    assert!(call.poll().is_pending());
    assert_eq!((rig.state(), rig.seen().probes(), rig.seen().opened()), (State::HalfOpen, 1, 1));
    // The new slot has a full lease.
    advance(LEASE - MS).await;
    rig.inner.release();
    assert_eq!(call.poll(), Poll::Ready(WELL));
    assert_eq!(rig.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_late_caller_whose_slot_another_has_taken_is_rejected() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip_and_wait().await;
    let mut late = rig.ready();
    advance(LEASE).await;
    rig.inner.push(Step::RespondWhenReleased(WELL));
    let mut other = rig.ready().call(());
    assert!(other.poll().is_pending());
    let calls = rig.inner.calls();
    assert_rejected(&late.call(()).into_inner().await);
    assert_eq!((rig.inner.calls(), rig.seen().probes()), (calls, 1));
    rig.inner.release();
    assert_eq!(other.poll(), Poll::Ready(WELL));
    assert_eq!(rig.state(), State::Closed);
    // The ready instance is still ready, and uses it for the next call.
    assert!(late.poll_ready().is_ready());
    assert_eq!(late.call(()).into_inner().await, WELL);
    assert_eq!(rig.inner.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_call_renews_the_lease() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip_and_wait().await;
    let mut probe = rig.ready();
    advance(LEASE - MS).await;
    rig.inner.push(Step::RespondWhenReleased(WELL));
    let mut call = probe.call(());
    assert!(call.poll().is_pending());
    advance(LEASE - MS).await;
    rig.rejected().await;
    rig.inner.release();
    assert_eq!(call.poll(), Poll::Ready(WELL));
    assert_eq!(rig.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn half_open_over_a_service_that_is_never_ready_reaches_a_verdict() {
    let rig = Rig::new(ten_calls());
    rig.trip_and_wait().await;
    rig.inner.set_unready();
    let mut probes: Vec<_> = (0..3).map(|_| rig.spawned()).collect();
    assert!(probes.iter_mut().all(|probe| probe.poll_ready().is_pending()));
    rig.rejected().await;
    advance(LEASE).await;
    rig.rejected().await;
    assert_eq!((rig.state(), rig.seen().opened()), (State::Open, 2));
    // The waiting probes are rejected when they are polled, without polling the service.
    let polls = rig.inner.readiness_polls();
    for probe in &mut probes {
        assert!(probe.poll_ready().is_ready());
        assert_rejected(&probe.call(()).into_inner().await);
    }
    assert_eq!(rig.inner.readiness_polls(), polls);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_ready_only_after_the_lease_has_failed_whoever_looks() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip_and_wait().await;
    rig.inner.set_unready();
    let mut probe = rig.spawned();
    assert!(probe.poll_ready().is_pending());
    advance(LEASE * 2).await;
    // No other caller has polled in between.
    rig.inner.set_ready();
    assert!(probe.is_woken() && probe.poll_ready().is_ready());
    assert_rejected(&probe.call(()).into_inner().await);
    assert_eq!((rig.state(), rig.seen().opened()), (State::Open, 2));
}

#[tokio::test(start_paused = true)]
async fn the_short_times_of_probes_do_not_add_up() {
    for never_ready in [false, true] {
        let rig = Rig::new(ten_calls());
        rig.trip_and_wait().await;
        if never_ready {
            rig.inner.set_unready();
        }
        for call in 0..300 {
            if !never_ready {
                rig.inner.push(Step::Hang);
            }
            assert!(timeout(SECOND, rig.call()).await.is_err());
            assert_eq!((rig.seen().opened(), rig.seen().probes()), (1, 0), "call {call}");
        }
        // Callers with time bring it to an outcome.
        for _ in 0..2 {
            assert_eq!(rig.state(), State::HalfOpen);
            if !never_ready {
                rig.inner.push(Step::Hang);
            }
            assert!(timeout(SECOND * 2, rig.call()).await.is_err());
        }
        assert_eq!(rig.state(), State::Open);
        rig.rejected().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_in_a_hurry_gives_its_slot_back() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip_and_wait().await;
    for _ in 0..50 {
        rig.inner.push(Step::RespondAfter(MS * 20, WELL));
        assert!(timeout(MS * 5, rig.call()).await.is_err());
        assert_eq!((rig.state(), rig.seen().probes()), (State::HalfOpen, 0));
    }
    rig.answer_after(MS * 20, WELL).await;
    assert_eq!(rig.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_after_long_has_failed() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip_and_wait().await;
    rig.inner.push(Step::Hang);
    assert!(timeout(SECOND * 2, rig.call()).await.is_err());
    assert_eq!((rig.state(), rig.seen().opened()), (State::Open, 2));
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_probe_that_has_failed_does_not_count_a_second_time() {
    let rig = Rig::new(ten_calls());
    rig.trip_and_wait().await;
    rig.inner.push(Step::Hang);
    assert!(timeout(LEASE - MS, rig.call()).await.is_err());
    // One of three probes may fail, and has failed. The next caller only has little time.
    rig.inner.push(Step::Hang);
    assert!(timeout(MS * 5, rig.call()).await.is_err());
    assert_eq!((rig.state(), rig.seen().probes()), (State::HalfOpen, 0));
    rig.answers(2, WELL).await;
    assert_eq!(rig.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_ready_probe_that_is_never_called_gives_its_slot_back() {
    for abandoned_after in [Duration::ZERO, MS, SECOND * 2] {
        let rig = Rig::new(ten_calls().probes(1).abandoned_after(abandoned_after));
        rig.trip_and_wait().await;
        for _ in 0..20 {
            let probe = rig.ready();
            assert_eq!(rig.seen().probes(), 1);
            advance(SECOND * 9).await;
            drop(probe);
            let after = (rig.state(), rig.seen().probes());
            assert_eq!(after, (State::HalfOpen, 0), "abandoned after {abandoned_after:?}");
        }
        rig.answer(WELL).await;
        assert_eq!(rig.state(), State::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_has_failed() {
    for point in PanicPoint::ALL {
        let rig = Rig::new(ten_calls().probes(1));
        rig.trip_and_wait().await;
        rig.inner.push(point.step());
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let mut service = rig.spawned();
            assert!(service.poll_ready().is_ready());
            let _ = service.call(()).poll();
        }));
        assert!(ended.is_err());
        assert_eq!((rig.state(), rig.seen().opened()), (State::Open, 2), "{point:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_of_a_half_open_breaker_names_no_time() {
    let rig = Rig::new(ten_calls().probes(1));
    rig.trip_and_wait().await;
    let _probe = rig.ready();
    let rejection = rig.call().await;
    assert_rejected(&rejection);
    let rejection = buttress::CarryRejection::rejection(rejection.as_ref().unwrap_err()).cloned();
    assert_eq!(rejection.and_then(|rejection| rejection.retry_after()), None);
    assert_eq!(rig.seen().retry_after(), None);
}
