//! Endpoints beneath the circuit breaker of a stack.

use buttress::{
    Stack,
    circuit_breaker::{CircuitBreakerHandle, CircuitBreakerLayer},
    retry::ReplayClones,
};
use tokio::{task::JoinSet, time::Instant};
use tower::{Layer, util::BoxCloneSyncService};

use super::*;

type Shop = BoxCloneSyncService<(), Name, Failure>;

const NEAR: [Name; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
const FAR: [Name; 2] = ["far", "further"];

/// The endpoints of a test: some near ones, and perhaps two of another group.
fn endpoints(world: &World, near: usize, has_far: bool) -> EndpointsBuilder<Name, Client> {
    let builder = world.builder([]).group(0, NEAR[..near].to_vec());
    if has_far { builder.group(1, FAR) } else { builder }
}

/// Creates a standard stack around them.
fn shop(builder: EndpointsBuilder<Name, Client>) -> (Shop, CircuitBreakerHandle) {
    let breaker = CircuitBreakerLayer::new();
    let handle = breaker.handle();
    let stack = Stack::standard(ReplayClones).circuit_breaker(breaker);
    (BoxCloneSyncService::new(stack.layer(builder.build().unwrap())), handle)
}

/// Makes ten calls a second for some time, and returns how many have failed.
async fn traffic(shop: &Shop, time: Duration) -> u32 {
    let (began, mut calls) = (Instant::now(), JoinSet::new());
    while began.elapsed() < time {
        calls.spawn(shop.clone().oneshot(()));
        tokio::time::sleep(100 * MS).await;
    }
    calls.join_all().await.into_iter().filter(Result::is_err).count() as u32
}

/// Otherwise, the circuit opens before the endpoints are out. When it is half-open, their ejections
/// are over, and its probes go to them again.
#[tokio::test(start_paused = true)]
async fn the_circuit_stays_closed_while_the_next_group_takes_the_calls() {
    for near in [1, 2, 4, 10] {
        for mode in [Mode::Fails, Mode::SlowFailure(SECOND), Mode::Hangs] {
            for warm in [0, 1, 30] {
                let world = World::default();
                let (shop, breaker) = shop(endpoints(&world, near, true));
                assert_eq!(traffic(&shop, warm * SECOND).await, 0);
                NEAR.iter().for_each(|name| world.set(name, mode));
                let failed = traffic(&shop, 600 * SECOND).await;
                let what = format!("{near}, {mode:?}, {warm} s: {failed} of 6,000");
                assert_eq!(breaker.snapshot().opened(), 0, "{what}");
                assert!(failed < 400, "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_to_the_next_group_once_all_of_one_were_tried() {
    for near in [1, 2, 3] {
        let world = World::default();
        let (shop, _) = shop(endpoints(&world, near, true));
        NEAR.iter().for_each(|name| world.set(name, Mode::Fails));
        assert!(FAR.contains(&shop.oneshot(()).await.unwrap()));
        assert!(NEAR[..near].iter().all(|name| world.calls(name) == 1));
    }
    // Beyond a share of zero, failures lead nowhere.
    let world = World::default();
    let (shop, _) = shop(endpoints(&world, 1, true).max_ejected(0.0));
    world.set("a", Mode::Fails);
    shop.oneshot(()).await.unwrap_err();
    assert_eq!(world.calls("a"), 4);
}

#[tokio::test(start_paused = true)]
async fn the_circuit_opens_if_no_group_can_take_the_calls() {
    for mode in [Mode::Fails, Mode::Hangs] {
        for (has_far, max_ejected) in [(false, 0.5), (true, 0.5), (true, 0.0)] {
            let world = World::default();
            let (shop, breaker) = shop(endpoints(&world, 2, has_far).max_ejected(max_ejected));
            traffic(&shop, SECOND).await;
            NEAR.iter().chain(&FAR).for_each(|name| world.set(name, mode));
            let failed = traffic(&shop, 20 * SECOND).await;
            assert!(failed > 150 && breaker.snapshot().opened() > 0, "{mode:?}, {has_far}");
        }
    }
}
