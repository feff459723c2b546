//! Tests of the contract with tower: when a call is decided, and by which method.

use std::task::Poll;

use buttress::{
    Error,
    circuit_breaker::State,
    testing::{Reserving, Step, assert_future, assert_service},
};
use tokio::time::advance;
use tower::{Layer, Service};

use super::{Breaker, DOWN, Inner, OPEN_FOR, Rig, WELL, assert_rejected, ten_calls};

#[tokio::test(start_paused = true)]
async fn ten_clones_readied_while_closed_and_called_after_the_trip_send_nothing() {
    let rig = Rig::new(ten_calls());
    let mut readied: Vec<_> = (0..10).map(|_| rig.ready()).collect();
    rig.trip().await;
    let calls = rig.inner.calls();
    for service in &mut readied {
        assert_rejected(&service.call(()).into_inner().await);
    }
    assert_eq!(rig.inner.calls(), calls);
    assert_eq!(rig.inner.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn clones_readied_while_closed_and_called_when_half_open_are_probes() {
    let rig = Rig::new(ten_calls());
    let readied: Vec<_> = (0..10).map(|_| rig.ready()).collect();
    rig.trip_and_wait().await;
    let before = rig.inner.calls();
    let mut under_way = Vec::new();
    for (index, mut service) in readied.into_iter().enumerate() {
        if index < 3 {
            rig.inner.push(Step::RespondWhenReleased(WELL));
        }
        let mut call = service.call(());
        match call.poll() {
            Poll::Ready(result) => assert_rejected(&result),
            Poll::Pending => under_way.push(call),
        }
    }
    assert_eq!((under_way.len(), rig.inner.calls() - before, rig.seen().probes()), (3, 3, 3));
    rig.inner.release();
    for call in under_way {
        assert_eq!(call.into_inner().await, WELL);
    }
    assert_eq!(rig.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn clones_readied_before_a_trip_and_called_after_the_recovery_go_through_and_count() {
    let rig = Rig::new(ten_calls());
    let mut readied = rig.ready();
    rig.trip_and_wait().await;
    rig.answers(2, WELL).await;
    assert_eq!((rig.state(), rig.window()), (State::Closed, (0, 0, 0)));
    assert_eq!(readied.call(()).into_inner().await, WELL);
    assert_eq!(rig.window(), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_leaves_the_readied_service_ready_for_the_next() {
    let rig = Rig::new(ten_calls());
    let mut readied = rig.ready();
    rig.trip().await;
    assert_rejected(&readied.call(()).into_inner().await);
    rig.breaker.close();
    // A new poll of the inner service would not be ready.
    rig.inner.set_unready();
    assert!(readied.poll_ready().is_ready());
    assert_eq!(readied.call(()).into_inner().await, WELL);
    assert_eq!(rig.inner.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_stays_until_it_is_spent_and_rejects_once() {
    let rig = Rig::new(ten_calls());
    rig.trip().await;
    let mut rejected = rig.ready();
    rig.breaker.reset();
    for _ in 0..5 {
        assert!(rejected.poll_ready().is_ready());
    }
    // One call is rejected by an old decision, with the state known at that time.
    let calls = rig.inner.calls();
    assert_rejected(&rejected.call(()).into_inner().await);
    assert_eq!(rig.inner.calls(), calls);
    assert!(rejected.poll_ready().is_ready());
    assert_eq!(rejected.call(()).into_inner().await, WELL);
    assert_eq!(rig.inner.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_rejects_does_not_ask_the_service() {
    let rig = Rig::new(ten_calls());
    rig.trip().await;
    let polls = rig.inner.readiness_polls();
    rig.inner.set_unready();
    for _ in 0..10 {
        rig.rejected().await;
    }
    assert_eq!(rig.inner.readiness_polls(), polls);
    rig.inner.set_ready();

    advance(OPEN_FOR).await;
    let _probes: Vec<_> = (0..3).map(|_| rig.ready()).collect();
    let polls = rig.inner.readiness_polls();
    rig.rejected().await;
    assert_eq!(rig.inner.readiness_polls(), polls);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_clone_holds_nothing_of_the_service() {
    let layer = ten_calls().build().unwrap();
    let flaky = Inner::new([], || WELL);
    let reserving = Reserving::new(flaky, 1);
    let slots = reserving.handle();
    let service = layer.layer(reserving);
    layer.handle().force_open();
    let mut clones: Vec<_> = (0..10)
        .map(|_| buttress::testing::task::SpawnedService::<_, ()>::new(service.clone()))
        .collect();
    for clone in &mut clones {
        assert!(clone.poll_ready().is_ready());
    }
    assert_eq!((slots.taken(), slots.waiting()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_ready_buys_one_call_and_readiness_is_kept_until_it_is_spent() {
    let rig = Rig::new(ten_calls());
    let mut service = rig.ready();
    for _ in 0..5 {
        assert!(service.poll_ready().is_ready());
    }
    assert_eq!(service.call(()).into_inner().await, WELL);
    rig.inner.set_unready();
    assert!(service.poll_ready().is_pending());
    rig.inner.set_ready();
    assert!(service.is_woken() && service.poll_ready().is_ready());

    // A clone of a ready service is not ready, and has no probe.
    rig.trip_and_wait().await;
    let probe = rig.ready();
    let clone = probe.get_ref().clone();
    assert_eq!(rig.seen().probes(), 1);
    drop(clone);
    assert_eq!(rig.seen().probes(), 1);
    drop(probe);
    assert_eq!((rig.seen().probes(), rig.inner.violations()), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_passes_through_and_counts() {
    let rig = Rig::new(ten_calls());
    for count in 1..=10 {
        rig.inner.push(Step::FailReadiness(Error::Service("gone")));
        let mut service = rig.spawned();
        assert_eq!(service.poll_ready(), Poll::Ready(Err(Error::Service("gone"))));
        drop(service);
        assert_eq!(rig.state() == State::Open, count == 10);
    }
    advance(OPEN_FOR).await;
    for _ in 0..2 {
        rig.inner.push(Step::FailReadiness(Error::Service("gone")));
        assert_eq!(rig.call().await, Err(Error::Service("gone")));
        assert_eq!(rig.seen().probes(), 0);
    }
    assert_eq!((rig.state(), rig.seen().opened()), (State::Open, 2));
    rig.rejected().await;
}

#[tokio::test(start_paused = true)]
async fn one_layer_is_one_breaker_for_all_services_that_it_makes() {
    let layer = ten_calls().build().unwrap();
    let (first, second) = (Inner::new([], || DOWN), Inner::new([], || WELL));
    let sent = second.handle();
    let first = Rig::of(layer.handle(), |_| layer.layer(first));
    let second = Rig::of(layer.clone().handle(), |_| layer.clone().layer(second));
    for _ in 0..10 {
        assert_eq!(first.call().await, DOWN);
    }
    assert_rejected(&second.call().await);
    assert_eq!((sent.calls(), second.state()), (0, State::Open));

    // The third service is made after the breaker has opened.
    let late = Rig::of(layer.handle(), |inner| layer.layer(inner));
    late.rejected().await;
    // Another layer has another breaker.
    let other = Rig::new(ten_calls());
    other.answer(WELL).await;
}

#[test]
fn services_are_send_sync_and_clone_and_futures_are_send() {
    assert_service::<Breaker>();
    assert_future::<<Breaker as Service<()>>::Future>();
}
