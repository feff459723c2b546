//! Corrects the lists of a shard, because a value changes its rank without notice.

use std::cmp::Ordering;

use super::{Id, NONE, Shard};
use crate::keyed::kept::{Kept, Rank};

impl<K, V: Kept> Shard<K, V> {
    /// Corrects the lists at their old ends. Visits at most `steps` entries of each, and as many
    /// anywhere.
    pub(in crate::keyed) fn sort_out_oldest(&mut self, steps: usize) {
        for _ in 0..steps {
            let id = self.list(Rank::Ordinary).oldest;
            if !self.is_misfiled(id) {
                break;
            }
            self.file(id);
        }
        // Goes beyond the first one, because what is misfiled here counts as preferred.
        let mut id = self.list(Rank::Preferred).oldest;
        for _ in 0..steps {
            if id == NONE {
                break;
            }
            let newer = self.entry(id).newer;
            if self.is_misfiled(id) {
                self.file(id);
            }
            id = newer;
        }
        // Finds what is misfiled among the newer ones, behind any number that are not.
        for _ in 0..steps.min(self.len()) {
            let id = (self.swept % self.len()) as Id;
            self.swept = id as usize + 1;
            if self.entry(id).filed == Rank::Preferred && self.is_misfiled(id) {
                self.file(id);
            }
        }
    }

    /// Files some values that are no longer pinned. The others are looked at in turn.
    pub(super) fn sort_out_pinned(&mut self) {
        for _ in 0..self.count(Rank::Pinned).min(8) {
            let id = self.list(Rank::Pinned).oldest;
            if self.is_misfiled(id) {
                self.file(id);
            } else {
                self.unlink(id);
                self.link(id, Rank::Pinned, NONE);
            }
        }
    }

    pub(super) fn is_misfiled(&self, id: Id) -> bool {
        id != NONE && self.rank(id) != self.entry(id).filed
    }

    /// Returns the rank of an entry that is not used at this moment.
    fn rank(&self, id: Id) -> Rank {
        let value = &self.entry(id).value;
        match value.rank() {
            Rank::Ordinary if value.is_busy() => Rank::Preferred,
            rank => rank,
        }
    }

    /// Moves an entry to the list of its rank, to the place that its last use gives it.
    ///
    /// Looks for this place near both ends. An entry that belongs between them is put where the
    /// search has ended.
    pub(super) fn file(&mut self, id: Id) {
        const STEPS: usize = 8;
        let rank = self.rank(id);
        self.unlink(id);
        let mut newer = NONE;
        let mut older = self.list(rank).newest;
        for _ in 0..STEPS {
            if older == NONE || self.is_older(older, id) {
                return self.link(id, rank, newer);
            }
            newer = older;
            older = self.entry(older).older;
        }
        let mut newer = self.list(rank).oldest;
        for _ in 0..STEPS {
            if newer == NONE || self.is_older(id, newer) {
                break;
            }
            newer = self.entry(newer).newer;
        }
        self.link(id, rank, newer);
    }

    /// Returns whether the first entry was last used before the second one.
    fn is_older(&self, first: Id, second: Id) -> bool {
        let (first, second) = (self.entry(first), self.entry(second));
        match first.used.cmp(&second.used) {
            // The difference of two turns that are close is small, even if one has wrapped around.
            Ordering::Equal => first.turn.wrapping_sub(second.turn) > u32::MAX / 2,
            unequal => unequal.is_lt(),
        }
    }
}
