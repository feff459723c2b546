//! The results that are failures of an endpoint.

use buttress::{
    Deadline, Fault, Outcome, Stack,
    retry::{ReplayClones, RetryLayer},
    testing::task::Spawned,
};
use tower::{Layer, service_fn};

use super::*;

fn failures(handle: &EndpointsHandle<Name>) -> u64 {
    handle.states().iter().map(|it| it.failures).sum()
}

/// Takes every response for a failure.
fn pessimist(_: Result<&Name, &Failure>) -> Outcome {
    Outcome::Failure(Fault::Permanent)
}

fn alarmist(_: Result<&Name, &Failure>) -> Outcome {
    Outcome::Failure(Fault::Transient)
}

fn indifferent(_: Result<&Name, &Failure>) -> Outcome {
    Outcome::Ignored
}

#[tokio::test(start_paused = true)]
async fn the_classifier_of_the_stack_decides_with_a_retry_and_without() {
    let (up, down) = (Mode::Up, Mode::Fails);
    for (mode, classify, expected) in [
        (up, alarmist as fn(Result<&Name, &Failure>) -> Outcome, 10),
        (up, pessimist, 0),
        (down, pessimist, 0),
        (down, indifferent, 0),
    ] {
        let world = World::default();
        world.set("a", mode);
        let endpoints = world.endpoints(["a"]);
        let handle = endpoints.handle();
        let retry = RetryLayer::builder(ReplayClones).retries(0).build().unwrap();
        let stack = Stack::new().classify_fn(classify);
        calls(&stack.clone().layer(endpoints.clone()), 5).await;
        calls(&stack.clone().attempt_timeout(SECOND).retry(retry).layer(endpoints), 5).await;
        assert_eq!((failures(&handle), in_flight(&handle)), (expected, 0), "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_stack_its_own_classifier_decides() {
    let world = World::default();
    let endpoints = world.builder(["a"]).classify_fn(alarmist).build().unwrap();
    calls(&endpoints, 5).await;
    assert_eq!(failures(&endpoints.handle()), 5);
    let plain = world.endpoints(["a"]);
    world.set("a", Mode::Fails);
    calls(&plain, 5).await;
    assert_eq!(failures(&plain.handle()), 5);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_times_out_is_a_failure_with_a_retry_and_without() {
    let world = World::default();
    world.set("a", Mode::Hangs);
    let endpoints = world.endpoints(["a"]);
    let handle = endpoints.handle();
    let retry = RetryLayer::builder(ReplayClones).retries(0).build().unwrap();
    let stack = Stack::new().attempt_timeout(SECOND);
    assert_eq!(calls(&stack.clone().layer(endpoints.clone()), 3).await, 3);
    assert_eq!(failures(&handle), 3);
    assert_eq!(calls(&stack.retry(retry).layer(endpoints), 3).await, 3);
    assert_eq!((failures(&handle), in_flight(&handle)), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn callers_in_a_hurry_move_nothing_while_others_are_served() {
    let world = World::default();
    world.set("a", Mode::Slow(500 * MS));
    let endpoints = world.endpoints(["a"]);
    let handle = endpoints.handle();
    let stack = Stack::standard(ReplayClones).layer(endpoints);
    assert_eq!(calls(&stack, 5).await, 0);
    for _ in 0..200 {
        let mut hurried = Spawned::new(stack.clone().oneshot(()));
        assert!(hurried.poll().is_pending());
        tokio::time::advance(10 * MS).await;
        drop(hurried);
    }
    assert_eq!((failures(&handle), in_flight(&handle)), (0, 0));
}

/// The first response waits for a connection, and the others are there at once.
#[tokio::test(start_paused = true)]
async fn a_hang_is_seen_even_if_only_the_first_response_took_a_time() {
    let world = World::default();
    world.set("a", Mode::Slow(2 * SECOND));
    let endpoints = world.endpoints(["a"]);
    calls(&endpoints, 1).await;
    world.set("a", Mode::Up);
    calls(&endpoints, 1_000).await;
    world.set("a", Mode::Hangs);
    for _ in 0..100 {
        let mut cut = Spawned::new(endpoints.clone().oneshot(()));
        assert!(cut.poll().is_pending());
        tokio::time::advance(SECOND).await;
    }
    let failures = failures(&endpoints.handle());
    assert_eq!(failures, 90, "those after ten seconds without a response");
}

/// Takes the failure of an instance for a timeout that it has reported.
fn late(result: Result<&Name, &Failure>) -> Outcome {
    if result.is_ok() { Outcome::Success } else { Outcome::Failure(Fault::TimedOut) }
}

/// A service that knows its caller's deadline gives up a little before it.
#[tokio::test(start_paused = true)]
async fn a_timeout_for_a_short_deadline_of_the_caller_is_no_failure_with_a_retry_and_without() {
    let retry = RetryLayer::builder(ReplayClones).retries(0).build().unwrap();
    let stack = Stack::new().classify_fn(late).total_timeout(SECOND);
    for (limit, failed) in [(50 * MS, 0), (1_100 * MS, 5)] {
        let world = World::default();
        let endpoints = world.endpoints(["a"]);
        let handle = endpoints.handle();
        world.set("a", Mode::SlowFailure(if failed == 0 { 46 * MS } else { 990 * MS }));
        let plain = stack.clone().layer(endpoints.clone());
        let retried = stack.clone().retry(retry.clone()).layer(endpoints);
        for _ in 0..5 {
            let call = Deadline::scope(Deadline::after(limit), plain.clone().oneshot(()));
            assert!(call.await.unwrap().is_err());
        }
        assert_eq!(failures(&handle), failed, "without a retry, {limit:?}");
        for _ in 0..5 {
            let call = Deadline::scope(Deadline::after(limit), retried.clone().oneshot(()));
            assert!(call.await.unwrap().is_err());
        }
        assert_eq!(failures(&handle), 2 * failed, "with a retry, {limit:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_is_seen_although_all_callers_leave() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b"]);
    let handle = endpoints.handle();
    world.set("b", Mode::Slow(40 * MS));
    assert_eq!(calls(&endpoints, 20).await, 0);
    world.set("a", Mode::Hangs);
    for _ in 0..2_000 {
        let mut call = Spawned::new(endpoints.clone().oneshot(()));
        _ = call.poll();
        tokio::time::advance(50 * MS).await;
        drop(call);
        if status(&handle, "a") == EndpointStatus::Ejected {
            return;
        }
    }
    panic!("{:?}", handle.states());
}

/// A new instance behind a firewall that drops packets has never responded.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_never_responded_is_seen_although_all_callers_leave_early() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b"]);
    let handle = endpoints.handle();
    world.set("a", Mode::Hangs);
    world.set("b", Mode::Slow(10 * MS));
    let started = tokio::time::Instant::now();
    while started.elapsed() < 30 * SECOND {
        let hurried = tokio::time::timeout(50 * MS, endpoints.clone().oneshot(()));
        tokio::spawn(hurried);
        tokio::time::sleep(5 * MS).await;
        if status(&handle, "a") == EndpointStatus::Ejected {
            assert!(started.elapsed() > 10 * SECOND, "{:?}", started.elapsed());
            return;
        }
    }
    panic!("{:?}", handle.states());
}

#[tokio::test(start_paused = true)]
async fn a_call_of_another_task_or_stack_is_settled_by_itself() {
    let world = World::default();
    let endpoints = world.endpoints(["a"]);
    let handle = endpoints.handle();
    // The handler calls its endpoints for itself, and its own result means something else.
    let handler = tower::service_fn(move |(): ()| {
        let inner = Stack::new().layer(endpoints.clone());
        async move {
            inner.clone().oneshot(()).await?;
            let spawned = tokio::spawn(inner.oneshot(()));
            spawned.await.expect("no panic")?;
            Err::<Name, _>(Failure::from("a failure of the handler"))
        }
    });
    assert_eq!(calls(&Stack::standard(ReplayClones).layer(handler), 1).await, 1);
    assert!(world.calls("a") >= 2);
    assert_eq!((failures(&handle), in_flight(&handle)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_withheld_is_settled_by_the_endpoint() {
    let world = World::default();
    let endpoints = world.endpoints(["a"]);
    let handle = endpoints.handle();
    let late = tower::service_fn(move |(): ()| {
        let endpoints = endpoints.clone();
        async move {
            let result = endpoints.oneshot(()).await;
            tokio::time::sleep(SECOND).await;
            result
        }
    });
    let stack = Stack::new().classify_fn(alarmist).layer(late);
    assert_eq!(calls(&stack, 3).await, 0);
    assert_eq!((failures(&handle), in_flight(&handle)), (0, 0));
    assert!(handle.states()[0].response_time.unwrap() < 10 * MS);
}

/// Gives a default if the service takes too long.
#[derive(Clone)]
struct DefaultWhenLate(Endpoints<Name, Client>);

impl Service<()> for DefaultWhenLate {
    type Response = Name;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Name, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let call = self.0.clone().oneshot(());
        Box::pin(
            async move { tokio::time::timeout(3 * SECOND, call).await.unwrap_or(Ok("default")) },
        )
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_is_ejected_although_its_callers_get_a_default() {
    let world = World::default();
    world.set("a", Mode::Hangs);
    world.set("b", Mode::Slow(5 * MS));
    let endpoints = world.endpoints(["a", "b"]);
    let handle = endpoints.handle();
    let retry = RetryLayer::builder(ReplayClones).build().unwrap();
    let stack = Stack::new().retry(retry).layer(DefaultWhenLate(endpoints));
    for _ in 0..2_000 {
        stack.clone().oneshot(()).await.unwrap();
    }
    assert!(failures(&handle) >= 5, "{:?}", handle.states());
    assert!(world.calls("a") < 200, "{:?}", handle.states());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_later_call_drops_does_not_get_the_outcome_of_that_one() {
    type Left = Arc<Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>>;
    let world = World::default();
    world.set("a", Mode::Hangs);
    let endpoints = world.endpoints(["a"]);
    let (handle, left) = (endpoints.handle(), Left::default());
    let service = service_fn(move |()| {
        let (endpoints, left) = (endpoints.clone(), Arc::clone(&left));
        async move {
            let earlier = left.lock().unwrap().take();
            if earlier.is_some() {
                drop(earlier);
                return Err(Error::Service("something else"));
            }
            let mut call: Pin<Box<dyn Future<Output = ()> + Send>> =
                Box::pin(async move { drop(endpoints.oneshot(()).await) });
            _ = futures::poll!(call.as_mut());
            *left.lock().unwrap() = Some(call);
            Ok::<Name, Failure>("not of an endpoint")
        }
    });
    let retry = RetryLayer::builder(ReplayClones).retries(0).build().unwrap();
    let stack = retry.layer(service);
    for _ in 0..40 {
        // At the same address each time.
        _ = Box::pin(stack.clone().call(())).await;
        assert_eq!(failures(&handle), 0);
        tokio::time::sleep(MS).await;
    }
}
