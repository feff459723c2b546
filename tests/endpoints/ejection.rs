//! Endpoints that fail are ejected for some time.

use buttress::telemetry::{Registry, Series};
use tower::Layer;
use tracing::Instrument;

use super::{capture::Capture, *};

/// Makes calls until the endpoint has had this number.
async fn until_called<S>(service: &S, world: &World, name: Name, calls: u32)
where
    S: Service<(), Error = Failure> + Clone,
{
    for _ in 0..100_000 {
        if world.calls(name) >= calls {
            return;
        }
        _ = service.clone().oneshot(()).await;
        tokio::time::advance(100 * MS).await;
    }
    panic!("{name} is not called");
}

#[tokio::test(start_paused = true)]
async fn five_failures_in_a_row_eject_for_thirty_seconds() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b"]);
    let handle = endpoints.handle();
    world.set("a", Mode::Fails);
    until_called(&endpoints, &world, "a", 4).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::Usable);
    until_called(&endpoints, &world, "a", 5).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::Ejected);
    assert_eq!(calls(&endpoints, 100).await, 0);
    assert_eq!(world.calls("a"), 5);
    tokio::time::advance(30 * SECOND - 200 * MS).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::Ejected);
    tokio::time::advance(200 * MS).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::Usable);
    let state = handle.states().remove(0);
    assert_eq!((state.calls, state.failures, state.in_flight), (5, 5, 0));
}

#[tokio::test(start_paused = true)]
async fn a_response_ends_the_row() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b"]);
    let handle = endpoints.handle();
    for round in 1..=20 {
        world.set("a", Mode::Fails);
        until_called(&endpoints, &world, "a", 5 * round - 1).await;
        world.set("a", Mode::Up);
        until_called(&endpoints, &world, "a", 5 * round).await;
    }
    assert_eq!(status(&handle, "a"), EndpointStatus::Usable);
}

#[tokio::test(start_paused = true)]
async fn ejections_decay() {
    let world = World::default();
    let endpoints = world.builder(["a", "b"]).consecutive_failures(1).build().unwrap();
    let handle = endpoints.handle();
    let eject = async || {
        world.set("a", Mode::Fails);
        let calls = world.calls("a");
        until_called(&endpoints, &world, "a", calls + 1).await;
        assert_eq!(status(&handle, "a"), EndpointStatus::Ejected);
        world.set("a", Mode::Up);
        let mut seconds = 0;
        while status(&handle, "a") == EndpointStatus::Ejected {
            tokio::time::advance(SECOND).await;
            seconds += 1;
        }
        seconds
    };
    assert_eq!([eject().await, eject().await, eject().await], [30, 60, 90]);
    // It serves well for the time of its last ejection, and forgets one.
    for _ in 0..91 {
        let calls = world.calls("a");
        until_called(&endpoints, &world, "a", calls + 1).await;
        tokio::time::advance(SECOND).await;
    }
    assert_eq!(eject().await, 90);
}

#[tokio::test(start_paused = true)]
async fn times_beyond_the_clock_are_taken_for_very_long_ones() {
    let world = World::default();
    let builder = world.builder(["a", "b"]).eject_for(Duration::MAX).max_eject_for(Duration::MAX);
    let check = buttress::endpoints::check_fn(|_: Client| async { true });
    let endpoints = builder.check(check).check_interval(Duration::MAX).build().unwrap();
    world.set("a", Mode::Fails);
    until_called(&endpoints, &world, "a", 5).await;
    tokio::time::advance(Duration::from_secs(86_400)).await;
    assert_eq!(status(&endpoints.handle(), "a"), EndpointStatus::Ejected);
    assert!(endpoints.handle().insert("c"));
    tokio::time::sleep(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn the_span_of_an_attempt_has_the_address() {
    let (seen, _guard) = Capture::start();
    let world = World::default();
    let endpoints = world.builder(["a", "b"]).max_ejected(0.0).build().unwrap();
    world.set("a", Mode::Fails);
    let stack = buttress::Stack::standard(buttress::retry::ReplayClones).layer(endpoints);
    while world.calls("a") == 0 {
        assert_eq!(calls(&stack, 1).await, 0);
    }
    let attempts = seen.spans().into_iter().filter(|it| it.name == "attempt");
    let addresses: Vec<_> =
        attempts.map(|it| it.get("server.address").unwrap_or_default().to_owned()).collect();
    assert_eq!(addresses[addresses.len() - 2..], ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_retry_has_the_address_and_a_span_of_the_user_has_not() {
    let (seen, _guard) = Capture::start();
    let world = World::default();
    let endpoints = world.endpoints(["a"]);
    let own = tracing::info_span!("request", server.address = "gateway");
    let call = endpoints.clone();
    _ = async move { calls(&call, 1).await }.instrument(own).await;
    calls(&buttress::Stack::new().layer(endpoints), 1).await;
    let spans = seen.spans();
    let address = |name| spans.iter().find(|it| it.name == name)?.get("server.address");
    assert_eq!((address("request"), address("call")), (Some("gateway"), Some("a")));
}

#[tokio::test(start_paused = true)]
async fn the_last_is_never_taken_out() {
    for count in [1, 2] {
        let world = World::default();
        let names: Vec<_> = ["a", "b"].into_iter().take(count).collect();
        let builder = world.builder([]).group(0, names.clone());
        let endpoints = builder.max_ejected(1.0).build().unwrap();
        names.iter().for_each(|name| world.set(name, Mode::Fails));
        assert_eq!(calls(&endpoints, 200).await, 200);
        let states = endpoints.handle().states();
        let usable = states.iter().filter(|it| it.status == EndpointStatus::Usable).count();
        assert_eq!(usable, 1, "{states:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_half_are_ejected_rounded_down() {
    for (count, most) in [(2, 1), (3, 1), (4, 2), (5, 2)] {
        let world = World::default();
        let names: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().take(count).collect();
        let endpoints = world.builder([]).group(0, names.clone()).build().unwrap();
        names.iter().for_each(|name| world.set(name, Mode::Fails));
        assert_eq!(calls(&endpoints, 500).await, 500);
        let states = endpoints.handle().states();
        let out = states.iter().filter(|it| it.status == EndpointStatus::Ejected).count();
        assert_eq!(out, most, "of {count}");
    }
}

/// Three of four are left, so that one may be ejected.
#[tokio::test(start_paused = true)]
async fn a_drained_endpoint_does_not_count_for_the_share_that_is_ejected() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b", "c", "d"]);
    let handle = endpoints.handle();
    assert!(handle.drain(&"d"));
    ["a", "b", "c"].into_iter().for_each(|name| world.set(name, Mode::Fails));
    assert_eq!(calls(&endpoints, 500).await, 500);
    let states = handle.states();
    let out = states.iter().filter(|it| it.status == EndpointStatus::Ejected).count();
    assert_eq!(out, 1);
}

#[tokio::test(start_paused = true)]
async fn an_ejection_that_is_over_leaves_its_place_to_another_endpoint() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b"]);
    let handle = endpoints.handle();
    world.set("a", Mode::Fails);
    while status(&handle, "a") == EndpointStatus::Usable {
        calls(&endpoints, 1).await;
    }
    world.set("b", Mode::SlowFailure(2 * SECOND));
    tokio::time::sleep(29 * SECOND).await;
    let tasks: Vec<_> = (0..5).map(|_| tokio::spawn(endpoints.clone().oneshot(()))).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), Err("down".into()));
    }
    // No call has noticed that the time of the first one is over.
    let states = ["a", "b"].map(|name| status(&handle, name));
    assert_eq!(states, [EndpointStatus::Usable, EndpointStatus::Ejected]);
}

#[tokio::test(start_paused = true)]
async fn a_poll_ready_error_renews_the_endpoint() {
    let world = World::default();
    let endpoints = world.endpoints(["a"]);
    world.set("a", Mode::Dead);
    assert_eq!(calls(&endpoints, 1).await, 1);
    assert_eq!((world.made("a"), world.with("a", |it| it.dropped)), (2, 1));
    world.set("a", Mode::Up);
    assert_eq!(calls(&endpoints, 3).await, 0);
    assert_eq!((world.made("a"), world.calls("a")), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_dead_for_ever_is_a_failing_one_and_no_spin() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b"]);
    world.set("a", Mode::Dead);
    assert!(calls(&endpoints, 1_000).await <= 5);
    assert_eq!(world.calls("a"), 0);
    // Each failed call has renewed it once, and asked it once.
    let (made, polls) = world.with("a", |it| (it.made, it.readiness_polls));
    assert!(made <= 6, "{made}");
    assert_eq!(polls, made - 1);
}

#[tokio::test(start_paused = true)]
async fn calls_that_find_the_same_dead_service_renew_it_once() {
    let world = World::default();
    let endpoints = world.endpoints(["a"]);
    world.set("a", Mode::Unready);
    let mut waiting: Vec<_> = (0..50)
        .map(|_| buttress::testing::task::Spawned::new(endpoints.clone().oneshot(())))
        .collect();
    assert!(waiting.iter_mut().all(|call| call.poll().is_pending()));
    world.set("a", Mode::Dead);
    assert!(waiting.iter_mut().all(|call| call.poll().is_ready()));
    assert_eq!(world.made("a"), 2);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_waiters_do_not_spin() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b"]);
    world.set("a", Mode::Unready);
    world.set("b", Mode::Unready);
    let mut waiting: Vec<_> = (0..10_000)
        .map(|_| buttress::testing::task::Spawned::new(endpoints.clone().oneshot(())))
        .collect();
    assert!(waiting.iter_mut().all(|call| call.poll().is_pending()));
    // Calls that others abandon, and changes of the set, wake nobody.
    waiting.truncate(9_000);
    endpoints.handle().insert("c");
    tokio::time::advance(60 * SECOND).await;
    assert!(waiting.iter().all(|call| call.wakes() == 0));
    assert_eq!(world.with("a", |it| it.readiness_polls), 5_000);
    assert_eq!(in_flight(&endpoints.handle()), 9_000);
}

#[tokio::test(start_paused = true)]
async fn events_and_numbers_say_what_happened() {
    let (seen, _guard) = Capture::start();
    let event = |name: &str| {
        let mut events = seen.events().into_iter();
        events.find(|it| it.name == name).unwrap_or_else(|| panic!("no event {name}"))
    };
    let (world, registry) = (World::default(), Registry::new());
    let endpoints = world.builder(["a", "b"]).name("shop").build().unwrap().register(&registry);
    world.set("a", Mode::Fails);
    until_called(&endpoints, &world, "a", 5).await;
    let out = event("endpoint out");
    assert_eq!(out.level, tracing::Level::WARN);
    assert_eq!(
        ["buttress.layer", "server.address", "buttress.reason", "out_ms"].map(|it| out.get(it)),
        ["shop", "a", "consecutive_failures", "30000"].map(Some)
    );
    let number = |name: &str, state: &str| {
        let families = registry.gather();
        let family = families.iter().find(|it| it.instrument.name == name).unwrap();
        let has = |it: &&Series| it.attributes.iter().any(|(_, value)| value == state);
        family.series.iter().filter(has).map(|it| it.value.as_number()).sum::<f64>()
    };
    assert_eq!(number("buttress.endpoints", "ejected"), 1.0);
    assert_eq!(number("buttress.endpoints", "usable"), 1.0);
    assert_eq!(number("buttress.endpoints.transitions", "ejected"), 1.0);
    tokio::time::advance(31 * SECOND).await;
    _ = endpoints.clone().oneshot(()).await;
    let back = event("endpoint back");
    assert_eq!(back.level, tracing::Level::INFO);
    assert_eq!(back.get("buttress.reason"), Some("ejection_ended"));
    assert_eq!(number("buttress.endpoints", "usable"), 2.0);

    let layered = buttress::Stack::new().layer(endpoints.clone());
    endpoints.handle().remove(&"a");
    endpoints.handle().remove(&"b");
    assert_eq!(event("no endpoint usable").level, tracing::Level::ERROR);
    assert_eq!(kind(layered.oneshot(()).await), "no_endpoint");
    assert_eq!(number("buttress.rejections", "no_endpoint"), 1.0);
    assert!(!registry.ready().is_ready());
}

/// Half of three is one, so that one of two would fail all calls for ever.
#[tokio::test(start_paused = true)]
async fn a_group_whose_endpoints_all_fail_leaves_the_calls_to_the_next_group() {
    for count in [1, 2, 3, 4, 9] {
        let world = World::default();
        let names: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i"][..count].to_vec();
        let builder = world.builder([]).group(0, names.clone()).group(1, ["far"]);
        let endpoints = builder.build().unwrap();
        names.iter().for_each(|name| world.set(name, Mode::Fails));
        calls(&endpoints, 500).await;
        assert_eq!(calls(&endpoints, 100).await, 0, "{:?}", endpoints.handle().states());
        // The last one is never ejected, and then all get calls.
        world.set("far", Mode::Fails);
        calls(&endpoints, 100).await;
        assert_eq!(status(&endpoints.handle(), "far"), EndpointStatus::Usable);
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_of_zero_ejects_none_even_if_there_is_another_group() {
    let world = World::default();
    let builder = world.builder(["a", "b"]).group(1, ["far"]).max_ejected(0.0);
    let endpoints = builder.build().unwrap();
    ["a", "b"].iter().for_each(|name| world.set(name, Mode::Fails));
    assert_eq!(calls(&endpoints, 500).await, 500);
    assert!(endpoints.handle().states().iter().all(|it| it.status == EndpointStatus::Usable));
}
