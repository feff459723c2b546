//! The decision about the attempt after one that failed.

use crate::Fault;

/// How an attempt failed that may be retried.
#[derive(Clone, Copy)]
pub(super) struct Failed {
    pub(super) fault: Fault,
    /// It was given no more time: the caller's is over.
    pub(super) cut_short: bool,
}

/// Why a failure is not retried.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    /// The request cannot be sent again.
    NotReplayable,
    /// The server said so.
    Told,
    /// It would be, but something is spent: that is what the hop above must know.
    Spent(&'static str),
}
