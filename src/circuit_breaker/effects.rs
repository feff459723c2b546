//! The effects of a change of state, carried out after the lock is released.

use std::{task::Waker, time::Duration};

use super::state::TripReason;

/// The time for which a failing dependency asks not to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) time: Duration,
    /// The failure is an overload. Of a trip: most of its failures are overloads that name a time.
    pub(super) overload: bool,
}

/// The wakers and the event of a change of state.
///
/// They are used after the lock is released, because wakers and subscribers of events run foreign
/// code.
#[derive(Default)]
#[must_use]
pub(super) struct Effects {
    pub(super) wake: Vec<Waker>,
    pub(super) event: Option<Change>,
}

/// A change of state to report.
pub(super) enum Change {
    Opened { reason: TripReason, open_for: Option<Duration> },
    HalfOpen,
    Closed,
    Disabled,
}
