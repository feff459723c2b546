//! The endpoints that get calls, and the choice among them.

use std::sync::Arc;

use rand::Rng;

use super::{endpoint::Endpoint, slot::Slot};
use crate::call::{random::draw, route::Tried};

/// One choice in so many is made by the calls under way alone.
///
/// Otherwise, an endpoint that was slow once would get no calls for long, so that nobody would know
/// that it is fast again.
const EXPLORING: u64 = 32;

/// An endpoint and its service.
pub(super) struct Entry<S> {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) slot: Arc<Slot<S>>,
}

impl<S> Clone for Entry<S> {
    fn clone(&self) -> Self {
        Self { endpoint: Arc::clone(&self.endpoint), slot: Arc::clone(&self.slot) }
    }
}

/// The endpoints that get calls at the moment.
pub(super) struct List<S> {
    pub(super) endpoints: Vec<Entry<S>>,
    /// The time at which the next ejection ends, in nanoseconds from the origin, or `u64::MAX`.
    pub(super) ends: u64,
    /// The number of usable ones in all groups.
    pub(super) usable: usize,
    /// The endpoints of the group that gets the calls once too few of these are usable.
    pub(super) next: Vec<Entry<S>>,
}

impl<S> List<S> {
    pub(super) const EMPTY: Self =
        Self { endpoints: Vec::new(), ends: u64::MAX, usable: 0, next: Vec::new() };

    /// Chooses the better of two endpoints that are drawn at random, and begins a call.
    ///
    /// An endpoint that the call has tried is chosen only if there is no other, even in the next
    /// group.
    #[inline]
    pub(super) fn choose(&self, tried: Tried) -> Option<Entry<S>> {
        let bits = draw(Rng::next_u64);
        let entry = match tried.is_empty() {
            true => self.draw(bits)?,
            false => self.draw_another(tried, bits)?,
        };
        if entry.endpoint.begin() { Some(entry.clone()) } else { self.begin_any(tried, bits) }
    }

    /// Returns the better of two.
    #[inline]
    fn draw(&self, bits: u64) -> Option<&Entry<S>> {
        let (first, second) = two_of(self.endpoints.len(), bits)?;
        Some(better(&self.endpoints[first], &self.endpoints[second], bits))
    }

    /// Returns the better of two that were not tried, if there are any.
    #[cold]
    fn draw_another(&self, tried: Tried, bits: u64) -> Option<&Entry<S>> {
        let untried = |group| draw_untried(group, tried, bits);
        untried(&self.endpoints).or_else(|| untried(&self.next)).or_else(|| self.draw(bits))
    }

    /// Begins a call at any endpoint with room, because the chosen one has none.
    #[cold]
    fn begin_any(&self, tried: Tried, bits: u64) -> Option<Entry<S>> {
        let (start, _) = two_of(self.endpoints.len(), bits)?;
        let (before, after) = self.endpoints.split_at(start);
        let mut all = after.iter().chain(before);
        let untried =
            all.clone().find(|it| !tried.contains(it.endpoint.mark) && it.endpoint.begin());
        untried.or_else(|| all.find(|it| it.endpoint.begin())).cloned()
    }
}

/// Returns the better of two that were not tried.
fn draw_untried<S>(group: &[Entry<S>], tried: Tried, bits: u64) -> Option<&Entry<S>> {
    let mut others = group.iter().filter(|it| !tried.contains(it.endpoint.mark));
    let (first, second) = two_of(others.clone().count(), bits)?;
    let (least, most) = (first.min(second), first.max(second));
    let one = others.nth(least)?;
    let another = if least == most { one } else { others.nth(most - least - 1)? };
    Some(better(one, another, bits))
}

#[inline]
fn better<'a, S>(one: &'a Entry<S>, other: &'a Entry<S>, bits: u64) -> &'a Entry<S> {
    let is_better = match bits % EXPLORING {
        0 => one.endpoint.is_as_idle(&other.endpoint),
        _ => one.endpoint.is_better(&other.endpoint),
    };
    if is_better { one } else { other }
}

/// Returns two different indices below `count`, twice the same if that is 1.
#[inline]
fn two_of(count: usize, bits: u64) -> Option<(usize, usize)> {
    let draw = |bits: u64, count: usize| (((bits & 0xFFFF_FFFF) * count as u64) >> 32) as usize;
    match count {
        0 => None,
        1 => Some((0, 0)),
        _ => {
            let (first, second) = (draw(bits, count), draw(bits >> 32, count - 1));
            Some((first, second + usize::from(second >= first)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_drawn_without_replacement_and_each_as_often() {
        for count in 2..6 {
            let mut times = vec![0_usize; count];
            for _ in 0..6_000 {
                let (first, second) = two_of(count, draw(Rng::next_u64)).unwrap();
                assert_ne!(first, second);
                times[first] += 1;
                times[second] += 1;
            }
            let expected = 12_000 / count;
            assert!(times.iter().all(|it| it.abs_diff(expected) < expected / 4), "{times:?}");
        }
        assert_eq!(two_of(0, u64::MAX), None);
        assert_eq!(two_of(1, u64::MAX), Some((0, 0)));
        assert_eq!(two_of(3, u64::MAX), Some((2, 1)));
    }
}
