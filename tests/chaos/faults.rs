//! Each fault, alone.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use buttress::{
    BoxError, Error,
    testing::{Flaky, Reserving, Step, task::Spawned},
};
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, Service, ServiceExt};

use super::{HOUR, SECOND, TICK, builder, client, holding, reset, spawn};

#[tokio::test(start_paused = true)]
async fn a_delay_is_counted_from_the_call_and_reaches_the_service_late() {
    let chaos = armed!(builder().delays(1.0, SECOND));
    let (client, inner) = client();
    let mut service = chaos.layer(client);
    let began = Instant::now();
    let future = ServiceExt::<&str>::ready(&mut service).await.unwrap().call("request");
    sleep(SECOND / 2).await;
    assert_eq!(inner.calls(), 0);
    assert_eq!(future.await.unwrap(), 1);
    assert_eq!((began.elapsed(), inner.calls()), (SECOND, 1));
}

#[tokio::test(start_paused = true)]
async fn a_late_response_is_late_by_the_delay_after_the_effect() {
    let chaos = armed!(builder().late_responses(1.0, SECOND));
    let (client, inner) = client();
    inner.push(Step::RespondAfter(2 * SECOND, Ok(7)));
    let began = Instant::now();
    let mut late = spawn(chaos.layer(client));
    assert!(late.poll().is_pending());
    assert_eq!((inner.calls(), chaos.handle().hung()), (1, 0));
    advance(2 * SECOND).await;
    assert!(late.poll().is_pending());
    assert_eq!((inner.completed(), inner.in_flight()), (1, 0));
    assert_eq!(late.into_inner().await.unwrap(), 7);
    assert_eq!(began.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_late_response_comes_when_the_layer_is_disarmed() {
    let chaos = armed!(builder().late_responses(1.0, SECOND));
    let (first, second) = (client(), client());
    second.1.push(Step::RespondWhenReleased(Ok(7)));
    let mut before = spawn(chaos.layer(first.0));
    let mut after = spawn(chaos.layer(second.0));
    assert!(before.poll().is_pending() && after.poll().is_pending());
    chaos.handle().disarm();
    assert!(before.is_woken() && matches!(before.poll(), Poll::Ready(Ok(1))));
    // Its delay would begin now.
    second.1.release();
    assert!(matches!(after.poll(), Poll::Ready(Ok(7))));
}

#[tokio::test(start_paused = true)]
async fn a_made_up_result_comes_at_once_and_does_not_reach_the_service() {
    let (client, inner) = client();
    let error = armed!(builder().errors_fn(1.0, reset));
    let mut future = spawn(error.layer(client.clone()));
    let Poll::Ready(Err(error)) = future.poll() else { panic!("no error") };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let response = armed!(builder().responses_fn(1.0, |request: &&str| request.len() as u32));
    assert!(matches!(spawn(response.layer(client)).poll(), Poll::Ready(Ok(7))));
    assert_eq!(inner.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_may_be_one_that_converts_into_that_of_the_service() {
    let boxed = Flaky::new([], || Ok::<_, BoxError>(1));
    let chaos = armed!(builder().errors_fn(1.0, reset));
    let error = chaos.layer(boxed).oneshot("request").await.unwrap_err();
    assert!(error.is::<io::Error>());
    let carrier = Flaky::new([], || Ok::<_, Error<io::Error>>(1));
    let error = chaos.layer(carrier).oneshot("request").await.unwrap_err();
    assert!(matches!(error, Error::Service(_)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_held_continues_when_the_layer_is_disarmed() {
    for (chaos, calls) in holding() {
        let (client, inner) = client();
        chaos.handle().arm_for(HOUR).unwrap();
        let mut held: Vec<_> = (0..3).map(|_| spawn(chaos.layer(client.clone()))).collect();
        assert!(held.iter_mut().all(|call| call.poll().is_pending()));
        advance(HOUR / 2).await;
        assert!(held.iter_mut().all(|call| !call.is_woken() && call.poll().is_pending()));
        assert_eq!(inner.calls(), 3 * calls);
        chaos.handle().disarm();
        assert!(held.iter_mut().all(|call| call.is_woken()));
        assert!(held.iter_mut().all(|call| matches!(call.poll(), Poll::Ready(Ok(1)))));
        assert_eq!(inner.calls(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_hangs_for_longer_than_the_layer_is_armed() {
    for (chaos, _) in holding() {
        let (client, _) = client();
        chaos.handle().arm_for(SECOND).unwrap();
        let began = Instant::now();
        assert_eq!(chaos.layer(client).oneshot("request").await.unwrap(), 1);
        assert_eq!(began.elapsed(), SECOND);
        assert!(!chaos.handle().is_armed());
    }
    for delay in [2 * SECOND, Duration::MAX] {
        let chaos = builder().delays(1.0, delay).build().unwrap();
        chaos.handle().arm_for(SECOND).unwrap();
        let began = Instant::now();
        assert_eq!(chaos.layer(client().0).oneshot("request").await.unwrap(), 1);
        assert_eq!(began.elapsed(), SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_disarmed_before_its_first_poll_continues() {
    for (chaos, _) in holding() {
        chaos.handle().arm_for(HOUR).unwrap();
        let mut service = chaos.layer(client().0);
        let held = ServiceExt::<&str>::ready(&mut service).await.unwrap().call("request");
        chaos.handle().disarm();
        // Armed again, it does not hold a call of the arming before.
        chaos.handle().arm_for(HOUR).unwrap();
        assert!(matches!(Spawned::new(held).poll(), Poll::Ready(Ok(1))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_nothing_behind() {
    for (chaos, _) in holding() {
        chaos.handle().arm_for(HOUR).unwrap();
        for polls in 0..5 {
            let (client, inner) = client();
            inner.push(Step::RespondAfter(2 * TICK, Ok(1)));
            let mut held = spawn(chaos.layer(client));
            for _ in 0..polls {
                assert!(held.poll().is_pending());
                advance(TICK).await;
            }
            assert_eq!(held.cancel().holders(), 0, "wakers kept");
            assert_eq!(inner.in_flight(), 0);
        }
        // The freed places are used again.
        assert!(spawn(chaos.layer(client().0)).poll().is_pending());
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_service_is_not_lost_or_late() {
    let builders = [builder().lost_responses(1.0), builder().late_responses(1.0, SECOND)];
    for chaos in builders.map(|builder| armed!(builder)) {
        let down = Flaky::new([], || Err::<u32, _>(reset()));
        assert!(matches!(spawn(chaos.layer(down)).poll(), Poll::Ready(Err(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_separates_the_requests_of_a_closure_until_it_heals() {
    let chaos = armed!(builder().partition_fn(|host: &&str| *host == "eu").errors_fn(1.0, reset));
    let (client, inner) = client();
    let service = chaos.layer(client);
    let mut eu = Spawned::new(service.clone().oneshot("eu"));
    let mut us = Spawned::new(service.clone().oneshot("us"));
    assert!(eu.poll().is_pending() && matches!(us.poll(), Poll::Ready(Err(_))));
    assert_eq!(inner.calls(), 0);
    chaos.handle().disarm();
    assert!(eu.is_woken() && matches!(eu.poll(), Poll::Ready(Ok(1))));
    assert_eq!(service.oneshot("eu").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_leaves_the_layer_working() {
    let panics = Arc::new(AtomicBool::new(true));
    let panicking = Arc::clone(&panics);
    let chaos = armed!(builder().errors_fn(1.0, move || {
        assert!(!panicking.load(Ordering::Relaxed), "user code");
        reset()
    }));
    let reserving = Reserving::new(client().0, 1);
    let slots = reserving.handle();
    let service = chaos.layer(reserving);
    let other = service.clone();
    assert!(tokio::spawn(async { service.oneshot("request").await }).await.is_err());
    assert_eq!(slots.taken(), 0);
    panics.store(false, Ordering::Relaxed);
    assert_eq!(other.oneshot("request").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}
