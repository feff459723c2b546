//! Endpoints that are back, or fast again, get calls.

use buttress::{endpoints::check_fn, testing::task::Spawned};

use super::*;

/// Makes calls one after the other for some time, and returns the share of the endpoint.
async fn share(endpoints: &Endpoints<Name, Client>, world: &World, name: Name) -> f64 {
    let before = world.calls(name);
    assert_eq!(calls(endpoints, 200).await, 0);
    f64::from(world.calls(name) - before) / 200.0
}

/// Makes a set of two whose checks fail while the instance hangs.
fn checked(world: &World) -> Endpoints<Name, Client> {
    let inner = world.clone();
    let check = check_fn(move |client: Client| std::future::ready(!inner.hangs(client.name)));
    world
        .builder(["a", "b"])
        .check(check)
        .check_interval(SECOND)
        .check_timeout(SECOND)
        .build()
        .unwrap()
}

/// Calls that wait at the endpoint.
fn waiting_at(
    endpoints: &Endpoints<Name, Client>,
    world: &World,
    name: Name,
) -> Vec<Spawned<tower::util::Oneshot<Endpoints<Name, Client>, ()>>> {
    let before = world.calls(name);
    let mut waiting = Vec::new();
    while world.calls(name) < before + 8 {
        let mut call = Spawned::new(endpoints.clone().oneshot(()));
        if call.poll().is_pending() {
            waiting.push(call);
        }
    }
    waiting
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_back_gets_calls_although_the_first_ones_are_slow() {
    let world = World::default();
    let endpoints = checked(&world);
    let handle = endpoints.handle();
    world.set("b", Mode::Slow(8 * MS));
    world.set("a", Mode::Hangs);
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::CheckFailed);
    // Its first calls make connections.
    world.set("a", Mode::Slow(37 * MS));
    tokio::time::sleep(2300 * MS).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::Usable, "two checks");
    let before = world.calls("a");
    while world.calls("a") < before + 3 {
        assert_eq!(calls(&endpoints, 1).await, 0);
    }
    world.set("a", Mode::Slow(8 * MS));
    let share = share(&endpoints, &world, "a").await;
    assert!(share > 0.2, "{share}");
}

#[tokio::test(start_paused = true)]
async fn calls_that_began_before_an_endpoint_was_back_do_not_count_against_it() {
    for fails in [false, true] {
        let world = World::default();
        let endpoints = checked(&world);
        let handle = endpoints.handle();
        world.set("b", Mode::Slow(8 * MS));
        // They end when the endpoint has long been back.
        world.set("a", if fails { Mode::SlowFailure(8 * SECOND) } else { Mode::Slow(8 * SECOND) });
        let mut waiting = waiting_at(&endpoints, &world, "a");
        world.set("a", Mode::Hangs);
        tokio::time::sleep(4 * SECOND).await;
        assert_eq!(status(&handle, "a"), EndpointStatus::CheckFailed);
        world.set("a", Mode::Slow(8 * MS));
        tokio::time::sleep(2300 * MS).await;
        assert_eq!(status(&handle, "a"), EndpointStatus::Usable);
        tokio::time::sleep(3 * SECOND).await;
        assert!(waiting.iter_mut().all(|call| call.poll().is_ready()));
        assert_eq!(status(&handle, "a"), EndpointStatus::Usable, "ejected by old calls");
        let failures = handle.states()[0].failures;
        assert_eq!(failures >= 8, fails, "they are counted: {failures}");
        let share = share(&endpoints, &world, "a").await;
        assert!(share > 0.2, "{share}");
    }
}

#[tokio::test(start_paused = true)]
async fn checks_that_pass_again_end_the_mean_of_an_endpoint_that_was_never_out() {
    let world = World::default();
    let inner = world.clone();
    let check = check_fn(move |client: Client| std::future::ready(!inner.hangs(client.name)));
    let builder = world.builder(["a", "b"]).max_ejected(0.0).check(check).out_after(100);
    let endpoints = builder.check_interval(SECOND).check_timeout(SECOND).build().unwrap();
    world.set("a", Mode::Fails);
    world.set("b", Mode::Slow(8 * MS));
    while endpoints.handle().states()[0].response_time <= Some(SECOND) {
        calls(&endpoints, 1).await;
    }
    world.set("a", Mode::Hangs);
    tokio::time::sleep(1500 * MS).await;
    world.set("a", Mode::Slow(8 * MS));
    tokio::time::sleep(2300 * MS).await;
    let share = share(&endpoints, &world, "a").await;
    assert!(share > 0.2, "{share}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_was_slow_is_tried_now_and_then_and_found_to_be_fast() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b", "c"]);
    world.set("a", Mode::Slow(40 * MS));
    world.set("b", Mode::Slow(8 * MS));
    world.set("c", Mode::Slow(8 * MS));
    share(&endpoints, &world, "a").await;
    // Two seconds, in which the mean hardly fades.
    let mut slow = 0.0;
    for _ in 0..10 {
        slow += share(&endpoints, &world, "a").await / 10.0;
    }
    assert!(slow > 0.0 && slow < 0.05, "{slow}");
    world.set("a", Mode::Slow(8 * MS));
    for _ in 0..20 {
        share(&endpoints, &world, "a").await;
    }
    let share = share(&endpoints, &world, "a").await;
    assert!(share > 0.1, "{share}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_drain_or_ejection_ends_is_not_slow_any_more() {
    for drains in [true, false] {
        let world = World::default();
        let endpoints = world.builder(["a", "b"]).eject_for(SECOND).build().unwrap();
        let handle = endpoints.handle();
        world.set("b", Mode::Slow(8 * MS));
        world.set("a", if drains { Mode::Slow(SECOND) } else { Mode::Fails });
        while world.calls("a") < if drains { 8 } else { 5 } {
            calls(&endpoints, 1).await;
        }
        assert!(!drains || handle.drain(&"a"));
        assert_ne!(status(&handle, "a"), EndpointStatus::Usable);
        world.set("a", Mode::Slow(8 * MS));
        tokio::time::sleep(SECOND).await;
        assert!(!drains || handle.insert("a"));
        let share = share(&endpoints, &world, "a").await;
        assert!(share > 0.2, "{share}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_removed_and_inserted_again_is_a_new_one() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b"]);
    let handle = endpoints.handle();
    world.set("b", Mode::Slow(8 * MS));
    world.set("a", Mode::Slow(10 * SECOND));
    let mut waiting = waiting_at(&endpoints, &world, "a");
    assert!(handle.remove(&"a") && handle.insert("a"));
    world.set("a", Mode::Slow(8 * MS));
    tokio::time::sleep(10 * SECOND).await;
    assert!(waiting.iter_mut().all(|call| call.poll().is_ready()));
    let state = handle.states().into_iter().find(|it| it.address == "a").unwrap();
    assert_eq!((state.calls, state.in_flight, state.response_time), (0, 0, None));
    let share = share(&endpoints, &world, "a").await;
    assert!(share > 0.2, "{share}");
}
