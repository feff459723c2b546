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
    busy: AtomicBool,
}

impl Value {
    fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }
}

impl Kept for Value {
    fn rank(&self) -> Rank {
        RANKS[usize::from(self.rank.load(Ordering::Relaxed))]
    }

    fn outlasts(&self, _: Instant) -> bool {
        self.outlasts.load(Ordering::Relaxed)
    }

    fn is_busy(self: &Arc<Self>) -> bool {
        self.busy.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Use(u8),
    Rank(u8, Rank),
    Busy(u8, bool),
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
        2 => (0..40_u8, any::<bool>()).prop_map(|(key, busy)| Step::Busy(key, busy)),
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
#[derive(Clone, Default)]
struct Model {
    /// The time of the last use and the value, oldest first.
    uses: Vec<(u8, u64, Arc<Value>)>,
}

impl Model {
    /// Returns the values that outlive the others, preferred or busy.
    fn outliving(&self) -> impl Iterator<Item = &(u8, u64, Arc<Value>)> {
        self.uses.iter().filter(|(_, _, value)| {
            value.rank() == Rank::Preferred || value.rank() == Rank::Ordinary && value.is_busy()
        })
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
                    let before = model.clone();
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
                    // Preferred and busy values are evicted only beyond half of them.
                    let lost = before.outliving().filter(|(at, ..)| keys.get(at).is_none());
                    if before.outliving().count() <= max_keys / 2 {
                        prop_assert_eq!(lost.count(), 0);
                    }
                }
                Step::Rank(key, rank) => {
                    if let Some(value) = keys.get(&key) {
                        value.rank.store(rank as u8, Ordering::Relaxed);
                    }
                }
                Step::Busy(key, busy) => {
                    let young = |(at, used, _): &&(u8, u64, _)| *at == key && time - used < IDLE;
                    if let Some((_, _, value)) = model.uses.iter().find(young) {
                        value.set_busy(busy);
                    }
                }
                Step::Wait(wait) => {
                    // How long a value that was busy is kept afterwards is not promised.
                    for (_, _, value) in &model.uses {
                        value.set_busy(false);
                    }
                    time += wait;
                }
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
                    shard.insert(hash(key), Arc::new(key), Arc::clone(&value), now);
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

/// Returns a full map of a thousand keys. The values of the first 20 are preferred and unused.
fn full() -> (Keys<u32, Value>, Vec<Arc<Value>>) {
    let keys = Keys::new(1_000, Duration::MAX, Instant::now());
    let preferred = (0..20).map(|key| keys.entry(key, |_| Value::default())).collect::<Vec<_>>();
    for value in &preferred {
        value.rank.store(Rank::Preferred as u8, Ordering::Relaxed);
    }
    for key in 20..1_000 {
        keys.entry(key, |_| Value::default());
    }
    (keys, preferred)
}

fn assert_kept(keys: &Keys<u32, Value>, values: &[Arc<Value>], name: &str) {
    let kept = |(key, value)| keys.get(&key).is_some_and(|kept| Arc::ptr_eq(&kept, value));
    assert_eq!((0..).zip(values).filter(|entry| kept(*entry)).count(), values.len(), "{name}");
}

#[test]
fn values_that_were_busy_do_not_count_as_preferred_for_long() {
    let (keys, preferred) = full();
    let mut busy = std::collections::VecDeque::new();
    for key in 1_000..30_000 {
        let value = keys.entry(key, |_| Value::default());
        // A third of the keys are busy, each until it has been the oldest for a while.
        value.set_busy(key % 3 == 0);
        busy.push_back(value);
        if busy.len() > 1_100 {
            busy.pop_front().unwrap().set_busy(false);
        }
    }
    assert_kept(&keys, &preferred, "preferred");
}

#[test]
fn a_run_of_busy_values_evicts_no_preferred_one() {
    for run in [1, 17, 300] {
        let (keys, preferred) = full();
        for key in 1_000..20_000 {
            let value = keys.entry(key, |_| Value::default());
            // Each run is busy until all of it is the oldest.
            value.set_busy((5_000..5_000 + run).contains(&key));
        }
        assert_kept(&keys, &preferred, "preferred");
        let busy = (5_000..5_000 + run).filter(|key| keys.get(key).is_some()).count();
        assert!(busy >= run as usize * 16 / 17, "{busy} of {run}");
    }
}

#[test]
fn a_run_of_values_that_become_preferred_evicts_no_preferred_one() {
    for run in [1, 17, 300] {
        let (keys, preferred) = full();
        let values = (1_000..1_000 + run).map(|key| keys.entry(key, |_| Value::default()));
        // Like breakers that open when the calls end, after the last use of their keys.
        for value in values.collect::<Vec<_>>() {
            value.rank.store(Rank::Preferred as u8, Ordering::Relaxed);
        }
        for key in 5_000..20_000 {
            keys.entry(key, |_| Value::default());
        }
        assert_kept(&keys, &preferred, "preferred");
        let kept = (1_000..1_000 + run).filter(|key| keys.get(key).is_some()).count();
        assert!(kept >= run as usize * 16 / 17, "{kept} of {run}");
    }
}

#[test]
fn busy_values_do_not_evict_the_most_recently_used_ones() {
    for busy in [400, 600, 1_000] {
        let keys = Keys::<u32, Value>::new(1_000, Duration::MAX, Instant::now());
        for key in 0..busy {
            keys.entry(key, |_| Value::default()).set_busy(true);
        }
        let used: Vec<_> =
            (10_000..10_249).map(|key| keys.entry(key, |_| Value::default())).collect();
        for key in 20_000..25_000 {
            keys.entry(key, |_| Value::default()).set_busy(key % 2 == 0);
            let again = 10_000 + key % 249;
            let value = keys.entry(again, |_| Value::default());
            assert!(Arc::ptr_eq(&value, &used[again as usize - 10_000]), "{again} of {busy}");
        }
    }
}

#[test]
fn a_busy_value_is_not_evicted_as_unused() {
    let (origin, second) = (Instant::now(), Duration::from_secs(1));
    let keys = Keys::<u32, Value>::new(10, second, origin);
    let value = keys.entry(0, |_| Value::default());
    value.set_busy(true);
    {
        let _now = clock::share_now(origin + 10 * second);
        for other in 1..5 {
            keys.entry(other, |_| Value::default());
        }
        assert!(keys.get(&0).is_some_and(|kept| Arc::ptr_eq(&kept, &value)));
        assert!(Arc::ptr_eq(&keys.entry(0, |_| Value::default()), &value));
    }
    value.set_busy(false);
    let _now = clock::share_now(origin + 20 * second);
    assert!(keys.get(&0).is_none());
}

#[test]
fn an_eviction_that_has_found_an_unused_value_removes_no_busy_one() {
    let now = Now { at: Instant::now(), nanos: 0 };
    let mut shard = Shard::<u32, Value>::new(Arc::new(AtomicUsize::new(1)));
    let value = Arc::<Value>::default();
    value.set_busy(true);
    shard.insert(0, Arc::new(0), value, now);
    assert!(shard.remove_oldest(Rank::Ordinary, false).is_none());
    assert!(shard.remove_oldest(Rank::Ordinary, true).is_some());
}

#[test]
fn a_list_makes_no_value_busy() {
    struct Value;

    impl Kept for Value {
        fn rank(&self) -> Rank {
            Rank::Ordinary
        }

        fn outlasts(&self, _: Instant) -> bool {
            false
        }

        fn is_busy(self: &Arc<Self>) -> bool {
            Arc::strong_count(self) > 1
        }
    }

    let keys = Keys::<u32, Value>::new(100, Duration::MAX, Instant::now());
    for key in 0..100 {
        keys.entry(key, |_| Value);
    }
    let mut listed = 0;
    keys.for_each(|_, value| {
        // Only the value itself is in use.
        assert!(value.is_busy());
        assert!((0..100).filter_map(|key| keys.get(&key)).all(|other| {
            Arc::strong_count(&other) == 2 + usize::from(Arc::ptr_eq(&other, value))
        }));
        listed += 1;
    });
    assert_eq!(listed, 100);
}

/// A key that cannot be cloned, and is hashed and compared by its number.
#[derive(PartialEq, Eq, Hash)]
struct NotClone(u32);

#[test]
fn a_list_clones_no_key_and_has_each_once() {
    let keys = Keys::<NotClone, Value>::new(5_000, Duration::MAX, Instant::now());
    for key in 0..4_000 {
        keys.entry(NotClone(key), |_| Value::default());
    }
    let mut listed = Vec::new();
    keys.for_each(|key, _| listed.push(key.0));
    listed.sort_unstable();
    assert!(listed.into_iter().eq(0..4_000));
}
