//! The state that the services of one chaos layer share.

use std::sync::Arc;

use super::{
    draw::Shares,
    faults::{Fault, Partition},
    switch::{Switch, Ticket},
};

#[derive(Debug)]
pub(super) struct Shared<E, R, P> {
    pub(super) switch: Arc<Switch>,
    pub(super) shares: Shares<Fault>,
    pub(super) error: E,
    pub(super) response: R,
    pub(super) partition: P,
}

impl<E, R, P> Shared<E, R, P> {
    /// Returns the fault of a call and its number, if it has a fault.
    pub(super) fn draw<Req>(&self, request: &Req) -> Option<(Fault, u64, Ticket)>
    where
        P: Partition<Req>,
    {
        let ticket = self.switch.admit()?;
        if self.partition.separates(request) {
            return Some((Fault::Partition, self.switch.number_separated(ticket)?, ticket));
        }
        let number = self.switch.number(ticket)?;
        Some((self.shares.draw(number)?, number, ticket))
    }
}
