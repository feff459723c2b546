//! An endpoint of a set, as the set knows it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    config::Config,
    endpoint::Endpoint,
    health::{EndpointStatus, Health},
    list::Entry,
};

/// An endpoint of the set.
pub(super) struct Member<S> {
    pub(super) entry: Entry<S>,
    pub(super) health: Health,
    pub(super) next_check: Instant,
    /// The check that runs, if there is one.
    pub(super) check: Weak<()>,
}

impl<S> Member<S> {
    pub(super) fn is_usable(&self) -> bool {
        self.health.status() == EndpointStatus::Usable
    }

    /// Returns `true` if it is usable, and is not the endpoint with this number.
    pub(super) fn is_usable_without(&self, number: u64) -> bool {
        self.is_usable() && self.entry.endpoint.number != number
    }

    /// Notes that a reason for which the endpoint was out is over. Another may be left.
    pub(super) fn came_back(
        &self,
        reason: &'static str,
        config: &Config,
        now: Instant,
        transitions: &mut Vec<Transition>,
    ) {
        self.entry.endpoint.come_back(self.health.forgets_at(config), now);
        if self.is_usable() {
            transitions.push(self.transition(Change::Back { reason }));
        }
    }

    pub(super) fn transition(&self, change: Change) -> Transition {
        Transition { endpoint: Arc::clone(&self.entry.endpoint), change }
    }
}

/// A change of an endpoint's status, which is reported.
pub(super) struct Transition {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) change: Change,
}

#[derive(Clone, Copy)]
pub(super) enum Change {
    Out { reason: &'static str, out_for: Option<Duration> },
    Back { reason: &'static str },
}

/// Returns the endpoint with this number.
pub(super) fn find<S>(members: &mut [Member<S>], number: u64) -> Option<&mut Member<S>> {
    members.iter_mut().find(|it| it.entry.endpoint.number == number)
}
