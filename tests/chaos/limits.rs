//! The number of calls that hang is bounded.

use std::task::Poll;

use buttress::testing::{Step, cancel::CancelHarness};
use tokio::time::advance;
use tower::{Layer, ServiceExt};

use super::{HOUR, SECOND, TICK, builder, client, spawn};

#[tokio::test(start_paused = true)]
async fn a_call_above_the_limit_of_hanging_calls_has_no_fault() {
    let layers = [builder().hangs(1.0), builder().lost_responses(1.0)]
        .map(|builder| armed!(builder.max_hung(2)));
    let partition = armed!(builder().partition_fn(|_: &&str| true).max_hung(2));
    let (one, other) = (layers[0].handle(), layers[1].handle());
    let clients: [(_, Box<dyn Fn() -> _>); 2] = [
        (one, Box::new(|| spawn(layers[0].layer(client().0)))),
        (other, Box::new(|| spawn(layers[1].layer(client().0)))),
    ];
    for (handle, spawn) in clients {
        let mut held = [spawn(), spawn()];
        assert!(held.iter_mut().all(|call| call.poll().is_pending()));
        assert_eq!(handle.hung(), 2);
        assert!(matches!(spawn().poll(), Poll::Ready(Ok(1))));
        assert_eq!((handle.hung(), handle.injected()), (2, 2));
        drop(held);
        assert_eq!(handle.hung(), 0);
        assert!(spawn().poll().is_pending());
    }
    let mut held = [(); 2].map(|()| spawn(partition.layer(client().0)));
    assert!(held.iter_mut().all(|call| call.poll().is_pending()));
    assert!(matches!(spawn(partition.layer(client().0)).poll(), Poll::Ready(Ok(1))));
    partition.handle().disarm();
    assert!(held.iter_mut().all(|call| call.poll().is_ready()));
    assert_eq!(partition.handle().hung(), 0);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_only_late_are_not_limited() {
    for chaos in [
        armed!(builder().delays(1.0, SECOND).max_hung(1)),
        armed!(builder().late_responses(1.0, SECOND).max_hung(1)),
    ] {
        let mut late = [(); 9].map(|()| spawn(chaos.layer(client().0)));
        assert!(late.iter_mut().all(|call| call.poll().is_pending()));
        assert_eq!((chaos.handle().hung(), chaos.handle().injected()), (0, 9));
        advance(SECOND).await;
        assert!(late.iter_mut().all(|call| call.poll().is_ready()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_any_poll_returns_its_place() {
    let builders = [
        builder().hangs(1.0),
        builder().lost_responses(1.0),
        builder().delays(1.0, 3 * TICK),
        builder().late_responses(1.0, 3 * TICK),
    ];
    for chaos in builders.map(|builder| builder.windows([TICK..5 * TICK]).build().unwrap()) {
        let handle = chaos.handle();
        let (service, inner) = client();
        let polls = CancelHarness::new(|| {
            handle.arm_for(HOUR).unwrap();
            inner.push(Step::RespondAfter(TICK, Ok(1)));
            let service = chaos.layer(service.clone());
            async move {
                advance(TICK).await;
                service.oneshot("request").await
            }
        })
        .run_with(|| advance(TICK), |_| assert_eq!((handle.hung(), inner.in_flight()), (0, 0)))
        .await;
        assert!(polls > 2, "{polls}");
    }
}
