//! Tests of ambient values: the deadline, the attempt and the hop.

use std::{
    future::{pending, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use buttress::{
    BoxError, Deadline, Error,
    context::{Attempt, DeadlineElapsed, Hop},
    retry::{Budget, ReplayClones, RetryLayer},
    testing::{Flaky, Step, task::Spawned},
    timeout::TimeoutLayer,
};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Failure = Error<&'static str>;

const SECOND: Duration = Duration::from_secs(1);

fn left() -> Option<Duration> {
    Deadline::current().map(|deadline| deadline.remaining())
}

#[tokio::test(start_paused = true)]
async fn a_scope_is_seen_within_it_and_nowhere_else() {
    assert_eq!(left(), None);
    let seen = Deadline::scope(Deadline::after(SECOND), async {
        let before = left();
        tokio::task::yield_now().await;
        (before, left())
    });
    assert_eq!(left(), None);
    assert_eq!(seen.await, Ok((Some(SECOND), Some(SECOND))));
    assert_eq!(left(), None);
}

#[tokio::test(start_paused = true)]
async fn a_scope_does_not_leak_into_other_tasks() {
    let mut waits = Spawned::new(Deadline::scope(Deadline::after(SECOND), pending::<()>()));
    assert!(waits.poll().is_pending());
    assert_eq!(left(), None);
    let spawned =
        Deadline::scope(Deadline::after(SECOND), async { tokio::spawn(async { left() }).await });
    assert_eq!(spawned.await.unwrap().unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn scopes_nest_and_the_nearest_counts() {
    for (outer, inner, nearest) in [(5, 2, 2), (2, 5, 2)] {
        let nested = Deadline::scope(Deadline::after(SECOND * outer), async {
            let within = Deadline::scope(Deadline::after(SECOND * inner), async { left() }).await;
            (within, left())
        });
        assert_eq!(nested.await, Ok((Ok(Some(SECOND * nearest)), Some(SECOND * outer))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_scope_ends_its_future_at_the_deadline() {
    struct Seen(Arc<Mutex<Vec<Option<Duration>>>>);
    impl Drop for Seen {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(left());
        }
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let on_drop = Seen(Arc::clone(&seen));
    let mut scope = Spawned::new(Deadline::scope(Deadline::after(SECOND), async move {
        let _on_drop = on_drop;
        pending::<()>().await;
    }));
    assert!(scope.poll().is_pending());
    advance(SECOND).await;
    assert_eq!(scope.wakes(), 1);
    assert!(matches!(scope.poll(), Poll::Ready(Err(DeadlineElapsed { .. }))));
    assert_eq!(*seen.lock().unwrap(), [Some(Duration::ZERO)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_beats_its_deadline() {
    let at = Deadline::after(Duration::ZERO);
    assert!(at.has_passed());
    assert_eq!(Deadline::scope(at, async { "ready" }).await, Ok("ready"));
}

#[tokio::test(start_paused = true)]
async fn only_the_owner_of_a_deadline_enforces_it() {
    let inner = Deadline::scope(Deadline::after(SECOND * 2), pending::<()>());
    let mut outer = Spawned::new(Deadline::scope(Deadline::after(SECOND), inner));
    assert!(outer.poll().is_pending());
    assert_eq!(outer.hand_over().holders(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_may_be_beyond_what_the_clock_can_express() {
    let never = Deadline::after(Duration::MAX);
    assert!(never.remaining() > SECOND * 86_400 * 365);
    let mut scope = Spawned::new(Deadline::scope(never, pending::<()>()));
    assert!(scope.poll().is_pending());
    advance(SECOND * 86_400 * 365).await;
    assert!(scope.poll().is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_panic_restores_what_was_ambient_before() {
    let panics =
        Deadline::scope(Deadline::after(SECOND), poll_fn(|_| -> Poll<()> { panic!("scripted") }));
    let mut outer = Spawned::new(Deadline::scope(Deadline::after(SECOND * 2), async move {
        let mut panics = Spawned::new(Hop::observe(panics));
        assert!(catch_unwind(AssertUnwindSafe(|| panics.poll())).is_err());
        left()
    }));
    assert_eq!(outer.poll(), Poll::Ready(Ok(Some(SECOND * 2))));
    assert_eq!(left(), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_detached_sees_nothing_of_its_caller() {
    let inner = service_fn(|()| async {
        let detached = Deadline::detached(async { (left(), Attempt::current()) }).await;
        assert!(left().is_some() && Attempt::current().is_some());
        Ok::<_, Failure>(detached)
    });
    let service = TimeoutLayer::new(SECOND).layer(RetryLayer::new(ReplayClones).layer(inner));
    assert_eq!(service.oneshot(()).await, Ok((None, None)));

    let failing = RetryLayer::builder(ReplayClones).retries(1).build().unwrap();
    let failing = failing.layer(Flaky::<(), Failure>::new([], || Err(Error::Service("broken"))));
    let (result, hop) = Hop::observe(Deadline::detached(failing.oneshot(()))).await;
    assert!(result.is_err());
    assert_eq!(hop, Hop::default());
}

#[tokio::test(start_paused = true)]
async fn the_hop_is_noted_for_its_own_request_only() {
    let failing = RetryLayer::builder(ReplayClones).retries(1).build().unwrap();
    let failing = failing.layer(Flaky::<(), Failure>::new([], || Err(Error::Service("broken"))));
    let fine = async {
        tokio::time::sleep(SECOND * 5).await;
    };
    let ((failed, with), ((), without)) =
        futures::join!(Hop::observe(failing.clone().oneshot(())), Hop::observe(fine));
    assert!(failed.is_err());
    assert!(with.retries_exhausted() && !with.told_to_stop());
    assert_eq!(without, Hop::default());
    // Without an observer, nothing is kept for the next one.
    assert!(failing.oneshot(()).await.is_err());
    assert_eq!(Hop::observe(async {}).await.1, Hop::default());
}

/// A buffer's worker makes the call without a deadline. The caller polls the future with one.
#[tokio::test(start_paused = true)]
async fn below_a_buffer_the_polls_of_the_future_see_the_deadline() {
    let inner = service_fn(|()| {
        let in_call = left();
        async move { Ok::<_, BoxError>((in_call, left())) }
    });
    let mut service =
        ServiceBuilder::new().layer(TimeoutLayer::new(SECOND)).buffer(8).service(inner);
    let answer = service.ready().await.unwrap().call(()).await.unwrap();
    assert_eq!(answer, (None, Some(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn below_a_buffer_a_retry_still_knows_when_to_stop() {
    let inner = Flaky::new([], || Err::<(), BoxError>("broken".into()));
    let handle = inner.handle();
    let backoff = buttress::retry::Backoff::constant(SECOND).jitter(buttress::retry::Jitter::None);
    let retry =
        RetryLayer::builder(ReplayClones).backoff(backoff.build().unwrap()).build().unwrap();
    let mut service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND * 2))
        .buffer(8)
        .layer(retry)
        .service(inner);
    let began = Instant::now();
    let ready = ServiceExt::<()>::ready(&mut service).await.unwrap();
    let error = ready.call(()).await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
    assert_eq!((handle.calls(), began.elapsed()), (2, SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_future_sees_the_deadline_of_who_polls_it() {
    let service =
        TimeoutLayer::new(SECOND * 10).layer(Flaky::<(), Failure>::new([Step::Hang], || Ok(())));
    let mut call = Box::pin(service.oneshot(()));
    let hurried = Deadline::scope(Deadline::after(SECOND), &mut call).await;
    assert!(matches!(hurried, Err(DeadlineElapsed { .. })));
    // Polled outside the scope, the call has the time that is left of its own limit.
    let began = Instant::now();
    assert!(call.await.is_err());
    assert_eq!(began.elapsed(), SECOND * 9);
}

#[tokio::test(start_paused = true)]
async fn a_call_pays_once_into_a_budget_that_its_layers_share() {
    let budget = || Budget::builder().ratio(0.25).floor(0).build().unwrap();
    let retry =
        |budget: &Budget| RetryLayer::builder(ReplayClones).budget(budget.clone()).build().unwrap();
    let (shared, other) = (budget(), budget());
    let service = |outer: &Budget, inner: &Budget| {
        let echo = service_fn(|x: u32| async move { Ok::<_, Failure>(x) });
        retry(outer).layer(retry(inner).layer(echo))
    };
    service(&shared, &shared).oneshot(1).await.unwrap();
    assert_eq!(shared.balance(), 0.25);
    service(&shared, &other).oneshot(1).await.unwrap();
    assert_eq!((shared.balance(), other.balance()), (0.5, 0.25));

    // Work that is detached belongs to no call.
    let inner = retry(&shared).layer(service_fn(|x: u32| async move { Ok::<_, Failure>(x) }));
    let detached = service_fn(move |x: u32| Deadline::detached(inner.clone().oneshot(x)));
    retry(&shared).layer(detached).oneshot(1).await.unwrap();
    assert_eq!(shared.balance(), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_leaves_no_call_that_seems_to_have_paid() {
    let budget = Budget::builder().ratio(0.25).floor(0).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).budget(budget.clone()).build().unwrap();
    let mut panics = Spawned::new(
        retry
            .layer(service_fn(|_: u32| async { panic!("a handler") as Result<u32, Failure> }))
            .oneshot(1),
    );
    assert!(catch_unwind(AssertUnwindSafe(|| panics.poll())).is_err());
    retry.layer(service_fn(|x: u32| async move { Ok::<_, Failure>(x) })).oneshot(1).await.unwrap();
    assert_eq!(budget.balance(), 0.5);
}
