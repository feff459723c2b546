//! The layer forwards readiness, and reserves nothing for a request that it keeps.

use std::task::Poll;

use buttress::testing::{Reserving, task::SpawnedService};
use tokio::time::advance;
use tower::{Layer, Service};

use super::{Client, HOUR, SECOND, builder, client, reset, spawn};

#[tokio::test(start_paused = true)]
async fn a_request_that_is_kept_from_the_service_reserves_nothing() {
    fn assert_free<L>(layer: &L, ends: bool)
    where
        L: Layer<Reserving<Client>, Service: Service<&'static str, Response = u32>>,
    {
        let reserving = Reserving::new(client().0, 1);
        let slots = reserving.handle();
        let mut service = SpawnedService::new(layer.layer(reserving));
        for _ in 0..3 {
            assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
            assert_eq!(slots.reserved(), 1, "readiness is forwarded");
            let mut future = service.call("request");
            assert_eq!(future.poll().is_ready(), ends);
            assert_eq!((slots.taken(), slots.unready_calls()), (0, 0));
        }
    }
    assert_free(&armed!(builder().errors_fn(1.0, reset)), true);
    assert_free(&armed!(builder().responses_fn(1.0, |_: &&str| 2)), true);
    assert_free(&armed!(builder().hangs(1.0)), false);
    assert_free(&armed!(builder().delays(1.0, SECOND)), false);
    assert_free(&armed!(builder().partition_fn(|_: &&str| true)), false);
}

#[tokio::test(start_paused = true)]
async fn a_late_request_waits_until_the_service_is_ready() {
    let chaos = armed!(builder().delays(1.0, SECOND));
    let reserving = Reserving::new(client().0, 1);
    let slots = reserving.handle();
    let mut late = spawn(chaos.layer(reserving.clone()));
    let mut other = SpawnedService::<_, &str>::new(reserving);
    assert!(late.poll().is_pending() && other.poll_ready().is_ready());
    advance(SECOND).await;
    assert!(late.poll().is_pending());
    drop(other);
    assert!(late.is_woken() && matches!(late.poll(), Poll::Ready(Ok(1))));
    assert_eq!((slots.taken(), slots.unready_calls()), (0, 0));
}
