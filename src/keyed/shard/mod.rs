//! One shard of the map: a hash table, and its entries in the order of their last use.

use std::{
    borrow::Borrow,
    mem,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::AcqRel},
    },
};

use super::{
    chunks::Chunks,
    kept::{Kept, Now, Rank},
};

mod filing;

/// The index of an entry, or [`NONE`].
type Id = u32;

const NONE: Id = Id::MAX;

/// The entries of one shard.
///
/// The table grows and shrinks by one bucket at a time (linear hashing). The entries stand in one
/// vector without gaps, and their links are indices. Therefore no operation visits more than a few
/// entries, however many there are.
pub(super) struct Shard<K, V: Kept> {
    entries: Chunks<Entry<K, V>>,
    /// The first entry of each bucket.
    buckets: Chunks<Id>,
    /// The entries by rank, each list in the order of their last use.
    lists: [List; 3],
    /// The number of uses so far. It wraps around.
    turn: u32,
    /// The entry at which the next search for misfiled entries begins.
    swept: usize,
    /// The number of values in all shards that can be evicted.
    evictable: Arc<AtomicUsize>,
}

/// A key and its value. Drop a removed entry after the lock is released.
pub(super) struct Entry<K, V: Kept> {
    /// Is shared, so that it can be listed without a copy.
    key: Arc<K>,
    value: Arc<V>,
    /// The time of the last use.
    used: u64,
    /// The number of that use in this shard, for uses at the same time. It wraps around.
    turn: u32,
    hash: u32,
    next_in_bucket: Id,
    newer: Id,
    older: Id,
    /// The list that the entry is in. The rank of its value may have changed since.
    filed: Rank,
}

impl<K, V: Kept> Entry<K, V> {
    pub(super) fn value(&self) -> &V {
        &self.value
    }
}

impl<K, V: Kept> Drop for Entry<K, V> {
    fn drop(&mut self) {
        self.value.forgotten();
    }
}

#[derive(Clone, Copy)]
struct List {
    newest: Id,
    oldest: Id,
    len: usize,
}

/// The oldest entry of a list, and the length of the list.
pub(super) struct Oldest {
    /// The entry is busy, or has become preferred.
    pub(super) outlives: bool,
    pub(super) used: u64,
    pub(super) of: usize,
}

impl<K, V: Kept> Shard<K, V> {
    pub(super) fn new(evictable: Arc<AtomicUsize>) -> Self {
        let empty = List { newest: NONE, oldest: NONE, len: 0 };
        let (entries, buckets, lists) = (Chunks::new(), Chunks::new(), [empty; 3]);
        Self { entries, buckets, lists, turn: 0, swept: 0, evictable }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn count(&self, rank: Rank) -> usize {
        self.list(rank).len
    }

    pub(super) fn find<Q>(&self, hash: u32, key: &Q) -> Option<Id>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        if self.buckets.len() == 0 {
            return None;
        }
        let mut id = self.buckets[self.bucket(hash)];
        while id != NONE {
            let entry = self.entry(id);
            if entry.hash == hash && K::borrow(&entry.key) == key {
                return Some(id);
            }
            id = entry.next_in_bucket;
        }
        None
    }

    pub(super) fn value(&self, id: Id) -> &Arc<V> {
        &self.entry(id).value
    }

    /// Returns whether a value was unused for too long.
    ///
    /// A breaker can open long after the last use of its key, when a slow call ends.
    pub(super) fn is_expired(&self, id: Id, now: Now, idle: u64) -> bool {
        let entry = self.entry(id);
        now.nanos.saturating_sub(entry.used) >= idle
            && entry.value.rank() != Rank::Pinned
            && !entry.value.is_busy()
            && !entry.value.outlasts(now.at)
    }

    /// Lists up to `steps` entries with an index below `next`, from the last to the first, and
    /// sets `next` to the index of the last one that was visited.
    ///
    /// A removal moves the last entry to a lower index. In this direction, a list that is made in
    /// several steps may have an entry twice, but misses none.
    pub(super) fn list_before(
        &self,
        next: &mut usize,
        steps: usize,
        now: Now,
        idle: u64,
    ) -> Vec<(Arc<K>, Weak<V>)> {
        let end = self.len().min(*next);
        *next = end.saturating_sub(steps);
        let ids = (*next..end).rev().map(|index| index as Id);
        let kept = ids.filter(|id| !self.is_expired(*id, now, idle)).map(|id| self.entry(id));
        kept.map(|entry| (Arc::clone(&entry.key), Arc::downgrade(&entry.value))).collect()
    }

    /// Returns the value of a key, and records that it is used now.
    ///
    /// Returns `None` if the key has no value, or one that was unused for too long.
    #[inline]
    pub(super) fn touch(&mut self, hash: u32, key: &K, now: Now, idle: u64) -> Option<Arc<V>>
    where
        K: Eq,
    {
        let id = self.find(hash, key)?;
        let entry = &mut self.entries[id as usize];
        if now.nanos.saturating_sub(entry.used) >= idle && self.is_expired(id, now, idle) {
            return None;
        }
        let entry = &mut self.entries[id as usize];
        self.turn = self.turn.wrapping_add(1);
        (entry.used, entry.turn) = (now.nanos, self.turn);
        let value = Arc::clone(&entry.value);
        let rank = value.rank();
        if entry.filed != rank {
            self.unlink(id);
            self.link(id, rank, NONE);
        } else if self.list(rank).newest != id {
            self.promote(id, rank);
        }
        Some(value)
    }

    /// Makes an entry the newest of its list, which it is not yet.
    #[inline]
    fn promote(&mut self, id: Id, rank: Rank) {
        let newest = mem::replace(&mut self.lists[rank as usize].newest, id);
        let entry = self.entry_mut(id);
        let newer = mem::replace(&mut entry.newer, NONE);
        let older = mem::replace(&mut entry.older, newest);
        self.entry_mut(newest).newer = id;
        self.entry_mut(newer).older = older;
        match older {
            NONE => self.lists[rank as usize].oldest = newer,
            older => self.entry_mut(older).newer = newer,
        }
    }

    /// Adds an entry, which the caller has counted.
    pub(super) fn insert(&mut self, hash: u32, key: Arc<K>, value: Arc<V>, now: Now) {
        if self.buckets.len() <= self.entries.len() {
            self.grow();
        }
        let id = self.entries.len() as Id;
        let bucket = self.bucket(hash);
        let next_in_bucket = mem::replace(&mut self.buckets[bucket], id);
        self.turn = self.turn.wrapping_add(1);
        value.kept();
        self.entries.push(Entry {
            key,
            value,
            used: now.nanos,
            turn: self.turn,
            hash,
            next_in_bucket,
            newer: NONE,
            older: NONE,
            filed: Rank::Ordinary,
        });
        self.link(id, Rank::Ordinary, NONE);
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, id: Id) -> Option<Entry<K, V>> {
        if self.entry(id).filed != Rank::Pinned {
            self.evictable.fetch_sub(1, AcqRel);
        }
        self.unlink(id);
        let next = self.entry(id).next_in_bucket;
        self.redirect(id, next);
        // The last entry takes the place of this one.
        let last = (self.entries.len() - 1) as Id;
        if last != id {
            self.redirect(last, id);
            let Entry { newer, older, filed, .. } = *self.entry(last);
            self.join(newer, id, filed);
            self.join(id, older, filed);
        }
        let removed = self.entries.swap_remove(id as usize);
        while self.buckets.len() > 2 * self.entries.len() {
            self.shrink();
        }
        removed
    }

    /// Returns the oldest entry of a rank, unless it is pinned by now.
    ///
    /// An entry that outlives the others of its list is returned too, because among many of them
    /// one must make room.
    pub(super) fn oldest(&self, rank: Rank) -> Option<Oldest> {
        let List { oldest, len, .. } = *self.list(rank);
        if oldest == NONE {
            return None;
        }
        let Entry { value, used, .. } = self.entry(oldest);
        let current = value.rank();
        let outlives = current > rank || value.is_busy();
        (current < Rank::Pinned).then_some(Oldest { outlives, used: *used, of: len })
    }

    /// Removes the oldest entry of a rank, unless it is pinned by now.
    ///
    /// Removes one that outlives the others only if `outliving` is set.
    pub(super) fn remove_oldest(&mut self, rank: Rank, outliving: bool) -> Option<Entry<K, V>> {
        self.oldest(rank).filter(|oldest| outliving || !oldest.outlives)?;
        self.remove(self.list(rank).oldest)
    }

    /// Removes expired entries. Visits at most about `steps` entries.
    ///
    /// Returns the removed entries, and `true` if there are no more.
    pub(super) fn remove_expired(
        &mut self,
        now: Now,
        idle: u64,
        mut steps: usize,
    ) -> (Vec<Entry<K, V>>, bool) {
        self.sort_out_pinned();
        let mut removed = Vec::new();
        for rank in [Rank::Ordinary, Rank::Preferred] {
            loop {
                let id = self.list(rank).oldest;
                if id == NONE || now.nanos.saturating_sub(self.entry(id).used) < idle {
                    break;
                }
                if steps == 0 {
                    return (removed, false);
                }
                steps -= 1;
                if self.is_expired(id, now, idle) {
                    removed.extend(self.remove(id));
                } else if self.is_misfiled(id) {
                    self.file(id);
                } else {
                    // It is looked at again after the idle time.
                    self.entry_mut(id).used = now.nanos;
                    self.file(id);
                }
            }
        }
        (removed, true)
    }

    /// Puts an entry into a list, next to a newer one. With [`NONE`], it becomes the newest.
    fn link(&mut self, id: Id, rank: Rank, newer: Id) {
        let older = match newer {
            NONE => self.list(rank).newest,
            newer => self.entry(newer).older,
        };
        match (self.entry(id).filed, rank) {
            (Rank::Pinned, Rank::Pinned) => {}
            (_, Rank::Pinned) => _ = self.evictable.fetch_sub(1, AcqRel),
            (Rank::Pinned, _) => _ = self.evictable.fetch_add(1, AcqRel),
            _ => {}
        }
        self.entry_mut(id).filed = rank;
        self.join(newer, id, rank);
        self.join(id, older, rank);
        self.lists[rank as usize].len += 1;
    }

    fn unlink(&mut self, id: Id) {
        let Entry { newer, older, filed, .. } = *self.entry(id);
        self.join(newer, older, filed);
        self.lists[filed as usize].len -= 1;
    }

    /// Makes two entries of a list neighbours. [`NONE`] stands for its ends.
    fn join(&mut self, newer: Id, older: Id, rank: Rank) {
        match newer {
            NONE => self.lists[rank as usize].newest = older,
            newer => self.entry_mut(newer).older = older,
        }
        match older {
            NONE => self.lists[rank as usize].oldest = newer,
            older => self.entry_mut(older).newer = newer,
        }
    }

    /// Returns the bucket of a hash.
    #[inline]
    fn bucket(&self, hash: u32) -> usize {
        let buckets = self.buckets.len();
        let all = buckets.next_power_of_two();
        let bucket = hash as usize & (all - 1);
        if bucket < buckets { bucket } else { bucket - all / 2 }
    }

    /// Adds a bucket, and moves to it what belongs there, all of which is in one other bucket.
    fn grow(&mut self) {
        let bucket = self.buckets.len();
        self.buckets.push(NONE);
        if bucket > 0 {
            self.distribute(bucket - (bucket + 1).next_power_of_two() / 2);
        }
    }

    /// Removes the last bucket, and moves its entries to the bucket that they came from.
    fn shrink(&mut self) {
        let Some(mut id) = self.buckets.pop() else { return };
        while id != NONE {
            id = self.hang(id);
        }
    }

    /// Moves the entries of a bucket to where they belong.
    fn distribute(&mut self, bucket: usize) {
        let mut id = mem::replace(&mut self.buckets[bucket], NONE);
        while id != NONE {
            id = self.hang(id);
        }
    }

    /// Puts an entry first in its bucket. Returns the one that followed it.
    fn hang(&mut self, id: Id) -> Id {
        let bucket = self.bucket(self.entry(id).hash);
        let first = mem::replace(&mut self.buckets[bucket], id);
        mem::replace(&mut self.entry_mut(id).next_in_bucket, first)
    }

    /// Lets the link of a bucket that leads to `from` lead to `to`.
    fn redirect(&mut self, from: Id, to: Id) {
        let bucket = self.bucket(self.entry(from).hash);
        let mut id = self.buckets[bucket];
        if id == from {
            self.buckets[bucket] = to;
            return;
        }
        while self.entry(id).next_in_bucket != from {
            id = self.entry(id).next_in_bucket;
        }
        self.entry_mut(id).next_in_bucket = to;
    }

    #[inline]
    fn list(&self, rank: Rank) -> &List {
        &self.lists[rank as usize]
    }

    #[inline]
    fn entry(&self, id: Id) -> &Entry<K, V> {
        &self.entries[id as usize]
    }

    #[inline]
    fn entry_mut(&mut self, id: Id) -> &mut Entry<K, V> {
        &mut self.entries[id as usize]
    }
}
