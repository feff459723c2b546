//! The addresses of endpoints.
//!
//! The rest of a set does not know their type, so a service needs no bounds on it.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use tokio::time::Instant;

use super::{
    endpoint::{Slot, number},
    handle::{Addresses, EndpointState},
    shared::{NewEndpoint, Shared},
};
use crate::call::lock::lock;

/// The address of an endpoint: a text, a socket address, a URI, or any value that can be printed.
///
/// Every such type implements it.
pub trait Address: fmt::Display + Clone + PartialEq + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<A: fmt::Display + Clone + PartialEq + Send + Sync + 'static> Address for A {}

/// Makes the service of an address.
pub(super) type Make<A, S> = Arc<dyn Fn(&A) -> S + Send + Sync>;

/// The addresses of a set.
pub(super) struct Directory<A, S> {
    shared: Arc<Shared<S>>,
    make: Make<A, S>,
    /// Each address with the number of its endpoint.
    known: Mutex<Vec<(Arc<A>, u64)>>,
}

impl<A: Address, S: Clone + Send + 'static> Directory<A, S> {
    /// Creates the directory of a new set with these addresses, which are different.
    pub(super) fn new(shared: Arc<Shared<S>>, addresses: Vec<(A, u8)>, make: Make<A, S>) -> Self {
        let directory = Self { shared, make, known: Mutex::default() };
        let new: Vec<_> = addresses
            .into_iter()
            .map(|(address, group)| {
                let (address, number) = (Arc::new(address), number());
                lock(&directory.known).push((Arc::clone(&address), number));
                NewEndpoint { slot: directory.slot(&address), number, address, group }
            })
            .collect();
        directory.shared.add(new);
        directory
    }

    /// Makes the service of an address.
    fn slot(&self, address: &Arc<A>) -> Slot<S> {
        let (make, address) = (Arc::clone(&self.make), Arc::clone(address));
        Slot::new(move || make(&address))
    }

    fn number(&self, address: &A) -> Option<u64> {
        let known = lock(&self.known);
        known.iter().find(|(it, _)| **it == *address).map(|(_, number)| *number)
    }
}

impl<A: Address, S: Clone + Send + 'static> Addresses<A> for Directory<A, S> {
    fn insert(&self, address: A, group: u8) -> bool {
        if let Some(number) = self.number(&address) {
            return self.shared.drain(number, false);
        }
        let (address, number) = (Arc::new(address), number());
        // It is made before it is known, because that may panic.
        let slot = self.slot(&address);
        {
            let mut known = lock(&self.known);
            if known.iter().any(|(it, _)| *it == address) {
                // Another thread was faster. What was made for nothing is dropped after the lock.
                drop(known);
                return false;
            }
            known.push((Arc::clone(&address), number));
        }
        self.shared.add(vec![NewEndpoint { number, address, group, slot }]);
        if !lock(&self.known).iter().any(|(_, it)| *it == number) {
            // Another thread has removed it before it was there.
            self.shared.remove(number);
        }
        true
    }

    fn remove(&self, address: &A) -> bool {
        let removed = {
            let mut known = lock(&self.known);
            let place = known.iter().position(|(it, _)| **it == *address);
            place.map(|place| known.remove(place))
        };
        removed.map(|(_, number)| self.shared.remove(number)).is_some()
    }

    fn drain(&self, address: &A) -> bool {
        self.number(address).is_some_and(|number| self.shared.drain(number, true))
    }

    fn states(&self) -> Vec<EndpointState<A>> {
        let now = Instant::now().saturating_duration_since(self.shared.origin);
        let known = lock(&self.known).clone();
        let states = self.shared.endpoints().into_iter().filter_map(|(endpoint, status)| {
            let (address, _) = known.iter().find(|(_, number)| *number == endpoint.number)?;
            Some(EndpointState {
                address: A::clone(address),
                group: endpoint.group,
                status,
                in_flight: endpoint.active(),
                calls: endpoint.calls(),
                failures: endpoint.failures(),
                response_time: endpoint.response_time(now),
            })
        });
        states.collect()
    }
}

impl<A, S> fmt::Debug for Directory<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}
