//! Tests of a breaker that reports `Pending` instead of rejecting, and of its waiting callers.

use std::time::Duration;

use buttress::{
    circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerHandle, State},
    testing::{Step, task::SpawnedService},
};
use tokio::time::{advance, sleep};
use tower::ServiceExt;

use super::{Breaker, DOWN, LEASE, MS, OPEN_FOR, Rig, SECOND, WELL, ten_calls};

fn pending() -> CircuitBreakerBuilder {
    ten_calls().pend()
}

impl Rig {
    /// Returns clones that wait.
    fn waiters(&self, number: usize) -> Vec<SpawnedService<Breaker, ()>> {
        (0..number)
            .map(|_| {
                let mut waiter = self.spawned();
                assert!(waiter.poll_ready().is_pending());
                waiter
            })
            .collect()
    }
}

fn woken(waiters: &[SpawnedService<Breaker, ()>]) -> usize {
    waiters.iter().filter(|waiter| waiter.is_woken()).count()
}

/// Fires the timers that are due, without letting time pass.
async fn timers() {
    advance(Duration::ZERO).await;
    tokio::task::yield_now().await;
}

#[tokio::test(start_paused = true)]
async fn backpressure_ready_means_admitted() {
    let rig = Rig::new(pending().probes(1));
    rig.trip_and_wait().await;
    let mut probe = rig.ready();
    let mut waiters = rig.waiters(9);
    rig.inner.push(Step::RespondAfter(SECOND, WELL));
    assert_eq!(probe.call(()).into_inner().await, WELL);
    assert_eq!(rig.state(), State::Closed);
    for waiter in &mut waiters {
        assert_eq!((waiter.wakes(), waiter.polls()), (1, 1));
        assert!(waiter.poll_ready().is_ready());
        assert_eq!(waiter.call(()).into_inner().await, WELL);
    }
    assert_eq!(rig.inner.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn of_many_that_wait_for_the_end_of_the_open_time_as_many_go_on_as_there_are_probes() {
    let rig = Rig::new(pending());
    rig.trip().await;
    let mut waiters = rig.waiters(50);
    advance(OPEN_FOR).await;
    timers().await;
    assert_eq!(woken(&waiters), 50);
    let ready =
        waiters.iter_mut().filter_map(|waiter| waiter.poll_ready().is_ready().then_some(()));
    assert_eq!(ready.count(), 3);
    assert_eq!(rig.seen().probes(), 3);
}

#[tokio::test(start_paused = true)]
async fn closing_by_hand_wakes_all_waiters() {
    let turns: [fn(&CircuitBreakerHandle); 3] =
        [CircuitBreakerHandle::close, CircuitBreakerHandle::reset, CircuitBreakerHandle::disable];
    for turn in turns {
        for forced in [true, false] {
            let rig = Rig::new(pending());
            if forced {
                rig.breaker.force_open()
            } else {
                rig.trip().await
            }
            let mut waiters = rig.waiters(100);
            advance(SECOND).await;
            assert_eq!(woken(&waiters), 0);
            turn(&rig.breaker);
            for waiter in &mut waiters {
                assert_eq!(waiter.wakes(), 1);
                assert!(waiter.poll_ready().is_ready());
                assert_eq!(waiter.polls(), 2);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_poll_budget() {
    let rig = Rig::new(pending());
    rig.trip().await;
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let service = rig.service.clone();
            tokio::spawn(async move {
                let mut waiter = SpawnedService::<_, ()>::new(service);
                let mut polls = 0;
                let mut service = std::future::poll_fn(|cx| {
                    polls += 1;
                    tower::Service::<()>::poll_ready(waiter.get_mut(), cx)
                });
                (&mut service).await.unwrap();
                drop(service);
                (tower::Service::call(waiter.get_mut(), ()).await, polls)
            })
        })
        .collect();
    sleep(OPEN_FOR - MS).await;
    assert_eq!(rig.inner.calls(), 10, "nobody was let through while it was open");
    for task in tasks {
        let (answer, polls) = task.await.unwrap();
        assert_eq!(answer, WELL);
        assert!(polls <= 3, "{polls} polls");
    }
    assert_eq!(rig.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn aborted_waiters_leave_no_waker_behind() {
    let rig = Rig::new(pending());
    rig.trip().await;
    for _ in 0..5_000 {
        let mut waiter = rig.spawned();
        assert!(waiter.poll_ready().is_pending());
        assert_eq!(waiter.cancel().holders(), 0);
    }
    // This also holds when all waiters leave at once, or from the middle of the queue.
    let mut waiters = rig.waiters(5_000);
    let wakers: Vec<_> = waiters
        .drain(..)
        .enumerate()
        .filter(|(index, _)| index % 2 == 0)
        .map(|(_, waiter)| waiter.cancel())
        .collect();
    assert!(wakers.iter().all(|waker| waker.holders() == 0 && waker.wakes() == 0));
    // It also holds for tasks that are aborted.
    let tasks: Vec<_> = (0..5_000)
        .map(|_| {
            let service = rig.service.clone();
            tokio::spawn(async move { service.oneshot(()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    for task in tasks {
        assert!(task.await.unwrap_err().is_cancelled());
    }
    advance(OPEN_FOR).await;
    rig.answers(2, WELL).await;
    assert_eq!(rig.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn one_freed_probe_slot_wakes_one_waiter_in_order() {
    let rig = Rig::new(pending().probes(1));
    rig.trip_and_wait().await;
    let probe = rig.ready();
    let mut waiters = rig.waiters(3);
    drop(probe);
    assert_eq!((waiters[0].wakes(), woken(&waiters)), (1, 1));
    assert!(waiters[0].poll_ready().is_ready());
    drop(waiters.remove(0));
    assert_eq!((waiters[0].wakes(), woken(&waiters)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_called_waiter_that_is_dropped_passes_its_turn_on() {
    let rig = Rig::new(pending().probes(1));
    rig.trip_and_wait().await;
    let probe = rig.ready();
    let mut waiters = rig.waiters(5);
    drop(probe);
    for _ in 0..4 {
        assert_eq!((waiters[0].wakes(), woken(&waiters)), (1, 1));
        assert_eq!(waiters.remove(0).cancel().holders(), 0);
    }
    assert!(waiters[0].is_woken() && waiters[0].poll_ready().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_was_overtaken_waits_on_and_is_woken_again() {
    let rig = Rig::new(pending().probes(1));
    rig.trip_and_wait().await;
    let probe = rig.ready();
    let mut waiter = rig.waiters(1).remove(0);
    drop(probe);
    assert!(waiter.is_woken());
    let overtaker = rig.ready();
    assert!(waiter.poll_ready().is_pending());
    drop(overtaker);
    assert!(waiter.is_woken() && waiter.poll_ready().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_wakes_the_task_that_polled_it_last() {
    let rig = Rig::new(pending());
    rig.breaker.force_open();
    let mut waiter = rig.waiters(1).remove(0);
    let former = waiter.hand_over();
    assert!(waiter.poll_ready().is_pending());
    assert_eq!(former.holders(), 0);
    rig.breaker.close();
    assert_eq!((former.wakes(), waiter.wakes()), (0, 1));

    // The same holds for the timer.
    let rig = Rig::new(pending());
    rig.trip().await;
    let mut waiter = rig.waiters(1).remove(0);
    let former = waiter.hand_over();
    assert!(waiter.poll_ready().is_pending());
    assert_eq!(former.holders(), 0);
    advance(OPEN_FOR).await;
    timers().await;
    assert_eq!((former.wakes(), waiter.wakes()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hung_probe_does_not_keep_waiters_longer_than_its_lease() {
    let rig = Rig::new(pending().probes(1));
    rig.trip_and_wait().await;
    rig.inner.push(Step::Hang);
    let mut hung = rig.ready().call(());
    assert!(hung.poll().is_pending());
    let mut waiters = rig.waiters(10);
    advance(LEASE - MS).await;
    timers().await;
    assert_eq!(woken(&waiters), 0);
    advance(MS).await;
    timers().await;
    assert_eq!(woken(&waiters), 10);
    assert!(waiters.iter_mut().all(|waiter| waiter.poll_ready().is_pending()));
    assert_eq!((rig.state(), rig.seen().opened()), (State::Open, 2));
    // The waiters now wait for the end of the new open time.
    advance(OPEN_FOR * 2).await;
    timers().await;
    assert_eq!(woken(&waiters), 10);
    assert_eq!(
        waiters
            .iter_mut()
            .filter_map(|waiter| waiter.poll_ready().is_ready().then_some(()))
            .count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_uncalled_lets_a_waiter_go_on() {
    let rig = Rig::new(pending().probes(1));
    rig.trip_and_wait().await;
    let _idle = rig.ready();
    let mut waiter = rig.waiters(1).remove(0);
    advance(LEASE).await;
    timers().await;
    assert!(waiter.is_woken() && waiter.poll_ready().is_ready());
    assert_eq!(rig.state(), State::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn waiters_of_a_half_open_breaker_go_on_when_the_next_open_time_is_over() {
    // The open time is shorter than a lease. It ends before the lease that they waited for.
    let builder = || pending().probes(2).open_for(SECOND).max_open_for(SECOND);
    for lease in [LEASE, Duration::MAX] {
        let rig = Rig::new(builder().probe_success_ratio(1.0).probe_lease(lease));
        rig.trip_and_wait().await;
        let mut first = rig.ready();
        let mut second = rig.ready();
        rig.inner.push(Step::Respond(DOWN));
        rig.inner.push(Step::Hang);
        let mut waiters = rig.waiters(10);
        let mut failed = first.call(());
        let mut hung = second.call(());
        assert!(hung.poll().is_pending());
        assert!(failed.poll().is_ready());
        assert_eq!(rig.state(), State::Open);
        // Only woken tasks are polled.
        for waiter in &mut waiters {
            if waiter.is_woken() {
                assert!(waiter.poll_ready().is_pending());
            }
        }
        advance(SECOND).await;
        timers().await;
        assert!(woken(&waiters) >= 1, "with a lease of {lease:?} all sleep on");
        let mut ready = 0;
        for waiter in &mut waiters {
            if waiter.is_woken() && waiter.poll_ready().is_ready() {
                ready += 1;
            }
            assert!(waiter.polls() <= 3);
        }
        assert_eq!(ready, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_while_a_slot_is_free() {
    // Every probe is ignored and frees its slot. Each waiter is admitted in turn.
    let rig = Rig::new(pending().probes(2));
    rig.trip().await;
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            rig.inner.push(Step::Respond(Err(buttress::Error::rejected(
                buttress::error::BulkheadFull::new("beneath", 1),
            ))));
            let service = rig.service.clone();
            tokio::spawn(async move { service.oneshot(()).await })
        })
        .collect();
    sleep(OPEN_FOR).await;
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    // All of them completed without letting time pass. No task had to wait for a timer.
    assert!(tasks.iter().all(|task| task.is_finished()));
    assert_eq!((rig.inner.calls(), rig.state(), rig.seen().probes()), (210, State::HalfOpen, 0));
    assert!(rig.inner.peak_in_flight() <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_breaker_does_not_ask_the_service() {
    let rig = Rig::new(pending());
    rig.trip().await;
    let polls = rig.inner.readiness_polls();
    let mut waiters = rig.waiters(3);
    assert!(waiters.iter_mut().all(|waiter| waiter.poll_ready().is_pending()));
    assert_eq!(rig.inner.readiness_polls(), polls);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_has_opened_after_ready_rejects_also_when_it_pends() {
    let rig = Rig::new(pending());
    let mut readied = rig.ready();
    rig.trip().await;
    super::assert_rejected(&readied.call(()).into_inner().await);
    assert!(readied.poll_ready().is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_pends_takes_readiness_back_when_asked_again() {
    let rig = Rig::new(pending());
    let mut readied = rig.ready();
    rig.trip().await;
    assert!(readied.poll_ready().is_pending());
    let polls = rig.inner.readiness_polls();
    rig.breaker.close();
    assert!(readied.is_woken() && readied.poll_ready().is_ready());
    assert_eq!(readied.call(()).into_inner().await, WELL);
    // The service was ready all the time, and was called only when ready.
    assert_eq!((rig.inner.readiness_polls(), rig.inner.violations()), (polls + 1, vec![]));
}
