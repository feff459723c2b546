//! A call that is dropped at any poll, or that panics at any point, leaves nothing behind.

use buttress::{
    Stack,
    retry::{ReplayClones, RetryLayer},
    testing::{Flaky, PanicPoint, Step, cancel::CancelHarness, task::Spawned},
};
use tower::Layer;

use super::*;

type Script = Vec<Step<Name, &'static str>>;

/// Makes a service of two endpoints around one scripted client.
fn over(client: &Flaky<Name, &'static str>) -> Endpoints<Name, Flaky<Name, &'static str>> {
    let client = Mutex::new(client.clone());
    let make = move |_: &Name| client.lock().unwrap().clone();
    // No ejection, so that all calls are alike.
    Endpoints::builder(["a", "b"], make).max_ejected(0.0).max_concurrent(1).build().unwrap()
}

fn scripts() -> Vec<fn() -> Script> {
    vec![
        || vec![Step::RespondAfterPolls(3, Ok("late"))],
        || vec![Step::RespondAfterPolls(2, Err("down")), Step::RespondAfterPolls(2, Ok("late"))],
        || vec![Step::FailReadiness("dead"), Step::RespondAfterPolls(2, Ok("late"))],
    ]
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_any_poll_is_no_longer_under_way() {
    for script in scripts() {
        let client = Flaky::new([], || Ok::<Name, &'static str>("response"));
        let (handle, endpoints) = (client.handle(), over(&client));
        let fleet = endpoints.handle();
        let retry = RetryLayer::builder(ReplayClones).retries(1).without_budget().build().unwrap();
        let stack = Stack::new().retry(retry).layer(endpoints.clone());
        let push = || script().into_iter().for_each(|step| handle.push(step));
        let idle = || {
            assert_eq!((in_flight(&fleet), handle.in_flight()), (0, 0));
            assert_eq!(handle.violations(), []);
        };
        let tick = || tokio::time::advance(100 * MS);
        let polls = CancelHarness::new(|| {
            push();
            endpoints.clone().oneshot(())
        })
        .run_with(tick, |_| idle())
        .await;
        assert!(polls > 0);
        let polls = CancelHarness::new(|| {
            push();
            stack.clone().oneshot(())
        })
        .run_with(tick, |_| idle())
        .await;
        assert!(polls > 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_at_any_point_frees_the_place_and_is_a_failure() {
    for (number, point) in PanicPoint::ALL.into_iter().enumerate() {
        let client = Flaky::new([], || Ok::<Name, &'static str>("response"));
        let (handle, endpoints) = (client.handle(), over(&client));
        let fleet = endpoints.handle();
        handle.push(point.step());
        let call = std::panic::AssertUnwindSafe(|| {
            Spawned::new(endpoints.clone().oneshot(())).poll().is_ready()
        });
        assert!(std::panic::catch_unwind(call).is_err(), "{number}");
        assert_eq!(in_flight(&fleet), 0);
        assert_eq!(fleet.states().iter().map(|it| it.failures).sum::<u64>(), 1);
        assert!(endpoints.oneshot(()).await.is_ok());
    }
}
