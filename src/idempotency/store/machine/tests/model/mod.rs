//! Explores every interleaving of a few workers with the steps of a store, exhaustively.
//!
//! A run may crash at any step. It may pause for any time and resume, like a stopped process. Its
//! clock may be wrong, and say that the lease has ended when it has not, or the reverse. Writes may
//! be delayed or repeated, two at a time. The model therefore allows more than can happen, and a
//! property that is true here is also true in practice.

mod world;

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, Hasher},
};

use self::world::{Broken, Config, Event, Mode, Policy, Seen, World};

const ONE_KEY: [&[usize]; 3] = [&[0], &[0], &[0]];
const TWO_WORKERS: [&[usize]; 3] = [&[0], &[0], &[]];
/// Keys share the counter of fences and the time. No step touches two keys.
const A_KEY_EACH: [&[usize]; 3] = [&[0], &[1], &[]];
const BOTH_KEYS_EACH: [&[usize]; 3] = [&[0, 1], &[1, 0], &[]];

/// A hasher that is much faster than the standard library's in unoptimized builds.
struct Quick(u64);

impl Default for Quick {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Quick {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9fb2_1c65_1e98_df25_u128;
        self.0 = (product as u64 ^ (product >> 64) as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.mix(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.mix(word as u64);
    }
}

struct Explored {
    states: usize,
    seen: Seen,
    violation: Option<(&'static str, Vec<Event>)>,
}

/// Explores states breadth first, so that the path to a violation is the shortest.
fn explore(config: &Config) -> Explored {
    let hasher = BuildHasherDefault::<Quick>::default();
    let start = World::new(config);
    // Stores hashes instead of states. With a few million states, the chance of a collision is
    // one in a million.
    let mut visited = HashSet::with_hasher(hasher.clone());
    visited.insert(hasher.hash_one(&start));
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

/// Explores all states of these configurations, and asserts that none of them breaks a rule.
fn hold(configs: &[Config]) -> Seen {
    let mut seen = Seen::default();
    for config in configs {
        let explored = explore(config);
        println!("{config:?}: {} states", explored.states);
        if let Some((violated, way)) = explored.violation {
            panic!("{violated}: {way:?}");
        }
        seen = seen.and(explored.seen);
    }
    seen
}

const fn config(runs: [&'static [usize]; 3], strays: usize, mode: Mode, policy: Policy) -> Config {
    Config { mode, policy, broken: Broken::Nothing, runs, strays }
}

const EVERYTHING: Seen = Seen {
    replayed: true,
    told_unknown: true,
    told_in_flight: true,
    taken_over: true,
    claimed_again: true,
    stale: true,
    refused_downstream: true,
};

#[test]
fn three_workers_that_start_at_once_run_a_key_once() {
    let seen = hold(&[config(ONE_KEY, 2, Mode::Started, Policy::Quarantine)]);

    assert_eq!(seen, Seen { taken_over: false, refused_downstream: false, ..EVERYTHING });
}

#[test]
fn three_workers_that_reserve_first_run_a_key_once() {
    let seen = hold(&[config(ONE_KEY, 2, Mode::Reserved, Policy::Quarantine)]);

    assert_eq!(seen, Seen { taken_over: false, refused_downstream: false, ..EVERYTHING });
}

#[test]
fn three_workers_that_commit_the_effect_with_the_record_run_a_key_once() {
    let seen = hold(&[config(ONE_KEY, 2, Mode::Transactional, Policy::Quarantine)]);

    assert!(seen.replayed && seen.claimed_again && seen.stale);
}

#[test]
fn what_is_taken_over_has_its_effect_once_and_one_answer() {
    let seen = hold(&[
        config(ONE_KEY, 1, Mode::Started, Policy::Rerun),
        config(TWO_WORKERS, 2, Mode::Started, Policy::Reconcile),
        config(TWO_WORKERS, 1, Mode::Reserved, Policy::Reconcile),
        config(ONE_KEY, 0, Mode::Started, Policy::Reconcile),
    ]);

    // A worker that may take over is never told that the outcome is unknown.
    assert_eq!(seen, Seen { told_unknown: false, ..EVERYTHING });
}

#[test]
fn two_keys_do_not_touch_each_other() {
    hold(&[
        config(A_KEY_EACH, 2, Mode::Started, Policy::Quarantine),
        config(A_KEY_EACH, 1, Mode::Reserved, Policy::Quarantine),
        config(BOTH_KEYS_EACH, 0, Mode::Started, Policy::Quarantine),
        config(BOTH_KEYS_EACH, 0, Mode::Reserved, Policy::Quarantine),
    ]);
}

/// Returns the first violation on the shortest path when a rule is broken.
fn goes_wrong(broken: Broken, mode: Mode, policy: Policy) -> &'static str {
    let explored = explore(&Config { broken, ..config(TWO_WORKERS, 2, mode, policy) });
    let Some((violated, way)) = explored.violation else {
        panic!("nothing goes wrong in {} states", explored.states);
    };
    println!("{broken:?} broken: {violated}, after {} states: {way:?}", explored.states);
    violated
}

#[test]
fn without_the_fence_check_a_stale_step_changes_a_record() {
    for mode in [Mode::Started, Mode::Reserved, Mode::Transactional] {
        let violated = goes_wrong(Broken::FenceCheck, mode, Policy::Quarantine);
        assert_eq!(violated, world::STALE_CHANGED);
    }
}

#[test]
fn without_the_owner_token_two_workers_run_at_once() {
    for mode in [Mode::Started, Mode::Reserved] {
        let violated = goes_wrong(Broken::OwnerToken, mode, Policy::Quarantine);
        assert_eq!(violated, world::TWICE);
    }
    let violated = goes_wrong(Broken::OwnerToken, Mode::Transactional, Policy::Quarantine);
    assert_eq!(violated, world::CONTRADICTION);
}

#[test]
fn without_the_started_rule_a_zombie_and_its_heir_both_run() {
    for mode in [Mode::Started, Mode::Reserved] {
        let violated = goes_wrong(Broken::StartedRule, mode, Policy::Quarantine);
        assert_eq!(violated, world::TWICE);
    }
}

#[test]
fn reconciling_that_does_not_reject_the_lost_run_lets_it_charge_too() {
    let violated = goes_wrong(Broken::Reconciling, Mode::Started, Policy::Reconcile);
    assert_eq!(violated, world::TWICE);
}
