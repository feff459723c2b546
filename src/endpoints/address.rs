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
    endpoint::next_number,
    handle::{Addresses, EndpointState},
    shared::{NewEndpoint, Shared},
    slot::Slot,
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
type Numbers<A> = Vec<(Arc<A>, u64)>;

/// The addresses of a set.
pub(super) struct Directory<A, S> {
    shared: Arc<Shared<S>>,
    make: Make<A, S>,
    /// It is replaced as a whole, so that addresses are compared without its lock. Their comparison
    /// is code of the user.
    numbers: Mutex<Arc<Numbers<A>>>,
}

impl<A: Address, S: Clone + Send + 'static> Directory<A, S> {
    /// Creates the directory of a new set with these addresses, which are different.
    pub(super) fn new(shared: Arc<Shared<S>>, addresses: Vec<(A, u8)>, make: Make<A, S>) -> Self {
        let mut directory = Self { shared, make, numbers: Mutex::default() };
        let (numbers, new) = addresses
            .into_iter()
            .map(|(address, group)| {
                let (address, number) = (Arc::new(address), next_number());
                let slot = directory.slot(&address);
                let new = NewEndpoint { slot, number, address: Arc::clone(&address) as _, group };
                ((address, number), new)
            })
            .unzip();
        directory.numbers = Mutex::new(Arc::new(numbers));
        directory.shared.add(new, || true);
        directory
    }

    /// Makes the service of an address.
    fn slot(&self, address: &Arc<A>) -> Arc<Slot<S>> {
        let (make, address) = (Arc::clone(&self.make), Arc::clone(address));
        Arc::new(Slot::new(move || make(&address)))
    }

    fn numbers(&self) -> Arc<Numbers<A>> {
        Arc::clone(&lock(&self.numbers))
    }

    /// Replaces the addresses. Returns `false` if another thread has changed them.
    fn replace(&self, numbers: &Arc<Numbers<A>>, new: &Arc<Numbers<A>>) -> bool {
        let mut place = lock(&self.numbers);
        let is_same = Arc::ptr_eq(&place, numbers);
        if is_same {
            *place = Arc::clone(new);
        }
        is_same
    }

    fn number(&self, address: &A) -> Option<u64> {
        self.numbers().iter().find(|(it, _)| **it == *address).map(|(_, number)| *number)
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
            let numbers = self.numbers();
            if let Some((_, number)) = numbers.iter().find(|(it, _)| *it == address) {
                // Another thread was faster.
                return self.shared.drain(*number, false);
            }
            let mut more = Numbers::clone(&numbers);
            more.push((Arc::clone(&address), number));
            let (more, slot, address) = (Arc::new(more), Arc::clone(&slot), Arc::clone(&address));
            let new = NewEndpoint { number, address, group, slot };
            if self.shared.add(vec![new], || self.replace(&numbers, &more)) {
                return true;
            }
        }
    }

    fn remove(&self, address: &A) -> bool {
        loop {
            let numbers = self.numbers();
            let Some(place) = numbers.iter().position(|(it, _)| **it == *address) else {
                return false;
            };
            let mut less = Numbers::clone(&numbers);
            let (_, number) = less.remove(place);
            let less = Arc::new(less);
            if self.shared.remove(number, || self.replace(&numbers, &less)) {
                return true;
            }
        }
    }

    fn drain(&self, address: &A) -> bool {
        self.number(address).is_some_and(|number| self.shared.drain(number, true))
    }

    fn states(&self) -> Vec<EndpointState<A>> {
        let now = Instant::now();
        let numbers = self.numbers();
        let addresses: HashMap<_, _> = numbers.iter().map(|(it, number)| (*number, it)).collect();
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
