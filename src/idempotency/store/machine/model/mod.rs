//! Every interleaving of a few workers with the steps of a store, to the last state.
//!
//! Each run may crash at every step, and may pause for as long as it likes and go on, as a process does
//! that was stopped. Its clock says anything: it may think its lease over while it lives, and alive
//! while it is over. Writes may be delayed or repeated, two at a time. So there is more in it than can
//! happen, and what holds here holds with less.

mod world;

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
};

use self::world::{Broken, Config, Event, Mode, Policy, Seen, World};

/// Three workers for one key, and two for two keys, which meet them in opposite order.
const ONE_KEY: [&[usize]; 3] = [&[0], &[0], &[0]];
const TWO_KEYS: [&[usize]; 3] = [&[0, 1], &[1, 0], &[]];

struct Explored {
    states: usize,
    seen: Seen,
    violation: Option<(&'static str, Vec<Event>)>,
}

/// Breadth first, so that the way to a violation is the shortest.
fn explore(config: &Config) -> Explored {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let start = World::new(config);
    // Hashes instead of states: that two of some millions share one is a matter of one in a million.
    let mut visited = HashSet::from([hasher.hash_one(&start)]);
    let mut ways = vec![(0, None)];
    let mut queue = VecDeque::from([(0, start)]);
    let mut seen = Seen::default();
    let mut events = Vec::new();
    while let Some((from, world)) = queue.pop_front() {
        events.clear();
        world.events(config, &mut events);
        for &event in &events {
            let mut next = world.clone();
            if let Err(violated) = next.take(config, event, &mut seen) {
                let violation = Some((violated, way_to(&ways, from, event)));
                return Explored { states: visited.len(), seen, violation };
            }
            if visited.insert(hasher.hash_one(&next)) {
                ways.push((from, Some(event)));
                queue.push_back((ways.len() - 1, next));
            }
        }
    }
    Explored { states: visited.len(), seen, violation: None }
}

fn way_to(ways: &[(usize, Option<Event>)], mut from: usize, last: Event) -> Vec<Event> {
    let mut way = vec![last];
    while let (before, Some(event)) = ways[from] {
        way.push(event);
        from = before;
    }
    way.reverse();
    way
}

#[test]
fn measure() {
    const TWO: [&[usize]; 3] = [&[0], &[0], &[]];
    for broken in [Broken::FenceCheck, Broken::OwnerToken, Broken::StartedRule, Broken::Reconciling] {
    for (runs, strays) in [(TWO, 0), (TWO, 2), (ONE_KEY, 2)] {
        for mode in [Mode::Started, Mode::Reserved, Mode::Transactional] {
            for policy in [Policy::Quarantine, Policy::Rerun, Policy::Reconcile] {
                if runs == ONE_KEY && policy != Policy::Quarantine {
                    continue;
                }
                let config = Config { mode, policy, broken, runs, strays };
                let begun = std::time::Instant::now();
                let explored = explore(&config);
                println!("{broken:?} {runs:?} {strays} {mode:?} {policy:?} {} {:?} Seen {:?}", explored.states, begun.elapsed(), explored.violation);
            }
        }
    }
    }
    for (runs, strays) in [(TWO, 2), (TWO_KEYS, 1), (TWO_KEYS, 2)] {
        for mode in [Mode::Started, Mode::Reserved, Mode::Transactional] {
            for policy in [Policy::Quarantine, Policy::Rerun, Policy::Reconcile] {
                if runs != TWO && policy != Policy::Quarantine {
                    continue;
                }
                let config = Config { mode, policy, broken: Broken::Nothing, runs, strays };
                let begun = std::time::Instant::now();
                let explored = explore(&config);
                println!("{runs:?} {strays} {mode:?} {policy:?} {} {:?} {:?} {:?}", explored.states, begun.elapsed(), explored.seen, explored.violation);
            }
        }
    }
}
