//! Only the program arms the layer, for a bounded time.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    thread,
    time::Duration,
};

use buttress::{chaos::ChaosHandle, testing::Step};
use tokio::{task::JoinSet, time::advance};
use tower::{Layer, ServiceExt};

use super::{HOUR, SECOND, TICK, builder, call, client, holding, reset, spawn};

#[tokio::test(start_paused = true)]
async fn a_layer_is_disarmed_until_the_program_arms_it_and_after_its_time() {
    let chaos = builder().errors_fn(1.0, reset).build().unwrap();
    let handle = chaos.handle();
    let mut service = chaos.layer(client().0);
    assert!(!handle.is_armed() && call(&mut service).await.is_ok());

    handle.arm_for(SECOND).unwrap();
    assert!(handle.is_armed());
    advance(SECOND - TICK).await;
    assert!(handle.is_armed() && call(&mut service).await.is_err());
    advance(TICK).await;
    assert!(call(&mut service).await.is_ok());
    assert!(!handle.is_armed());

    handle.arm_for(SECOND).unwrap();
    assert!(call(&mut service).await.is_err());
    handle.disarm();
    assert!(!handle.is_armed() && call(&mut service).await.is_ok());
    handle.disarm();
    assert_eq!(handle.injected(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_longer_or_shorter_time_replaces_the_one_before() {
    let chaos = builder().errors_fn(1.0, reset).build().unwrap();
    let handle = chaos.handle();
    handle.arm_for(SECOND).unwrap();
    handle.arm_for(3 * SECOND).unwrap();
    advance(2 * SECOND).await;
    assert!(handle.is_armed());
    handle.arm_for(TICK).unwrap();
    advance(TICK).await;
    assert!(!handle.is_armed());
}

#[test]
fn a_layer_is_armed_for_an_hour_at_most() {
    let handle = builder().build().unwrap().handle();
    let too_long = [HOUR + Duration::from_nanos(1), Duration::MAX];
    for time in too_long.into_iter().chain([Duration::ZERO]) {
        let error = handle.arm_for(time).unwrap_err();
        assert_eq!(error.knob(), "arm_for", "{error}");
        assert!(!handle.is_armed());
    }
    for time in [Duration::from_nanos(1), HOUR] {
        assert_eq!(handle.arm_for(time), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_stays_armed_without_its_handle() {
    let chaos = builder().errors_fn(1.0, reset).build().unwrap();
    let mut service = chaos.layer(client().0);
    chaos.handle().arm_for(SECOND).unwrap();
    drop(chaos);
    assert!(call(&mut service).await.is_err());
    advance(SECOND).await;
    assert!(call(&mut service).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_in_flight_is_not_changed_by_arming_or_disarming() {
    let chaos = builder().lost_responses(0.5).errors_fn(0.5, reset).build().unwrap();
    let (client, inner) = client();
    inner.push(Step::RespondWhenReleased(Ok(7)));
    let mut before = spawn(chaos.layer(client));
    assert!(before.poll().is_pending());
    chaos.handle().arm_for(HOUR).unwrap();
    assert!(before.poll().is_pending());
    chaos.handle().disarm();
    inner.release();
    assert!(matches!(before.poll(), Poll::Ready(Ok(7))));
    assert_eq!(chaos.handle().injected(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_continues_when_the_layer_is_armed_again() {
    for (chaos, _) in holding() {
        chaos.handle().arm_for(HOUR).unwrap();
        let mut held = spawn(chaos.layer(client().0));
        assert!(held.poll().is_pending());
        chaos.handle().arm_for(HOUR).unwrap();
        assert!(held.is_woken() && matches!(held.poll(), Poll::Ready(Ok(1))));
        assert_eq!(chaos.handle().hung(), 0);
        assert!(spawn(chaos.layer(client().0)).poll().is_pending());
    }
}

#[test]
fn a_handle_shows_whether_the_layer_is_armed() {
    let handle: ChaosHandle = builder().name("orders").build().unwrap().handle();
    let text = format!("{handle:?}");
    assert!(text.contains("armed: false") && text.contains("orders"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_is_forgotten_while_threads_arm_and_disarm() {
    static ENDED: AtomicUsize = AtomicUsize::new(0);
    let chaos = builder().hangs(0.4).lost_responses(0.4).build().unwrap();
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let service = chaos.layer(client().0);
        callers.spawn(async move {
            for _ in 0..500 {
                assert_eq!(service.clone().oneshot("request").await.unwrap(), 1);
            }
            ENDED.fetch_add(1, Ordering::Relaxed);
        });
    }
    let handle = chaos.handle();
    // A call that misses its release hangs for an hour.
    let all_ended = || ENDED.load(Ordering::Relaxed) == 4;
    while !all_ended() {
        let before = handle.injected();
        handle.arm_for(HOUR).unwrap();
        while handle.injected() == before && !all_ended() {
            thread::yield_now();
        }
        handle.disarm();
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert!(handle.injected() > 0);
    assert_eq!(handle.hung(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_user_closure_may_use_the_handle() {
    let (inner, slot) =
        (client().0, std::sync::Arc::new(std::sync::OnceLock::<ChaosHandle>::new()));
    let own = std::sync::Arc::clone(&slot);
    let layer = builder().partition_fn(move |_: &&str| {
        let handle = own.get().unwrap();
        handle.disarm();
        handle.is_armed() || handle.hung() == 0
    });
    let chaos = armed!(layer);
    assert!(slot.set(chaos.handle()).is_ok());
    // The closure has disarmed the layer, so the call that it separates is released at once.
    assert!(matches!(spawn(chaos.layer(inner)).poll(), Poll::Ready(Ok(1))));
}
