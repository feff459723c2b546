//! Which breakers of a keyed layer are evicted, and which are not.

use std::{
    cell::Cell,
    future::ready,
    hash::{Hash, Hasher},
    task::Poll,
    time::Duration,
};

use buttress::{
    Error,
    circuit_breaker::{CircuitBreakerLayer, State},
    testing::{Step, task::SpawnedService},
};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{Answer, DOWN, Inner, OPEN_FOR, SECOND, WELL, assert_rejected, is_rejected, ten_calls};

/// A request: for which key, and what the dependency answers.
type Request = (u64, Answer);

/// Few and many keys, and those around which the map of the keys is built in another way.
const SIZES: [usize; 6] = [2, 3, 100, 1_024, 4_095, 4_096];

fn dependency()
-> impl Service<Request, Response = &'static str, Error = Error<&'static str>> + Clone {
    service_fn(|(_, answer): Request| ready(answer))
}

fn key(request: &Request) -> u64 {
    request.0
}

async fn send<S>(service: &mut S, keys: impl IntoIterator<Item = u64>, answer: Answer)
where
    S: Service<Request, Response = &'static str, Error = Error<&'static str>>,
{
    for key in keys {
        let _ = service.ready().await.unwrap().call((key, answer.clone())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_not_flooded_away() {
    for most in SIZES {
        let layer = ten_calls().probes(1).keyed_fn(key).max_keys(most).build().unwrap();
        let mut service = layer.layer(dependency());
        send(&mut service, [0; 10], DOWN).await;
        let foreign = most as u64 * 3;
        send(&mut service, 1..=foreign, WELL).await;
        assert_eq!(layer.handle(&0).map(|handle| handle.state()), Some(State::Open), "of {most}");
        advance(OPEN_FOR).await;
        send(&mut service, foreign + 1..=foreign * 2, WELL).await;
        let mut sent = 0;
        for _ in 0..20 {
            let result = service.ready().await.unwrap().call((0, DOWN)).await;
            sent += u32::from(!is_rejected(&result));
        }
        assert_eq!(sent, 1, "one probe is allowed, with {most} keys");
        assert!(layer.keys() <= most, "{} keys of {most}", layer.keys());
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_key_keeps_its_breaker_even_after_all_others_have_opened() {
    for most in SIZES {
        let layer = ten_calls().consecutive_failures(1).keyed_fn(key).max_keys(most);
        let layer = layer.build().unwrap();
        let mut service = layer.layer(dependency());
        send(&mut service, 0..most as u64, WELL).await;
        send(&mut service, 0..most as u64, DOWN).await;
        let mut sent = 0;
        for _ in 0..200 {
            let result = service.ready().await.unwrap().call((u64::MAX, DOWN)).await;
            sent += u32::from(!is_rejected(&result));
        }
        assert_eq!(sent, 1, "with {most} keys");
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_open_breaker_is_not_flooded_away() {
    let layer = ten_calls().consecutive_failures(1).probes(1).keyed_fn(|key: &u64| *key);
    let layer = layer.max_keys(100).build().unwrap();
    let flaky: Inner = Inner::new([Step::Respond(DOWN)], || WELL);
    let inner = flaky.handle();
    let mut service = SpawnedService::new(layer.layer(flaky));
    assert_eq!(service.call(0).poll(), Poll::Ready(DOWN));
    advance(OPEN_FOR).await;
    inner.push(Step::RespondWhenReleased(WELL));
    let mut probe = service.call(0);
    assert!(probe.poll().is_pending());
    for foreign in 1..=1_000 {
        assert_eq!(service.call(foreign).poll(), Poll::Ready(WELL));
    }
    assert_eq!(layer.handle(&0).map(|handle| handle.state()), Some(State::HalfOpen));
    assert_rejected(&service.call(0).into_inner().await);
    inner.release();
    assert_eq!(probe.poll(), Poll::Ready(WELL));
    assert_eq!(service.call(0).poll(), Poll::Ready(WELL));
}

#[tokio::test(start_paused = true)]
async fn open_breakers_outlive_closed_ones_up_to_half_of_all() {
    for most in SIZES {
        let layer = ten_calls().consecutive_failures(1).keyed_fn(key).max_keys(most);
        let layer = layer.build().unwrap();
        let mut service = layer.layer(dependency());
        let half = most as u64 / 2;
        let foreign = half..half + most as u64 * 3;
        send(&mut service, 0..half, DOWN).await;
        send(&mut service, foreign.clone(), WELL).await;
        let open = |keys: std::ops::Range<u64>| {
            keys.filter(|key| layer.handle(key).is_some_and(|handle| handle.state() == State::Open))
                .count()
        };
        assert_eq!(open(0..half), half as usize, "of {most}");

        // All the others fail too. There still is room for closed ones.
        let failing = foreign.end..foreign.end + most as u64 * 3;
        for key in failing.clone() {
            send(&mut service, [key], DOWN).await;
            assert!(layer.keys() <= most, "{} keys of {most}", layer.keys());
        }
        let well = failing.end..failing.end + most as u64 - half;
        send(&mut service, well.clone(), WELL).await;
        assert_eq!(open(failing), half as usize, "of {most}");
        // The clock stands still, so that the last use does not say which is the oldest of all.
        let kept = well.clone().filter(|key| layer.handle(key).is_some()).count();
        assert!(kept as u64 * 10 >= half * 9, "{kept} closed ones of {most} are kept");
    }
}

#[tokio::test(start_paused = true)]
async fn the_most_recently_used_keys_are_kept_however_many_there_are() {
    for most in SIZES {
        let half = most as u64 / 2;
        // A key that is used, and then as many others as are promised a place beside it.
        for others in [(half - 1).min(1), half - 1] {
            for before in [0, half - 1, half, most as u64] {
                let layer = ten_calls().consecutive_failures(4).keyed_fn(key).max_keys(most);
                let layer = layer.build().unwrap();
                let mut service = layer.layer(dependency());
                send(&mut service, 1..=before, WELL).await;
                let mut foreign = before + 1;
                for _ in 0..4 {
                    send(&mut service, [0], DOWN).await;
                    send(&mut service, foreign..foreign + others, WELL).await;
                    foreign += others;
                    advance(Duration::from_millis(1)).await;
                }
                let state = layer.handle(&0).map(|handle| handle.state());
                let case = format!("{most} keys, {before} before and {others} between");
                assert_eq!(state, Some(State::Open), "{case}");
                assert!(layer.keys() <= most, "{case}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_breaker_is_evicted_while_all_fit() {
    for most in SIZES {
        let layer = ten_calls().keyed_fn(key).max_keys(most).build().unwrap();
        let mut service = layer.layer(dependency());
        for _ in 0..3 {
            send(&mut service, 0..most as u64, WELL).await;
        }
        assert_eq!(layer.keys(), most);
        assert!((0..most as u64).all(|key| layer.handle(&key).unwrap().snapshot().calls() == 3));
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_kept_until_its_open_time_has_elapsed() {
    let open_for = SECOND * 300;
    let layer = CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .open_for(open_for)
        .open_growth(1.0)
        .open_jitter(0.0)
        .keyed_fn(|key: &u64| *key)
        .idle(open_for)
        .build()
        .unwrap();
    let flaky: Inner = Inner::new([], || WELL);
    let inner = flaky.handle();
    let mut service = SpawnedService::new(layer.layer(flaky));
    let pass = async |service: &mut SpawnedService<_, u64>, seconds| {
        for _ in 0..seconds {
            advance(SECOND).await;
            let _ = service.call(1).into_inner().await;
        }
    };
    pass(&mut service, 299).await;
    // It opens long after the last use of its key.
    inner.push(Step::RespondAfter(SECOND * 200, DOWN));
    let mut slow = service.call(0);
    assert!(slow.poll().is_pending());
    pass(&mut service, 200).await;
    assert_eq!(slow.poll(), Poll::Ready(DOWN));
    pass(&mut service, 299).await;
    assert_eq!(layer.handle(&0).map(|handle| handle.state()), Some(State::Open));
    assert_rejected(&service.call(0).into_inner().await);
    // Unused, it is evicted all the same, later.
    pass(&mut service, 600).await;
    assert!(layer.handle(&0).is_none());
}

thread_local! {
    /// The numbers of hashes, comparisons and drops of keys, and of keys that exist.
    static VISITS: Cell<u64> = const { Cell::new(0) };
    static ALIVE: Cell<u64> = const { Cell::new(0) };
}

struct Counted(u64);

impl Counted {
    fn new(key: u64) -> Self {
        ALIVE.set(ALIVE.get() + 1);
        Self(key)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        VISITS.set(VISITS.get() + 1);
        ALIVE.set(ALIVE.get() - 1);
    }
}

impl Hash for Counted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        VISITS.set(VISITS.get() + 1);
        self.0.hash(state);
    }
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        VISITS.set(VISITS.get() + 1);
        self.0 == other.0
    }
}

impl Eq for Counted {}

#[tokio::test(start_paused = true)]
async fn no_call_pays_for_many_keys() {
    let most = 30_000;
    let builder =
        CircuitBreakerLayer::builder().keyed_fn(|request: &Request| Counted::new(request.0));
    let layer = builder.max_keys(most).build().unwrap();
    let mut service = layer.layer(dependency());
    let mut worst = 0;
    let mut visits = async |key: u64| {
        let before = VISITS.get();
        send(&mut service, [key], WELL).await;
        worst = worst.max(VISITS.get() - before);
        worst
    };
    // The map grows, is full, and is unused.
    for key in 1..=most as u64 * 3 / 2 {
        assert!(visits(key).await <= 64, "visited {} at {key}", VISITS.get());
    }
    advance(SECOND * 1_800).await;
    for call in 0..most {
        assert!(visits(0).await <= 64, "at call {call} after they were unused");
        advance(SECOND).await;
        if ALIVE.get() == 1 {
            return;
        }
    }
    panic!("{} keys are still there", ALIVE.get());
}
