use std::{
    cell::Cell,
    collections::HashMap,
    hash::Hasher,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, AtomicU8},
};

use proptest::prelude::*;

use super::*;

const RANKS: [Rank; 3] = [Rank::Ordinary, Rank::Preferred, Rank::Pinned];

#[derive(Default)]
struct Value {
    rank: AtomicU8,
    outlasts: AtomicBool,
}

impl Kept for Value {
    fn rank(&self) -> Rank {
        RANKS[usize::from(self.rank.load(Ordering::Relaxed))]
    }

    fn outlasts(&self, _: Instant) -> bool {
        self.outlasts.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Use(u8),
    Rank(u8, Rank),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let rank = prop_oneof![
        3 => Just(Rank::Ordinary),
        2 => Just(Rank::Preferred),
        1 => Just(Rank::Pinned),
    ];
    prop_oneof![
        6 => (0..40_u8).prop_map(Step::Use),
        2 => (0..40_u8, rank).prop_map(|(key, rank)| Step::Rank(key, rank)),
        1 => (0..30_u64).prop_map(Step::Wait),
    ]
}

thread_local! {
    /// The number of comparisons of fragile keys until one panics.
    static UNTIL_PANIC: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// A key that has the hash of all others, and may panic when it is compared.
#[derive(Debug, Eq)]
struct Fragile(u8);

impl PartialEq for Fragile {
    fn eq(&self, other: &Self) -> bool {
        let left = UNTIL_PANIC.get().checked_sub(1).expect("a comparison panics");
        UNTIL_PANIC.set(left);
        self.0 == other.0
    }
}

impl Hash for Fragile {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[test]
fn a_key_that_panics_when_it_is_compared_takes_no_room() {
    let keys = Keys::<Fragile, Value>::new(4, Duration::MAX, Instant::now());
    keys.entry(Fragile(0), |_| Value::default());
    for comparisons in 0..=4 {
        for _ in 0..4 {
            UNTIL_PANIC.set(comparisons);
            let add = AssertUnwindSafe(|| keys.entry(Fragile(1), |_| Value::default()));
            let added = catch_unwind(add).is_ok();
            UNTIL_PANIC.set(u32::MAX);
            assert_eq!(keys.evictable.load(Ordering::Relaxed), keys.len());
            assert!(!added || comparisons > 2, "each search compares");
        }
    }
    assert_eq!(keys.len(), 2);
}

const IDLE: u64 = 100;

/// The keys of a map as they are promised, which is a list of the keys that may have a value.
#[derive(Default)]
struct Model {
    /// The time of the last use and the value, oldest first.
    uses: Vec<(u8, u64, Arc<Value>)>,
}

impl Model {
    fn with(&self, rank: Rank) -> impl Iterator<Item = &(u8, u64, Arc<Value>)> {
        self.uses.iter().filter(move |(_, _, value)| value.rank() == rank)
    }
}

proptest! {
    #[test]
    fn keys_are_kept_as_promised(
        max_keys in 2..17_usize,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let origin = Instant::now();
        let keys = Keys::<u8, Value>::new(max_keys, Duration::from_nanos(IDLE), origin);
        let mut model = Model::default();
        let mut time = 0;
        for step in steps {
            let now = origin + Duration::from_nanos(time);
            let _now = clock::share_now(now);
            match step {
                Step::Use(key) => {
                    let known = keys.get(&key).is_some();
                    let full = model.uses.len() >= max_keys;
                    let preferred = model.with(Rank::Preferred).count();
                    let value = keys.entry(key, |_| Value::default());
                    let same = model.uses.iter().any(|(at, _, kept)| {
                        *at == key && Arc::ptr_eq(kept, &value)
                    });
                    prop_assert_eq!(known, same);
                    model.uses.retain(|(at, ..)| *at != key);
                    model.uses.push((key, time, value));
                    prop_assert!(known || full || keys.get(&key).is_some());
                    // A value that is no longer pinned may be one too many until a key is new.
                    let evictable = keys.evictable.load(Ordering::Relaxed);
                    prop_assert!(known || evictable <= max_keys);
                    // Preferred values are evicted only beyond half of them.
                    let lost = model.with(Rank::Preferred).filter(|(at, ..)| {
                        keys.get(at).is_none()
                    });
                    if preferred <= max_keys / 2 {
                        prop_assert_eq!(lost.count(), 0);
                    }
                }
                Step::Rank(key, rank) => {
                    if let Some(value) = keys.get(&key) {
                        value.rank.store(rank as u8, Ordering::Relaxed);
                    }
                }
                Step::Wait(wait) => time += wait,
            }
            model.uses.retain(|(_, used, value)| {
                value.rank() == Rank::Pinned || time - used < IDLE
            });
            drop(_now);
            let _now = clock::share_now(origin + Duration::from_nanos(time));
            // The most recently used half are kept.
            for (key, _, value) in model.uses.iter().rev().take(max_keys / 2) {
                let kept = keys.get(key);
                prop_assert!(kept.is_some_and(|kept| Arc::ptr_eq(&kept, value)), "{}", key);
            }
            // Nothing is evicted while all fit.
            if model.uses.len() <= max_keys {
                prop_assert_eq!(keys.len(), model.uses.len());
            }
            model.uses.retain(|(key, _, value)| {
                keys.get(key).is_some_and(|kept| Arc::ptr_eq(&kept, value))
            });
            prop_assert_eq!(keys.len(), model.uses.len());
        }
    }

    #[test]
    fn a_shard_is_a_map(uses in prop::collection::vec((0..300_u32, any::<bool>()), 1..2_000)) {
        let origin = Instant::now();
        let now = Now { at: origin, nanos: 0 };
        let mut shard = Shard::<u32, Value>::new(Arc::default());
        let mut model = HashMap::new();
        // Most hashes differ in their lower half, and some keys have the same hash.
        let hash = |key: u32| (key / 2).wrapping_mul(0x9E37_79B9).rotate_left(7);
        for (key, insert) in uses {
            let found = shard.find(hash(key), &key);
            prop_assert_eq!(found.is_some(), model.contains_key(&key));
            match found {
                None if insert => {
                    let value = Arc::<Value>::default();
                    shard.insert(hash(key), key, Arc::clone(&value), now);
                    model.insert(key, value);
                }
                Some(id) if !insert => {
                    prop_assert!(shard.remove(id).is_some());
                    model.remove(&key);
                }
                Some(_) => prop_assert!(shard.touch(hash(key), &key, now, 1).is_some()),
                None => {}
            }
            prop_assert_eq!(shard.len(), model.len());
            prop_assert_eq!(shard.count(Rank::Ordinary), model.len());
        }
        for (key, value) in &model {
            let id = shard.find(hash(*key), key).unwrap();
            prop_assert!(Arc::ptr_eq(shard.value(id), value));
        }
    }
}
