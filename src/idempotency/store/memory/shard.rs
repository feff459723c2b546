//! A part of the records of a store, found by their key and by the end of their time.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        Claim, UnknownOperation,
        machine::{self, RecordState, StoredRecord},
    },
    map::HashedMap,
    usage::Usage,
};
use crate::idempotency::{ScopeId, StorageKey};

/// A record and its size.
pub(super) struct Entry<P> {
    pub(super) key: StorageKey,
    pub(super) scope: ScopeId,
    /// The bytes of its result, or the bytes reserved for it.
    pub(super) kept: u64,
    /// Its index in the heap of ends.
    place: u32,
    /// The record. `None` only during a step.
    pub(super) slot: Option<StoredRecord<Arc<P>>>,
}

impl<P> Entry<P> {
    pub(super) fn new(key: StorageKey, scope: ScopeId, kept: u64) -> Self {
        Self { key, scope, kept, place: 0, slot: None }
    }

    pub(super) fn fence(&self) -> Option<u64> {
        self.slot.as_ref().map(|record| record.fence)
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.slot
            .as_ref()
            .is_some_and(|record| matches!(record.state, RecordState::InFlight { .. }))
    }

    fn until(&self) -> Duration {
        self.slot.as_ref().map_or(Duration::ZERO, |record| record.until)
    }

    /// Returns the bytes that the entry uses now, or 0 if it keeps nothing and expects no result.
    pub(super) fn bytes(&self) -> u64 {
        match self.slot.as_ref().map(|record| &record.state) {
            None | Some(RecordState::Unknown { checkpoint: None }) => 0,
            Some(_) => self.kept,
        }
    }
}

/// A vector of entries without gaps, with two indexes into it.
///
/// One index is a map by key. The other is a heap by the time at which each entry ends. An entry
/// knows its index in the heap, so that a renewal moves it and leaves no old element behind.
pub(super) struct Shard<P> {
    entries: Vec<Entry<P>>,
    by_key: HashedMap<StorageKey, u32>,
    by_end: Vec<u32>,
}

impl<P> Default for Shard<P> {
    fn default() -> Self {
        Self { entries: Vec::new(), by_key: HashedMap::default(), by_end: Vec::new() }
    }
}

impl<P> Shard<P> {
    pub(super) fn find(&self, key: &StorageKey) -> Option<usize> {
        self.by_key.get(key).map(|&at| at as usize)
    }

    /// Returns the payload of the record, shared.
    pub(super) fn payload(&self, at: usize) -> Option<Arc<P>> {
        match &self.entries[at].slot.as_ref()?.state {
            RecordState::Completed { payload } => payload.clone(),
            RecordState::InFlight { .. } | RecordState::Unknown { .. } => None,
        }
    }

    /// Returns whether the record is in flight and owned by the owner of the claim.
    pub(super) fn is_claimed_by(&self, at: usize, claim: &Claim) -> bool {
        let entry = &self.entries[at];
        let owned = entry.slot.as_ref().is_some_and(|record| record.owner == claim.owner);
        owned && entry.is_in_flight()
    }

    pub(super) fn unknown(&self, now: Duration) -> impl Iterator<Item = UnknownOperation> {
        self.entries
            .iter()
            .filter_map(move |entry| machine::unknown(entry.key, entry.slot.as_ref()?, now))
    }

    /// Adds the admitted entry of a key that has none.
    pub(super) fn insert(&mut self, entry: Entry<P>) {
        // There are far fewer than four billion entries, because the limit of the whole store is
        // a `u32`.
        let at = self.entries.len() as u32;
        self.by_key.insert(entry.key, at);
        self.entries.push(entry);
        self.by_end.push(at);
        self.rise(self.by_end.len() - 1);
    }

    /// Changes an entry, and then updates its bytes and its end, or removes it.
    pub(super) fn change<T>(
        &mut self,
        at: usize,
        usage: &Usage,
        act: impl FnOnce(&mut Entry<P>) -> T,
    ) -> T {
        let entry = &mut self.entries[at];
        let (bytes, until) = (entry.bytes(), entry.until());
        let done = act(entry);
        if entry.slot.is_none() {
            usage.forget(&entry.scope, bytes);
            self.remove(at);
        } else {
            usage.settle(&entry.scope, bytes, entry.bytes());
            let place = entry.place as usize;
            match entry.until() {
                later if later > until => self.sink(place),
                sooner if sooner < until => self.rise(place),
                _ => {}
            }
        }
        done
    }

    /// Brings a record up to date, and returns whether it still exists.
    pub(super) fn bring_up_to_date(&mut self, at: usize, now: Duration, usage: &Usage) -> bool {
        self.change(at, usage, |entry| {
            machine::update(&mut entry.slot, now);
            entry.slot.is_some()
        })
    }

    /// Brings the record that ended first up to date, if one has ended, and returns its payload.
    #[allow(clippy::option_option)]
    pub(super) fn retire(&mut self, now: Duration, usage: &Usage) -> Option<Option<Arc<P>>> {
        let at = *self.by_end.first()? as usize;
        if self.entries[at].until() > now {
            return None;
        }
        let payload = self.payload(at);
        self.bring_up_to_date(at, now, usage);
        Some(payload)
    }

    fn remove(&mut self, at: usize) {
        let place = self.entries[at].place as usize;
        self.by_end.swap_remove(place);
        if place < self.by_end.len() {
            self.put(place, self.by_end[place]);
            self.sink(place);
            self.rise(place);
        }
        let entry = self.entries.swap_remove(at);
        self.by_key.remove(&entry.key);
        if let Some(moved) = self.entries.get(at) {
            self.by_end[moved.place as usize] = at as u32;
            self.by_key.insert(moved.key, at as u32);
        }
    }

    fn end(&self, place: usize) -> Duration {
        self.entries[self.by_end[place] as usize].until()
    }

    fn put(&mut self, place: usize, at: u32) {
        self.by_end[place] = at;
        self.entries[at as usize].place = place as u32;
    }

    fn swap(&mut self, one: usize, other: usize) {
        let (first, second) = (self.by_end[one], self.by_end[other]);
        self.put(one, second);
        self.put(other, first);
    }

    /// Moves an entry up while it ends sooner than its parent.
    fn rise(&mut self, mut place: usize) {
        while place > 0 && self.end(place) < self.end((place - 1) / 2) {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        self.put(place, self.by_end[place]);
    }

    /// Moves an entry down while it ends later than one of its children.
    fn sink(&mut self, mut place: usize) {
        loop {
            let below = [2 * place + 1, 2 * place + 2].into_iter();
            let first = below.filter(|&at| at < self.by_end.len()).min_by_key(|&at| self.end(at));
            let Some(first) = first.filter(|&first| self.end(first) < self.end(place)) else {
                return;
            };
            self.swap(place, first);
            place = first;
        }
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> &[Entry<P>] {
        &self.entries
    }

    /// Asserts that each entry is in both indexes once, and in the heap at the index that it knows.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.by_key.len(), self.entries.len());
        assert_eq!(self.by_end.len(), self.entries.len());
        for (at, entry) in self.entries.iter().enumerate() {
            assert_eq!(self.find(&entry.key), Some(at));
            assert_eq!(self.by_end[entry.place as usize] as usize, at);
            let place = entry.place as usize;
            assert!(place == 0 || self.end((place - 1) / 2) <= self.end(place));
        }
    }
}
