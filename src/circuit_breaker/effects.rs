//! What a change of state brings about, once the lock is released.

use std::{task::Waker, time::Duration};

use super::state::TripReason;

/// What is left to do when the lock is released: wakers are code of somebody else, and so is
/// whoever listens to events.
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
