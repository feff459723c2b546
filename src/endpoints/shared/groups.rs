//! The group that gets the calls.

use super::Shared;
use crate::endpoints::{endpoint::Endpoint, health::Pool, list::List, member::Member};

impl<S> Shared<S> {
    /// Returns the endpoints that get calls.
    pub(super) fn list_of(&self, members: &[Member<S>]) -> List<S> {
        let open = members.iter().filter(|it| !it.health.is_draining());
        let group = |it: &Member<S>| it.entry.endpoint.group;
        let states = open.clone().map(|it| (group(it), it.is_usable()));
        let pool = Pool::of(states.clone(), self.config.panic_below);
        let entries = |pool: Pool| {
            let chosen = open.clone().filter(move |it| match pool {
                Pool::Group(chosen) => group(it) == chosen && it.is_usable(),
                Pool::All => true,
            });
            chosen.map(|it| it.entry.clone()).collect()
        };
        let next = match pool {
            // Failures eject none, and lead to no other group.
            Pool::Group(_) if self.config.max_ejected == 0.0 => None,
            Pool::Group(it) => {
                let further = states.filter(|(group, _)| *group > it);
                Some(Pool::of(further, self.config.panic_below)).filter(|it| *it != Pool::All)
            }
            Pool::All => None,
        };
        let ends = members.iter().filter_map(|it| it.health.out_until()).min();
        List {
            endpoints: entries(pool),
            next: next.map(entries).unwrap_or_default(),
            ends: ends.map_or(u64::MAX, |end| self.time(end)),
            usable: open.filter(|it| it.is_usable()).count(),
        }
    }

    /// Returns `true` if the share has room for this endpoint, or calls then go to another group.
    ///
    /// The share alone could keep the calls in a group that fails all of them.
    pub(super) fn may_eject(&self, members: &[Member<S>], endpoint: &Endpoint) -> bool {
        let open = members.iter().filter(|it| !it.health.is_draining());
        let ejected = open.clone().filter(|it| it.health.out_until().is_some()).count();
        let (more, all) = (ejected as f64 + 1.0, open.clone().count() as f64);
        let has_room = more / all <= self.config.max_ejected;
        let number = endpoint.number;
        let states = open.map(|it| (it.entry.endpoint.group, it.is_usable_without(number)));
        let calls_go_elsewhere = || match Pool::of(states, self.config.panic_below) {
            Pool::Group(group) => group != endpoint.group,
            Pool::All => false,
        };
        has_room || self.config.max_ejected > 0.0 && calls_go_elsewhere()
    }
}
