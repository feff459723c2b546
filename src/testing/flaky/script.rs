//! The steps of a script, the points where it can panic, and the violations that are recorded.

use std::time::Duration;

/// A step in the script of a [`Flaky`](super::Flaky) service.
///
/// The next instance whose readiness is polled takes a readiness step
/// ([`Unready`](Self::Unready), [`FailReadiness`](Self::FailReadiness) or
/// [`PanicInReadiness`](Self::PanicInReadiness)). The next call takes any other step.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step<Res, E> {
    /// Completes at the first poll.
    Respond(Result<Res, E>),
    /// Completes when the time has passed since `call`, which must run inside a tokio runtime.
    RespondAfter(Duration, Result<Res, E>),
    /// Completes after this number of pending polls.
    ///
    /// Each pending poll wakes its task. No clock is needed.
    RespondAfterPolls(u32, Result<Res, E>),
    /// Completes once [`FlakyHandle::release`](super::FlakyHandle::release) is called.
    RespondWhenReleased(Result<Res, E>),
    /// Never completes.
    Hang,
    /// Panics in `call`.
    PanicInCall,
    /// Returns a future that panics at its first poll.
    PanicInPoll,
    /// Makes every instance that is not yet ready wait until
    /// [`FlakyHandle::set_ready`](super::FlakyHandle::set_ready) is called.
    Unready,
    /// Fails in `poll_ready`. The instance must not be used again.
    FailReadiness(E),
    /// Panics in `poll_ready`.
    PanicInReadiness,
}

impl<Res, E> Step<Res, E> {
    pub(super) const fn is_readiness(&self) -> bool {
        matches!(self, Self::Unready | Self::FailReadiness(_) | Self::PanicInReadiness)
    }
}

/// A point at which an inner service can panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicPoint {
    /// In `poll_ready`.
    Readiness,
    /// In `call`.
    Call,
    /// In the poll of the future.
    Poll,
}

impl PanicPoint {
    /// All points.
    pub const ALL: [Self; 3] = [Self::Readiness, Self::Call, Self::Poll];

    /// Returns the step that panics at this point.
    #[must_use]
    pub const fn step<Res, E>(self) -> Step<Res, E> {
        match self {
            Self::Readiness => Step::PanicInReadiness,
            Self::Call => Step::PanicInCall,
            Self::Poll => Step::PanicInPoll,
        }
    }
}

/// A use of a [`Flaky`](super::Flaky) service that the contract of tower forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// An instance was called that had not reported `Ready` since its last call.
    CalledUnready,
    /// The readiness of an instance was polled after its `poll_ready` had failed.
    UsedAfterReadinessError,
    /// A future was polled after it had completed. The poll also panics.
    PolledAfterAnswer,
}
