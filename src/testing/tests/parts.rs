//! Tests of the scripted service, the reserving service and the harnesses.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::subject::Text;
use crate::testing::cancel::{CancelHarness, PanicHarness};
use crate::testing::future::FlakyFuture;
use crate::testing::task::{Spawned, SpawnedService};
use crate::testing::{
    Flaky, FlakyHandle, PanicPoint, Reserving, Step, Violation, assert_future, assert_same_error,
    assert_service,
};

type Scripted = SpawnedService<Flaky<Text, Text>, Text>;

fn scripted(
    steps: impl IntoIterator<Item = Step<Text, Text>>,
) -> (Scripted, FlakyHandle<Text, Text>) {
    let flaky = Flaky::new(steps, || Ok("response"));
    let handle = flaky.handle();
    (SpawnedService::new(flaky), handle)
}

fn call(service: &mut Scripted) -> Spawned<FlakyFuture<Text, Text>> {
    assert_eq!(service.poll_ready(), Poll::Ready(Ok(())));
    service.call("request")
}

#[test]
fn the_types_are_what_layers_need() {
    assert_service::<Reserving<Flaky<Text, Text>>>();
    assert_future::<FlakyFuture<Text, Text>>();
    assert_same_error::<Text, Flaky<Text, Text>, Reserving<Flaky<Text, Text>>>();
}

#[tokio::test(start_paused = true)]
async fn a_script_is_followed_step_by_step() {
    let (mut service, handle) = scripted([
        Step::Respond(Err("error")),
        Step::RespondAfter(Duration::from_millis(5), Ok("slow")),
        Step::RespondAfterPolls(1, Ok("third")),
        Step::RespondWhenReleased(Ok("released")),
        Step::Hang,
    ]);
    assert_eq!(call(&mut service).poll(), Poll::Ready(Err("error")));

    let mut slow = call(&mut service);
    assert!(slow.poll().is_pending());
    tokio::time::advance(Duration::from_millis(6)).await;
    assert!(slow.is_woken());
    assert_eq!(slow.poll(), Poll::Ready(Ok("slow")));

    let mut third = call(&mut service);
    assert!(third.poll().is_pending() && third.is_woken());
    assert_eq!(third.poll(), Poll::Ready(Ok("third")));

    let mut released = call(&mut service);
    assert!(released.poll().is_pending() && !released.is_woken());
    let mut hangs = call(&mut service);
    assert!(hangs.poll().is_pending());
    handle.release();
    assert!(released.is_woken() && !hangs.is_woken());
    assert_eq!(released.poll(), Poll::Ready(Ok("released")));
    assert_eq!(handle.in_flight(), 1);
    assert_eq!(hangs.cancel().holders(), 0);

    assert_eq!(call(&mut service).poll(), Poll::Ready(Ok("response")));
    let counts = (handle.calls(), handle.completed(), handle.dropped());
    assert_eq!(counts, (6, 5, 1));
    assert_eq!((handle.in_flight(), handle.peak_in_flight()), (0, 2));
    assert_eq!(handle.violations(), []);
}

#[test]
fn readiness_steps_are_taken_by_the_next_poll_of_readiness() {
    let (mut service, handle) = scripted([Step::Unready, Step::FailReadiness("gone")]);
    assert!(service.poll_ready().is_pending());
    assert!(!service.is_woken());
    handle.set_ready();
    assert!(service.is_woken());
    assert_eq!(service.poll_ready(), Poll::Ready(Err("gone")));
    let _ = service.poll_ready();
    assert_eq!(handle.violations(), [Violation::UsedAfterReadinessError]);
}

#[test]
fn a_call_without_readiness_is_a_violation() {
    let (mut service, handle) = scripted([]);
    assert_eq!(service.poll_ready(), Poll::Ready(Ok(())));
    let mut clone = SpawnedService::new(service.get_ref().clone());
    drop(clone.call("request"));
    assert_eq!(handle.violations(), [Violation::CalledUnready]);
    assert_eq!((handle.in_flight(), handle.dropped()), (0, 1));
}

#[test]
fn slots_go_to_waiters_in_the_order_they_came() {
    let reserving = Reserving::new(Flaky::new([], || Ok::<_, Text>("response")), 1);
    let slots = reserving.handle();
    let spawn = || SpawnedService::<_, Text>::new(reserving.clone());
    let [mut first, mut second, mut third, mut fourth] = [(); 4].map(|()| spawn());
    assert!(first.poll_ready().is_ready());
    for waiter in [&mut second, &mut third, &mut fourth] {
        assert!(waiter.poll_ready().is_pending());
    }
    assert_eq!((slots.reserved(), slots.waiting()), (1, 3));

    let future = first.call("request");
    assert_eq!((slots.reserved(), slots.taken()), (0, 1));
    drop(future);
    assert!(second.is_woken() && !third.is_woken() && !fourth.is_woken());
    // No caller overtakes. A slot that was granted to a dropped waiter goes to the next one.
    assert!(first.poll_ready().is_pending());
    drop(second);
    assert!(third.is_woken() && !fourth.is_woken());
    assert!(third.poll_ready().is_ready());
    drop((first, fourth));
    assert_eq!((slots.taken(), slots.waiting()), (1, 0));
    drop(third);
    assert_eq!(slots.taken(), 0);
}

#[test]
fn a_future_is_dropped_at_every_poll() {
    let (service, handle) = scripted([]);
    let dropped_at = Rc::new(Cell::new(0));
    let polls = CancelHarness::new(|| {
        handle.push(Step::RespondAfterPolls(3, Ok("response")));
        let mut service = Scripted::new(service.get_ref().clone());
        async move { call(&mut service).into_inner().await }
    })
    .run(|polls| {
        assert_eq!(handle.in_flight(), 0);
        dropped_at.set(dropped_at.get() + polls);
    });
    assert_eq!((polls, dropped_at.get()), (4, 1 + 2 + 3 + 4));
}

#[test]
#[should_panic(expected = "after it was dropped at poll 1: leaked")]
fn a_leak_at_one_poll_is_found() {
    let (service, handle) = scripted([]);
    CancelHarness::new(|| {
        handle.push(Step::Hang);
        call(&mut SpawnedService::new(service.get_ref().clone())).into_inner()
    })
    .run(|polls| assert!(polls < 1, "leaked"));
}

#[test]
#[should_panic(expected = "no future completed in 5 polls")]
fn a_future_that_never_completes_is_no_success() {
    CancelHarness::new(std::future::pending::<()>).limit(5).run(|_| {});
}

#[test]
fn every_panic_is_brought_about() {
    let (service, handle) = scripted([]);
    let mut points = Vec::new();
    PanicHarness::new(PanicPoint::ALL, |point| {
        handle.push(point.step());
        let mut service = Scripted::new(service.get_ref().clone());
        async move { call(&mut service).into_inner().await }
    })
    .run(|point| points.push(point));
    assert_eq!(points, PanicPoint::ALL);
    assert_eq!(handle.in_flight(), 0);
}

#[test]
#[should_panic(expected = "the future completed without a panic in \"the observer\"")]
fn a_panic_that_does_not_come_out_is_no_success() {
    PanicHarness::new(["the observer"], |_| async {}).run(|_| {});
}
