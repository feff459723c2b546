//! The handle for inspecting and changing endpoints at run time.

use std::{fmt, sync::Arc, time::Duration};

use super::health::EndpointStatus;

/// A handle for inspecting and changing endpoints at run time.
///
/// All clones control the same endpoints.
pub struct EndpointsHandle<A> {
    addresses: Arc<dyn Addresses<A>>,
}

/// The endpoints of a set by their addresses, whatever their services are.
pub(super) trait Addresses<A>: Send + Sync + fmt::Debug {
    fn insert(&self, address: A, group: u8) -> bool;
    fn remove(&self, address: &A) -> bool;
    fn drain(&self, address: &A) -> bool;
    fn states(&self) -> Vec<EndpointState<A>>;
}

/// The state of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointState<A> {
    /// The address.
    pub address: A,
    /// The priority group. Calls go to the lowest number with enough usable endpoints.
    pub group: u8,
    /// The status.
    pub status: EndpointStatus,
    /// The number of calls under way.
    pub in_flight: u32,
    /// The number of calls that have begun.
    pub calls: u64,
    /// The number of calls that have failed.
    pub failures: u64,
    /// The mean of the recent response times, in which failures count as slow.
    ///
    /// It is `None` before the first response. It falls while no call ends, so that an endpoint
    /// that was slow is tried again.
    pub response_time: Option<Duration>,
}

impl<A> EndpointsHandle<A> {
    pub(super) fn new(addresses: Arc<dyn Addresses<A>>) -> Self {
        Self { addresses }
    }

    /// Adds an endpoint to group 0, or ends the drain of this endpoint.
    ///
    /// It gets calls at once, and is checked at once. If hundreds are added at once, their first
    /// checks are spread over the interval. Returns `false` if it is there already and is not
    /// drained.
    pub fn insert(&self, address: A) -> bool {
        self.insert_in(0, address)
    }

    /// Adds an endpoint to a priority group, as [`insert`](Self::insert) does.
    ///
    /// An endpoint that is there already keeps its group.
    pub fn insert_in(&self, group: u8, address: A) -> bool {
        self.addresses.insert(address, group)
    }

    /// Removes an endpoint. Returns `false` if it is not there.
    ///
    /// Its calls run to their end.
    pub fn remove(&self, address: &A) -> bool {
        self.addresses.remove(address)
    }

    /// Stops new calls to an endpoint. Returns `false` if it is not there, or is drained already.
    ///
    /// Its calls in flight continue. [`states`](Self::states) shows how many are left. A drained
    /// endpoint no longer counts in the share of usable endpoints of its group, so that the others
    /// stay in use. [`insert`](Self::insert) ends the drain.
    pub fn drain(&self, address: &A) -> bool {
        self.addresses.drain(address)
    }

    /// Returns the state of each endpoint.
    pub fn states(&self) -> Vec<EndpointState<A>> {
        self.addresses.states()
    }
}

impl<A> Clone for EndpointsHandle<A> {
    fn clone(&self) -> Self {
        Self { addresses: Arc::clone(&self.addresses) }
    }
}

impl<A> fmt::Debug for EndpointsHandle<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EndpointsHandle").field(&self.addresses).finish()
    }
}
