use std::{sync::atomic::AtomicU32, thread};

use super::*;
use crate::call::completion::CallEnd;

/// Counts ejections.
#[derive(Default)]
struct Ejections(AtomicU32);

impl Set for Ejections {
    fn eject(&self, _: &Endpoint, _: Instant) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn served(&self, _: &Endpoint, _: Instant) {}

    fn long(&self) -> Option<Duration> {
        None
    }

    fn relieves(&self, _: &Endpoint) -> bool {
        false
    }

    fn renew(&self, _: &Endpoint, _: u32) {}
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_a_body_ends_the_streak_only_if_it_has_not_waited_long() {
    for (waited, ejections) in [(Duration::from_millis(10), 0), (2 * patience::FLOOR, 1)] {
        let set = Arc::new(Ejections::default());
        let weak: Weak<Ejections> = Arc::downgrade(&set);
        let (max_concurrent, consecutive_failures) = (u32::MAX, 2);
        let limits = Limits { max_concurrent, consecutive_failures, origin: Instant::now() };
        let endpoint = Arc::new(Endpoint::new(0, Arc::new("a"), 0, limits, weak));
        let held = || {
            assert!(endpoint.begin());
            let stamp = Measured::new(20_000_000, 20_000_000, Known::Good).stamp();
            let mut end = CallEnd::new();
            end.head();
            end.hold(Arc::clone(&endpoint) as _, stamp);
            end
        };
        held().complete(Outcome::Failure(Fault::TimedOut), waited);
        held().dropped_while_reading(waited);
        held().complete(Outcome::Failure(Fault::TimedOut), waited);
        assert_eq!(set.0.load(Ordering::Relaxed), ejections, "{waited:?}");
        assert_eq!((endpoint.failures(), endpoint.active()), (2, 0));
        let time = endpoint.response_time(Instant::now());
        assert!(time > Some(Duration::from_millis(20)), "{time:?}");
    }
}

#[test]
fn a_limit_holds_on_many_threads_and_every_place_is_given_back() {
    let limits = Limits { max_concurrent: 2, consecutive_failures: 5, origin: Instant::now() };
    let set: Weak<Ejections> = Weak::new();
    let (endpoint, inside) = (Endpoint::new(0, Arc::new("a"), 0, limits, set), AtomicU32::new(0));
    let work = || {
        let begun = (0..10_000).filter(|_| endpoint.begin()).map(|_| {
            assert!(inside.fetch_add(1, Ordering::Relaxed) < limits.max_concurrent);
            thread::yield_now();
            inside.fetch_sub(1, Ordering::Relaxed);
            endpoint.settle_known(0, 0, Known::Ignored);
        });
        begun.count() as u64
    };
    let begun: u64 = thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(work));
        threads.into_iter().map(|it| it.join().unwrap()).sum()
    });
    assert_eq!((endpoint.calls(), endpoint.active()), (begun, 0));
    assert!(endpoint.begin() && endpoint.begin() && !endpoint.begin());
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_response_at_once_matters_until_the_mean_is_least() {
    let (max_concurrent, consecutive_failures) = (u32::MAX, 5);
    let limits = Limits { max_concurrent, consecutive_failures, origin: Instant::now() };
    let set: Weak<Ejections> = Weak::new();
    let endpoint = Endpoint::new(0, Arc::new("a"), 0, limits, set);
    for _ in 0..8 {
        assert!(endpoint.begin() && !endpoint.responded_at_once());
        assert_eq!(endpoint.active(), 1);
        endpoint.settle_known(0, 0, Known::Good);
    }
    endpoint.streak.failed();
    assert!(endpoint.begin() && endpoint.responded_at_once());
    assert_eq!((endpoint.active(), endpoint.streak.failed()), (0, 1));
    endpoint.set_forgets_at(Some(Instant::now()));
    assert!(!endpoint.responded_at_once(), "an ejection may be over");
}
