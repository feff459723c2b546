//! The addresses of endpoints.
//!
//! The rest of a set does not know their type, so a service needs no bounds on it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use tokio::time::Instant;

use super::{
    endpoint::{Slot, next_number},
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

/// Each address with the number of its endpoint.
type Known<A> = Vec<(Arc<A>, u64)>;

/// The addresses of a set.
pub(super) struct Directory<A, S> {
    shared: Arc<Shared<S>>,
    make: Make<A, S>,
    /// It is replaced as a whole, so that addresses are compared without its lock. Their comparison
    /// is code of the user.
    known: Mutex<Arc<Known<A>>>,
}

impl<A: Address, S: Clone + Send + 'static> Directory<A, S> {
    /// Creates the directory of a new set with these addresses, which are different.
    pub(super) fn new(shared: Arc<Shared<S>>, addresses: Vec<(A, u8)>, make: Make<A, S>) -> Self {
        let mut directory = Self { shared, make, known: Mutex::default() };
        let (known, new) = addresses
            .into_iter()
            .map(|(address, group)| {
                let (address, number) = (Arc::new(address), next_number());
                let slot = directory.slot(&address);
                let new = NewEndpoint { slot, number, address: Arc::clone(&address) as _, group };
                ((address, number), new)
            })
            .unzip();
        directory.known = Mutex::new(Arc::new(known));
        directory.shared.add(new, || true);
        directory
    }

    /// Makes the service of an address.
    fn slot(&self, address: &Arc<A>) -> Arc<Slot<S>> {
        let (make, address) = (Arc::clone(&self.make), Arc::clone(address));
        Arc::new(Slot::new(move || make(&address)))
    }

    fn known(&self) -> Arc<Known<A>> {
        Arc::clone(&lock(&self.known))
    }

    /// Replaces the addresses. Returns `false` if another thread has changed them.
    fn replace(&self, known: &Arc<Known<A>>, new: &Arc<Known<A>>) -> bool {
        let mut place = lock(&self.known);
        let is_same = Arc::ptr_eq(&place, known);
        if is_same {
            *place = Arc::clone(new);
        }
        is_same
    }

    fn number(&self, address: &A) -> Option<u64> {
        self.known().iter().find(|(it, _)| **it == *address).map(|(_, number)| *number)
    }
}

impl<A: Address, S: Clone + Send + 'static> Addresses<A> for Directory<A, S> {
    fn insert(&self, address: A, group: u8) -> bool {
        if let Some(number) = self.number(&address) {
            return self.shared.drain(number, false);
        }
        let (address, number) = (Arc::new(address), next_number());
        let slot = self.slot(&address);
        loop {
            let known = self.known();
            if let Some((_, number)) = known.iter().find(|(it, _)| *it == address) {
                // Another thread was faster.
                return self.shared.drain(*number, false);
            }
            let mut more = Known::clone(&known);
            more.push((Arc::clone(&address), number));
            let (more, slot, address) = (Arc::new(more), Arc::clone(&slot), Arc::clone(&address));
            let new = NewEndpoint { number, address, group, slot };
            if self.shared.add(vec![new], || self.replace(&known, &more)) {
                return true;
            }
        }
    }

    fn remove(&self, address: &A) -> bool {
        loop {
            let known = self.known();
            let Some(place) = known.iter().position(|(it, _)| **it == *address) else {
                return false;
            };
            let mut less = Known::clone(&known);
            let (_, number) = less.remove(place);
            let less = Arc::new(less);
            if self.shared.remove(number, || self.replace(&known, &less)) {
                return true;
            }
        }
    }

    fn drain(&self, address: &A) -> bool {
        self.number(address).is_some_and(|number| self.shared.drain(number, true))
    }

    fn states(&self) -> Vec<EndpointState<A>> {
        let now = Instant::now();
        let known = self.known();
        let addresses: HashMap<_, _> = known.iter().map(|(it, number)| (*number, it)).collect();
        let states = self.shared.endpoints().into_iter().filter_map(|(endpoint, status)| {
            Some(EndpointState {
                address: A::clone(addresses.get(&endpoint.number)?),
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
