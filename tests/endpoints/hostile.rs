//! Endpoints in the hands of many threads, of code that panics, and of runtimes that end.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use buttress::{
    Outcome, Stack,
    endpoints::check_fn,
    retry::{Backoff, ReplayClones, RetryLayer},
};
use tower::{Layer, service_fn};

use super::{capture::Capture, *};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

#[test]
fn checks_go_on_in_another_runtime_when_theirs_has_ended() {
    let (world, checks) = (World::default(), Arc::new(AtomicU32::new(0)));
    let check = {
        let checks = Arc::clone(&checks);
        check_fn(move |_: Client| {
            checks.fetch_add(1, Ordering::Relaxed);
            std::future::ready(true)
        })
    };
    let builder = world.builder(["a"]).check(check).check_interval(MS).check_timeout(MS);
    let endpoints = builder.build().unwrap();
    for _ in 0..3 {
        let runtime = runtime();
        runtime.block_on(async {
            let before = checks.load(Ordering::Relaxed);
            assert_eq!(calls(&endpoints, 1).await, 0);
            for _ in 0..1_000 {
                if checks.load(Ordering::Relaxed) > before + 2 {
                    return;
                }
                tokio::time::sleep(MS).await;
            }
            panic!("it is not checked any more");
        });
    }
}

#[test]
fn a_runtime_that_shuts_down_ends_its_checks_and_leaves_nothing_behind() {
    let (world, waiting) = (World::default(), Arc::new(AtomicU32::new(0)));
    let check = {
        let waiting = Arc::clone(&waiting);
        check_fn(move |client: Client| {
            waiting.fetch_add(1, Ordering::Relaxed);
            async move { client.oneshot(()).await.is_ok() }
        })
    };
    ["a", "b"].iter().for_each(|name| world.set(name, Mode::Hangs));
    let hour = 3_600 * SECOND;
    let builder = world.builder(["a", "b"]).check(check).check_interval(MS).check_timeout(MS);
    let endpoints = builder.build().unwrap();
    let unclosed = world.builder(["c"]).check(check_fn(|_: Client| std::future::pending()));
    let unclosed = unclosed.check_interval(hour).check_timeout(hour).build().unwrap();
    for round in 1..=3 {
        let runtime = runtime();
        runtime.block_on(async {
            // A call begins the checks, once those of the last runtime have ended.
            while waiting.load(Ordering::Relaxed) < round * 10 {
                for endpoints in [&endpoints, &unclosed] {
                    _ = tokio::time::timeout(MS, endpoints.clone().oneshot(())).await;
                }
            }
        });
        runtime.shutdown_background();
    }
    drop((endpoints, unclosed));
    for name in ["a", "b", "c"] {
        let left = || world.with(name, |it| it.made - it.dropped);
        // The runtime ends its tasks on its own threads.
        let ends = (0..5_000).any(|_| {
            std::thread::sleep(MS);
            left() == 0
        });
        assert!(ends, "{} services of {name} are left", left());
    }
}

/// An address that cannot be printed.
#[derive(Clone, Debug, PartialEq)]
struct Unprintable;

impl fmt::Display for Unprintable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("an address")
    }
}

#[test]
fn an_address_whose_printing_panics_leaves_no_call_under_way() {
    let (_seen, _guard) = Capture::start();
    let endpoints = Endpoints::new([Unprintable], |_: &Unprintable| {
        service_fn(|(): ()| async { Ok::<_, Name>("a") })
    });
    let address = tracing::field::Empty;
    let span = tracing::info_span!(target: "buttress::call", "call", server.address = address);
    let call = std::panic::AssertUnwindSafe(|| span.in_scope(|| endpoints.clone().call(())));
    assert!(std::panic::catch_unwind(call).is_err(), "it was not printed");
    let state = endpoints.handle().states().remove(0);
    assert_eq!((state.calls, state.in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_says_nothing_about_the_endpoint() {
    let world = World::default();
    let panics = |_: Result<&Name, &Failure>| -> Outcome { panic!("a classifier") };
    let endpoints = world.builder(["a", "b"]).classify_fn(panics).build().unwrap();
    let handle = endpoints.handle();
    for _ in 0..20 {
        assert!(tokio::spawn(endpoints.clone().oneshot(())).await.is_err());
    }
    for state in handle.states() {
        assert_eq!((state.status, state.failures), (EndpointStatus::Usable, 0));
        assert_eq!(state.in_flight, 0);
    }
}

/// A layer that calls twice, and drops the call that is slower.
#[derive(Clone)]
struct Race<S>(S);

impl<S> Service<()> for Race<S>
where
    S: Service<(), Error = Failure, Response = Name, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
{
    type Response = Name;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Name, Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let (one, other) = (self.0.clone().oneshot(()), self.0.clone().oneshot(()));
        Box::pin(async move {
            tokio::select! {
                biased;
                result = one => result,
                result = other => result,
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn the_loser_of_a_race_does_not_get_the_outcome_of_the_winner() {
    let world = World::default();
    let endpoints = world.builder(["a", "b"]).max_ejected(0.0).build().unwrap();
    let handle = endpoints.handle();
    world.set("a", Mode::Hangs);
    world.set("b", Mode::Slow(50 * MS));
    let backoff = Backoff::constant(MS).build().unwrap();
    let retry = RetryLayer::builder(ReplayClones).backoff(backoff).build().unwrap();
    let stack = Stack::new().retry(retry).layer(Race(endpoints));
    assert_eq!(calls(&stack, 200).await, 0);
    assert!(world.calls("a") > 20);
    let states = handle.states();
    // It has never responded. What it took is at best a guess.
    assert_eq!((states[0].response_time, states[0].in_flight), (None, 0), "{states:?}");
    assert!(states[1].response_time.is_some_and(|time| time > 45 * MS && time <= 50 * MS));
}

#[test]
fn endpoints_that_come_and_go_under_load_fail_no_call_and_leak_none() {
    const LIMIT: u32 = 3;
    static MOST: AtomicU32 = AtomicU32::new(0);
    let names: Vec<Name> = vec!["b", "c", "d", "e"];
    // Each service counts its own calls under way.
    let make = |_: &Name| {
        let active = Arc::new(AtomicU32::new(0));
        service_fn(move |(): ()| {
            let active = Arc::clone(&active);
            async move {
                MOST.fetch_max(active.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                active.fetch_sub(1, Ordering::Relaxed);
                Ok::<_, Name>(())
            }
        })
    };
    let builder = Endpoints::builder(["a"], make).max_concurrent(LIMIT);
    let endpoints =
        builder.check(check_fn(|_| async { true })).check_interval(MS).check_timeout(MS);
    let runtime = runtime();
    let _entered = runtime.enter();
    let endpoints = endpoints.build().unwrap();
    let (fleet, stop) = (endpoints.handle(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for seed in 0..3_usize {
            let (fleet, names, stop) = (&fleet, &names, &stop);
            scope.spawn(move || {
                for step in seed.. {
                    let name = names[(step * 7 + seed) % names.len()];
                    match step % 4 {
                        0 | 1 => fleet.insert(name),
                        2 => fleet.drain(&name),
                        _ => fleet.remove(&name),
                    };
                    assert!(fleet.states().iter().filter(|it| it.address == name).count() <= 1);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        runtime.block_on(async {
            let tasks: Vec<_> = (0..LIMIT)
                .map(|_| {
                    let endpoints = endpoints.clone();
                    tokio::spawn(async move {
                        for _ in 0..10_000 {
                            endpoints.clone().oneshot(()).await.unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert!(fleet.states().iter().all(|it| it.in_flight == 0), "{:?}", fleet.states());
    assert!(MOST.load(Ordering::Relaxed) <= LIMIT);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_endpoints_are_called_and_checked_alike() {
    const COUNT: usize = 10_000;
    let checks = Arc::new(AtomicU32::new(0));
    let check = {
        let checks = Arc::clone(&checks);
        check_fn(move |_| {
            checks.fetch_add(1, Ordering::Relaxed);
            std::future::ready(true)
        })
    };
    let make = |_: &usize| service_fn(|(): ()| async { Ok::<_, Name>(()) });
    let endpoints = Endpoints::builder(0..COUNT, make).check(check).build().unwrap();
    let handle = endpoints.handle();
    for _ in 0..3 * COUNT {
        endpoints.clone().oneshot(()).await.unwrap();
    }
    let states = handle.states();
    assert!(states.iter().all(|it| it.in_flight == 0 && it.calls < 30));
    assert!(states.iter().filter(|it| it.calls > 0).count() > COUNT * 8 / 10);
    tokio::time::sleep(10 * SECOND).await;
    let checks = checks.load(Ordering::Relaxed) as usize;
    assert!((COUNT * 9 / 10..COUNT * 12 / 10).contains(&checks), "{checks}");
    assert!((0..COUNT).all(|address| address % 1_000 != 0 || handle.remove(&address)));
    assert_eq!(handle.states().len(), COUNT - 10);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_cannot_be_printed_aborts_nothing_when_its_instance_panics() {
    let (_seen, _guard) = Capture::start();
    let endpoints = Endpoints::new([Numbered(1), Numbered(2)], |_: &Numbered| {
        service_fn(|(): ()| async { if true { panic!("an instance") } else { Ok::<_, Name>("a") } })
    });
    for _ in 0..40 {
        assert!(tokio::spawn(endpoints.clone().oneshot(())).await.is_err());
    }
    let states = endpoints.handle().states();
    assert!(states.iter().all(|it| it.in_flight == 0));
    assert!(states.iter().any(|it| it.status == EndpointStatus::Ejected));
}

/// An address that cannot be printed.
#[derive(Clone, Debug, PartialEq)]
struct Numbered(u32);

impl fmt::Display for Numbered {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("an address")
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_when_it_is_dropped_does_not_end_the_checks() {
    #[derive(Clone)]
    struct Fragile(#[expect(dead_code, reason = "it is dropped")] Arc<Glass>);
    struct Glass(Arc<AtomicBool>);
    impl Drop for Glass {
        fn drop(&mut self) {
            assert!(std::thread::panicking() || !self.0.load(Ordering::Relaxed), "a drop");
        }
    }
    impl Service<()> for Fragile {
        type Response = Name;
        type Error = Name;
        type Future = std::future::Ready<Result<Name, Name>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Name>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            std::future::ready(Ok("a"))
        }
    }
    let (breaks, is_up) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (drops, up) = (Arc::clone(&breaks), Arc::clone(&is_up));
    let make = move |_: &Name| Fragile(Arc::new(Glass(Arc::clone(&drops))));
    let check = check_fn(move |_: Fragile| {
        let is_up = up.load(Ordering::Relaxed);
        async move { is_up || std::future::pending().await }
    });
    let builder = Endpoints::builder(["a"], make).check(check);
    let builder = builder.check_interval(10 * SECOND).check_timeout(10 * SECOND);
    let endpoints = builder.build().unwrap();
    let status = || endpoints.handle().states()[0].status;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(status(), EndpointStatus::CheckFailed);
    breaks.store(true, Ordering::Relaxed);
    tokio::time::sleep(60 * SECOND).await;
    breaks.store(false, Ordering::Relaxed);
    is_up.store(true, Ordering::Relaxed);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(status(), EndpointStatus::Usable);
}
