//! Endpoints are checked.

use std::sync::atomic::{AtomicU32, Ordering};

use buttress::endpoints::{Check, check_fn};
use tower::service_fn;

use super::*;

/// Calls the instance, and counts the checks.
#[derive(Clone, Default)]
struct Call(Arc<AtomicU32>);

impl Check<Client> for Call {
    async fn check(&self, service: Client) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        service.oneshot(()).await.is_ok()
    }
}

/// Lets the checks of some intervals run.
async fn intervals(count: u32) {
    for _ in 0..count * 100 {
        tokio::time::sleep(100 * MS).await;
    }
}

/// Waits for the next checks of an instance that gets no other calls.
async fn checks_of(world: &World, name: Name, count: u32) {
    let all = world.calls(name) + count;
    while world.calls(name) < all {
        tokio::time::sleep(100 * MS).await;
    }
    tokio::time::sleep(100 * MS).await;
}

#[tokio::test(start_paused = true)]
async fn three_out_two_back() {
    let world = World::default();
    let endpoints = world.builder(["a", "b", "c"]).check(Call::default()).build().unwrap();
    let handle = endpoints.handle();
    world.set("a", Mode::Fails);
    checks_of(&world, "a", 2).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::Usable);
    checks_of(&world, "a", 1).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::CheckFailed);
    let before = world.calls("a");
    assert_eq!(calls(&endpoints, 100).await, 0);
    assert_eq!(world.calls("a"), before);
    world.set("a", Mode::Up);
    let up = tokio::time::Instant::now();
    checks_of(&world, "a", 1).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::CheckFailed);
    checks_of(&world, "a", 1).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::Usable);
    // At most 10 % longer than two intervals.
    assert!(up.elapsed() < 23 * SECOND, "{:?}", up.elapsed());
}

#[tokio::test(start_paused = true)]
async fn checks_are_spread_and_come_every_interval() {
    let (world, check) = (World::default(), Call::default());
    let _endpoints = world.builder(["a", "b", "c", "d"]).check(check.clone()).build().unwrap();
    intervals(10).await;
    let checks = check.0.load(Ordering::Relaxed);
    assert!((36..=44).contains(&checks), "{checks}");
}

#[tokio::test(start_paused = true)]
async fn a_checker_that_panics_or_hangs_is_a_failure() {
    for panics in [true, false] {
        let world = World::default();
        let check = check_fn(move |client: Client| async move {
            if client.name == "a" {
                assert!(!panics, "a check");
                std::future::pending::<()>().await;
            }
            true
        });
        let endpoints = world.builder(["a", "b", "c"]).check(check).build().unwrap();
        intervals(4).await;
        let handle = endpoints.handle();
        assert_eq!(status(&handle, "a"), EndpointStatus::CheckFailed, "{panics}");
        assert_eq!(status(&handle, "b"), EndpointStatus::Usable, "{panics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_before_its_future_is_a_failure_too() {
    let world = World::default();
    let check = check_fn(|_: Client| -> std::future::Ready<bool> { panic!("a check") });
    let endpoints = world.builder(["a"]).check(check).build().unwrap();
    intervals(4).await;
    assert_eq!(status(&endpoints.handle(), "a"), EndpointStatus::CheckFailed);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_check_takes_out_none() {
    let world = World::default();
    let check = check_fn(|_: Client| async { false });
    let endpoints = world.builder(["a", "b", "c"]).check(check).build().unwrap();
    intervals(4).await;
    let states = endpoints.handle().states();
    assert!(states.iter().all(|it| it.status == EndpointStatus::CheckFailed));
    assert_eq!(calls(&endpoints, 300).await, 0);
    assert!(["a", "b", "c"].iter().all(|name| world.calls(name) > 50));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_dead_for_ever_is_renewed_for_its_checks() {
    let world = World::default();
    // The first service of `a` never works, but a new one does.
    let first = Arc::new(AtomicU32::new(0));
    let made = Arc::clone(&first);
    let inner = world.clone();
    let make = move |name: &Name| {
        let generation = if *name == "a" { made.fetch_add(1, Ordering::Relaxed) } else { 1 };
        let (world, name) = (inner.clone(), *name);
        let sign = Arc::new(Sign(name, world.clone()));
        (generation, Client { name, world, sign })
    };
    let check = check_fn(|(generation, client): (u32, Client)| async move {
        generation > 0 && client.oneshot(()).await.is_ok()
    });
    let endpoints = Endpoints::builder(["a", "b"], make).check(check).build().unwrap();
    let handle = endpoints.handle();
    checks_of(&world, "b", 3).await;
    assert_eq!(first.load(Ordering::Relaxed), 1);
    intervals(4).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::Usable);
    assert_eq!(first.load(Ordering::Relaxed), 2, "a new one was made when it was out");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_always_fails_replaces_no_service() {
    let made = AtomicU32::new(0);
    let make = move |_: &Name| {
        let number = made.fetch_add(1, Ordering::Relaxed);
        service_fn(move |(): ()| async move { Ok::<_, &'static str>(number) })
    };
    let check = check_fn(|_| async { false });
    let endpoints = Endpoints::builder(["a"], make).check(check).build().unwrap();
    intervals(30).await;
    assert_eq!(status(&endpoints.handle(), "a"), EndpointStatus::CheckFailed);
    assert_eq!(endpoints.oneshot(()).await, Ok(0), "its connections were thrown away");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_becomes_ready_is_checked_without_a_spin_or_a_leak() {
    for mode in [Mode::Dead, Mode::Unready] {
        let (world, check) = (World::default(), Call::default());
        let endpoints = world.builder(["a"]).check(check.clone()).build().unwrap();
        world.set("a", mode);
        intervals(100).await;
        assert_eq!(status(&endpoints.handle(), "a"), EndpointStatus::CheckFailed, "{mode:?}");
        let checks = check.0.load(Ordering::Relaxed);
        assert!((90..=220).contains(&checks), "{checks}");
        let (made, polls) = world.with("a", |it| (it.made, it.readiness_polls));
        // A check is polled again when its time is over.
        let is_idle = made <= checks && polls <= 2 * checks;
        assert!(is_idle, "{made} made, {polls} polls, {checks} checks");
        drop(endpoints);
        tokio::time::sleep(MS).await;
        assert_eq!(world.with("a", |it| it.dropped), made, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_has_one_check_at_a_time() {
    let (active, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    struct Active(Arc<AtomicU32>);
    impl Drop for Active {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let (world, checks) = (World::default(), Arc::new(AtomicU32::new(0)));
    let check = check_fn({
        let (most, checks) = (Arc::clone(&most), Arc::clone(&checks));
        move |_: Client| {
            checks.fetch_add(1, Ordering::Relaxed);
            most.fetch_max(active.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            let active = Active(Arc::clone(&active));
            async move {
                std::future::pending::<()>().await;
                drop(active);
                true
            }
        }
    });
    let builder = world.builder(["a"]).check(check).check_interval(SECOND).check_timeout(SECOND);
    let _endpoints = builder.build().unwrap();
    intervals(10).await;
    assert_eq!(most.load(Ordering::Relaxed), 1);
    // A check begins as soon as the one before it has timed out.
    let checks = checks.load(Ordering::Relaxed);
    assert!((90..=101).contains(&checks), "{checks}");
}

/// A future that never ends, and whose drop panics.
struct PanicsWhenDropped;

impl Future for PanicsWhenDropped {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<bool> {
        Poll::Pending
    }
}

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("a check");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_when_it_is_dropped_is_a_failure() {
    let world = World::default();
    let check = check_fn(|_: Client| PanicsWhenDropped);
    let endpoints = world.builder(["a"]).check(check).build().unwrap();
    intervals(5).await;
    assert_eq!(status(&endpoints.handle(), "a"), EndpointStatus::CheckFailed);
}

#[tokio::test(start_paused = true)]
async fn the_first_checks_forget_no_response_times() {
    let (world, check) = (World::default(), Call::default());
    let endpoints = world.builder(["a"]).check(check.clone()).build().unwrap();
    world.set("a", Mode::Slow(50 * MS));
    assert_eq!(calls(&endpoints, 8).await, 0);
    // A call that is under way at the second check counts.
    world.set("a", Mode::Slow(25 * SECOND));
    let call = tokio::spawn(endpoints.clone().oneshot(()));
    tokio::time::sleep(MS).await;
    world.set("a", Mode::Up);
    intervals(3).await;
    assert!(check.0.load(Ordering::Relaxed) > 2 && call.await.unwrap().is_ok());
    let time = endpoints.handle().states()[0].response_time;
    assert!(time > Some(SECOND), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_drain_ends_is_checked_at_once() {
    let (world, check) = (World::default(), Call::default());
    let endpoints = world.builder(["a"]).check(check.clone()).build().unwrap();
    let checks = || check.0.load(Ordering::Relaxed);
    tokio::time::sleep(MS).await;
    assert!(checks() == 1 && endpoints.handle().drain(&"a"));
    for _ in 0..5 {
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(checks(), 1, "a drained endpoint is not checked");
    }
    assert!(endpoints.handle().insert("a"));
    tokio::time::sleep(MS).await;
    assert_eq!(checks(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_is_used_at_once_and_checked_at_once() {
    let (world, check) = (World::default(), Call::default());
    let endpoints = world.builder([]).check(check.clone()).build().unwrap();
    tokio::task::yield_now().await;
    assert!(endpoints.handle().insert("a"));
    assert_eq!(calls(&endpoints, 1).await, 0);
    tokio::time::sleep(MS).await;
    assert_eq!(check.0.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn checks_that_are_due_at_once_are_spread() {
    const COUNT: u32 = 1_000;
    let checks = Arc::new(AtomicU32::new(0));
    let check = check_fn({
        let checks = Arc::clone(&checks);
        move |_| {
            checks.fetch_add(1, Ordering::Relaxed);
            std::future::ready(true)
        }
    });
    let make = |_: &u32| service_fn(|(): ()| async { Ok::<_, Name>("a") });
    let endpoints = Endpoints::builder([], make).check(check).build().unwrap();
    let handle = endpoints.handle();
    let begun = || checks.load(Ordering::Relaxed);
    // The task has begun. Otherwise it spreads the first checks.
    tokio::time::sleep(MS).await;
    assert!((0..COUNT).all(|address| handle.insert(address)));
    tokio::time::sleep(SECOND).await;
    assert!((100..500).contains(&begun()), "{}", begun());
    intervals(1).await;
    let before = begun();
    assert!(before >= COUNT, "each has been checked");
    // The runtime was not driven for an hour.
    tokio::time::advance(3_600 * SECOND).await;
    tokio::time::sleep(SECOND).await;
    let late = begun() - before;
    assert!((100..500).contains(&late), "{late}");
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_last_owner() {
    let (world, check) = (World::default(), Call::default());
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let endpoints = world.builder(["a", "b"]).check(check.clone()).build().unwrap();
    world.set("a", Mode::Hangs);
    let handle = endpoints.handle();
    drop(endpoints);
    intervals(2).await;
    assert!(tasks() >= 1 && check.0.load(Ordering::Relaxed) > 0);
    drop(handle);
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    assert_eq!(tasks(), 0);
    assert_eq!(world.with("a", |it| it.dropped), 1);
}

#[test]
fn endpoints_that_are_built_outside_of_a_runtime_are_checked_from_the_first_call() {
    let (world, check) = (World::default(), Call::default());
    let endpoints = world.builder(["a"]).check(check.clone()).build().unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        intervals(2).await;
        assert_eq!(check.0.load(Ordering::Relaxed), 0);
        assert_eq!(calls(&endpoints, 1).await, 0);
        intervals(2).await;
        assert!(check.0.load(Ordering::Relaxed) > 0);
    });
}

#[test]
fn the_first_checks_are_spread_even_if_they_begin_late() {
    let (checks, make) =
        (Arc::new(AtomicU32::new(0)), |_: &u32| service_fn(|(): ()| async { Ok::<_, Name>("a") }));
    let check = check_fn({
        let checks = Arc::clone(&checks);
        move |_| {
            checks.fetch_add(1, Ordering::Relaxed);
            std::future::ready(true)
        }
    });
    let endpoints = Endpoints::builder(0..1_000, make).check(check).build().unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(endpoints.clone().oneshot(()).await, Ok("a"));
        tokio::time::sleep(SECOND).await;
        let early = checks.load(Ordering::Relaxed);
        assert!((50..200).contains(&early), "{early}");
        intervals(1).await;
        assert!(checks.load(Ordering::Relaxed) >= 1_000);
    });
}
