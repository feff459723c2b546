//! Endpoints are added, removed and drained.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use buttress::{telemetry::Registry, testing::task::Spawned};
use futures::{StreamExt, channel::mpsc::unbounded};
use tower::discover::{Change, Discover};

use super::{capture::Capture, *};

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_gets_calls_and_a_removed_one_gets_none() {
    let world = World::default();
    let endpoints = world.endpoints(["a"]);
    let handle = endpoints.handle();
    assert!(handle.insert("b") && !handle.insert("b") && !handle.insert_in(7, "a"));
    assert_eq!(calls(&endpoints, 100).await, 0);
    assert!(world.calls("a") > 0 && world.calls("b") > 0);
    assert!(handle.remove(&"a") && !handle.remove(&"a"));
    let before = world.calls("a");
    assert_eq!(calls(&endpoints, 100).await, 0);
    assert_eq!(world.calls("a"), before);
    assert_eq!(handle.states().iter().map(|it| it.address).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_discover_adds_and_removes_endpoints() {
    let world = World::default();
    let endpoints = world.endpoints(["a"]);
    let (changes, stream) = unbounded();
    let (stream, fleet) = (stream.map(Ok::<_, Infallible>), endpoints.handle());
    tokio::spawn(async move {
        let mut stream = pin!(stream);
        while let Some(Ok(change)) = poll_fn(|cx| stream.as_mut().poll_discover(cx)).await {
            match change {
                Change::Insert(name, ()) => fleet.insert(name),
                Change::Remove(name) => fleet.remove(&name),
            };
        }
    });
    for (change, expected) in [
        (Change::Insert("b", ()), vec!["a", "b"]),
        (Change::Remove("a"), vec!["b"]),
        (Change::Remove("b"), vec![]),
        (Change::Insert("c", ()), vec!["c"]),
    ] {
        changes.unbounded_send(change).unwrap();
        tokio::time::sleep(MS).await;
        let before = ["a", "b", "c"].map(|name| world.calls(name));
        let failed = calls(&endpoints, 100).await;
        assert_eq!(failed, if expected.is_empty() { 100 } else { 0 });
        for (name, before) in ["a", "b", "c"].into_iter().zip(before) {
            assert_eq!(world.calls(name) > before, expected.contains(&name), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn removed_while_called() {
    let world = World::default();
    let endpoints = world.endpoints(["a"]);
    world.set("a", Mode::Slow(SECOND));
    let mut call = Spawned::new(endpoints.clone().oneshot(()));
    assert!(call.poll().is_pending());
    assert!(endpoints.handle().remove(&"a"));
    assert_eq!(kind(endpoints.clone().oneshot(()).await), "no_endpoint");
    tokio::time::advance(SECOND).await;
    assert_eq!(call.poll(), Poll::Ready(Ok("a")));
    drop(call);
    // Nothing keeps the service of an endpoint that was removed.
    assert_eq!(world.with("a", |it| it.dropped), 1);
}

#[tokio::test(start_paused = true)]
async fn all_endpoints_are_removed_under_load() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b", "c"]);
    let names = ["a", "b", "c"];
    names.iter().for_each(|name| world.set(name, Mode::Slow(50 * MS)));
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let endpoints = endpoints.clone();
            tokio::spawn(async move {
                let mut kinds = Vec::new();
                for _ in 0..20 {
                    match endpoints.clone().oneshot(()).await {
                        Ok(_) => {}
                        Err(Error::Rejected(rejection)) => kinds.push(rejection.kind()),
                        Err(Error::Service(error)) => kinds.push(error),
                    }
                    tokio::time::sleep(10 * MS).await;
                }
                kinds
            })
        })
        .collect();
    let handle = endpoints.handle();
    for name in names {
        tokio::time::sleep(100 * MS).await;
        assert!(handle.remove(&name));
    }
    tokio::time::sleep(100 * MS).await;
    assert!(handle.insert("d"));
    let mut rejected = 0;
    for task in tasks {
        let kinds = task.await.unwrap();
        assert!(kinds.iter().all(|it| *it == "no_endpoint"), "{kinds:?}");
        rejected += kinds.len();
    }
    assert!(rejected > 0);
    assert_eq!(in_flight(&handle), 0);
    assert!(names.iter().all(|name| world.with(name, |it| it.made == 1 && it.dropped == 1)));
    assert_eq!(calls(&endpoints, 10).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_drained_endpoint_ends_its_calls_and_can_come_back() {
    let world = World::default();
    let endpoints = world.endpoints(["a", "b"]);
    let handle = endpoints.handle();
    world.set("a", Mode::Slow(SECOND));
    world.set("b", Mode::Slow(SECOND));
    let mut waiting: Vec<_> =
        (0..10).map(|_| Spawned::new(endpoints.clone().oneshot(()))).collect();
    assert!(waiting.iter_mut().all(|call| call.poll().is_pending()));
    assert!(handle.drain(&"a") && !handle.drain(&"a") && !handle.drain(&"z"));
    assert_eq!(status(&handle, "a"), EndpointStatus::Draining);
    tokio::time::sleep(SECOND).await;
    assert!(waiting.iter_mut().all(|call| call.poll().is_ready()));
    assert_eq!(in_flight(&handle), 0);
    let before = world.calls("a");
    assert_eq!(calls(&endpoints, 20).await, 0);
    assert_eq!(world.calls("a"), before);
    assert!(handle.insert("a"));
    assert_eq!(status(&handle, "a"), EndpointStatus::Usable);
    assert_eq!(calls(&endpoints, 20).await, 0);
    assert!(world.calls("a") > before);
    assert_eq!(world.made("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_removed_endpoint_are_counted_until_they_end() {
    let (world, registry) = (World::default(), Registry::new());
    let endpoints = world.endpoints(["a"]).register(&registry);
    world.set("a", Mode::Slow(SECOND));
    let active = || {
        let families = registry.gather();
        let mut families = families.iter();
        let family = families.find(|it| it.instrument.name == "buttress.endpoints.active");
        family.unwrap().series.iter().map(|it| it.value.as_number()).sum::<f64>()
    };
    let mut call = Spawned::new(endpoints.clone().oneshot(()));
    assert!(call.poll().is_pending());
    assert!(endpoints.handle().remove(&"a"));
    assert_eq!(active(), 1.0);
    tokio::time::advance(SECOND).await;
    assert!(call.poll().is_ready());
    assert_eq!(active(), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_instance_is_a_failure_and_frees_its_place() {
    let world = World::default();
    let endpoints = world.builder(["a", "b"]).consecutive_failures(1).build().unwrap();
    world.set("a", Mode::Panics);
    world.set("b", Mode::Panics);
    let call = tokio::spawn(endpoints.clone().oneshot(()));
    assert!(call.await.unwrap_err().is_panic());
    let states = endpoints.handle().states();
    assert_eq!(in_flight(&endpoints.handle()), 0);
    assert_eq!(states.iter().filter(|it| it.status == EndpointStatus::Ejected).count(), 1);
}

#[test]
fn a_factory_that_panics_leaves_the_set_as_it_was() {
    let endpoints = Endpoints::new(["a"], |name: &Name| {
        assert_ne!(*name, "b", "a bad address");
        tower::service_fn(|(): ()| async { Ok::<_, &'static str>("a") })
    });
    let handle = endpoints.handle();
    let insert = std::panic::AssertUnwindSafe(|| handle.insert("b"));
    assert!(std::panic::catch_unwind(insert).is_err());
    assert_eq!(handle.states().len(), 1);
    assert!(handle.insert("c"));
}

#[test]
fn an_address_that_is_there_twice_is_used_once_and_in_two_groups_is_an_error() {
    let world = World::default();
    let endpoints = Endpoints::new(["a", "a"], |_: &Name| {
        tower::service_fn(|(): ()| async { Ok::<_, &'static str>("a") })
    });
    assert_eq!(endpoints.handle().states().len(), 1);
    // A resolver may return an address twice.
    let endpoints = world.builder(["a", "b", "a"]).group(3, ["c", "c"]).build().unwrap();
    let states = endpoints.handle().states();
    let known: Vec<_> = states.iter().map(|it| (it.address, it.group)).collect();
    assert_eq!(known, [("a", 0), ("b", 0), ("c", 3)]);
    assert_eq!((world.made("a"), world.made("c")), (1, 1));
    let error = world.builder(["a"]).group(3, ["a"]).build().unwrap_err();
    assert_eq!(error.knob(), "group");
}

#[test]
fn an_endpoint_that_is_there_can_be_drained_at_once() {
    let make = |_: &u32| tower::service_fn(|(): ()| async { Ok::<_, &'static str>(()) });
    let handle = Endpoints::new(1..200, make).handle();
    let (barrier, is_over) = (std::sync::Barrier::new(2), AtomicBool::new(false));
    let is_draining = || {
        let states = handle.states();
        states.iter().any(|it| it.address == 0 && it.status == EndpointStatus::Draining)
    };
    let lost = AtomicU32::new(0);
    let insert_and_drain = || {
        for _ in 0..4_000 {
            barrier.wait();
            handle.insert(0);
            // Another thread may have inserted it, and may have drained it already.
            let is_drained = handle.drain(&0) || is_draining();
            lost.fetch_add(u32::from(!is_drained), Ordering::Relaxed);
            barrier.wait();
            handle.remove(&0);
        }
        is_over.store(true, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        // Other changes make the threads wait, so that they go on in any order.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert!(handle.drain(&1) && handle.insert(1));
            }
        });
        scope.spawn(insert_and_drain);
        scope.spawn(insert_and_drain);
    });
    assert_eq!(lost.load(Ordering::Relaxed), 0);
}

/// An address whose comparison reads the states of the set.
#[derive(Clone)]
struct Curious(Name, Arc<Mutex<Option<EndpointsHandle<Curious>>>>);

impl PartialEq for Curious {
    fn eq(&self, other: &Self) -> bool {
        let handle = self.1.lock().unwrap().take();
        assert!(handle.as_ref().is_none_or(|it| it.states().len() < 3));
        *self.1.lock().unwrap() = handle;
        self.0 == other.0
    }
}

impl std::fmt::Display for Curious {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

#[test]
fn addresses_are_compared_under_no_lock() {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let place = Arc::default();
        let address = |name| Curious(name, Arc::clone(&place));
        let endpoints = Endpoints::new([address("a")], |_: &Curious| {
            tower::service_fn(|(): ()| async { Ok::<_, Name>("a") })
        });
        let handle = endpoints.handle();
        *place.lock().unwrap() = Some(handle.clone());
        assert!(handle.insert(address("b")) && !handle.insert(address("b")));
        assert!(handle.drain(&address("a")) && handle.remove(&address("a")));
        *place.lock().unwrap() = None;
        done.send(handle.states().len()).unwrap();
    });
    assert_eq!(is_done.recv_timeout(10 * SECOND), Ok(1), "it waits for its own lock");
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_all_endpoints_is_no_error() {
    let (seen, _guard) = Capture::start();
    let errors = || seen.events().iter().filter(|it| it.name == "no endpoint usable").count();
    let (world, check) = (World::default(), |world: &World| {
        let world = world.clone();
        buttress::endpoints::check_fn(move |it: Client| std::future::ready(!world.hangs(it.name)))
    });
    let endpoints = world.builder(["a", "b"]).check(check(&world)).build().unwrap();
    let handle = endpoints.handle();
    assert!(handle.drain(&"a") && handle.drain(&"b"));
    assert_eq!(errors(), 0);
    // The last one is drained while another one is out.
    assert!(handle.insert("a") && handle.insert("b"));
    world.set("a", Mode::Hangs);
    tokio::time::sleep(40 * SECOND).await;
    assert_eq!(status(&handle, "a"), EndpointStatus::CheckFailed);
    assert!(handle.drain(&"b"));
    assert_eq!(errors(), 1);
}
