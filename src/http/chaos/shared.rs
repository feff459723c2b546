//! The state that the services of one layer share.

use std::{sync::Arc, time::Duration};

use crate::chaos::{
    draw::Shares,
    pause::Pause,
    switch::{Switch, Ticket},
};

/// A fault of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFault {
    Cut,
    Stall,
    Trickle(Duration),
}

impl BodyFault {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Cut => "body_cut",
            Self::Stall => "body_stall",
            Self::Trickle(_) => "body_trickle",
        }
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) switch: Arc<Switch>,
    pub(super) shares: Shares<BodyFault>,
}

/// The fault of a body, which has not begun.
pub(super) struct Drawn {
    pub(super) fault: BodyFault,
    pub(super) number: u64,
    pub(super) pause: Pause,
}

impl Shared {
    /// Numbers a body and returns its fault. It has none if the layer is disarmed by now, or if too
    /// many bodies stall.
    pub(super) fn draw(&self, ticket: Ticket) -> Option<Drawn> {
        let switch = &self.switch;
        if switch.is_over(ticket) {
            return None;
        }
        let number = switch.number(ticket)?;
        let fault = self.shares.draw(number)?;
        let pause = match fault {
            BodyFault::Stall => Pause::hang(switch, ticket)?,
            BodyFault::Cut | BodyFault::Trickle(_) => Pause::of(switch, ticket, Duration::ZERO),
        };
        Some(Drawn { fault, number, pause })
    }
}
