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
    /// Numbers a call and returns its fault, if it has one.
    pub(super) fn draw<Req>(&self, request: &Req) -> Option<(Fault, Ticket)>
    where
        P: Partition<Req>,
    {
        let ticket = self.switch.number()?;
        let fault = match self.partition.separates(request) {
            true => Some(Fault::Partition),
            false => self.shares.draw(ticket.number),
        };
        Some((fault?, ticket))
    }
}
