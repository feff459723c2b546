//! The effects of a change of state, carried out after the lock is released.

use std::{task::Waker, time::Duration};

use super::state::TripReason;

/// The wakers and the event of a change of state.
///
/// They are used after the lock is released, because wakers and subscribers of events run foreign
/// code.
#[derive(Default)]
#[must_use]
pub(super) struct Effects {
    pub(super) wake: Vec<Waker>,
    pub(super) event: Option<Event>,
}

pub(super) enum Event {
    Opened { reason: TripReason, open_for: Option<Duration> },
    HalfOpen,
    Closed,
    Disabled,
}
